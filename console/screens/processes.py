"""What runs: processes and their leases, jobs of the leading hs-acs, and devices that wait to be let in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType

from app.errors import BadRequest, HsError
from app.fleet import TenantRef
from app.fleet_lists import JobRow, LoginRow, ProcessRow
from app.health import RULES
from console.actions import BY_ID
from console.cells import age, count_text, exact_text, plural, size_text, took_text
from console.forms import Field, chosen_tenant, tenant_choices
from console.query import Condition, render
from console.screens.base import bindings_of
from console.screens.plain import PlainScreen
from console.store import Ask
from console.table import Column
from console.widgets import box_line, side_by_side

#: Cells of a spark line beside its number, and in the pane.
LAG_CELLS = 6
SPARK_CELLS = 30


class ProcessesScreen(PlainScreen[ProcessRow]):
    """One row for each hs-node and hs-acs that was heard of."""

    NAME = "processes"
    HELP = (
        "Every hs-node and hs-acs, what it does and needs, and who holds which lease. Lost means: it "
        "has not been heard of, and its lease goes to a standby."
    )
    NOUN = "process"
    STATES: ClassVar = {"owner": "ok", "leader": "ok", "standby": "wait", "lost": "failed"}
    TIMES: ClassVar = frozenset({"started", "heartbeat"})
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("processes")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("name", "PROCESS", 20, 1, 3, sort="name"),
        Column("kind", "KIND", 5, 1, sort="kind"),
        Column("cluster_id", "CLUSTER", 8, 1, 1, sort="cluster"),
        Column("state", "STATE", 10, 1, sort="state"),
        Column("heard", "HEARD", 6, 1, right=True),
        Column("lease", "LEASE", 7, 3, right=True),
        Column("epoch", "EPOCH", 6, 4, right=True, sort="epoch"),
        Column("up", "UP", 6, 2, right=True),
        Column("connected", "CONNS", 6, 2, right=True, sort="connected"),
        Column("rss", "RSS", 6, 2, right=True, sort="rss"),
        Column("lag", "LOOP LAG", 14, 2, sort="loop_lag_s"),
        Column("pool", "DB POOL", 8, 3, right=True, sort="pool_used"),
        Column("version", "VERSION", 9, 2, sort="version"),
        Column("cpu", "CPU", 6, 4, right=True, sort="cpu_share"),
        Column("addr", "ADDRESS", 20, 5, 1, sort="addr"),
    )

    def name_of(self, row: ProcessRow) -> str:
        return row.name

    def place_of(self, row: ProcessRow) -> tuple[str | None, str]:
        return row.cluster_id, f"cluster:{row.cluster_id}"

    def moving(self, row: ProcessRow) -> object:
        return int(self.now)

    def cell_of(self, row: ProcessRow, name: str) -> Text:
        match name:
            case "heard":
                return self.pen.cell(self.ago(row.heartbeat), "failed" if row.state == "lost" else "muted")
            case "up":
                return self.pen.cell("-" if row.state == "lost" else self.ago(row.started), "muted")
            case "rss":
                return self.pen.cell("-" if row.rss is None else size_text(row.rss), "muted")
            case "cpu":
                return self.pen.cell(
                    "-" if row.cpu_share is None else f"{100 * row.cpu_share:.0f} %", "muted"
                )
            case "lag":
                return self._lag(row)
            case "pool":
                return self._pool(row)
            case "version":
                mark = f" {self.pen.glyph('attention')}" if row.skewed else ""
                return self.pen.cell((row.version or "-") + mark, "attention" if mark else "muted")
            case "lease" if row.lease_ends is None:
                return self.pen.cell("-", "muted")
            case "lease":
                assert row.lease_ends is not None
                return self.pen.cell(f"{age(max(0.0, row.lease_ends - self.now))}", "muted")
            case _:
                return super().cell_of(row, name)

    async def do_lease_release(self) -> None:
        """Of the cluster of this row, whichever of its processes owns it at this moment."""
        row = self.chosen(BY_ID["lease.release"])[0]
        if row.kind != "node":
            self.console.say("hs-acs hands over by itself; stop its leader", "warning")
            return
        try:
            found = (await self.store.overview(row.cluster_id)).clusters
        except HsError as error:
            self.console.say(error.message, "error")
            return
        cluster = next((c for c in found if c.cluster_id == row.cluster_id), None)
        if cluster is None or cluster.home_id is None or (cluster.lease_left_s or 0) <= 0:
            self.console.say(f"nobody holds {row.cluster_id}: whoever stands by takes it", "warning")
            return
        others = cluster.instances - 1
        self.console.confirm(
            BY_ID["lease.release"],
            f"Hand {cluster.cluster_id} over",
            [f"{cluster.owner} owns it, epoch {cluster.epoch}; {plural(others, 'standby')}"],
            "The owner ends, and nothing it still writes counts: its epoch is over. Cannot be undone; hand"
            " over again.",
            [
                Ask(
                    *(cluster.cluster_id, cluster.home_id, "lease_release", {"epoch": cluster.epoch}),
                    *(f"cluster:{cluster.cluster_id}", f"hand {cluster.cluster_id} over"),
                )
            ],
            typed=cluster.cluster_id,
            why=f"{cluster.owner} is alive."
            if others > 0
            else "Nobody stands by: all devices are cut off until a process starts.",
        )

    def _lag(self, row: ProcessRow) -> Text:
        """The worst of the newest minute, and beside it the hour's."""
        if row.loop_lag_s is None:
            return self.pen.cell("-", "muted")
        role = "attention" if 1000 * row.loop_lag_s >= RULES["loop_lag"].raise_at else "muted"
        return self.pen.cell(f"{1000 * row.loop_lag_s:>4.0f} ms {self.pen.spark(row.lags, LAG_CELLS)}", role)

    def _pool(self, row: ProcessRow) -> Text:
        """Most connections that were in use at once, of how many."""
        if row.pool_used is None or not row.pool_size:
            return self.pen.cell("-", "muted")
        full = 100 * row.pool_used / row.pool_size >= RULES["pool_full"].raise_at
        mark = f" {self.pen.glyph('attention')}" if full else ""
        return self.pen.cell(f"{row.pool_used}/{row.pool_size}{mark}", "attention" if full else "muted")

    def detail_of(self, row: ProcessRow, width: int) -> tuple[str, list[Text]]:
        facts = [
            box_line(self.pen, "address", row.addr or "-"),
            box_line(self.pen, "version", self._version(row)),
            box_line(self.pen, "started", exact_text(row.started)),
            box_line(self.pen, "heard", self.ago(row.heartbeat)),
            box_line(
                self.pen, "devices connected", "-" if row.connected is None else count_text(row.connected)
            ),
        ]
        lines = side_by_side(facts, width)
        if row.rss is not None:
            lines.append(self._hour("memory", size_text(row.rss), row.sizes, "last 60 min"))
        if row.loop_lag_s is not None:
            lag = f"{1000 * row.loop_lag_s:.0f} ms"
            lines.append(self._hour("loop lag", lag, row.lags, "worst of each minute"))
        if row.pool_used is not None:
            use = f"{row.pool_used}/{row.pool_size}"
            lines.append(self._hour("DB pool", use, row.pools, "most at once in each minute"))
        return row.name, lines

    def _version(self, row: ProcessRow) -> Text | str:
        if not row.skewed:
            return row.version or "-"
        return self.pen.state("attention", f"{row.version}, not that of the process that was started last")

    def _hour(self, name: str, now: str, minutes: Sequence[float], about: str) -> Text:
        spark = self.pen.cell(self.pen.spark(minutes, SPARK_CELLS), "change")
        return self.pen.join(f"{name:<10}{now:>8}  ", spark, f"  {about}")

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        if row.kind == "acs":
            self.console.go_to("jobs", "")
        else:
            self.console.go_to("devices", render((Condition("cluster", "=", (row.cluster_id,)),)))


