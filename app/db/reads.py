"""Loading a cluster, and following what was committed since."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from app.db import rows
from app.db.base import PoolConnection, ScopedBase
from app.db.holdings import read_devices
from app.errors import BadRequest
from app.model import Change, ClusterSnapshot, Device, DeviceId, HotState, Tenant, TenantId, User, UserId
from app.sql import QUERIES

LOAD_BATCH = 500
LOAD_TIMEOUT_S = 120.0


class Reads(ScopedBase):
    """The reading half of Scoped."""

    async def load(self, only: Sequence[TenantId] | None = None) -> ClusterSnapshot:
        """The whole cluster in one REPEATABLE READ picture, and the reader position that belongs to it.

        `only`: no more than these tenants, as far as they live here.
        """
        with _collector_paused():
            return await self._load(None if only is None else list(only))

    @asynccontextmanager
    async def _picture(self) -> AsyncIterator[PoolConnection]:
        """A transaction that reads much, all from one picture."""
        async with self._connection() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await conn.execute(QUERIES["be_patient"])
            yield conn

    async def _load(self, only: list[TenantId] | None) -> ClusterSnapshot:
        async with self._picture() as conn:
            head = await conn.fetchrow(QUERIES["snapshot_position"])
            assert head is not None
            tenants = await self._tenants(conn, only)
            users = await conn.fetch(QUERIES["load_users"], self.cluster_id, only)
            policies = await conn.fetch(QUERIES["load_policies"], self.cluster_id, only)
            devices: list[Device] = []
            cursor = await conn.cursor(QUERIES["load_devices"], self.cluster_id, only, timeout=LOAD_TIMEOUT_S)
            # In batches, so that the event loop breathes between them.
            while batch := await cursor.fetch(LOAD_BATCH, timeout=LOAD_TIMEOUT_S):
                devices.extend(map(rows.device, batch))
        return ClusterSnapshot(
            cluster_id=self.cluster_id,
            tenants=tuple(tenants),
            users=tuple(map(rows.user, users)),
            devices=tuple(devices),
            position=head["position"],
            generation=head["generation"],
            policies=tuple(map(rows.policy, policies)),
        )

    async def load_states(self) -> AsyncIterator[list[HotState]]:
        """Presence and endpoints of every device, in batches."""
        async with self._picture() as conn:
            cursor = await conn.cursor(QUERIES["load_states"], self.cluster_id, timeout=LOAD_TIMEOUT_S)
            while batch := await cursor.fetch(LOAD_BATCH, timeout=LOAD_TIMEOUT_S):
                yield list(map(rows.hot_state, batch))

    async def load_tenants(self, tenant_ids: Sequence[TenantId]) -> list[Tenant]:
        """The named tenants, as far as they live here."""
        async with self._connection() as conn:
            return await self._tenants(conn, tenant_ids)

    async def _tenants(self, conn: PoolConnection, tenant_ids: Sequence[TenantId] | None) -> list[Tenant]:
        wanted = None if tenant_ids is None else list(tenant_ids)
        found = await conn.fetch(QUERIES["load_tenants"], self.cluster_id, wanted)
        return [rows.tenant(row) for row in found]

    async def load_devices(self, devices: Sequence[tuple[TenantId, DeviceId]]) -> list[Device]:
        """The named devices, as far as they live here, in no order."""
        tenant_ids = [tenant_id for tenant_id, _ in devices]
        device_ids = [device_id for _, device_id in devices]
        found = await self._fetch(QUERIES["load_some_devices"], self.cluster_id, tenant_ids, device_ids)
        return [rows.device(row) for row in found]

    async def load_users(self, users: Sequence[tuple[TenantId, UserId]]) -> list[User]:
        """The named users, as far as they live here, in no order."""
        tenant_ids = [tenant_id for tenant_id, _ in users]
        user_ids = [user_id for _, user_id in users]
        found = await self._fetch(QUERIES["load_some_users"], self.cluster_id, tenant_ids, user_ids)
        return [rows.user(row) for row in found]

    async def list_devices(self, tenant_id: TenantId) -> list[Device]:
        """All devices of a tenant, by id."""
        return await read_devices(self._fetch, self.cluster_id, tenant_id)

    async def changes(self, position: str) -> tuple[str, list[Change]]:
        """What was committed since a position, each row exactly once, and the position after it.

        A position is valid in one generation of the database only. Raises BadRequest for a text that is none.
        """
        xmax, in_progress = split_position(position)
        found = await self._fetch(QUERIES["read_changes"], self.cluster_id, xmax, in_progress)
        return found[0][0], [rows.change(row[1:]) for row in found if row[1] is not None]

    async def current_position(self) -> str:
        """A position that counts everything committed so far as read."""
        position: str = await self._fetchval(QUERIES["current_position"])
        return position


@contextmanager
def _collector_paused() -> Iterator[None]:
    """The cyclic collector would walk 100,000 new objects again and again: half of a load's time.

    Afterwards it need not look at them either: they stay for long and are in no cycles.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def split_position(position: str) -> tuple[str, list[str]]:
    """`xmin:xmax:in,progress` to xmax and the in-progress list. Raises BadRequest."""
    parts = position.split(":")
    numbers = parts[2].split(",") if len(parts) == 3 and parts[2] else []
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in (*parts[:2], *numbers)):
        raise BadRequest("not a position of the change reader", code="bad_position")
    return parts[1], numbers
