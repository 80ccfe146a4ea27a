"""Routes of devices: what they announce, and which of that they may carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.db import rows
from app.db.base import PoolConnection, again_when_busy, check_seen
from app.db.devices import missing_device
from app.db.reads import Reads
from app.errors import Refused
from app.model import Device, DeviceId, TenantId
from app.policy.addresses import EXIT_ROUTES
from app.routes import check_routes, check_stored_routes, state_of
from app.sql import QUERIES


class Routes(Reads):
    """The part of Scoped about routes. `actor` is who asked, for the audit log.

    `seen`: route -> state in which the asker saw it; where one differs, Conflict is raised.
    """

    async def set_device_routes(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        *,
        announced: tuple[str, ...],
        add_approved: tuple[str, ...] = (),
    ) -> Device:
        """What the device announces now; approvals are only ever added. Raises BadRequest, NotFound."""
        check_stored_routes(announced)
        check_stored_routes(add_approved)
        values = (self.cluster_id, tenant_id, device_id, list(announced), list(add_approved))
        await again_when_busy(lambda: self._execute(QUERIES["set_device_routes"], *values))
        found = await self.load_devices([(tenant_id, device_id)])
        if not found:
            raise missing_device(device_id)
        return found[0]

    async def routers(self, tenant_id: TenantId) -> list[Device]:
        """Devices of a tenant that announce routes or have some approved, by id."""
        found = await self._fetch(QUERIES["load_routers"], self.cluster_id, tenant_id)
        return [rows.device(row) for row in found]

    async def add_approvals(
        self, tenant_id: TenantId, approvals: Mapping[DeviceId, Sequence[str]]
    ) -> list[DeviceId]:
        """Adds approvals that a policy gives, to many devices at once; answers those that were not so."""
        pairs = [(device_id, route) for device_id, routes in sorted(approvals.items()) for route in routes]
        if not pairs:
            return []
        found = await again_when_busy(
            lambda: self._fetch(
                QUERIES["add_approvals"],
                self.cluster_id,
                tenant_id,
                [device_id for device_id, _ in pairs],
                [route for _, route in pairs],
            )
        )
        return sorted(DeviceId(row[0]) for row in found)

    async def approve_routes(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        routes: Sequence[str],
        *,
        actor: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> bool:
        """Lets a device carry routes that it announces; False when it may already.

        One of the two exit routes stands for both. Raises BadRequest, NotFound, Conflict, and Refused for
        routes that it does not announce, or more than its tenant may have.
        """
        wanted = check_routes(routes)
        async with self._tenant_tx(tenant_id) as conn:
            announced, approved = await self._lock_routes(conn, tenant_id, device_id)
            offers = announced | set(EXIT_ROUTES) if announced.intersection(EXIT_ROUTES) else announced
            missing = [route for route in wanted if route not in offers]
            if missing or not approved.issuperset(wanted):
                _check(device_id, seen, announced, approved)
            if missing:
                raise Refused(
                    f"device {device_id} does not announce {', '.join(missing)}: announce it there first"
                    " (tailscale set --advertise-routes, --advertise-exit-node)",
                    code="route_not_announced",
                )
            return await self._put_approved(conn, tenant_id, device_id, approved, approved | {*wanted}, actor)

    async def unapprove_routes(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        routes: Sequence[str],
        *,
        actor: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> bool:
        """Takes approvals back, announced or not; False when there were none.

        One of the two exit routes stands for both. Raises BadRequest, NotFound, Conflict.
        """
        wanted = check_routes(routes)
        async with self._tenant_tx(tenant_id) as conn:
            announced, approved = await self._lock_routes(conn, tenant_id, device_id)
            if approved.intersection(wanted):
                _check(device_id, seen, announced, approved)
            return await self._put_approved(conn, tenant_id, device_id, approved, approved - {*wanted}, actor)

    async def _lock_routes(
        self, conn: PoolConnection, tenant_id: TenantId, device_id: DeviceId
    ) -> tuple[set[str], set[str]]:
        row = await conn.fetchrow(QUERIES["lock_device_routes"], self.cluster_id, tenant_id, device_id)
        if row is None:
            raise missing_device(device_id)
        return set(row[0]), set(row[1])

    async def _put_approved(
        self,
        conn: PoolConnection,
        tenant_id: TenantId,
        device_id: DeviceId,
        old: set[str],
        new: set[str],
        actor: str,
    ) -> bool:
        if old == new:
            return False
        routes = sorted(new)
        stored = await conn.fetchval(QUERIES["approve_routes"], self.cluster_id, tenant_id, device_id, routes)
        if stored != routes:
            raise Refused(
                f"this tailnet may have no more approved routes: {len(routes) - len(stored)} too many",
                code="quota_routes",
            )
        facts = {"approved_routes": sorted(old)}, {"approved_routes": routes}
        await self._audit(conn, tenant_id, actor, "device_routes", f"device:{device_id}", *facts)
        return True


def _check(
    device_id: DeviceId, seen: Mapping[str, Any] | None, announced: set[str], approved: set[str]
) -> None:
    now = {route: state_of(route, announced, approved) for route in seen or ()}
    check_seen(f"what device {device_id} carries", seen, now)
