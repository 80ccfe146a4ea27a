"""What happened: changes of netmaps and rebuilds, and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.binding import BindingType
from textual.widgets import DataTable

from app.fleet_lists import AuditLine, ChangeRow
from console.cells import exact_text, plural
from console.query import Condition, render
from console.screens.base import bindings_of
from console.screens.plain import PlainScreen
from console.screens.window import RowT
from console.table import Column


class ActivityScreen(PlainScreen[RowT]):
    """The newest first; the cursor may follow."""

    NEWEST_FIRST = True

    def __init__(self) -> None:
        super().__init__()
        self.following = False

    async def do_view_follow(self) -> None:
        self.following = not self.following
        if self.following:
            if (self.sort_by, self.descending, self.from_end) != (self.SORT, True, False) or self.anchors:
                self.sort_by, self.descending = self.SORT, True
                self.change_view()
            self.table.move_cursor(row=0)
        self.paint_frame()

    def accept(self, data: Any) -> None:
        super().accept(data)
        if self.following:
            self.table.move_cursor(row=0)

    @on(DataTable.RowHighlighted)
    def cursor_left(self) -> None:
        """Who moves away from the newest row wants to read on."""
        if self.following and self.table.row_count and self.table.cursor_row > 0:
            self.following = False
            self.console.say("the cursor was moved: not following any more; f follows again")
            self.paint_frame()

    def facts(self, width: int) -> Text:
        facts = super().facts(width)
        return self.pen.join(self.pen.cell("following | ", "change"), facts) if self.following else facts


class NetmapScreen(ActivityScreen[ChangeRow]):
    """Changes of clusters' netmaps, and rebuilds with what they sent, the newest first."""

    NAME = "netmap"
    HELP = (
        "What changed in netmaps and who asked for it; rebuilds with the frames, bytes and time that "
        "they cost."
    )
    NOUN = "change"
    SORT = "at"
    STATES: ClassVar = {
        "queued": "wait",
        "running": "change",
        "done": "ok",
        "failed": "failed",
    }
    TIMES: ClassVar = frozenset({"at"})
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("netmap")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("at", "TIME", 16, 1, sort="at"),
        Column("cluster_id", "CLUSTER", 10, 1, 1, sort="cluster"),
        Column("event", "EVENT", 12, 1, sort="event"),
        Column("scope", "SCOPE", 18, 1, 2, sort="scope"),
        Column("state", "STATE", 10, 2, sort="state"),
        Column("origin", "ORIGIN", 16, 4, 2, sort="origin"),
        Column("devices", "DEVICES", 8, 2, right=True, sort="devices"),
        Column("maps", "FRAMES", 7, 3, right=True, sort="maps"),
        Column("bytes", "BYTES", 12, 3, right=True, sort="bytes"),
        Column("ms", "MS", 8, 3, right=True, sort="ms"),
        Column("error", "WHY", 12, 5, 2),
    )

    def cell_of(self, row: ChangeRow, name: str) -> Text:
        if name == "state" and row.state == "change":
            # Only a rebuild is under way, done or failed.
            return self.pen.cell("-", "muted")
        return super().cell_of(row, name)

    def name_of(self, row: ChangeRow) -> str:
        return f"{row.event} {row.scope}"

    def place_of(self, row: ChangeRow) -> tuple[str | None, str]:
        return row.cluster_id, row.scope

    def detail_of(self, row: ChangeRow, width: int) -> tuple[str, list[Text]]:
        """What a rebuild sent and how long its stages took; a change only says who made it."""
        cell = self.pen.cell
        if row.ms is None:
            words = f"by {row.origin}  {row.state}" if row.event == "rebuild" else f"written by {row.origin}"
            at = exact_text(row.at)
            return self.name_of(row), [cell(f"{at}  {words}", "muted"), cell(row.error, "failed")]
        sent = [
            plural(row.devices or 0, "device"),
            plural(row.maps or 0, "frame"),
            f"{row.bytes or 0:,} bytes",
        ]
        stages = [f"{row.ms:,.0f} ms"]
        if row.read_ms is not None and row.send_ms is not None:
            stages += [f"read {row.read_ms:,.0f} ms", f"make and send {row.send_ms:,.0f} ms"]
        late = f"{plural(row.waiting, 'device')} did not take it in time" if row.waiting else ""
        return self.name_of(row), [
            cell(f"{exact_text(row.at)}  asked by {row.origin}, {row.state}", "muted"),
            cell(f"result  {', '.join(sent)}"),
            cell(f"time    {' | '.join(stages)}"),
            cell(late, "attention"),
        ]

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        kind, _, number = row.scope.partition(":")
        condition = Condition("cluster", "=", (row.cluster_id,))
        if kind == "device" and number.isdigit():
            condition = Condition("id", "=", (number,))
        elif kind == "tag":
            condition = Condition("tag", "=", (row.scope,))
        self.console.go_to("devices", render((condition,)))


class AuditScreen(ActivityScreen[AuditLine]):
    """One row for each line of the audit log, in the order of time, the newest first."""

    NAME = "audit"
    HELP = (
        "Who did what to what, the newest first: by console, shell or API. Enter shows "
        "what was before and after."
    )
    NOUN = "entry"
    SORT = "id"
    TIMES: ClassVar = frozenset({"at"})
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("audit")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("at", "TIME", 16, 1, sort="id"),
        Column("actor", "ACTOR", 18, 1, 2),
        Column("action", "ACTION", 20, 1, 1),
        Column("object", "OBJECT", 16, 1, 2),
        Column("tenant", "TENANT", 12, 3, 1),
        Column("cluster_id", "CLUSTER", 10, 2, 1),
    )

    def name_of(self, row: AuditLine) -> str:
        return f"{row.action} {row.object}"

    def place_of(self, row: AuditLine) -> tuple[str | None, str]:
        return row.cluster_id, row.object

    def detail_of(self, row: AuditLine, width: int) -> tuple[str, list[Text]]:
        who = f"{exact_text(row.at)}  {row.actor or '-'}  entry {row.id}"
        lines = [self.pen.cell(who, "muted")]
        for word, facts in (("before", row.before), ("after ", row.after)):
            if facts:
                lines.append(self.pen.cell(f"{word} {facts}"))
        return self.name_of(row), lines

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        self.console.show_history(row.object, *self.place_of(row))

    async def do_audit_actor(self) -> None:
        row = self.current
        assert row is not None
        self.set_filter(render((Condition("actor", "=", (row.actor,)),)))

    async def do_audit_object(self) -> None:
        row = self.current
        assert row is not None
        self.set_filter(render((Condition("object", "=", (row.object,)),)))
