"""ListFrame: what stands around a window of rows, and a pane that follows the cursor."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import DataTable, Static

from app.fleet import Page
from console.actions import BY_ID, Action, footer_of, why_not
from console.cells import age, clock_text, count_text, plural, safe
from console.completion import complete, values_of
from console.help import BESIDE_FROM, HELP_EDGES, HELP_WIDTH, HelpPanel, help_text
from console.query import SCREENS
from console.screens.window import NEED_SIZE, ListWindow, RowT
from console.table import ResourceTable
from console.widgets import NARROW, FilterLine, Line, Links, Part, keys_text, show, tabs

#: A screen is called loading only after this long.
LOADING_AFTER_S = 0.2


class ListFrame(ListWindow[RowT]):
    """What is shown of a list and around it."""

    AUTO_FOCUS = "#table"
    is_pinned = False

    # -- for subclasses -------------------------------------------------------------------------

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

    def compose(self) -> ComposeResult:
        yield Line("small")
        yield Line("bar")
        yield Links("crumbs")
        yield FilterLine(self.complete)
        yield Line("complaintline")
        yield from self.compose_above()
        with Vertical(id="body"):
            scoped = self.console.scope is not None and self.NAME != "overview"
            table = ResourceTable(self.pen, [c for c in self.COLUMNS if not (scoped and c.name == "cluster")])
            yield table
            yield Static("", id="notice", markup=False)
        yield Static("", id="detail", markup=False)
        yield Links("tabs")
        keys = Line("keys")
        self._parts = table, keys
        yield keys
        yield HelpPanel()

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
        width = self.room
        bar, crumbs = self.query_one("#bar", Line), self.query_one("#crumbs", Links)
        bar.put(*self.console.status_line(width, self.received_at))
        crumbs.put_parts(self.crumbs(width), self.facts(width))
        self.query_one("#tabs", Links).put_parts(tabs(self.pen, width, self.NAME, self.console.go_to))
        actions = [(action, not self.obstacle(action)) for action in footer_of(self.NAME)]
        self.query_one("#keys", Line).put(*keys_text(self.pen, width, actions, self.console.keys))
        self.set_class(not self.console.link.is_up and self.page is not None, "faded")
        self.query_one("#small", Line).put(self.pen.join(NEED_SIZE, "  ", self.console.link_line(None)))
        self.paint_complaint()
        self.paint_notice()
        self.paint_detail()
        self.paint_help()

    def paint_complaint(self) -> None:
        """What is wrong with the filter that is typed; else why rows that are here are not read any more."""
        link = self.console.link
        refused = link.reason if link.kind == "refused" and self.page is not None else ""
        complaint = self.filter_error or refused
        line = self.query_one("#complaintline", Line)
        line.set_class(bool(complaint), "shown")
        line.put(self.pen.cell(f" {complaint}", "attention" if self.filter_error else "failed"))

    @property
    def room(self) -> int:
        width = self.app.size.width
        return width - HELP_WIDTH if self.console.helping and width >= BESIDE_FROM else width

    def paint_help(self) -> None:
        """The panel, while it is open."""
        helping = self.console.helping
        self.set_class(helping, "helping")
        if not helping:
            return
        keys = self.console.keys
        closes = f"{keys.shown(BY_ID['app.help'])} or esc closes, tab leads here"
        width = (HELP_WIDTH if self.room < self.app.size.width else self.room) - HELP_EDGES
        text = help_text(self.NAME, self.HELP or "", keys, self.pen, width, self.obstacle)
        self.query_one(HelpPanel).put(self.NAME.title(), closes, text)

    def toggle_help(self) -> None:
        """Opens or closes the panel; over the list it takes the arrow keys, beside it the list keeps them."""
        self.console.helping = not self.console.helping
        self.lay_out()
        # Once more when the lines around the list have their new width.
        self.call_after_refresh(self.paint_frame)
        over = self.console.helping and self.app.size.width < BESIDE_FROM
        self.set_focus(self.query_one(HelpPanel) if over else self.table)

    def crumbs(self, width: int) -> list[Part]:
        """Where this list is: the overview, the one cluster it is about, itself."""
        parts: list[Part] = [(Text(" ", end=""), None)]
        cluster, go_to = self.console.scope or self.filter_cluster, self.console.go_to
        if self.NAME != "overview" and (width >= NARROW or cluster):
            way = [(cluster, partial(self.console.show_cluster, cluster))] if cluster else []
            if width >= NARROW:
                way.insert(0, ("Overview", partial(go_to, "overview")))
            for word, go in way:
                parts.append((self.pen.cell(word), go))
                parts.append((Text(f" {self.pen.glyph('sep')} ", self.pen.styles["muted"], end=""), None))
        parts.append((self.pen.cell(self.NAME.title(), "strong"), None))
        return parts

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
        return Text(f"there is no {self.NOUN} yet" + (f"\n\n{self.HINT}" if self.HINT else ""))

    def paint_detail(self) -> None:
        detail = self.query_one("#detail", Static)
        row = self.looked_at()
        if row is None or self.page is None or not self.page.rows:
            detail.border_title = None
            show(detail, Text(""))
            return
        short = detail.size.height <= 1 or self.has_class("-short") or self.has_class("-tiny")
        width = max(20, self.room - 4)
        title, lines = self.detail_of(row, width)
        title += "  (pinned; d lets it go)" if self.is_pinned else ""
        if self.lost_key is not None:
            lines = [Text("the row under the cursor was removed", self.pen.styles["attention"]), *lines]
        if short:
            line = self.pen.join(self.pen.cell(title, "strong"), "  ")
            for part in lines:
                line.append_text(part).append("  ")
            line.truncate(self.room - 2, overflow="ellipsis")
            show(detail, line)
        else:
            detail.border_title = self.pen.cell(title)
            show(detail, Text("\n", end="").join(lines))

    @on(DataTable.RowHighlighted, "#table")
    def follow_cursor(self) -> None:
        if self.table.cursor_key != self.lost_key and self.table.has_focus:
            self.lost_key = None
        self.paint_detail()

    def obstacle(self, action: Action) -> str:
        """Why an action cannot be done now; empty when it can."""
        return why_not(
            action,
            read_only=self.store.why_read_only,
            linked=self.console.link.is_up,
            has_row=self.current is not None,
        )