class JobsScreen(PlainScreen[JobRow]):
    """One row for each job that the leading hs-acs does by the clock."""

    NAME = "jobs"
    HELP = (
        "What the leading hs-acs does by the clock: when it ran last, how long that took and what came of it."
    )
    NOUN = "job"
    STATES: ClassVar = {"waiting": "wait", "running": "change", "done": "ok", "failed": "failed"}
    TIMES: ClassVar = frozenset({"started"})
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("jobs")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("name", "JOB", 20, 1, 1, sort="name"),
        Column("every_s", "EVERY", 8, 2, right=True, sort="every_s"),
        Column("state", "STATE", 10, 1, sort="state"),
        Column("started", "LAST RUN", 16, 1, sort="started"),
        Column("duration_s", "TOOK", 9, 2, right=True, sort="duration_s"),
        Column("runs", "RUNS", 8, 3, right=True, sort="runs"),
        Column("failures", "FAILED", 7, 3, right=True, sort="failures"),
        Column("result", "RESULT", 20, 1, 3),
    )

    def name_of(self, row: JobRow) -> str:
        return row.name

    def place_of(self, row: JobRow) -> tuple[str | None, str]:
        return None, f"job:{row.name}"

    def cell_of(self, row: JobRow, name: str) -> Text:
        if name == "result" and row.error:
            return self.pen.cell(row.error, "failed")
        if name == "every_s":
            return self.pen.cell(age(row.every_s), "muted")
        if name == "duration_s" and row.duration_s is not None:
            return self.pen.cell(took_text(row.duration_s), "muted")
        return super().cell_of(row, name)

    async def do_row_open(self) -> None:
        await self.do_row_json()

    async def do_job_run(self) -> None:
        action = BY_ID["job.run"]
        rows = self.chosen(action)
        self.console.confirm(
            action,
            f"Run {self.several(rows, 'job')} now",
            [row.name for row in rows],
            "The leading hs-acs runs it within a second, and then by its clock again. Cannot be undone.",
            [
                Ask("", None, "job_run", {"name": row.name}, f"job:{row.name}", f"run {row.name}")
                for row in rows
            ],
        )


