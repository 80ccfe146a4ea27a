"""What the last word of a filter line may become: fields, and values that are known. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from console.query import FieldKinds

#: Only what is harmless on the screen and needs no quotation marks.
_PLAIN = re.compile(r"[\w.:@*-]{1,60}", re.ASCII)
#: A device's row has no field for it.
STATES_OF_DEVICES = ("online", "offline", "expired")
_VALUE = re.compile(r"(!?)([a-z]+)([:=])(?:.*\|)?([^|\"]*)", re.ASCII)


def complete(text: str, fields: FieldKinds, values: Callable[[str], Iterable[str]]) -> str | None:
    """The line with its last word completed; None when there is nothing to add.

    `values` answers what is known of a field; `cluster` stands for `@` too.
    """
    word = text.rpartition(" ")[2]
    bare = word.lstrip("!")
    if bare.startswith("@"):
        return _longer(text, bare[1:], values("cluster"))
    if found := _VALUE.fullmatch(word):
        return _longer(text, found[4], values(found[2]) if found[2] in fields else ())
    if not bare:
        return None
    return _longer(text, bare, (f"{name}{'<' if kind == 'age' else ':'}" for name, kind in fields.items()))


def values_of(rows: Iterable[object], field: str) -> list[str]:
    """What the rows know of a field of the filter."""
    name = {"cluster": "cluster_id", "tag": "tags"}.get(field, field)
    values: list[str] = []
    for row in rows:
        value = getattr(row, name, STATES_OF_DEVICES if field == "state" else None)
        values += value if isinstance(value, tuple) else [value] if isinstance(value, str) else []
    return values


def _longer(text: str, start: str, offers: Iterable[str]) -> str | None:
    known = sorted({offer for offer in offers if offer.startswith(start) and offer != start})
    plain = [offer for offer in known if _PLAIN.fullmatch(offer.rstrip("<"))]
    return text + plain[0][len(start) :] if plain else None
