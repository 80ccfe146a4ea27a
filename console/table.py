"""ResourceTable: one window of rows whose cursor, screen line and marks follow keys, not places."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.coordinate import Coordinate
from textual.message import Message
from textual.widgets import DataTable
from textual.widgets.data_table import ColumnKey, RowDoesNotExist, RowKey

from console.cells import Pen

#: More rows gone than this: all are put in anew instead of taking them out one by one.
REBUILD_ABOVE = 200
MARK_WIDTH = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a list. `grow`: share of the width that is left; `sort`: what the database calls it.

    `priority`: 1 is shown always, higher ones only where there is room.
    """

    name: str
    title: str
    width: int
    priority: int = 1
    grow: int = 0
    right: bool = False
    sort: str = ""


def choose(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """The columns that fit, in their order, and how wide each is; each is followed by a blank."""
    room = width - MARK_WIDTH
    kept: list[Column] = []
    for column in sorted(columns, key=lambda c: c.priority):
        if column.priority == 1 or sum(k.width + 1 for k in kept) + column.width + 1 <= room:
            kept.append(column)
    kept = [column for column in columns if column in kept]
    left = max(0, room - sum(column.width + 1 for column in kept))
    shares = sum(column.grow for column in kept)
    return [(column, column.width + (left * column.grow // shares if shares else 0)) for column in kept]


def sized(text: Text, column: Column, size: int) -> Text:
    """The cell, cut to the width of its column."""
    blank = size - text.cell_len
    if blank < 0:
        text.truncate(size, overflow="ellipsis")
        blank = size - text.cell_len
    if column.right:
        text.pad_left(blank)
    return text


class _Mark(Text):
    """The first cell of a row: cursor and mark; it also knows the row's place in the order asked for."""

    order: int = 0


class ResourceTable(DataTable[Text]):
    """Widths are fixed and cells are Text, so an update never measures or parses anything."""

    BINDINGS: ClassVar[list[BindingType]] = [("j", "cursor_down"), ("k", "cursor_up")]

    class NearEdge(Message):
        """The cursor has come near the first or last row of the window."""

        def __init__(self, *, down: bool) -> None:
            super().__init__()
            self.down = down

    #: Rows between cursor and the window's edge when more are asked for.
    EDGE_ROWS = 50

    def __init__(
        self, pen: Pen, columns: Sequence[Column], *, id: str = "table", headed: bool = True
    ) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True, cell_padding=0, id=id, show_header=headed)
        self.pen = pen
        self.all_columns = columns
        self.shown: list[tuple[Column, int]] = []
        self.marks: Container[str] = frozenset()
        self._rows: dict[str, list[Text]] = {}
        self._pointed: str | None = None
        self._held: tuple[str | None, int, int] | None = None

    # -- what is where --------------------------------------------------------------------------

    @property
    def cursor_key(self) -> str | None:
        """The key of the row under the cursor."""
        if not self._rows or not self.is_valid_row_index(self.cursor_row):
            return None
        return self.coordinate_to_cell_key(Coordinate(self.cursor_row, 0)).row_key.value

    @property
    def keys(self) -> list[str]:
        """All keys, in the order shown."""
        return [str(row.key.value) for row in self.ordered_rows]

    def cells_of(self, key: str) -> list[Text]:
        """The cells of a row as shown, without cursor and mark."""
        return self._rows[key]

    def move_to(self, key: str) -> bool:
        """Puts the cursor on a row; False when it is not in this window."""
        try:
            index = self.get_row_index(key)
        except RowDoesNotExist:
            return False
        self.move_cursor(row=index)
        return True

    # -- columns --------------------------------------------------------------------------------

    def lay_out(self, width: int, sort: str, descending: bool) -> bool:
        """Chooses columns for a width and writes the headings; True when rows must be put in anew."""
        shown = choose(self.all_columns, width)
        changed = shown != self.shown
        if changed:
            if self._rows:
                self._held = self._standing()
            self.clear(columns=True)
            self._rows.clear()
            self.shown = shown
            self.add_column("", width=MARK_WIDTH, key="mark")
            for column, size in shown:
                self.add_column("", width=size + 1, key=column.name)
        arrow = self.pen.glyph("down" if descending else "up")
        for column, size in shown:
            text = f"{column.title} {arrow}" if column.sort and column.sort == sort else column.title
            label = self.pen.cell(text, "strong", size, right=column.right)
            self.columns[self._key(column.name)].label = label
        self._clear_caches()
        self.refresh()
        return changed

    def _key(self, name: str) -> ColumnKey:
        return next(key for key in self.columns if key.value == name)

    def _update_dimensions(self, new_rows: Iterable[RowKey]) -> None:
        """Only the size as a whole: widths and heights are fixed, and measuring takes longest of all."""
        super()._update_dimensions(())

    # -- rows -----------------------------------------------------------------------------------

    def apply(self, rows: Sequence[tuple[str, list[Text]]]) -> str | None:
        """Shows exactly these rows in this order.

        Answers the key that was under the cursor when it is there no more; then the cursor stays at its line.
        """
        key, index, line = self._held or self._standing()
        self._held = None
        wanted = dict(rows)
        with self.app.batch_update():
            gone = [old for old in self._rows if old not in wanted]
            new = [row_key for row_key in wanted if row_key not in self._rows]
            if len(gone) > REBUILD_ABOVE or not self._rows:
                self.clear()
                self._rows.clear()
                gone, new = [], list(wanted)
            for old in gone:
                self.remove_row(old)
                del self._rows[old]
            for row_key, cells in wanted.items():
                if row_key in self._rows:
                    self._update(row_key, cells)
            for row_key in new:
                self.add_row(_Mark("  "), *wanted[row_key], key=row_key, height=1)
                self._rows[row_key] = wanted[row_key]
            self._put_in_order(list(wanted))
            self._pointed = None
            lost = self._place_cursor(key, index, line)
            self.paint_marks()
        return lost

    def _standing(self) -> tuple[str | None, int, int]:
        """The key under the cursor, its row, and its line on the screen."""
        return self.cursor_key, self.cursor_row, self.cursor_row - int(self.scroll_y)

    def _update(self, row_key: str, cells: list[Text]) -> None:
        old = self._rows[row_key]
        if cells is old:
            return
        for (column, _), before, after in zip(self.shown, old, cells, strict=True):
            if before.plain != after.plain or before.style != after.style or before.spans != after.spans:
                self.update_cell(row_key, column.name, after)
        self._rows[row_key] = cells

    def _put_in_order(self, keys: list[str]) -> None:
        if self.keys == keys:
            return
        for number, row_key in enumerate(keys):
            mark = self.get_cell(row_key, "mark")
            assert isinstance(mark, _Mark)
            mark.order = number
        self.sort("mark", key=lambda mark: mark.order)

    def _place_cursor(self, key: str | None, index: int, line: int) -> str | None:
        if not self._rows:
            return key
        if key is not None and key in self._rows:
            index = self.get_row_index(key)
            lost = None
        else:
            index, lost = min(index, len(self._rows) - 1), key
        self.move_cursor(row=index, scroll=False)
        self.call_after_refresh(self.scroll_to, y=max(0, index - line), animate=False)
        return lost

    def paint_marks(self, keys: Iterable[str] | None = None) -> None:
        """Shows cursor and marks in the first column."""
        pointed = self.cursor_key
        for row_key in self._rows if keys is None else keys:
            if row_key not in self._rows:
                continue
            old = self.get_cell(row_key, "mark")
            assert isinstance(old, _Mark)
            pointer = self.pen.glyph("cursor") if row_key == pointed else " "
            text = pointer + (self.pen.glyph("mark") if row_key in self.marks else " ")
            if old.plain != text:
                mark = _Mark(text, "bold", end="")
                mark.order = old.order
                self.update_cell(row_key, "mark", mark)
        self._pointed = pointed

    def on_data_table_row_highlighted(self) -> None:
        """Moves the pointer, and asks for the next window before its edge is reached."""
        key = self.cursor_key
        self.paint_marks([old for old in (self._pointed, key) if old is not None])
        if self.cursor_row >= len(self._rows) - self.EDGE_ROWS:
            self.post_message(self.NearEdge(down=True))
        elif self.cursor_row < self.EDGE_ROWS:
            self.post_message(self.NearEdge(down=False))
