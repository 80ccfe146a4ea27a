"""What is marked: some rows as they were seen last, or everything that matches a filter. Pure.

A marked filter is not a list of rows: what it holds is asked for when a key is pressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.fleet import Term

#: An action takes no more rows at once, and no more are marked one by one.
MARKED_ROWS_MAX = 1_000

RowT = TypeVar("RowT")


@dataclass(slots=True)
class Marks(Generic[RowT]):
    """`terms`: everything that matches is marked, but `without`; else `rows`. `text` is the filter as typed.

    `covered`: rows on the screen that are known to match.
    """

    rows: dict[str, RowT] = field(default_factory=dict)
    terms: tuple[Term, ...] | None = None
    text: str = ""
    total: int = 0
    without: set[str] = field(default_factory=set)
    covered: set[str] = field(default_factory=set)

    def __contains__(self, key: object) -> bool:
        return key in self.rows or (key in self.covered and key not in self.without)

    def __len__(self) -> int:
        return len(self.rows) if self.terms is None else max(0, self.total - len(self.without))

    def toggle(self, key: str, row: RowT) -> bool:
        """False when no more can be marked, or taken out of the filter, one by one."""
        if self.terms is not None:
            if key not in self.covered:
                return False
            self.without ^= {key}
            return len(self.without) <= MARKED_ROWS_MAX
        if self.rows.pop(key, None) is not None:
            return True
        return self.add({key: row})

    def add(self, rows: Mapping[str, RowT]) -> bool:
        """False, and nothing is marked, when it would be too many."""
        if self.terms is not None:
            if not self.covered.issuperset(rows):
                return False
            self.without -= rows.keys()
            return True
        if len(self.rows.keys() | rows.keys()) > MARKED_ROWS_MAX:
            return False
        self.rows.update(rows)
        return True

    def matching(self, terms: tuple[Term, ...], text: str, total: int, keys: Iterable[str]) -> None:
        """All rows of this filter, wherever they are, in place of what was marked."""
        self.clear()
        self.terms, self.text, self.total, self.covered = terms, text, total, set(keys)

    def clear(self) -> None:
        self.rows.clear()
        self.without.clear()
        self.covered.clear()
        self.terms, self.text, self.total = None, "", 0

    def seen(self, terms: tuple[Term, ...], total: int, rows: Mapping[str, RowT]) -> None:
        """A window of a view: marked rows are as they are now; those that exist no more are forgotten."""
        for key in self.rows.keys() & rows.keys():
            self.rows[key] = rows[key]
        if not terms and total == len(rows):
            self.rows = {key: row for key, row in self.rows.items() if key in rows}
        if self.terms is None:
            return
        if terms == self.terms:
            self.total = total
        narrower = set(self.terms) <= set(terms)
        self.covered = set(rows) if narrower else self.covered & rows.keys()