class LoginsScreen(PlainScreen[LoginRow]):
    """One row for each device that waits until somebody lets it in."""

    NAME = "logins"
    HELP = "Devices that wait until somebody lets them in; each waits 15 minutes."
    NOUN = "login"
    HINT = "a device that joins without an auth key waits here until it is let in"
    SORT = "created"
    NEWEST_FIRST = True
    STATES: ClassVar = {"pending": "unknown", "approved": "ok", "denied": "failed", "expired": "off"}
    TIMES: ClassVar = frozenset({"created", "expires"})
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("logins")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("hostname", "DEVICE", 18, 1, 2, sort="hostname"),
        Column("os", "OS", 8, 2, sort="os"),
        Column("version", "VERSION", 10, 4, sort="version"),
        Column("address", "FROM", 16, 2, 1, sort="address"),
        Column("cluster_id", "CLUSTER", 10, 2, 1, sort="cluster"),
        Column("state", "STATE", 11, 1, sort="state"),
        Column("created", "SINCE", 16, 1, sort="created"),
        Column("login", "LOGIN", 24, 3, 1, sort="login"),
    )

    def name_of(self, row: LoginRow) -> str:
        return row.hostname

    def place_of(self, row: LoginRow) -> tuple[str | None, str]:
        return None, f"login:{row.login}"

    def copies_of(self, row: LoginRow) -> list[tuple[str, str]]:
        return [("login", row.login), ("device", row.hostname)]

    async def do_row_open(self) -> None:
        await self.do_row_json()

    async def do_login_approve(self) -> None:
        row = self.chosen(BY_ID["login.approve"])[0]
        self.console.with_tenants(lambda tenants: self._form(row, tenants))

    def _form(self, row: LoginRow, tenants: Sequence[TenantRef]) -> None:
        async def asks(answers: dict[str, str]) -> list[Ask]:
            cluster_id, tenant_id = chosen_tenant(answers["tenant"])
            user_id = await self.store.find_user(cluster_id, tenant_id, answers["user"])
            if user_id is None:
                raise BadRequest(f"this tenant has no user {answers['user']}", code="no_user")
            args = {"login_id": row.login, "user_id": user_id}
            label = f"let {row.hostname} in"
            return [Ask(cluster_id, tenant_id, "login_approve", args, f"login:{row.login}", label)]

        fields = [
            Field("tenant", "Tenant", choices=tenant_choices(tenants)),
            Field("user", "Owner", hint="a user's name"),
        ]
        self.console.form(
            f"Let {row.hostname} in",
            fields,
            "Approve",
            f"From {row.address}, {row.os} {row.version}. It becomes a device of this user. Undone by"
            " deleting the device.",
            asks,
        )

    async def do_login_deny(self) -> None:
        action = BY_ID["login.deny"]
        rows = self.chosen(action)
        try:
            clusters = (await self.store.overview(None)).clusters
        except HsError as error:
            self.console.say(error.message, "error")
            return
        # Any cluster's owner may decide; the one that the device came to is asked.
        homes = {cluster.cluster_id: cluster.home_id for cluster in clusters}
        self.console.confirm(
            action,
            f"Send {self.several(rows, 'device')} away",
            [f"{row.hostname}  from {row.address}" for row in rows],
            "The device is told so. Cannot be undone; its user may try again.",
            [
                Ask(
                    *(row.cluster_id, home, "login_deny", {"login_id": row.login}),
                    *(f"login:{row.login}", f"send {row.hostname} away"),
                )
                for row in rows
                if (home := homes.get(row.cluster_id)) is not None
            ],
        )
