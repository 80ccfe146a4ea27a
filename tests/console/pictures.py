"""Pictures of the console: compared with goldens, and as text that carries its styles."""

from __future__ import annotations

import html
import os
import re
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from console.main import ConsoleApp
from tests.console.support import shown, until

GOLDENS = Path(__file__).parent / "goldens"
#: Set to write the goldens anew; look at the difference before it is committed.
WRITE_VARIABLE = "HS_WRITE_GOLDENS"

_RULE = re.compile(r"\.[\w-]+-r(\d+) \{([^}]*)\}")
_TEXT = re.compile(r'<text class="[^"]*-r(\d+)" x="([\d.]+)" y="([\d.]+)"[^>]*clip-path[^>]*>([^<]*)</text>')
_CELL_WIDTH, _LINE_HEIGHT = 12.2, 24.4


def styled_of(svg: str) -> str:
    """Each line as it is read, then which style each cell has; at the end what the letters stand for."""
    rules = {number: " ".join(rule.split()) for number, rule in _RULE.findall(svg)}
    letters: dict[str, str] = {}
    lines: dict[int, list[tuple[int, str, str]]] = {}
    for number, x, y, text in _TEXT.findall(svg):
        letter = letters.setdefault(rules[number], string.ascii_letters[len(letters)])
        words = html.unescape(text).replace("\xa0", " ")
        place = round(float(x) / _CELL_WIDTH), words, letter
        lines.setdefault(round((float(y) - 18.5) / _LINE_HEIGHT), []).append(place)
    out = []
    for number in range(max(lines, default=-1) + 1):
        line = mask = ""
        for column, words, letter in sorted(lines.get(number, [])):
            blank = " " * (column - cell_len(line))
            line += blank + words
            mask += " " * (column - len(mask)) + "".join(
                letter * cell_len(sign) if sign != " " else " " for sign in words
            )
        out += [line.rstrip(), mask.rstrip()]
    # How long the last read took is told in the bar, so its length and place vary.
    out[1] = re.sub(r" +(\w) \1{4}( \1+)?(?= )", r" \1 \1\1\1\1", out[1])
    return "\n".join([*out, *(f"{letter}: {rule}" for rule, letter in letters.items())])


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def check(name: str, picture: str) -> None:
    """Compares with the golden of this name; the time a read took is not looked at."""
    picture = re.sub(r" live \d+ms", " live", picture)
    picture = re.sub(r" +(● live)", r" \1", picture) + "\n"
    golden = GOLDENS / f"{name}.txt"
    if WRITE_VARIABLE in os.environ:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(picture, encoding="utf-8")
    assert picture == golden.read_text(encoding="utf-8"), f"{name}: set {WRITE_VARIABLE}=1 to write it anew"


SIZES = [(80, 24), (100, 30), (120, 36), (200, 60)]


async def settled(app: ConsoleApp, pilot: Any, size: tuple[int, int]) -> None:
    """The screen in another size, all painted."""
    await pilot.resize_terminal(*size)
    base = await shown(app, pilot)
    await until(pilot, lambda: base.size == size and app.link.is_up)
    base.lay_out()
    await pilot.pause()
    await pilot.pause()
