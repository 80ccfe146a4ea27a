"""PlainScreen: a list whose cells follow from the types of its rows; subclasses say what is special."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from rich.text import Text

from console.cells import count_text, exact_text, plural, time_text
from console.screens.base import ListScreen
from console.screens.window import RowT
from console.widgets import box_line, side_by_side


class PlainScreen(ListScreen[RowT]):
    """One row for each of `app.fleet_lists`, by the screen's name."""

    #: Values of `state` -> role of their colour and glyph.
    STATES: ClassVar[Mapping[str, str]] = {}
    #: Fields that are times.
    TIMES: ClassVar[frozenset[str]] = frozenset()
    #: Fields that only say where a row is stored.
    HIDDEN: ClassVar[frozenset[str]] = frozenset({"id", "tenant_id"})

    def key_of(self, row: Any) -> str:
        return f"{getattr(row, 'tenant_id', 0)}/{row.id}"

    def cells_of(self, row: RowT) -> dict[str, Text]:
        return {column.name: self.cell_of(row, column.name) for column in self.COLUMNS}

    def cell_of(self, row: RowT, name: str) -> Text:
        """One value as text."""
        value = getattr(row, name)
        if name == "state":
            return self.pen.state(self.STATES.get(value, "unknown"), value.replace("_", " "))
        if name in self.TIMES and value is not None:
            return self.pen.cell(time_text(value, self.now), "muted")
        return self.pen.cell(self._words(name, value), "" if name == self.COLUMNS[0].name else "muted")

    def _words(self, name: str, value: Any) -> str:
        if value is None or value == "":
            return "-"
        if name in self.TIMES:
            return exact_text(value)
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return count_text(value)
        if isinstance(value, float):
            return f"{value:,.3g}"
        return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)

    def moving(self, row: RowT) -> object:
        # The day that times are of.
        return time.localtime(self.now)[:3] if self.TIMES else ()

    def detail_of(self, row: Any, width: int) -> tuple[str, list[Text]]:
        facts = [
            box_line(
                self.pen, field.name.replace("_", " "), self._words(field.name, getattr(row, field.name))
            )
            for field in dataclasses.fields(row)
            if field.name not in self.HIDDEN
        ]
        return self.name_of(row), side_by_side(facts, width)

    def several(self, rows: list[RowT], noun: str) -> str:
        """What a dialog calls them."""
        return self.name_of(rows[0]) if len(rows) == 1 else plural(len(rows), noun)
