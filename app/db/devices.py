"""Writing devices after they registered, their hot state, and tombstones."""

from __future__ import annotations

from collections.abc import Iterable

from app.db.base import ScopedBase, again_when_busy, hostinfo_text, rows_touched
from app.errors import NotFound
from app.keys import DiscoKey, MachineKey, NodeKey
from app.model import DeviceId, HotState, TenantId, Tombstone
from app.names import check_hostname, check_label
from app.sql import QUERIES

FLUSH_BATCH = 1000
#: A flush gives way to whoever holds a row, a tenant's move for instance.
FLUSH_LOCK_WAIT_MS = 300
MAX_ENDPOINTS = 64
PRESENCE_KEPT_S = 7 * 86400.0
TOMBSTONE_DAYS = 90


class Devices(ScopedBase):
    """The device part of Scoped. A tenant id comes with every device id: keys of rows lead with it."""

    async def update_device(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        *,
        disco_key: DiscoKey | None = None,
        capver: int | None = None,
        hostname: str | None = None,
        label: str | None = None,
        hostinfo: bytes | None = None,
    ) -> bool:
        """Writes what is given and differs; True when something did.

        A label is used, with a suffix if it is taken, only when the hostname changes; give it only then.
        Raises BadRequest, LeaseLost, Unavailable, and WrongCluster when a label is given.
        """
        if label is not None:
            check_label(label)
        if hostname is not None:
            check_hostname(hostname)
        info = None if hostinfo is None else hostinfo_text(hostinfo)
        values = (self.cluster_id, tenant_id, device_id, disco_key, capver, hostname, info, label)
        touched = await again_when_busy(
            lambda: self._update(tenant_id, values, choose_label=label is not None)
        )
        return touched > 0

    async def _update(self, tenant_id: TenantId, values: tuple[object, ...], *, choose_label: bool) -> int:
        statement = QUERIES["update_device"]
        if not choose_label:
            return await self._execute(statement, *values)
        async with self._tenant_tx(tenant_id) as conn:
            await self._lock_counters(conn, tenant_id)
            return rows_touched(await conn.execute(statement, *values))

    async def logout(
        self, tenant_id: TenantId, device_id: DeviceId, node_key: NodeKey, *, now: float | None = None
    ) -> str:
        """'deleted' for an ephemeral device, 'expired' for others, 'unknown' if the node key differs."""
        outcome: str = await again_when_busy(
            lambda: self._fetchval(
                QUERIES["logout_device"], self.cluster_id, tenant_id, device_id, node_key, now
            )
        )
        return outcome

    async def flush_state(self, batch: Iterable[HotState]) -> int:
        """Writes presence and endpoints where they differ; answers how many rows did."""
        states = sorted(batch, key=lambda state: (state.tenant_id, state.device_id))
        written = 0
        for start in range(0, len(states), FLUSH_BATCH):
            part = states[start : start + FLUSH_BATCH]
            written += await again_when_busy(lambda part=part: self._flush(part))  # type: ignore[misc]
        return written

    async def _flush(self, states: list[HotState]) -> int:
        async with self._connection() as conn, conn.transaction():
            await conn.execute(QUERIES["limit_lock_wait"], f"{FLUSH_LOCK_WAIT_MS}ms")
            tag = await conn.execute(
                QUERIES["flush_state"],
                self.cluster_id,
                [state.tenant_id for state in states],
                [state.device_id for state in states],
                [",".join(state.endpoints[:MAX_ENDPOINTS]) for state in states],
                [state.home_derp for state in states],
                [state.online for state in states],
                [state.last_seen for state in states],
            )
            return rows_touched(tag)

    async def find_tombstone(self, node_key: NodeKey, machine_key: MachineKey) -> Tombstone | None:
        """Proof that the device with these keys was deleted in this cluster."""
        row = await self._fetchrow(QUERIES["find_tombstone"], self.cluster_id, node_key, machine_key)
        return None if row is None else Tombstone(*row)

    async def expired_ephemeral(self, before: float) -> list[tuple[TenantId, DeviceId]]:
        """Ephemeral devices that are offline and were last seen before a time."""
        found = await self._fetch(QUERIES["expired_ephemeral"], self.cluster_id, before)
        return [(row[0], row[1]) for row in found]

    async def node_key_known(self, node_key: NodeKey) -> bool:
        """Whether any device of the whole deployment has this key."""
        known: bool = await self._fetchval(QUERIES["node_key_known"], node_key)
        return known

    async def trim_changes(self, max_age_s: float) -> int:
        """Forgets change rows older than this; a reader further behind must load again."""
        gone: int = await self._fetchval(QUERIES["trim_changes"], self.cluster_id, max_age_s)
        return gone

    async def trim_tombstones(self, max_age_s: float = TOMBSTONE_DAYS * 86400.0) -> int:
        """Forgets tombstones older than this."""
        gone: int = await self._fetchval(QUERIES["trim_tombstones"], self.cluster_id, max_age_s)
        return gone

    async def trim_presence(self, max_age_s: float = PRESENCE_KEPT_S) -> None:
        """Forgets who came and went longer ago."""
        await self._execute(QUERIES["trim_presence"], self.cluster_id, max_age_s)

    async def refresh_statistics(self) -> None:
        """Plans for the tables' size of now; due when a cluster has grown a lot."""
        await self._execute(QUERIES["refresh_statistics"])

    async def notify_fleet(self) -> None:
        """Wakes consoles and standbys, in a transaction of its own."""
        await self._execute(QUERIES["notify_fleet"], self.cluster_id)


def missing_device(device_id: DeviceId) -> NotFound:
    return NotFound(f"there is no device {device_id} here")
