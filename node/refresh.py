"""Changes that others commit -> hub. A notification only wakes; rows of `changes` are the truth.

Every row is read exactly once by transaction snapshot (DATABASE.md 4.2). Rows of this instance are
skipped: their effect is in memory already. What a row names is read again, so order is no matter.
A device that this process changes while rows are being read keeps what it has and is read once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from dataclasses import replace
from typing import Protocol

from app import log
from app.db.listen import Resync, Wake
from app.errors import BadRequest, Unavailable
from app.model import Change, ClusterSnapshot, Device, DeviceId, Tenant, TenantId, User, UserId
from app.routes import readable_routes
from app.wire.hostinfo import peer_hostinfo
from node.hub import Hub
from node.loading import load
from node.policies import TenantPolicies

_log = log.get("refresh")

#: `changes` is read at least this often, should every notification be lost.
POLL_EVERY_S = 1.0
#: More changed devices than this in one read: the whole cluster is loaded instead.
RELOAD_ABOVE = 5000
#: A device that this process writes whenever it is read is left for the next read after so many.
RELOAD_ROUNDS = 3


class Source(Protocol):
    """What is needed of the database (app.db.Scoped)."""

    async def load(self, only: Sequence[TenantId] | None = None) -> ClusterSnapshot: ...

    async def load_tenants(self, tenant_ids: Sequence[TenantId]) -> list[Tenant]: ...

    async def load_devices(self, devices: Sequence[tuple[TenantId, DeviceId]]) -> list[Device]: ...

    async def load_users(self, users: Sequence[tuple[TenantId, UserId]]) -> list[User]: ...

    async def changes(self, position: str) -> tuple[str, list[Change]]: ...


class Refresher:
    """Keeps the hub equal to what is committed."""

    def __init__(
        self,
        source: Source,
        hub: Hub,
        policies: TenantPolicies,
        *,
        instance: str,
        on_derp: Callable[[], Awaitable[None]],
        on_rows: Callable[[int, float], None],
        clock: Callable[[], float],
    ) -> None:
        #: Whoever takes over reads through another object from then on.
        self.source = source
        self._hub = hub
        self._policies = policies
        self._instance = instance
        self._on_derp = on_derp
        self._on_rows = on_rows
        self._clock = clock
        self.generation: str | None = None
        self._position = ""
        self._missed_load = True
        self._again: set[tuple[TenantId, DeviceId]] = set()
        #: Of users an older reading must not follow a newer one.
        self._reading_users = asyncio.Lock()

    async def load(self) -> None:
        """Everything from one snapshot, and the position that belongs to it."""
        snapshot = await self._load(None)
        self.generation = snapshot.generation
        self._position = snapshot.position
        self._missed_load = False
        await self._settle_policies()

    async def _load(self, only: Set[TenantId] | None) -> ClusterSnapshot:
        """All tenants or these, from one snapshot; those that do not live here any more leave."""
        async with self._reading_users:
            with self._hub.noting() as newer:
                snapshot = await self.source.load(None if only is None else sorted(only))
                await load(
                    self._hub,
                    snapshot,
                    map(_readable, snapshot.devices),
                    newer,
                    self._policies.held_in(snapshot),
                    only,
                )
            await self._policies.load(snapshot, only)
        # What was written here meanwhile may miss what others had written to the same device before.
        await self._reload_devices(
            {(device.tenant_id, device.id) for i in newer if (device := self._hub.device(i)) is not None}
        )
        return snapshot

    async def catch_up(self) -> int:
        """Apply what was committed since the last read; returns the number of foreign rows."""
        if self._missed_load:
            await self.load()
            return 0
        position, changes = await self.source.changes(self._position)
        foreign = [change for change in changes if change.origin != self._instance]
        if foreign or self._again:
            await self._apply(foreign)
            oldest = min((change.at for change in foreign), default=0.0)
            self._on_rows(len(foreign), self._clock() - oldest)
        self._position = position
        await self._settle_policies()
        return len(foreign)

    async def _settle_policies(self) -> None:
        await self._reload_devices(await self._policies.settle())

    async def reload_device(self, tenant_id: TenantId, device_id: DeviceId) -> None:
        """Put into the hub what is stored of a device of this tenant now, or that it is gone."""
        await self._reload_devices({(tenant_id, device_id)})

    async def reload_devices(self, ids: set[tuple[TenantId, DeviceId]]) -> None:
        """The same for many; above RELOAD_ABOVE the whole cluster is loaded instead."""
        await (self.load() if len(ids) > RELOAD_ABOVE else self._reload_devices(ids))

    async def reload_policy(self, tenant_id: TenantId) -> None:
        """Put the stored policy of a tenant into the hub, with all that follows. Raises Unavailable."""
        await self._policies.reload({tenant_id})
        await self._settle_policies()

    async def reload_user(self, tenant_id: TenantId, user_id: UserId) -> None:
        """Put into the hub what is stored of a user of this tenant now, or that it is gone."""
        await self._reload_users({(tenant_id, user_id)})

    async def _apply(self, changes: list[Change]) -> None:
        devices = set(self._again)
        users: set[tuple[TenantId, UserId]] = set()
        policies: set[TenantId] = set()
        tenants: set[TenantId] = set()
        for change in changes:
            kind, _, value = change.scope_key.partition(":")
            if kind == "derp":
                await self._on_derp()
            elif kind == "device" and change.tenant_id is not None:
                devices.add((change.tenant_id, DeviceId(int(value))))
            elif kind == "user" and change.tenant_id is not None:
                users.add((change.tenant_id, UserId(int(value))))
            elif kind == "policy" and change.tenant_id is not None:
                policies.add(change.tenant_id)
            elif kind == "tenant" and change.tenant_id is not None:
                tenants.add(change.tenant_id)
            elif kind not in ("tag", "route"):  # the devices that changed one are named beside it
                await self.load()
                return
        if tenants:
            await self._load(tenants)
            devices = {key for key in devices if key[0] not in tenants}
            users = {key for key in users if key[0] not in tenants}
            policies -= tenants
        if len(devices) > RELOAD_ABOVE:
            await self.load()
            return
        await self._reload_users(users)
        await self._policies.reload(policies)
        await self._reload_devices(devices)

    async def _reload_users(self, ids: set[tuple[TenantId, UserId]]) -> None:
        if not ids:
            return
        async with self._reading_users:
            found = {user.id: user for user in await self.source.load_users(sorted(ids))}
            for _, user_id in ids:
                user = found.get(user_id)
                known = self._hub.user(user_id)
                if user is not None:
                    self._hub.put_user(user)
                elif known is not None:
                    self._hub.remove_user(known)

    async def _reload_devices(self, ids: set[tuple[TenantId, DeviceId]]) -> None:
        """Read devices again, once more those that this process wrote while they were read."""
        asked = ids
        for _ in range(RELOAD_ROUNDS):
            if not ids:
                break
            with self._hub.noting() as newer:
                found = {device.id: device for device in await self.source.load_devices(sorted(ids))}
                missing = {key for key in ids if key[1] not in found and self._hub.device(key[1]) is not None}
                left = await self._left({tenant_id for tenant_id, _ in missing})
            for tenant_id, device_id in ids:
                device = found.get(device_id)
                if device_id in newer:
                    continue
                if device is not None:
                    self._hub.put_device(_readable(device))
                elif tenant_id not in left:
                    self._hub.remove_device(device_id)
            ids = {key for key in ids if key[1] in newer}
        self._again = (self._again - asked) | ids

    async def _left(self, tenant_ids: set[TenantId]) -> set[TenantId]:
        """Those of these tenants that live here no more. Their devices are not deleted: nobody tells them
        so, and the tenant leaves the hub with them when its own row of `changes` is read."""
        if not tenant_ids:
            return set()
        here = {tenant.id for tenant in await self.source.load_tenants(sorted(tenant_ids))}
        return tenant_ids - here

    async def run(self, events: AsyncIterator[Wake | Resync]) -> None:
        """Follow for ever, reading after every event and at least every POLL_EVERY_S."""
        pending: asyncio.Future[Wake | Resync] | None = None
        try:
            while True:
                pending = pending or asyncio.ensure_future(anext(events))
                done, _ = await asyncio.wait([pending], timeout=POLL_EVERY_S)
                reload = False
                if done:
                    event, pending = pending.result(), None
                    # A new generation is another history of commits: positions mean nothing in it.
                    reload = isinstance(event, Resync) and event.new_generation
                try:
                    await (self.load() if reload else self.catch_up())
                except Unavailable as error:
                    self._missed_load = self._missed_load or reload
                    _log.warning("refresh_delayed", reason=error.message)
        finally:
            if pending is not None:
                pending.cancel()


def _readable(device: Device) -> Device:
    """The device with what peers can decode of its Hostinfo and routes: whoever has SQL may have stored
    anything, and a client that cannot read one member of one peer loses its whole map."""
    try:
        info = peer_hostinfo(device.hostinfo)
    except BadRequest as error:
        _log.warning("hostinfo_ignored", device=device.id, reason=error.message)
        info = b"{}"
    if device.announced_routes or device.approved_routes:
        device = _with_readable_routes(device)
    return device if info == device.hostinfo else replace(device, hostinfo=info)


def _with_readable_routes(device: Device) -> Device:
    announced, approved = readable_routes(device.announced_routes), readable_routes(device.approved_routes)
    if (announced, approved) == (device.announced_routes, device.approved_routes):
        return device
    _log.warning("routes_ignored", device=device.id)
    return replace(device, announced_routes=announced, approved_routes=approved)
