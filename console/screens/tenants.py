"""Tenants of all clusters: what they use of their limits, and moving them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType

from app.errors import HsError, Refused
from app.fleet_lists import TenantRow
from app.model import TenantId
from app.settings_values import parse_duration
from console.actions import BY_ID
from console.cells import count_text, date_text, plural
from console.dialogs import Field
from console.query import Condition, render
from console.rebuild import rebuild_ask
from console.screens.base import ListScreen, bindings_of
from console.store import Ask
from console.table import Column
from console.widgets import box_line, side_by_side

#: From this share of a limit on it is worth a look, in percent.
NEARLY = 90
STATES = {"active": "ok", "frozen": "change", "suspended": "attention", "deleted": "off"}


class TenantsScreen(ListScreen[TenantRow]):
    """One row for each tenant."""

    NAME = "tenants"
    HELP = (
        "Tenants, where they live, and how much of their limits they use. A move keeps addresses, "
        "keys and logins; devices reconnect."
    )
    NOUN = "tenant"
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("tenants")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("name", "NAME", 18, 1, 3, sort="name"),
        Column("id", "ID", 6, 4, right=True, sort="id"),
        Column("state", "STATE", 11, 1, sort="state"),
        Column("cluster", "CLUSTER", 10, 1, 1, sort="cluster"),
        Column("plan", "PLAN", 10, 4, 1, sort="plan"),
        Column("devices", "DEVICES", 13, 1, right=True, sort="devices"),
        Column("online", "ONLINE", 8, 2, right=True, sort="online"),
        Column("used", "%", 5, 3, right=True, sort="used"),
        Column("users", "USERS", 9, 5, right=True, sort="users"),
        Column("keys", "KEYS", 9, 6, right=True, sort="keys"),
        Column("region", "REGION", 8, 7, 1, sort="region"),
        Column("created", "CREATED", 16, 8, sort="created"),
    )

    def key_of(self, row: TenantRow) -> str:
        return str(row.id)

    def name_of(self, row: TenantRow) -> str:
        return row.name

    def place_of(self, row: TenantRow) -> tuple[str | None, str]:
        return None, f"tenant:{row.id}"

    def copies_of(self, row: TenantRow) -> list[tuple[str, str]]:
        return [("name", row.name), ("id", str(row.id)), ("cluster", row.cluster_id)]

    def cells_of(self, row: TenantRow) -> dict[str, Text]:
        cell = self.pen.cell
        used = share(row.devices, row.max_devices)
        return {
            "name": cell(row.name),
            "id": cell(row.id, "muted"),
            "state": self.pen.state(STATES.get(row.state, "unknown"), row.state),
            "cluster": cell(row.cluster_id),
            "plan": cell(row.plan or "-", "muted"),
            "devices": cell(of_limit(row.devices, row.max_devices)),
            "online": cell(count_text(row.online), "ok" if row.online else "off"),
            "used": cell(
                "-" if used is None else f"{used}", "attention" if (used or 0) >= NEARLY else "muted"
            ),
            "users": cell(of_limit(row.users, row.max_users), "muted"),
            "keys": cell(of_limit(row.keys, row.max_keys), "muted"),
            "region": cell(row.region or "-", "muted"),
            "created": cell(date_text(row.created), "muted"),
        }

    def detail_of(self, row: TenantRow, width: int) -> tuple[str, list[Text]]:
        pen = self.pen
        home = "its cluster's own: it never moves" if row.is_home else "wherever there is room"
        if row.pinned:
            home = f"pinned to {row.pinned}"
        facts = [
            box_line(pen, "cluster", f"{row.cluster_id} ({home})"),
            box_line(pen, "alone", "has a cluster of its own" if row.dedicated else "no"),
            box_line(pen, "devices", f"{of_limit(row.devices, row.max_devices)}, {row.online} online"),
            box_line(pen, "users", of_limit(row.users, row.max_users)),
            box_line(pen, "keys", of_limit(row.keys, row.max_keys)),
            box_line(pen, "plan", row.plan or "none: no limits but its own"),
            box_line(pen, "created", f"{date_text(row.created)} ({self.ago(row.created)})"),
        ]
        return f"{row.name}  tenant {row.id}", side_by_side(facts, width)

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        self.console.go_to("devices", render((Condition("tenant", "=", (row.name,)),)))

    async def do_tenant_users(self) -> None:
        row = self.current
        assert row is not None
        self.console.go_to("users", render((Condition("tenant", "=", (row.name,)),)))

    async def do_tenant_rebuild(self) -> None:
        action = BY_ID["tenant.rebuild"]
        rows = self.chosen(action)
        devices, online = sum(row.devices for row in rows), sum(row.online for row in rows)
        self.console.confirm(
            action,
            f"Rebuild netmaps of {plural(len(rows), 'tenant')}",
            [f"{row.name}  cluster {row.cluster_id}  {plural(row.devices, 'device')}" for row in rows],
            f"{plural(devices, 'device')} are read again; the {online} online get their whole map anew.",
            [
                rebuild_ask(row.cluster_id, TenantId(row.id), "tenant", f"rebuild tenant {row.name}")
                for row in rows
            ],
        )

    async def do_tenant_suspend(self) -> None:
        row = self.chosen(BY_ID["tenant.suspend"])[0]
        self.console.confirm(
            BY_ID["tenant.suspend"],
            f"Suspend {row.name}",
            [f"{row.name}  cluster {row.cluster_id}  {plural(row.devices, 'device')}  {row.online} online"],
            "Its devices lose all peers at once and are let in again when it is resumed (U);"
            " they stay logged in.",
            [self._status(row, "tenant_suspend", "suspend")],
            typed=row.name,
        )

    async def do_tenant_resume(self) -> None:
        row = self.chosen(BY_ID["tenant.resume"])[0]
        self.console.confirm(
            BY_ID["tenant.resume"],
            f"Resume {row.name}",
            [f"{row.name}  {row.state}  {plural(row.devices, 'device')}"],
            "Its devices connect again and get their maps.",
            [self._status(row, "tenant_resume", "resume")],
        )

    async def do_tenant_pin(self) -> None:
        rows = [row for row in self.chosen(BY_ID["tenant.pin"]) if not row.is_home]
        self._pin("pin", rows, "No plan moves it from there, and a drain is refused it.")

    async def do_tenant_unpin(self) -> None:
        rows = [row for row in self.chosen(BY_ID["tenant.unpin"]) if not row.is_home]
        self._pin("unpin", rows, "Plans may move it again.")

    def _pin(self, verb: str, rows: list[TenantRow], effect: str) -> None:
        """Nobody loses or changes access."""
        if not rows:
            self.console.say(f"there is nothing to {verb}: home tenants stay anyway", "warning")
            return
        asks = []
        for row in rows:
            args: dict[str, object] = {"tenant_id": row.id, "version": row.version}
            if verb == "pin":
                args["cluster"] = row.cluster_id
            asks.append(
                Ask("", TenantId(row.id), f"tenant_{verb}", args, f"tenant:{row.id}", f"{verb} {row.name}")
            )
        back = "unpin" if verb == "pin" else "pin"
        self.console.confirm(
            BY_ID[f"tenant.{verb}"],
            f"{verb.capitalize()} {plural(len(rows), 'tenant')}",
            [f"{row.name}  cluster {row.pinned or row.cluster_id}" for row in rows],
            f"{effect} No device loses or changes access. Undone by {back}.",
            asks,
        )

    def _status(self, row: TenantRow, kind: str, verb: str) -> Ask:
        args = {"tenant_id": row.id, "version": row.version}
        return Ask("", TenantId(row.id), kind, args, f"tenant:{row.id}", f"{verb} {row.name}")

    async def do_tenant_quota(self) -> None:
        row = self.chosen(BY_ID["tenant.quota"])[0]
        fields = [
            Field(
                "devices",
                "Devices",
                str(row.max_devices or ""),
                check=_limit_complaint,
                hint="a number, or empty: no limit",
            ),
            Field("life", "For", "7d", check=_life_complaint, hint="12h, 7d"),
        ]

        def asks(answers: dict[str, str]) -> list[Ask]:
            args = {
                "tenant_id": row.id,
                "max_devices": int(answers["devices"]) if answers["devices"] else None,
                "until": self.now + parse_duration(answers["life"]),
            }
            return [
                Ask("", TenantId(row.id), "quota_override", args, f"tenant:{row.id}", f"quota of {row.name}")
            ]

        self.console.form(
            f"Limit of devices of {row.name}, for a while",
            fields,
            "Override",
            f"Now {of_limit(row.devices, row.max_devices)}. The limit of before comes back afterwards.",
            asks,
        )

    async def do_tenant_move(self) -> None:
        rows = self.chosen(BY_ID["tenant.move"])
        try:
            picture = await self.store.overview(None)
        except HsError as error:
            self.console.say(error.message, "error")
            return
        here = {row.cluster_id for row in rows}
        targets = tuple(
            (
                f"{c.cluster_id}  ({plural(c.tenants, 'tenant')}, {plural(c.devices, 'device')})",
                c.cluster_id,
            )
            for c in picture.clusters
            if c.state == "active" and {c.cluster_id} != here
        )
        if not targets:
            self.console.say("there is no other cluster that takes tenants", "warning")
            return
        devices, online = sum(row.devices for row in rows), sum(row.online for row in rows)
        what = rows[0].name if len(rows) == 1 else plural(len(rows), "tenant")
        self.console.form(
            f"Move {what} to another cluster",
            [Field("to", "To cluster", choices=targets)],
            "Move",
            f"{plural(devices, 'device')}, {online} online now: these reconnect within seconds and keep"
            " addresses, names, keys and the traffic between them. Undone by moving back.",
            lambda answers: [self._move(row, answers["to"]) for row in rows],
        )

    def _move(self, row: TenantRow, target: str) -> Ask:
        if row.is_home:
            raise Refused(f"{row.name} is its cluster's own tenant and stays there", code="home_tenant")
        args = {"tenant_id": row.id, "to": target}
        return Ask(
            "", TenantId(row.id), "tenant_move", args, f"tenant:{row.id}", f"move {row.name} to {target}",
            dedup=f"tenant:{row.id}",
        )  # fmt: skip


def _limit_complaint(text: str) -> str:
    return (
        "" if not text or (text.isascii() and text.isdigit() and len(text) < 10) else "a number, or nothing"
    )


def _life_complaint(text: str) -> str:
    try:
        return "" if parse_duration(text) > 0 else "an override lasts longer than that"
    except ValueError as error:
        return str(error)


def share(used: int, limit: int | None) -> int | None:
    """Percent of a limit; None without one."""
    if limit is None:
        return None
    return 100 * used // limit if limit else 100


def of_limit(used: int, limit: int | None) -> str:
    return count_text(used) if limit is None else f"{count_text(used)}/{count_text(limit)}"
