"""Writes what devices report: the durable part at once, presence and endpoints in batches.

While the database is away nothing is lost and nobody waits: the newest state of each device stands
in line (one entry a device, so the line is bounded by the fleet) and is written at the next contact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from app import log
from app.errors import HsError, LeaseLost, NotFound, Unavailable
from app.keys import DiscoKey
from app.model import Device, DeviceId, TenantId
from app.model import HotState as HotRow

_log = log.get("hotstate")

FLUSH_EVERY_S = 1.0
#: Rows of one statement; a larger backlog goes in several.
FLUSH_ROWS = 1000


class Store(Protocol):
    """What is needed of the database (app.db.Scoped)."""

    async def update_device(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        *,
        disco_key: DiscoKey | None = None,
        capver: int | None = None,
        hostname: str | None = None,
        hostinfo: bytes | None = None,
    ) -> bool: ...

    async def set_device_routes(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        *,
        announced: tuple[str, ...],
        add_approved: tuple[str, ...] = (),
    ) -> Device: ...

    async def flush_state(self, batch: list[HotRow]) -> int: ...


class HotState:
    """The line between the hub and the database."""

    def __init__(
        self,
        store: Store,
        current: Callable[[DeviceId], Device | None],
        may_write: Callable[[], bool],
        on_written: Callable[[], None] = lambda: None,
        on_routes: Callable[[DeviceId, tuple[str, ...]], None] = lambda _id, _approved: None,
    ) -> None:
        """`may_write`: whether this instance holds its lease now, and is not frozen. `on_routes` hears of
        approvals that the database kept otherwise than the hub has them: a tenant may have so many."""
        self._on_written = on_written
        self._on_routes = on_routes
        self._store = store
        self._may_write = may_write
        self._current = current
        self._hot: set[DeviceId] = set()
        self._unsaved: set[DeviceId] = set()
        #: Devices whose routes are to be written, and the approvals to add.
        self._routes: dict[DeviceId, tuple[str, ...]] = {}

    @property
    def waiting(self) -> int:
        return len(self._hot) + len(self._unsaved)

    def mark(self, device: Device) -> None:
        """Presence or endpoints of a device have changed."""
        self._hot.add(device.id)

    async def store(self, device: Device, approvals: tuple[str, ...] | None = None) -> tuple[str, ...] | None:
        """Store the durable part; when the database is away, later.

        `approvals` is given when the device announces other routes: those that need nobody's approval.
        Answers the approved routes as they are stored, None when they were not written now.
        """
        if approvals is not None:
            self._routes[device.id] = tuple(sorted({*self._routes.get(device.id, ()), *approvals}))
        if not self._may_write():
            self._unsaved.add(device.id)
            return None
        try:
            return await self._write(device)
        except Unavailable as error:
            _log.warning("store_delayed", device=device.id, reason=error.message)
            self._unsaved.add(device.id)
            return None

    async def _write(self, device: Device) -> tuple[str, ...] | None:
        await self._store.update_device(
            device.tenant_id,
            device.id,
            disco_key=device.disco_key,
            capver=device.capver,
            hostname=device.hostname,
            hostinfo=device.hostinfo,
        )
        approvals = self._routes.get(device.id)
        if approvals is None:
            return None
        approved: tuple[str, ...] | None = None
        try:
            stored = await self._store.set_device_routes(
                device.tenant_id, device.id, announced=device.announced_routes, add_approved=approvals
            )
            approved = stored.approved_routes
        except NotFound:
            _log.info("routes_of_nobody", device=device.id)
        if self._routes.get(device.id) == approvals:
            del self._routes[device.id]
        return approved

    async def flush(self) -> int:
        """Write what stands in line; returns rows written. On failure everything stays in line."""
        if not self._may_write():
            raise Unavailable("the lease is frozen")
        written = 0
        for device_id in list(self._unsaved):
            device = self._current(device_id)
            if device is not None:
                approved = await self._write(device)
                if approved is not None and approved != device.approved_routes:
                    self._on_routes(device_id, approved)
            else:
                self._routes.pop(device_id, None)
            self._unsaved.discard(device_id)
        while self._hot:
            ids = sorted(self._hot)[:FLUSH_ROWS]
            devices = [d for d in map(self._current, ids) if d is not None]
            batch = [
                HotRow(d.tenant_id, d.id, d.endpoints, d.home_derp, d.online, d.last_seen) for d in devices
            ]
            self._hot.difference_update(ids)
            try:
                written += await self._store.flush_state(batch) if batch else 0
            except HsError:
                self._hot.update(ids)
                raise
        if written:
            self._on_written()
        return written

    async def run(self) -> None:
        """Flush for ever. A lost lease ends it: this instance must not write any more."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            try:
                await self.flush()
            except LeaseLost:
                raise
            except HsError as error:
                _log.warning("flush_delayed", waiting=self.waiting, reason=error.message)
