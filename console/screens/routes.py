"""Routes that devices announce or may carry: waiting ones approved, others taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import BindingType

from app.fleet_lists import RouteRow
from app.model import TenantId
from console.actions import BY_ID
from console.query import Condition, render
from console.screens.base import bindings_of
from console.screens.plain import PlainScreen
from console.store import Ask
from console.table import Column


class RoutesScreen(PlainScreen[RouteRow]):
    """One row for each route of a device, what waits for approval first."""

    NAME = "routes"
    HELP = (
        "Subnets and exit nodes that devices announce. Waiting means: nobody reaches it before it is "
        "approved here or by the policy. Of several devices with one route the first ready one "
        "carries it."
    )
    NOUN = "route"
    HINT = "a device announces one: tailscale set --advertise-routes=10.0.0.0/24"
    SORT = "state"
    NEWEST_FIRST = True
    STATES: ClassVar = {"waiting": "unknown", "approved": "ok", "withdrawn": "off"}
    HIDDEN: ClassVar = frozenset({"id", "tenant_id", "device_id"})
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("routes")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("route", "PREFIX", 20, 1, 1, sort="route"),
        Column("kind", "KIND", 7, 3, sort="kind"),
        Column("router", "ROUTER", 18, 1, 2, sort="router"),
        Column("tenant", "TENANT", 12, 2, 1, sort="tenant"),
        Column("cluster_id", "CLUSTER", 10, 4, 1, sort="cluster"),
        Column("state", "STATE", 12, 1, sort="state"),
        Column("online", "ONLINE", 7, 2, sort="online"),
        Column("ready", "READY", 6, 3, right=True, sort="ready"),
    )

    def name_of(self, row: RouteRow) -> str:
        return f"{row.route} via {row.router}"

    def place_of(self, row: RouteRow) -> tuple[str | None, str]:
        return row.cluster_id, f"device:{row.device_id}"

    def copies_of(self, row: RouteRow) -> list[tuple[str, str]]:
        return [("prefix", row.route), ("router", row.router)]

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        self.console.go_to("devices", render((Condition("id", "=", (str(row.device_id),)),)))

    async def do_route_approve(self) -> None:
        self._ask(
            "route.approve",
            "approve",
            "The peers that may reach it by policy get the prefix; where another device carries it already,"
            " this one stands by. Refused where the tenant may have no more routes. Undone by R.",
        )

    async def do_route_reject(self) -> None:
        self._ask(
            "route.reject",
            "reject",
            "Peers lose the prefix, or get it by the device that stands by. Undone by a.",
        )

    def _ask(self, action_id: str, verb: str, effect: str) -> None:
        action = BY_ID[action_id]
        rows = self.chosen(action)
        self.console.confirm(
            action,
            f"{verb.capitalize()} {self.several(rows, 'route')}",
            [f"{row.route}  {row.router}  tenant {row.tenant}  {row.state}" for row in rows],
            effect,
            [
                Ask(
                    row.cluster_id,
                    TenantId(row.tenant_id),
                    action.kind,
                    {
                        "device_id": row.device_id,
                        "routes": [row.route],
                        "seen": {row.route: row.state},
                    },
                    f"device:{row.device_id}",
                    f"{verb} {row.route} via {row.router}",
                )
                for row in rows
            ],
        )
