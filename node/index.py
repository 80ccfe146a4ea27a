"""Devices of a cluster by what they are found by: id, node key, machine key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from app.model import Device, DeviceId, TenantId


class DeviceIndex:
    """Who is here. The devices themselves are their tenants'."""

    def __init__(self) -> None:
        self._tenant_of: dict[DeviceId, TenantId] = {}
        self._by_node_key: dict[bytes, DeviceId] = {}
        #: How many devices each machine has here.
        self._machines: dict[bytes, int] = {}
        self._awaited: dict[bytes, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._tenant_of)

    def __iter__(self) -> Iterator[DeviceId]:
        return iter(self._tenant_of)

    def __contains__(self, device_id: DeviceId) -> bool:
        return device_id in self._tenant_of

    def tenant_of(self, device_id: DeviceId) -> TenantId | None:
        return self._tenant_of.get(device_id)

    def by_node_key(self, node_key: bytes) -> DeviceId | None:
        return self._by_node_key.get(node_key)

    def knows_machine(self, machine_key: bytes) -> bool:
        return machine_key in self._machines

    def put(self, device: Device, known: Device | None) -> None:
        """`known`: the device as it was, None for a new one."""
        if known is None or known.machine_key != device.machine_key:
            self._count(device.machine_key, 1)
            if known is not None:
                self._count(known.machine_key, -1)
        if known is not None and known.node_key != device.node_key:
            self._by_node_key.pop(known.node_key, None)
        self._tenant_of[device.id] = device.tenant_id
        self._by_node_key[device.node_key] = device.id
        if self._awaited and (awaited := self._awaited.pop(device.node_key, None)) is not None:
            awaited.set_result(None)

    def remove(self, device_id: DeviceId, device: Device | None) -> None:
        """`device`: as it was last."""
        if self._tenant_of.pop(device_id, None) is None or device is None:
            return
        if self._by_node_key.get(device.node_key) == device_id:
            del self._by_node_key[device.node_key]
        self._count(device.machine_key, -1)

    def _count(self, machine_key: bytes, more: int) -> None:
        devices = self._machines.pop(machine_key, 0) + more
        if devices > 0:
            self._machines[machine_key] = devices

    async def arrival(self, node_key: bytes) -> None:
        """Returns when a device with this key is here; the caller gives the deadline."""
        if node_key in self._by_node_key:
            return
        awaited = self._awaited.get(node_key)
        if awaited is None:
            awaited = self._awaited[node_key] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.shield(awaited)
        finally:
            # Whoever gives up first makes the others look again; nothing is left behind.
            if self._awaited.get(node_key) is awaited:
                del self._awaited[node_key]
                awaited.cancel()
