"""The lines around every list: status bar, crumbs, tabs, keys, and the filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.binding import BindingType
from textual.suggester import Suggester
from textual.widgets import Input, Static

from console.actions import BY_ID, DIGITS, Action
from console.cells import Pen, age, clock_text
from console.keymap import Keys
from console.live import STALE_AFTER_S, Link

#: Below this width words are shortened.
NARROW = 100
SHORT_TABS = {
    **{"overview": "Ovw", "devices": "Dev", "users": "Usr", "keys": "Key", "routes": "Rte", "policy": "Pol"},
    **{"netmap": "Map", "rebalance": "Reb", "audit": "Aud", "processes": "Prc"},
}


def show(widget: Static, text: Text, *, grows: bool = False) -> None:
    """Puts a text where a like one is not shown already; `grows`: the widget is as high as its text.

    With every read and every second most of the frame stays as it is; painting it anew is most of the cost.
    """
    old = widget.content
    if isinstance(old, Text) and (old.plain, old.style, old.spans) == (text.plain, text.style, text.spans):
        return
    # The sizes of most come from the style sheet, not from what they show.
    widget.update(text, layout=grows)


class Line(Static):
    """One line of our own making; never markup."""

    def __init__(self, name: str) -> None:
        super().__init__("", markup=False, id=name, classes="line")

    def put(self, left: Text, right: Text | None = None) -> None:
        """Left part, and a right part that wins when there is not enough room."""
        width = self.size.width or self.app.size.width
        if right is not None:
            room = width - right.cell_len
            left = left.copy()
            if left.cell_len > room - 1:
                left.truncate(max(0, room - 1), overflow="ellipsis")
            left.pad_right(max(0, room - left.cell_len))
            left.append_text(right)
        left.no_wrap = True
        show(self, left)


#: Part of a line, and where a click on it leads; None: nowhere.
Part = tuple[Text, Callable[[], object] | None]


class Links(Line):
    """A line whose parts can be clicked. Everything it leads to has a key, too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._places: list[tuple[int, int, Callable[[], object]]] = []

    def put_parts(self, parts: Sequence[Part], right: Text | None = None) -> None:
        """Parts from the left; a right part as in `put`."""
        line = Text(end="")
        self._places.clear()
        for text, go in parts:
            start = line.cell_len
            line.append_text(text)
            if go is not None:
                self._places.append((start, line.cell_len, go))
        self.put(line, right)

    def on_click(self, event: events.Click) -> None:
        for start, end, go in self._places:
            if start <= event.x < end:
                go()
                return


def link_text(pen: Pen, link: Link, picture_at: float | None, now: float) -> Text:
    """The state of the connection, as glyph and words."""
    if link.kind == "live":
        if picture_at is not None and now - picture_at > STALE_AFTER_S:
            return pen.state("wait", f"stale {age(now - picture_at)}")
        return pen.state("ok", "live" if link.rtt_ms < 1 else f"live {link.rtt_ms:.0f}ms")
    if link.kind == "down":
        wait = max(0, round(link.retry_at - now))
        text = pen.state("off", f"no database, retry in {wait} s (try {link.attempt})")
        text.stylize(f"bold {pen.styles['failed']}")
        return text
    if link.kind == "refused":
        return pen.state("failed", "refused")
    return pen.state("wait", "connecting")


def status_line(
    pen: Pen, width: int, where: str, scope: str, link: Text, mode: str, who: str, now: float
) -> tuple[Text, Text]:
    """The bar: tool, database and scope; link, mode, who and clock."""
    narrow = width < NARROW
    left = Text(" hs " if narrow else " hs-console  ", "bold", end="")
    if not narrow:
        left.append_text(pen.cell(where + "  ", "muted"))
    left.append_text(pen.cell(scope if narrow else f"clusters:{scope}"))
    right = Text(end="")
    right.append_text(link)
    right.append(f" | {mode} | ")
    if not narrow:
        right.append_text(pen.cell(f"{who} | "))
    right.append(clock_text(now)[:5] if narrow else clock_text(now))
    right.append(" ")
    return left, right


def tabs(pen: Pen, width: int, current: str, go_to: Callable[[str], object]) -> list[Part]:
    """The screens that are a digit away, in three letters where whole words do not fit."""
    texts = {
        name: f"[{digit}]{name.title()} " if name == current else f" {digit} {name.title()} "
        for name, digit in DIGITS.items()
    }
    if sum(map(len, texts.values())) > width:
        texts = {
            name: f"[{digit}]{SHORT_TABS[name]}" if name == current else f" {digit} {SHORT_TABS[name]}"
            for name, digit in DIGITS.items()
        }
    muted = pen.styles["muted"]
    return [
        (Text(text, "bold" if name == current else muted, end=""), partial(go_to, name))
        for name, text in texts.items()
    ]


def keys_text(pen: Pen, width: int, actions: list[tuple[Action, bool]], keys: Keys) -> tuple[Text, Text]:
    """As many actions as fit, disabled ones dimmed; palette and help always."""
    right = Text(end="")
    for key, word in (("^p", "palette"), (keys.shown(BY_ID["app.help"]), "help")):
        right.append(f" {key}", pen.styles["key"]).append(f" {word} ")
    left = Text(" ", end="")
    for action, enabled in actions:
        key = keys.shown(action)
        if not pen.ascii:
            key = {"space": "␣", "enter": "⏎"}.get(key, key)
        if left.cell_len + len(key) + len(action.label) + 3 > width - right.cell_len:
            break
        left.append(key, pen.styles["key"] if enabled else "dim")
        left.append(f" {action.label}  ", "" if enabled else "dim strike")
    return left, right


def box_line(pen: Pen, label: str, value: Text | str) -> Text:
    """`label value` of a detail pane."""
    text = pen.cell(label + " ", "muted")
    return text.append_text(value if isinstance(value, Text) else pen.cell(value))


def side_by_side(parts: list[Text], width: int, gap: int = 3) -> list[Text]:
    """Parts in as few lines as fit."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + gap + part.cell_len <= width:
            lines[-1].append(" " * gap).append_text(part)
        else:
            lines.append(part.copy())
    for line in lines:
        if cell_len(line.plain) > width:
            line.truncate(width, overflow="ellipsis")
    return lines


class _Completion(Suggester):
    """Looks at the rows as they are now, so nothing is kept."""

    def __init__(self, complete: Callable[[str], str | None]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self.complete = complete

    async def get_suggestion(self, value: str) -> str | None:
        return self.complete(value)


class FilterLine(Input):
    """The `/` line. Hidden while there is no filter and nobody types one."""

    BINDINGS: ClassVar[list[BindingType]] = [("tab", "cursor_right", "complete")]

    def __init__(self, complete: Callable[[str], str | None]) -> None:
        """`complete`: the line with its last word completed, None when it cannot be."""
        hint = "os:linux seen<1d !tag:x word @cluster    (enter apply, esc clear, tab completes)"
        super().__init__(placeholder=hint, id="filter", compact=True, suggester=_Completion(complete))
        self.can_focus = False

    def open(self, shown: bool) -> None:
        """Shows or hides it; a hidden one must not catch the keys of a list that is empty for a moment."""
        self.display = self.can_focus = shown
