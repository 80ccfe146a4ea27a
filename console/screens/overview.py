"""All clusters: who owns them, how many devices are here, and what needs attention."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widgets import DataTable, Static

from app.fleet import ClusterRow, LoadHistory, Overview, Page, Term, View
from console.actions import BY_ID, Action
from console.attention import Attention
from console.cells import clock_text, count_text, plural
from console.query import Condition, render
from console.rebuild import NOTHING_TO_UNDO, rebuild_ask
from console.screens.alarms import acknowledge, open_object
from console.screens.base import ListScreen, bindings_of
from console.store import Ask
from console.table import Column
from console.tiles import CROWDED, fullness, health_of, history_words, newest, tiles_of
from console.widgets import box_line, show, side_by_side

TILES = ("devices", "netmaps", "capacity", "control")
#: Cells of the bar of a cluster's capacity.
BAR_CELLS = 9
#: Cells of a spark line beside its number.
RATE_CELLS = 9


class OverviewScreen(ListScreen[ClusterRow]):
    """Tiles, one row for each cluster, and what happened last."""

    NAME = "overview"
    HELP = (
        "Is anything wrong, where, and since when. Open alarms stand first, the worst on top: tab "
        "leads to them, enter goes to what an alarm is about. Below is one row for each cluster; "
        "enter shows its devices."
    )
    NOUN = "cluster"
    SORT = "cluster"
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("overview")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("cluster", "CLUSTER", 12, 1, 2),
        Column("health", "HEALTH", 11, 1),
        Column("devices", "DEVICES", 8, 1, right=True),
        Column("online", "ONLINE", 8, 1, right=True),
        Column("share", "ON %", 4, 1, right=True),
        Column("expired", "EXPIRED", 7, 4, right=True),
        Column("users", "USERS", 6, 2, right=True),
        Column("keys", "KEYS", 6, 3, right=True),
        Column("instances", "INSTANCES", 9, 5, right=True),
        Column("capacity", "CAPACITY", 15, 3),
        Column("spark", "CONNECTED, 60 MIN", 17, 3, 1),
        Column("changes", "CHANGES/S, 60 MIN", 17, 4),
        Column("owner", "OWNER", 16, 7, 2),
    )

    def __init__(self) -> None:
        super().__init__()
        self.picture: Overview | None = None

    def compose_above(self) -> ComposeResult:
        with Horizontal(id="tiles"):
            for name in TILES:
                yield Static("", id=f"tile-{name}", classes="tile", markup=False)
        yield Attention(self.pen)

    def rows_in(self, data: Any) -> Sequence[ClusterRow]:
        return cast("Overview", data).clusters

    def read(self, view: View) -> Callable[[], Awaitable[Any]]:
        return lambda: self.store.overview(view.cluster_id)

    def key_of(self, row: ClusterRow) -> str:
        return row.cluster_id

    def name_of(self, row: ClusterRow) -> str:
        return row.cluster_id

    def accept(self, data: Any) -> None:
        self.picture = cast("Overview", data)
        rows = tuple(row for row in self.picture.clusters if matches(row, self.terms))
        self.page = Page(rows, (), len(rows), 0, self.picture.now or self.console.clock())
        self.show_rows()
        self._paint_tiles()

    def lay_out(self) -> None:
        super().lay_out()
        self._paint_tiles()

    def repaint(self) -> None:
        super().repaint()
        self._paint_tiles()

    def moving(self, row: ClusterRow) -> object:
        health = health_of(row)
        return self._history(row), health.role, health.word

    def _history(self, row: ClusterRow) -> LoadHistory | None:
        return self.picture.load.get(row.cluster_id) if self.picture is not None else None

    def cells_of(self, row: ClusterRow) -> dict[str, Text]:
        cell = self.pen.cell
        health, history = health_of(row), self._history(row)
        width = next((size for column, size in self.table.shown if column.name == "spark"), 0)
        return {
            "cluster": cell(row.cluster_id, "strong"),
            "health": self.pen.state(health.role, health.word),
            "devices": cell(count_text(row.devices)),
            "online": cell(count_text(row.online), "ok" if row.online else "off"),
            "share": cell(f"{100 * row.online // row.devices}" if row.devices else "-", "muted"),
            "expired": cell(count_text(row.expired), "attention" if row.expired else "muted"),
            "capacity": self._capacity(row),
            "users": cell(count_text(row.users), "muted"),
            "keys": cell(count_text(row.keys), "muted"),
            "instances": cell(row.instances, "muted"),
            "spark": cell(self.pen.spark(history.connected, width) if history else "-", "change"),
            "changes": self._changes(history),
            "owner": cell(row.owner or "-", "muted"),
        }

    def _paint_tiles(self) -> None:
        picture = self.picture
        if picture is None or not self.is_ready:
            return
        one_line = self.app.size.height < 30 or self.app.size.width < 100
        width = max(1, self.query_one("#tile-devices").content_size.width)
        for name, tile in tiles_of(self.pen, picture, width).items():
            widget = self.query_one(f"#tile-{name}", Static)
            widget.border_title = None if one_line else tile.title
            show(widget, tile.brief if one_line else Text("\n", end="").join(tile.lines))
        judged = f"judged by {picture.leader}" if picture.leader else "judged by this console"
        self.attention.put(picture.alarms, self.now, judged, self.room - 6)

    @property
    def attention(self) -> Attention:
        return self.query_one(Attention)

    def _capacity(self, row: ClusterRow) -> Text:
        """How much of its limit is used, as a bar and a number."""
        if row.max_devices is None:
            return self.pen.cell("no limit", "muted")
        full = fullness(row)
        text = f"{self.pen.bar(full, 100, BAR_CELLS)} {full:3.0f} %"
        return self.pen.cell(text, "attention" if full > CROWDED else "change")

    def _changes(self, history: LoadHistory | None) -> Text:
        """The newest rate that was measured, and beside it the hour's."""
        rate = newest(history.changes) if history else None
        if history is None or rate is None:
            return self.pen.cell("-", "muted")
        return self.pen.cell(f"{rate:>7.2f} {self.pen.spark(history.changes, RATE_CELLS)}", "change")

    def detail_of(self, row: ClusterRow, width: int) -> tuple[str, list[Text]]:
        health = health_of(row)
        facts = [
            self.pen.join(self.pen.state(health.role, health.word), "  ", health.reason),
            box_line(self.pen, "tenants", count_text(row.tenants)),
            box_line(self.pen, "instances", count_text(row.instances)),
            box_line(self.pen, "requests", f"{row.waiting} waiting"),
            box_line(self.pen, "expiring", f"{row.expiring} within a day"),
        ]
        history = self._history(row)
        if history is not None and (sends := history_words(history)):
            facts.append(box_line(self.pen, "sends", sends))
        lines = side_by_side(facts, width)
        recent = self.picture.recent if self.picture else ()
        for line in [line for line in recent if line.cluster_id == row.cluster_id][:4]:
            text = f"{clock_text(line.at)}  {line.actor or '-'}  {line.action}  {line.object}"
            lines.append(self.pen.cell(text, "muted"))
        return row.cluster_id, lines

    def obstacle(self, action: Action) -> str:
        found = super().obstacle(action)
        if found or action.id != "alarm.acknowledge":
            return found
        alarm = self.attention.current if self.is_ready else None
        if alarm is None:
            return "no alarm is open"
        if not alarm.id:
            return "no hs-acs leads that would keep it; this console found it for itself"
        return f"{alarm.acknowledged_by} knows of it already" if alarm.acknowledged_by else ""

    @on(DataTable.RowSelected, "#alarms")
    async def open_alarm(self) -> None:
        await self.action_command("row.open")

    async def do_alarm_acknowledge(self) -> None:
        alarm = self.attention.current
        assert alarm is not None
        acknowledge(self.console, f"alarm {alarm.id}", [alarm])

    async def do_row_open(self) -> None:
        alarm = self.attention.current
        if alarm is not None and self.attention.table.has_focus:
            open_object(self.console, alarm.object, alarm.cluster_id)
            return
        row = self.current
        assert row is not None
        self.console.go_to("devices", render((Condition("cluster", "=", (row.cluster_id,)),)))

    async def do_cluster_drain(self) -> None:
        row = self.chosen(BY_ID["cluster.drain"])[0]
        name = row.cluster_id
        args = {"cluster": name, "seen": {"state": row.state}}
        self.console.confirm(
            BY_ID["cluster.drain"],
            f"Drain cluster {name}",
            [
                f"{name}  {plural(row.tenants, 'tenant')}  {plural(row.devices, 'device')}",
            ],
            "It gets no more tenants, and those it has (but for its own) move to other clusters in waves,"
            " by a plan on the Rebalance screen. Their devices reconnect and keep their addresses."
            " Undone by undraining (W), for those that have left by rolling the plan back.",
            [Ask("", None, "cluster_drain", args, f"cluster:{name}", f"drain {name}", dedup=name)],
            typed=name,
        )

    async def do_cluster_undrain(self) -> None:
        row = self.chosen(BY_ID["cluster.undrain"])[0]
        name = row.cluster_id
        args = {"cluster": name, "seen": {"state": row.state}}
        self.console.confirm(
            BY_ID["cluster.undrain"],
            f"Undrain cluster {name}",
            [f"{name}  {row.state}  {plural(row.tenants, 'tenant')}"],
            "It takes tenants again; a plan that empties it is stopped. Who has left stays where it is now."
            " Undone by draining (w).",
            [Ask("", None, "cluster_undrain", args, f"cluster:{name}", f"undrain {name}", dedup=name)],
        )

    async def do_cluster_rebuild(self) -> None:
        action = BY_ID["cluster.rebuild"]
        row = self.chosen(action)[0]
        if row.home_id is None:
            self.console.say(f"cluster {row.cluster_id} has no tenant yet: start hs-node serve", "warning")
            return
        self.console.confirm(
            action,
            f"Rebuild all netmaps of cluster {row.cluster_id}",
            [f"{row.cluster_id}  {plural(row.tenants, 'tenant')}  {plural(row.devices, 'device')}"],
            NOTHING_TO_UNDO,
            [rebuild_ask(row.cluster_id, row.home_id, "cluster", f"rebuild cluster {row.cluster_id}")],
        )


def matches(row: ClusterRow, terms: tuple[Term, ...]) -> bool:
    """The filter on clusters, which are few and all here."""
    values = {"cluster": row.cluster_id, "state": health_of(row).word, "owner": row.owner}
    for term in terms:
        texts = list(values.values()) if term.field == "any" else [values[term.field]]
        hit = any(_like(text.lower(), pattern) for text in texts for pattern in term.patterns)
        if hit == term.negated:
            return False
    return True


def _like(text: str, pattern: str) -> bool:
    """SQL's LIKE with `%` and escapes, by way of shell patterns."""
    shell, escaped = "", False
    for char in pattern:
        if char == "\\" and not escaped:
            escaped = True
            continue
        shell += "*" if char == "%" and not escaped else f"[{char}]" if char in "*?[" else char
        escaped = False
    return fnmatchcase(text, shell)
