"""Netmaps of a scope, read again, made from scratch and sent whole.

What an operator reaches for when a device does not see what it should: whatever was wrong in memory
is right afterwards, and the answer says what it cost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from app.errors import NotFound
from app.model import TenantId
from app.scopes import Scope
from node.hub import Hub
from node.refresh import Refresher

#: One tenant's connected devices must have their maps within this time, or the answer says who had not.
DELIVERY_DEADLINE_S = 60.0
#: Progress is written at most this often.
REPORT_EVERY_S = 0.5


class Rebuilder:
    """Rebuilds one scope; `report` hears how far it is."""

    def __init__(
        self, hub: Hub, refresher: Refresher, report: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        self._hub = hub
        self._refresher = refresher
        self._report = report
        self._reported = 0.0

    async def run(self, tenant_id: TenantId, scope: Scope) -> dict[str, Any]:
        """Devices of the scope, maps and bytes sent, connected devices left waiting, milliseconds.

        Stages: `read_ms` from the database, `send_ms` until netmaps were made, encoded and taken.

        Raises NotFound for a scope without any device, Unavailable when it cannot be read.
        """
        started = time.monotonic()
        tenants = [tenant.id for tenant in self._hub.tenants()] if scope.kind == "cluster" else [tenant_id]
        if scope.kind == "cluster":
            await self._refresher.load()
        total: dict[str, Any] = {"scope": str(scope), "devices": 0, "maps": 0, "bytes": 0, "waiting": 0}
        total |= {"read_ms": _ms_since(started), "send_ms": 0}
        for number, one in enumerate(tenants):
            await self._tell({"tenants": len(tenants), "tenants_done": number, **total})
            await self._tenant(one, scope, total)
        if not total["devices"] and scope.kind not in ("tenant", "cluster"):
            raise NotFound(f"there is no device in {scope}")
        return {**total, "ms": _ms_since(started)}

    async def _tenant(self, tenant_id: TenantId, scope: Scope, total: dict[str, Any]) -> None:
        known = self._hub.devices_in(tenant_id, scope)
        if scope.kind == "device" and not known:
            return
        if scope.kind != "cluster":
            began = time.monotonic()
            await self._refresher.reload_devices({(device.tenant_id, device.id) for device in known})
            total["read_ms"] += _ms_since(began)
        devices = {device.id for device in self._hub.devices_in(tenant_id, scope)}
        if not devices:
            return
        began = time.monotonic()
        delivery = self._hub.rebuild(tenant_id, devices)
        await asyncio.wait([delivery.done], timeout=DELIVERY_DEADLINE_S)
        total["send_ms"] += _ms_since(began)
        total["devices"] += len(devices)
        total["maps"] += delivery.maps
        total["bytes"] += delivery.bytes
        total["waiting"] += len(delivery.waiting)

    async def _tell(self, progress: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_EVERY_S:
            self._reported = now
            await self._report(progress)


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
