"""ListWindow: which rows of a list are read, when, and how they get into the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from rich.text import Text
from textual import on
from textual.screen import Screen

from app.fleet import WINDOW_ROWS, Anchor, Page, Term, View
from console.cells import Pen, age
from console.live import Wanted
from console.marks import Marks
from console.query import tenant_terms
from console.store import Store
from console.table import Column, ResourceTable, sized
from console.widgets import Line

if TYPE_CHECKING:
    from console.main import ConsoleApp

RowT = TypeVar("RowT")

#: Rows by which the window moves when the cursor comes near its edge.
SLIDE_ROWS = 250
#: More than the highest terminal shows; the rest of a window follows when these are painted.
FIRST_ROWS = 100
#: A smaller terminal is told so instead.
MIN_SIZE = (60, 15)
NEED_SIZE = f"need {MIN_SIZE[0]}x{MIN_SIZE[1]}"


class ListWindow(Screen[None], Generic[RowT]):
    """The rows of a view that are here. Subclasses say what a row is."""

    NAME: ClassVar[str]
    COLUMNS: ClassVar[Sequence[Column]]
    NOUN: ClassVar[str]
    #: What makes the first row, for who finds none.
    HINT: ClassVar[str] = ""
    SORT: ClassVar[str] = "name"
    NEWEST_FIRST: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, RowT] = {}
        self.page: Page[RowT] | None = None
        self.received_at: float | None = None
        self.serial = 0
        self.sort_by = self.SORT
        self.descending = self.NEWEST_FIRST
        self.filter_text = ""
        self.filter_error = ""
        #: The one cluster that the filter asks for, '' for any.
        self.filter_cluster = ""
        self.terms: tuple[Term, ...] = ()
        self.from_end = False
        self.anchors: list[Anchor] = []
        self.lost_key: str | None = None
        self.wanted_since: float | None = None
        #: A new view shows its first rows before the rest of its window is read.
        self.is_partial = True
        #: Rows of the newest picture that the one before had not, or had otherwise.
        self.rows_changed = 0
        self.marks: Marks[RowT] = Marks()
        self._made: dict[str, tuple[RowT, object, list[Text]]] = {}
        #: The list, and the last line of the frame, from when they are composed.
        self._parts: tuple[ResourceTable, Line] | None = None

    # -- for subclasses -------------------------------------------------------------------------

    def key_of(self, row: RowT) -> str:
        raise KeyError(row)

    def cells_of(self, row: RowT) -> dict[str, Text]:
        """Cells by column name; the frame cuts them to width."""
        raise KeyError(row)

    def moving(self, row: RowT) -> object:
        """What of the cells changes without the row, as time goes on. Equal means: the same cells."""
        return ()

    def read(self, view: View) -> Callable[[], Awaitable[Any]]:
        return lambda: self.store.listing(self.NAME, view)

    def paint_frame(self) -> None:
        """Everything around the rows."""

    @property
    def room(self) -> int:
        """Cells of width that the list has."""
        return self.app.size.width

    # -- parts ----------------------------------------------------------------------------------

    @property
    def console(self) -> ConsoleApp:
        return cast("ConsoleApp", self.app)

    @property
    def store(self) -> Store:
        return self.console.store

    @property
    def pen(self) -> Pen:
        return self.console.pen

    @property
    def is_ready(self) -> bool:
        """Whether its parts are there: not before it is composed, nor while it is taken down."""
        # Asked hundreds of times a minute, so no query.
        return self.is_attached and self._parts is not None and all(part.is_attached for part in self._parts)

    @property
    def table(self) -> ResourceTable:
        assert self._parts is not None, "asked of a list before it is composed"
        return self._parts[0]

    def lay_out(self) -> None:
        """Columns for the width there is; rows are written anew where that changes them."""
        if not self.is_ready:
            return
        size = self.app.size
        self.set_class(size.width < MIN_SIZE[0] or size.height < MIN_SIZE[1], "small")
        if self.table.lay_out(self.room - 1, self.sort_by, self.descending):
            self._made.clear()
            if self.page:
                self.show_rows()
        self.paint_frame()

    def repaint(self) -> None:
        """Cells as well as what is around them."""
        self._made.clear()
        if self.page is not None:
            self.show_rows()
        self.paint_frame()

    # -- data -----------------------------------------------------------------------------------

    def view(self) -> View:
        """What to ask the database for now."""
        return View(
            terms=(*self.scope_terms, *self.terms),
            sort=self.sort_by,
            descending=self.descending != self.from_end,
            after=self.anchors[-1] if self.anchors else None,
            cluster_id=self.console.scope,
            limit=FIRST_ROWS if self.is_partial else WINDOW_ROWS,
            skipped=SLIDE_ROWS * len(self.anchors),
        )

    @property
    def scope_terms(self) -> tuple[Term, ...]:
        """What `--tenant` adds to every filter."""
        return tenant_terms(self.NAME, self.console.tenant)

    def wanted(self) -> Wanted:
        return Wanted(self.NAME, self.serial, self.read(self.view()))

    def change_view(self, *, restart: bool = True) -> None:
        """Another filter, order or place: what is under way is out of date."""
        self.serial += 1
        self.wanted_since = self.console.clock()
        if restart:
            self.anchors.clear()
            self.from_end = False
            self.is_partial = True
        self.lay_out()
        self.console.feed_kick(urgent=True)

    def take(self, data: Any, serial: int, at: float) -> None:
        """A picture has come. One that was asked for before the view changed is dropped."""
        if serial != self.serial:
            return
        if self.console.paused and self.wanted_since is None:
            self.console.hold({self.key_of(row) for row in self.rows_in(data)} - self.rows.keys())
            return
        self.received_at = at
        self.accept(data)
        if self.wanted_since is not None:
            # Another view has other rows; nothing was removed.
            self.lost_key = None
        if self.is_partial and self.page is not None and len(self.page.rows) == FIRST_ROWS:
            self.console.feed_kick(urgent=True)
        else:
            self.wanted_since = None
        self.is_partial = False
        self.paint_frame()

    def rows_in(self, data: Any) -> Sequence[RowT]:
        return cast("Page[RowT]", data).rows

    def accept(self, data: Any) -> None:
        page = cast("Page[RowT]", data)
        if self.from_end:
            page = dataclasses.replace(page, rows=page.rows[::-1])
        self.page = page
        self.marks.seen(self.terms, page.total, {self.key_of(row): row for row in page.rows})
        self.show_rows()

    def show_rows(self) -> None:
        assert self.page is not None
        self.rows = {self.key_of(row): row for row in self.page.rows}
        made, shown = {}, self.table.shown
        for key, row in self.rows.items():
            moving = self.moving(row)
            known = self._made.get(key)
            if known is not None and known[1] == moving and known[0] == row:
                made[key] = known
                continue
            cells = self.cells_of(row)
            made[key] = row, moving, [sized(cells[column.name], column, size) for column, size in shown]
        old = self._made
        self.rows_changed = len(old.keys() - made.keys()) + sum(
            key not in old or (old[key] is not new and old[key][0] != new[0]) for key, new in made.items()
        )
        same = list(made) == list(old) and all(made[key] is old[key] for key in made)
        self._made = made
        if same:
            return
        lost = self.table.apply([(key, cells) for key, (_, _, cells) in made.items()])
        if lost is not None:
            self.lost_key = lost

    @property
    def now(self) -> float:
        """The database's clock, carried on by ours."""
        if self.page is None or self.received_at is None:
            return self.console.clock()
        return self.page.now + (self.console.clock() - self.received_at)

    def ago(self, at: float | None) -> str:
        return "never" if at is None else age(max(0.0, self.now - at))

    @on(ResourceTable.NearEdge)
    def slide(self, event: ResourceTable.NearEdge) -> None:
        """Moves the window by half when the cursor nears its edge and there are more rows."""
        page = self.page
        if page is None or self.wanted_since is not None or len(page.rows) <= SLIDE_ROWS:
            return
        forward = event.down != self.from_end
        if forward and page.more:
            anchors = page.anchors
            self.anchors.append(anchors[min(SLIDE_ROWS, len(anchors)) - 1])
            self.change_view(restart=False)
        elif not forward and self.anchors:
            self.anchors.pop()
            self.change_view(restart=False)
