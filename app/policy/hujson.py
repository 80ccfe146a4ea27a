"""JSON with comments and trailing commas, every value with its place in the text. Pure.

The dialect of Tailscale policy files (github.com/tailscale/hujson): standard JSON plus `//` and
`/* */` comments and a comma after the last element. Repeated names in one object are refused,
since one of the two would be lost without a word.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from app.errors import HsError

#: A policy text may not be longer than this, in characters.
MAX_POLICY_CHARS = 1 << 20
#: Objects and lists may not nest deeper.
MAX_DEPTH = 64

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![0-9A-Za-z_.])")
#: PostgreSQL stores no NUL, UTF-8 no surrogate; comments may not hold them either.
_UNSTORED = re.compile("[\x00\ud800-\udfff]")
_WORD = re.compile(r"[A-Za-z]+")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


class PolicyError(HsError):
    """A policy that cannot be taken: what is wrong, and where (both count from 1)."""

    code = "policy"

    def __init__(self, reason: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"line {line}, column {column}: {reason}", line=line, column=column)
        self.reason = reason
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a text; both numbers count from 1."""

    line: int
    column: int

    def error(self, reason: str) -> PolicyError:
        return PolicyError(reason, self.line, self.column)


@dataclass(frozen=True, slots=True)
class Json:
    """One value. `value` is a dict of Json, a list of Json, or a plain scalar; `names` are the
    places of an object's member names."""

    value: Any
    place: Place
    names: dict[str, Place] | None = None

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {name: item.plain() for name, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def parse(text: str) -> Json:
    """The one value of a text. Raises PolicyError."""
    if len(text) > MAX_POLICY_CHARS:
        raise PolicyError(f"the policy has {len(text)} characters, more than {MAX_POLICY_CHARS}")
    parser = _Parser(text)
    odd = _UNSTORED.search(text)
    if odd:
        raise parser.place(odd.start()).error(
            "neither NUL nor half a character (a lone surrogate) may stand here"
        )
    return parser.whole()


def excerpt(text: str, place: Place) -> str:
    """The text of the value that starts at a place of a text that was read before."""
    parser = _Parser(text)
    start = parser.go_to(place)
    parser.value()
    return text[start : parser.at]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._line = 0

    def whole(self) -> Json:
        self._skip()
        value = self.value(0)
        self._skip()
        if self._at < len(self._text):
            raise self._error("nothing may follow the policy's closing bracket")
        return value

    @property
    def at(self) -> int:
        """How much of the text is read."""
        return self._at

    def go_to(self, place: Place) -> int:
        """Read on from a place; returns where in the text that is."""
        self._at = self._line_starts[place.line - 1] + place.column - 1
        return self._at

    def place(self, at: int | None = None) -> Place:
        at = self._at if at is None else at
        starts = self._line_starts
        # The parser only moves forward, so the line is found from where it was.
        line = self._line if starts[self._line] <= at else 0
        while line + 1 < len(starts) and starts[line + 1] <= at:
            line += 1
        self._line = line
        return Place(line + 1, at - starts[line] + 1)

    def _error(self, reason: str) -> PolicyError:
        return self.place().error(reason)

    def _skip(self) -> None:
        """White space and comments."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._text.startswith("//", self._at):
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif self._text.startswith("/*", self._at):
                end = self._text.find("*/", self._at + 2)
                if end < 0:
                    raise self._error("this comment is never closed")
                self._at = end + 2
            else:
                return

    def value(self, depth: int = 0) -> Json:
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels")
        place = self.place()
        first = self._text[self._at : self._at + 1]
        if first == "{":
            return self._object(place, depth)
        if first == "[":
            return self._list(place, depth)
        if first == '"':
            return Json(self._string(), place)
        number = _NUMBER.match(self._text, self._at)
        if number:
            self._at = number.end()
            return Json(_number(number.group(), place), place)
        word = _WORD.match(self._text, self._at)
        if word and word.group() in _WORDS:
            self._at = word.end()
            return Json(_WORDS[word.group()], place)
        raise self._error(f"expected a value, found {_shown(first)}")

    def _string(self) -> str:
        match = _STRING.match(self._text, self._at)
        if match is None:
            raise self._error("this string is not closed, or has a wrong escape or a control character")
        place = self.place()
        self._at = match.end()
        text: str = json.loads(match.group())
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise place.error("this string holds half a character (a lone surrogate)")
        return text

    def _object(self, place: Place, depth: int) -> Json:
        members: dict[str, Json] = {}
        names: dict[str, Place] = {}
        self._at += 1
        while True:
            self._skip()
            if self._text.startswith("}", self._at):
                self._at += 1
                return Json(members, place, names)
            if not self._text.startswith('"', self._at):
                raise self._error(
                    f"expected a name in quotes, found {_shown(self._text[self._at : self._at + 1])}"
                )
            at = self.place()
            name = self._string()
            if name in members:
                raise at.error(f'"{name}" stands here a second time')
            self._skip()
            if not self._text.startswith(":", self._at):
                raise self._error(f'expected ":" after the name "{name}"')
            self._at += 1
            self._skip()
            members[name] = self.value(depth + 1)
            names[name] = at
            self._after_element("}")

    def _list(self, place: Place, depth: int) -> Json:
        items: list[Json] = []
        self._at += 1
        while True:
            self._skip()
            if self._text.startswith("]", self._at):
                self._at += 1
                return Json(items, place)
            items.append(self.value(depth + 1))
            self._after_element("]")

    def _after_element(self, closing: str) -> None:
        self._skip()
        if self._text.startswith(",", self._at):
            self._at += 1
        elif not self._text.startswith(closing, self._at):
            raise self._error(
                f'expected "," or "{closing}", found {_shown(self._text[self._at : self._at + 1])}'
            )


def _number(text: str, place: Place) -> int | float:
    if not re.search(r"[.eE]", text):
        if len(text) > 20:
            raise place.error("this number is too large")
        return int(text)
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise place.error("this number is too large")
    return number


def _shown(text: str) -> str:
    return f"{text!r}" if text else "the end of the text"
