"""All clusters: who owns them, how many devices are here, and what needs attention."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widgets import Static

from app.fleet import ClusterRow, LoadHistory, Overview, Page, Term, View
from app.health import SEVERITIES
from console.actions import BY_ID
from console.cells import age, clock_text, count_text, plural
from console.query import Condition, render
from console.rebuild import rebuild_ask
from console.screens.alarms import ROLES, alarm_line
from console.screens.base import ListScreen, bindings_of
from console.store import Ask
from console.table import Column
from console.widgets import box_line, show, side_by_side

#: Lines of the attention list; the screen of alarms has all.
ATTENTION_LINES = 5
#: Cells of a spark line beside its number.
RATE_CELLS = 9
#: What the spark line of all devices is of.
SPAN = " 60 min"


@dataclass(frozen=True, slots=True)
class Health:
    """How a cluster is, and why in words."""

    role: str
    word: str
    reason: str


def health_of(row: ClusterRow) -> Health:
    """The worst that is true of a cluster."""
    if row.lease_left_s is None:
        return Health(
            "off", "unserved", "no instance has ever owned this cluster: start hs-node serve for it"
        )
    if not row.owner or row.lease_left_s <= 0:
        gone = age(max(0.0, -row.lease_left_s)) if row.lease_left_s > float("-inf") else "some time"
        waiting = f"; {plural(row.waiting, 'request')} waiting" if row.waiting else ""
        return Health("failed", "no owner", f"the lease ended {gone} ago and nobody has taken it{waiting}")
    if row.state != "active":
        return Health("change", row.state, f"the cluster is {row.state}")
    if row.devices and row.expired == row.devices:
        return Health("attention", "expired", "every device's login has expired")
    return Health("ok", "healthy", f"owned by {row.owner}, epoch {row.epoch}")


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
        Column("share", "%", 4, 1, right=True),
        Column("expired", "EXPIRED", 7, 4, right=True),
        Column("users", "USERS", 6, 2, right=True),
        Column("keys", "KEYS", 6, 3, right=True),
        Column("instances", "INSTANCES", 9, 5, right=True),
        Column("spark", "CONNECTED, 60 MIN", 17, 3, 1),
        Column("changes", "CHANGES/S, 60 MIN", 17, 4),
        Column("owner", "OWNER", 16, 7, 2),
    )

    def __init__(self) -> None:
        super().__init__()
        self.picture: Overview | None = None

    def compose_above(self) -> ComposeResult:
        with Horizontal(id="tiles"):
            for name in ("devices", "clusters", "attention"):
                yield Static("", id=f"tile-{name}", classes="tile", markup=False)

        yield Static("", id="attention", markup=False)

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
        rows = picture.clusters
        devices, online = sum(r.devices for r in rows), sum(r.online for r in rows)
        share = f"{100 * online // devices} %" if devices else "-"
        expired, expiring = sum(r.expired for r in rows), sum(r.expiring for r in rows)
        waiting, users, keys = (sum(getattr(r, name) for r in rows) for name in ("waiting", "users", "keys"))
        cell, state = self.pen.cell, self.pen.state
        totals = total_of([history.connected for history in picture.load.values()])
        width = max(1, self.query_one("#tile-devices").content_size.width)
        self._tile(
            "devices",
            "Devices",
            [
                self.pen.join(cell(count_text(devices), "strong"), " devices"),
                self.pen.join(cell(count_text(online), "ok"), f" online  {share}"),
                self.pen.join(cell(count_text(expired), "attention" if expired else "muted"), " expired"),
                cell(f"{self.pen.spark(totals, width - len(SPAN))}{SPAN}", "change")
                if totals
                else cell("not measured yet", "muted"),
            ],
        )
        self._tile(
            "clusters",
            "Clusters",
            [
                self.pen.join(cell(plural(len(rows), "cluster"), "strong")),
                self.pen.join(cell(sum(health_of(row).role == "ok" for row in rows), "ok"), " healthy"),
                self.pen.join(plural(sum(r.tenants for r in rows), "tenant")),
                self.pen.join(plural(users, "user"), ", ", plural(keys, "key")),
            ],
        )
        lines = self._paint_attention(picture)
        ill = sum(health_of(row).role == "failed" for row in rows)
        if ill and not picture.alarms:
            # An alarm takes a look of whoever judges; the table says so already.
            lines.append(state("failed", f"{plural(ill, 'cluster')} not healthy"))
        if waiting:
            lines.append(state("change", f"{plural(waiting, 'request')} waiting"))
        if expiring:
            lines.append(state("attention", f"{plural(expiring, 'device')} expire within a day"))
        self._tile("attention", "Attention", lines or [state("ok", "nothing needs attention")])

    def _paint_attention(self, picture: Overview) -> list[Text]:
        """The list of open alarms, the worst first; answers what the tile says of them."""
        lines = [alarm_line(self.pen, alarm) for alarm in picture.alarms[:ATTENTION_LINES]]
        more = len(picture.alarms) - len(lines)
        if more > 0:
            lines.append(self.pen.cell(f"and {plural(more, 'alarm')} more; ! shows all", "muted"))
        attention = self.query_one("#attention", Static)
        attention.set_class(bool(lines), "shown")
        show(attention, Text("\n", end="").join(lines), grows=True)
        judged = "! leads there" if picture.judge else "judged by this console"
        attention.border_title = f"Open alarms ({judged})"
        found = []
        for severity in SEVERITIES:
            fresh = [a for a in picture.alarms if a.severity == severity and not a.acknowledged_by]
            if fresh:
                found.append(self.pen.state(ROLES[severity], f"{len(fresh)} {severity}"))
        known = sum(bool(alarm.acknowledged_by) for alarm in picture.alarms)
        if known:
            found.append(self.pen.state("off", f"{known} acknowledged"))
        return found

    def _changes(self, history: LoadHistory | None) -> Text:
        """The newest rate that was measured, and beside it the hour's."""
        known = [rate for rate in history.changes if rate is not None] if history else []
        if history is None or not known:
            return self.pen.cell("-", "muted")
        return self.pen.cell(f"{known[-1]:>7.2f} {self.pen.spark(history.changes, RATE_CELLS)}", "change")

    def _tile(self, name: str, title: str, lines: list[Text]) -> None:
        tile = self.query_one(f"#tile-{name}", Static)
        if self.app.size.height < 30 or self.app.size.width < 100:
            tile.border_title = None
            show(tile, Text("  ", end="").join(lines[:2]))
            return
        tile.border_title = title
        show(tile, Text("\n", end="").join(lines))

    def detail_of(self, row: ClusterRow, width: int) -> tuple[str, list[Text]]:
        health = health_of(row)
        facts = [
            self.pen.join(self.pen.state(health.role, health.word), "  ", health.reason),
            box_line(self.pen, "tenants", count_text(row.tenants)),
            box_line(self.pen, "instances", count_text(row.instances)),
            box_line(self.pen, "requests", f"{row.waiting} waiting"),
            box_line(self.pen, "expiring", f"{row.expiring} within a day"),
        ]
        lines = side_by_side(facts, width)
        recent = self.picture.recent if self.picture else ()
        for line in [line for line in recent if line.cluster_id == row.cluster_id][:4]:
            text = f"{clock_text(line.at)}  {line.actor or '-'}  {line.action}  {line.object}"
            lines.append(self.pen.cell(text, "muted"))
        return row.cluster_id, lines

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        self.console.go_to("devices", render((Condition("cluster", "=", (row.cluster_id,)),)))

    async def do_cluster_drain(self) -> None:
        row = self.chosen(BY_ID["cluster.drain"])[0]
        name = row.cluster_id
        args = {"cluster": name}
        self.console.confirm(
            BY_ID["cluster.drain"],
            f"Drain cluster {name}",
            [
                f"{name}  {plural(row.tenants, 'tenant')}  {plural(row.devices, 'device')}",
                f"{row.online} online now",
            ],
            "It gets no more tenants, and those it has (but for its own) move to other clusters in waves,"
            " by a plan on the Rebalance screen. Their devices reconnect and keep their addresses."
            " Undrain (W) ends it.",
            [Ask("", None, "cluster_drain", args, f"cluster:{name}", f"drain {name}", dedup=name)],
            typed=name,
        )

    async def do_cluster_undrain(self) -> None:
        row = self.chosen(BY_ID["cluster.undrain"])[0]
        name = row.cluster_id
        args = {"cluster": name}
        self.console.confirm(
            BY_ID["cluster.undrain"],
            f"Undrain cluster {name}",
            [f"{name}  {row.state}  {plural(row.tenants, 'tenant')}"],
            "It takes tenants again; a plan that empties it is stopped. Who has left stays where it is now.",
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
            f"All is read again; the {count_text(row.online)} devices online get their whole map anew.",
            [rebuild_ask(row.cluster_id, row.home_id, "cluster", f"rebuild cluster {row.cluster_id}")],
        )


def total_of(series: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Minute by minute over all clusters; None where none was measured."""
    minutes = [[value for value in at if value is not None] for at in zip(*series, strict=True)]
    return [sum(values) if values else None for values in minutes]


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
