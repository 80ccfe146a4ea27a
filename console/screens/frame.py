"""ListFrame: a live window of rows, what stands around it, and a pane that follows the cursor."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import DataTable, Static

from app.fleet import WINDOW_ROWS, Anchor, Page, Term, View
from console.actions import Action, footer_of, why_not
from console.cells import Pen, age, clock_text, count_text, plural, safe
from console.completion import complete, values_of
from console.live import Wanted
from console.marks import Marks
from console.query import SCREENS, tenant_terms
from console.store import Store
from console.table import Column, ResourceTable, sized
from console.widgets import FilterLine, Line, keys_text, show, tabs_text

if TYPE_CHECKING:
    from console.main import ConsoleApp

RowT = TypeVar("RowT")

#: Rows by which the window moves when the cursor comes near its edge.
SLIDE_ROWS = 250
#: More than the highest terminal shows; the rest of a window follows when these are painted.
FIRST_ROWS = 100
#: A screen is called loading only after this long.
LOADING_AFTER_S = 0.2
#: A smaller terminal is told so instead.
MIN_SIZE = (60, 15)
NEED_SIZE = f"need {MIN_SIZE[0]}x{MIN_SIZE[1]}"


class ListFrame(Screen[None], Generic[RowT]):
    """What is shown of a list, and when it is read. Subclasses say what a row is."""

    NAME: ClassVar[str]
    COLUMNS: ClassVar[Sequence[Column]]
    NOUN: ClassVar[str]
    SORT: ClassVar[str] = "name"
    NEWEST_FIRST: ClassVar[bool] = False
    AUTO_FOCUS = "#table"
    is_pinned = False

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

    def detail_of(self, row: RowT, width: int) -> tuple[str, list[Text]]:
        """Title and lines of the pane below."""
        raise KeyError(width)

    def name_of(self, row: RowT) -> str:
        raise KeyError(row)

    def place_of(self, row: RowT) -> tuple[str | None, str]:
        """Cluster (None: any) and name in the audit log."""
        raise KeyError(row)

    def copies_of(self, row: RowT) -> list[tuple[str, str]]:
        """What `copy` offers: (label, text)."""
        return [("name", self.name_of(row))]

    # -- frame ----------------------------------------------------------------------------------

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

    def compose(self) -> ComposeResult:
        yield Line("small")
        yield Line("bar")
        yield Line("crumbs")
        yield FilterLine(self.complete)
        yield Line("complaintline")
        yield from self.compose_above()
        with Vertical(id="body"):
            scoped = self.console.scope is not None and self.NAME != "overview"
            table = ResourceTable(self.pen, [c for c in self.COLUMNS if not (scoped and c.name == "cluster")])
            yield table
            yield Static("", id="notice", markup=False)
        yield Static("", id="detail", markup=False)
        yield Line("tabs")
        keys = Line("keys")
        self._parts = table, keys
        yield keys

    def complete(self, text: str) -> str | None:
        rows = self.rows.values()
        return complete(text, SCREENS[self.NAME], lambda field: values_of(rows, field))

    def compose_above(self) -> ComposeResult:
        yield from ()

    def on_mount(self) -> None:
        self.wanted_since = self.console.clock()
        self.table.marks = self.marks
        # At once: put off, it would take the filter line from whoever types ahead.
        self.set_focus(self.table)

    def on_screen_resume(self) -> None:
        self.lay_out()
        self.paint_frame()
        self.console.feed_kick(urgent=True)

    def on_resize(self, event: events.Resize) -> None:
        self.call_after_refresh(self.lay_out)

    def lay_out(self) -> None:
        """Columns for the width there is; rows are written anew where that changes them."""
        if not self.is_ready:
            return
        size = self.app.size
        self.set_class(size.width < MIN_SIZE[0] or size.height < MIN_SIZE[1], "small")
        if self.table.lay_out(self.app.size.width - 1, self.sort_by, self.descending):
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

    # -- rows chosen ----------------------------------------------------------------------------

    @property
    def current(self) -> RowT | None:
        key = self.table.cursor_key if self.is_ready else None
        return self.rows.get(key) if key is not None else None

    def looked_at(self) -> RowT | None:
        """The row of the pane below."""
        return self.current

    # -- painting -------------------------------------------------------------------------------

    def paint_frame(self) -> None:
        """Everything around the rows."""
        if not self.is_ready:
            return
        width = self.app.size.width
        bar, crumbs = self.query_one("#bar", Line), self.query_one("#crumbs", Line)
        bar.put(*self.console.status_line(width, self.received_at))
        crumbs.put(self.pen.join(" ", self.pen.cell(self.path(), "strong")), self.facts(width))
        self.query_one("#tabs", Line).put(tabs_text(self.pen, width, self.NAME))
        actions = [(action, not self.obstacle(action)) for action in footer_of(self.NAME)]
        self.query_one("#keys", Line).put(*keys_text(self.pen, width, actions, self.console.keys))
        self.set_class(not self.console.link.is_up and self.page is not None, "faded")
        self.query_one("#small", Line).put(self.pen.join(NEED_SIZE, "  ", self.console.link_line(None)))
        self.paint_notice()
        self.paint_detail()

    def path(self) -> str:
        scope = self.console.scope
        sep = self.pen.glyph("sep")
        return f"{scope} {sep} {self.NAME.title()}" if scope else self.NAME.title()

    @staticmethod
    def total_text(page: Page[Any]) -> str:
        return count_text(page.total) if page.counted else f"over {count_text(page.total)}"

    def facts(self, width: int) -> Text:
        """Where the window stands, marks, order, and how old the picture is when it is not live."""
        parts: list[str] = []
        page = self.page
        if page is not None and page.rows:
            backwards = self.from_end and page.counted
            first = page.total - page.before - len(page.rows) + 1 if backwards else page.before + 1
            last = first + len(page.rows) - 1
            if page.total > len(page.rows):
                span = f"rows {count_text(first)}-{count_text(last)}"
                at_end = self.from_end and not page.counted
                parts.append(f"{span} from the end" if at_end else f"{span} of {self.total_text(page)}")
            else:
                parts.append(plural(page.total, self.NOUN))
        if self.marks:
            which = f" ({self.marks.text})" if self.marks.text and self.marks.text != self.filter_text else ""
            parts.append(f"{count_text(len(self.marks))} marked{safe(which)}")
        if self.console.feed_pending:
            parts.append(f"{self.pen.glyph('change')} {plural(self.console.feed_pending, 'request')}")
        title = next((column.title.lower() for column in self.COLUMNS if column.sort == self.sort_by), "")
        if title:
            parts.append(f"sort: {title} {self.pen.glyph('down' if self.descending else 'up')}")
        if self.console.paused:
            parts.append(f"paused, {self.console.held} held")
        elif not self.console.link.is_up and self.received_at is not None:
            gone = self.console.clock() - self.received_at
            parts.append(f"data as of {clock_text(self.received_at)} ({age(gone)} ago)")
        elif width >= 100:
            parts.append("live" if self.console.link.is_up else self.console.link.kind)
        return Text(" | ".join(parts) + " ", self.pen.styles["muted"], end="")

    def paint_notice(self) -> None:
        """What stands where rows would be when there are none."""
        notice = self.query_one("#notice", Static)
        text: Text | None = None
        link = self.console.link
        if self.page is None:
            waited = self.console.clock() - (self.wanted_since or 0.0)
            if link.kind == "refused":
                text = self.pen.join(self.pen.state("failed", "the database refuses this"), "\n\n")
                text.append_text(self.pen.cell(link.reason)).append("\n\n^r retries")
            elif link.kind == "down":
                text = self.pen.join(self.pen.state("off", "no database yet"), "\n\n")
                text.append_text(self.pen.cell(link.reason)).append("\n\nretrying; ^r tries now")
            elif waited >= LOADING_AFTER_S:
                text = Text("loading")
        elif not self.page.rows:
            text = self.empty_text()
        notice.set_class(text is not None, "shown")
        self.table.display = text is None
        if text is None and self.focused is None:
            self.table.focus()
        show(notice, text if text is not None else Text(""))

    def empty_text(self) -> Text:
        if self.terms:
            return self.pen.join(
                f"no {self.NOUN} matches ", self.pen.cell(self.filter_text, "strong"), "; esc clears"
            )
        return Text(f"there is no {self.NOUN} yet")

    def paint_detail(self) -> None:
        detail = self.query_one("#detail", Static)
        row = self.looked_at()
        if row is None or self.page is None or not self.page.rows:
            detail.border_title = None
            show(detail, Text(""))
            return
        short = detail.size.height <= 1 or self.has_class("-short") or self.has_class("-tiny")
        width = max(20, self.app.size.width - 4)
        title, lines = self.detail_of(row, width)
        title += "  (pinned; d lets it go)" if self.is_pinned else ""
        if self.lost_key is not None:
            lines = [Text("the row under the cursor was removed", self.pen.styles["attention"]), *lines]
        if short:
            line = self.pen.join(self.pen.cell(title, "strong"), "  ")
            for part in lines:
                line.append_text(part).append("  ")
            line.truncate(self.app.size.width - 2, overflow="ellipsis")
            show(detail, line)
        else:
            detail.border_title = self.pen.cell(title)
            show(detail, Text("\n", end="").join(lines))

    @on(DataTable.RowHighlighted)
    def follow_cursor(self) -> None:
        if self.table.cursor_key != self.lost_key and self.table.has_focus:
            self.lost_key = None
        self.paint_detail()

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

    def obstacle(self, action: Action) -> str:
        """Why an action cannot be done now; empty when it can."""
        return why_not(
            action,
            writable=self.store.writable,
            linked=self.console.link.is_up,
            has_row=self.current is not None,
        )
