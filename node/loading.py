"""A whole picture taken into the hub, the database's or a former owner's, in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Set

from app.model import ClusterSnapshot, Device, DeviceId, TenantId
from node.hub import Hub

#: Devices taken in before the event loop gets a turn.
LOAD_SLICE = 128


async def load(
    hub: Hub,
    snapshot: ClusterSnapshot,
    devices: Iterable[Device],
    newer: Set[DeviceId] = frozenset(),
    guarded: Set[TenantId] = frozenset(),
    only: Set[TenantId] | None = None,
) -> None:
    """Replaces the durable picture, but for devices that are `newer` in memory.

    `devices` are the snapshot's, made readable one by one; `newer` may grow meanwhile. `guarded` are
    tenants that have a policy: until it is put, one that was not known lets nobody reach anybody.
    `only`: the snapshot is of these tenants, as far as they live here. Presence and open sessions stay.
    """
    tenants = {tenant.id for tenant in snapshot.tenants}
    if only is None:
        tenants |= {device.tenant_id for i in newer if (device := hub.device(i)) is not None}
    for tenant in hub.tenants():
        if tenant.id not in tenants and (only is None or tenant.id in only):
            hub.remove_tenant(tenant.id)
    for tenant in snapshot.tenants:
        hub.put_tenant(tenant, sure=False)
    users = {user.id for user in snapshot.users}
    for user in hub.users():
        if user.id not in users and (only is None or user.tenant_id in only):
            hub.remove_user(user)
    for user in snapshot.users:
        hub.put_user(user)
    hub.policies.be_sure(tenants, guarded)
    stored = set()
    for count, device in enumerate(devices, 1):
        stored.add(device.id)
        if device.id not in newer:
            hub.load_device(device)
        if count % LOAD_SLICE == 0:
            await asyncio.sleep(0)
    for count, device_id in enumerate(hub.device_ids(only), 1):
        if device_id not in stored and device_id not in newer:
            hub.remove_device(device_id)
        if count % LOAD_SLICE == 0:
            await asyncio.sleep(0)


async def take_over(hub: Hub) -> None:
    """This instance owns the cluster; it has read everybody's presence before."""
    hub.stop_following()
    for count, device_id in enumerate(hub.device_ids(), 1):
        hub.expect_back(device_id)
        if count % LOAD_SLICE == 0:
            await asyncio.sleep(0)
