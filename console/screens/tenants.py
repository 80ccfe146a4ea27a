"""Tenants of all clusters: what they use of their limits, and moving them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.binding import BindingType
from textual.widgets import DataTable

from app.errors import HsError, Refused
from app.fleet import Page, TenantCard, View
from app.fleet_lists import TenantRow
from app.model import TenantId
from app.settings_values import parse_duration
from console.actions import BY_ID
from console.cells import count_text, date_text, plural
from console.forms import Field
from console.query import Condition, render
from console.rebuild import NOTHING_TO_UNDO, rebuild_ask
from console.screens.base import ListScreen, bindings_of
from console.store import Ask
from console.table import Column
from console.tenant_text import NEARLY, of_limit, page_text, pane_lines

#: Who runs through the list asks for nothing; a card is not older than that while one looks at it.
CARD_AFTER_S, CARD_FRESH_S = 0.15, 10.0
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

    def __init__(self) -> None:
        super().__init__()
        #: Of the tenant that was looked at last: it, when it was read, what is known, or why it is not.
        self.card: tuple[int, float, TenantCard | None, str] = 0, 0.0, None, ""

    def read(self, view: View) -> Callable[[], Awaitable[Page[TenantRow]]]:
        async def page_and_card() -> Page[TenantRow]:
            page: Page[TenantRow] = await self.store.listing(self.NAME, view)
            row = self.looked_at() or next(iter(page.rows), None)
            if row is not None:
                await self._read_card(row)
            return page

        return page_and_card

    async def _read_card(self, row: TenantRow) -> None:
        """What the pane shows of a tenant, unless that is fresh."""
        now = self.console.clock()
        if self.card[0] == row.id and now - self.card[1] < CARD_FRESH_S:
            return
        try:
            self.card = row.id, now, await self.store.tenant_card(row), ""
        except HsError as error:
            self.card = row.id, now, None, error.message

    @on(DataTable.RowHighlighted)
    @work(group="card", exclusive=True, exit_on_error=True)
    async def look_closer(self) -> None:
        await asyncio.sleep(CARD_AFTER_S)
        row = self.looked_at()
        if row is not None:
            await self._read_card(row)
            self.paint_detail()

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
        return {
            "name": cell(row.name),
            "id": cell(row.id, "muted"),
            "state": self.pen.state(STATES.get(row.state, "unknown"), row.state),
            "cluster": cell(row.cluster_id),
            "plan": cell(row.plan or "-", "muted"),
            "devices": cell(of_limit(row.devices, row.max_devices)),
            "online": cell(count_text(row.online), "ok" if row.online else "off"),
            "used": cell(
                "-" if row.used is None else row.used, "attention" if (row.used or 0) >= NEARLY else "muted"
            ),
            "users": cell(of_limit(row.users, row.max_users), "muted"),
            "keys": cell(of_limit(row.keys, row.max_keys), "muted"),
            "region": cell(row.region or "-", "muted"),
            "created": cell(date_text(row.created), "muted"),
        }

    def detail_of(self, row: TenantRow, width: int) -> tuple[str, list[Text]]:
        title = f"{row.name}  tenant {row.id}"
        found, _, card, error = self.card
        if found != row.id:
            return title, [self.pen.cell("reading", "muted")]
        if card is None:
            return title, [self.pen.state("failed", error)]
        return title, pane_lines(self.pen, row, card, width)

    async def do_tenant_card(self) -> None:
        row = self.current
        assert row is not None
        await self._read_card(row)
        _, _, card, error = self.card
        if card is None:
            self.console.say(error, "error")
        else:
            self.console.open_page(f"Tenant {row.name}", page_text(self.pen, row, card))

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
        self.console.confirm(
            action,
            f"Rebuild netmaps of {plural(len(rows), 'tenant')}",
            [f"{row.name}  cluster {row.cluster_id}  {plural(row.devices, 'device')}" for row in rows],
            NOTHING_TO_UNDO,
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
            "Its devices lose all peers at once and stay logged in. Undone by resuming (U).",
            [self._status(row, "tenant_suspend", "suspend")],
            typed=row.name,
        )

    async def do_tenant_resume(self) -> None:
        row = self.chosen(BY_ID["tenant.resume"])[0]
        self.console.confirm(
            BY_ID["tenant.resume"],
            f"Resume {row.name}",
            [f"{row.name}  {row.state}  {plural(row.devices, 'device')}"],
            "Its devices connect again and get their maps. Undone by suspending (S).",
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
                "seen": {"max_devices": row.max_devices},
            }
            return [
                Ask("", TenantId(row.id), "quota_override", args, f"tenant:{row.id}", f"quota of {row.name}")
            ]

        self.console.form(
            f"Limit of devices of {row.name}, for a while",
            fields,
            "Override",
            f"Now {of_limit(row.devices, row.max_devices)}. The limit of before comes back afterwards."
            " Undone by another override.",
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
        what = rows[0].name if len(rows) == 1 else plural(len(rows), "tenant")
        self.console.form(
            f"Move {what} to another cluster",
            [Field("to", "To cluster", choices=targets)],
            "Move",
            "Devices keep addresses, names, keys and the traffic between them. Undone by moving back.",
            lambda answers: [self._move(row, answers["to"]) for row in rows],
            lambda answers: [_move_ask(row, answers["to"]) for row in rows],
        )

    def _move(self, row: TenantRow, target: str) -> Ask:
        if row.is_home:
            raise Refused(f"{row.name} is its cluster's own tenant and stays there", code="home_tenant")
        return _move_ask(row, target)


def _move_ask(row: TenantRow, target: str) -> Ask:
    args = {"tenant_id": row.id, "to": target, "seen": {"cluster": row.cluster_id}}
    return Ask(
        "", TenantId(row.id), "tenant_move", args, f"tenant:{row.id}", f"move {row.name} to {target}",
        dedup=f"tenant:{row.id}:{target}",
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
