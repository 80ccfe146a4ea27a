"""Pictures of the console as text that carries its styles: a line of signs, below it a line of letters."""

from __future__ import annotations

import html
import re
import string

from rich.cells import cell_len

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
