"""Text for the screen: harmless, cut to width, with glyph, word and colour. The only way in.

Tenants choose names, so no text from the database may be markup, control codes or an optical trick.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from rich.cells import cell_len, set_cell_size
from rich.text import Text

#: Longer texts are cut before anything looks at each character.
MAX_CHARS = 2_000
#: Marks that may sit on one letter; more would climb over the neighbouring rows.
MAX_MARKS = 2
HIDDEN = "·"
#: Letters that show nothing, and what terminals and width tables measure differently.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def safe(text: str) -> str:
    """The text in one line, with everything visible that could move, colour or hide."""
    text = text[:MAX_CHARS]
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    marks = 0
    for char in unicodedata.normalize("NFC", text):
        code = ord(char)
        if code < 0x20:
            out.append(chr(0x2400 + code))
            continue
        if code == 0x7F:
            out.append("␡")
            continue
        category = unicodedata.category(char)
        if category in ("Mn", "Me", "Mc"):
            marks += 1
            variation = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
            out.append(char if marks <= MAX_MARKS and out and not variation else HIDDEN)
            continue
        marks = 0
        hostile = (
            category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
            or char in _BLANK
            or 0x1F1E6 <= code <= 0x1F1FF
            or 0x1F3FB <= code <= 0x1F3FF
            or 0x1160 <= code <= 0x11FF
        )
        out.append(HIDDEN if hostile else " " if category == "Zs" else char)
    return "".join(out)


def fit(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly `width` cells; what does not fit ends in an ellipsis."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + "…" if width > 0 else ""
    return " " * (width - length) + text if right else text + " " * (width - length)


#: Roles of text -> Rich styles. Theme `hs-safe` (Okabe-Ito); colour never carries meaning alone.
STYLES = {
    "": "",
    "ok": "#009e73",
    "attention": "#e69f00",
    "failed": "#d55e00",
    "change": "#56b4e9",
    "off": "#8a8a8a",
    "muted": "#8a8a8a",
    "strong": "bold",
    "key": "bold #56b4e9",
}

_GLYPHS = {"ok": "●", "attention": "▲", "failed": "✖", "change": "◆", "off": "○", "unknown": "?", "wait": "◌"}
_ASCII = {
    **{"ok": "*", "attention": "!", "failed": "x", "change": "+", "off": "o", "unknown": "?", "wait": "~"},
    **{"cursor": ">", "mark": "+", "up": "^", "down": "v", "bars": "_.:-=+*#", "sep": ">"},
}
_UNICODE = {**_GLYPHS, "cursor": "►", "mark": "✓", "up": "▲", "down": "▼", "bars": "▁▂▃▄▅▆▇█", "sep": "›"}


@dataclass(frozen=True, slots=True)
class Pen:
    """How to write on this terminal. `styles`: role -> Rich style."""

    ascii: bool = False
    styles: Mapping[str, str] = field(default_factory=lambda: STYLES)

    def glyph(self, name: str) -> str:
        return (_ASCII if self.ascii else _UNICODE)[name]

    def cell(self, value: object, role: str = "", width: int | None = None, *, right: bool = False) -> Text:
        """Any value as harmless text without markup; with a width, cut and padded to it."""
        text = safe(str(value))
        if self.ascii:
            text = text.encode("ascii", "replace").decode()
        if width is not None:
            text = fit(text, width, right=right)
            if self.ascii:
                text = text.replace("…", "~")
        return Text(text, self.styles[role], no_wrap=True, end="")

    def state(self, role: str, word: str) -> Text:
        """Glyph and word of a state, in its colour."""
        return Text(f"{self.glyph(role)} {safe(word)}", self.styles.get(role, ""), no_wrap=True, end="")

    def join(self, *parts: Text | str) -> Text:
        """Parts in a row; plain strings are our own words."""
        line = Text(no_wrap=True, end="")
        for part in parts:
            line.append_text(part if isinstance(part, Text) else self.cell(part))
        return line

    def bar(self, done: float, of: float, width: int) -> str:
        """A share as a bar of so many cells."""
        filled = round(width * min(1.0, max(0.0, done / of))) if of else 0
        full, empty = ("#", "-") if self.ascii else ("█", "░")
        return full * filled + empty * (width - filled)

    def spark(self, numbers: Iterable[float | None], width: int) -> str:
        """Numbers as bars, the highest full, in at most `width` cells; a blank where nothing was measured.

        Of numbers that share a cell the highest shows.
        """
        bars, shown = self.glyph("bars"), list(numbers)
        if width <= 0:
            return ""
        if len(shown) > width:
            edges = [len(shown) * place // width for place in range(width + 1)]
            parts = [shown[start:end] for start, end in pairwise(edges)]
            shown = [max((n for n in part if n is not None), default=None) for part in parts]
        top = max((value for value in shown if value is not None), default=0.0)
        high = len(bars) - 1
        return "".join(
            " " if value is None else bars[round(high * value / top) if top else 0] for value in shown
        )


def age(seconds: float) -> str:
    """How long ago, in one unit: `now`, `12 s`, `41 m`, `3 h`, `61 d`."""
    if seconds < 1:
        return "now"
    for limit, unit, word in ((_MINUTE, 1, "s"), (_HOUR, _MINUTE, "m"), (_DAY, _HOUR, "h")):
        if seconds < limit:
            return f"{int(seconds // unit)} {word}"
    return f"{int(seconds // _DAY)} d"


def until(seconds: float) -> str:
    """How long still; negative when it is over."""
    return age(seconds) if seconds >= 1 else "-" + age(max(1.0, -seconds))


def clock_text(epoch: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(epoch))


def moment_text(epoch: float, now: float) -> str:
    """A time of the last day by the clock, an older one by its date: eight cells."""
    form = "%H:%M:%S" if now - epoch < _DAY else "%d %b"
    return time.strftime(form, time.localtime(epoch))


def time_text(epoch: float, now: float) -> str:
    """A time of today by the clock, another by date and minute."""
    at = time.localtime(epoch)
    return time.strftime("%H:%M:%S", at) if at[:3] == time.localtime(now)[:3] else date_text(epoch)


def exact_text(epoch: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))


def took_text(seconds: float) -> str:
    """A duration: `6.9 ms`, `1.2 s`."""
    return f"{1000 * seconds:,.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def date_text(epoch: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(epoch))


def size_text(size: float) -> str:
    """Bytes in one unit: `812 B`, `88 M`, `1.1 G`."""
    for limit, unit in ((1e3, "B"), (1e6, "K"), (1e9, "M")):
        if size < limit:
            return f"{size / limit * 1e3:.0f} {unit}"
    return f"{size / 1e9:.1f} G"


def count_text(number: int) -> str:
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """`1 key`, `2 keys`, `3 entries`, `4 processes`."""
    if number == 1:
        many = noun
    elif noun.endswith("s"):
        many = noun + "es"
    else:
        many = noun[:-1] + "ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else noun + "s"
    return f"{number:,} {many}"
