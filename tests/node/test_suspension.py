"""Suspended tenants in the owner: cut off in waves, and what their silence means for ephemeral devices."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from app.model import TenantId
from node import suspension
from tests.node.kit import InProcess, Recorder, fleet, in_process, joined, own_tenant, until
from tests.node.support import DEADLINE_S, QUICK, run_sql


async def put(server: InProcess, dsn: str, tenant_id: TenantId, status: str) -> None:
    """The tenant's status, and its owner knows it."""
    sql = "UPDATE hs.tenants SET status = $2 WHERE tenant_id = $1 RETURNING tenant_id"
    assert await run_sql(dsn, sql, tenant_id, status)
    await until(lambda: server.owner.hub.tenant(tenant_id).status == status, f"it is {status}")


async def test_a_tenant_is_cut_off_in_waves_until_nobody_is_left_or_it_is_resumed(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_process(database, tmp_path) as server, own_tenant(database) as tenant:
        await until(lambda: server.owner.hub.tenant(tenant.tenant.id), "the tenant is known")
        async with fleet(server.url, await tenant.auth_key(), 3) as devices:
            monkeypatch.setattr(suspension, "WAVE", 2)
            await put(server, database, tenant.tenant.id, "suspended")
            for device in devices:
                await device.wait_for(lambda netmap: not netmap.peers, DEADLINE_S)
            assert server.owner.hub.sessions() == []
            await put(server, database, tenant.tenant.id, "active")
            for device in devices:
                await device.sees(peers=2)
            monkeypatch.setattr(suspension, "PAUSE_S", 0.5)
            polls = [device.polls for device in devices]
            await put(server, database, tenant.tenant.id, "suspended")
            await until(lambda: len(server.owner.hub.sessions()) == 1, "the first wave is over")
            await put(server, database, tenant.tenant.id, "active")
            for device in devices:
                await device.sees(peers=2)
            assert sum(device.polls > before for device, before in zip(devices, polls, strict=True)) == 2


async def test_ephemeral_devices_outlive_a_suspension(database: str, tmp_path: Path) -> None:
    async with in_process(database, tmp_path, QUICK) as server, own_tenant(database) as tenant:
        hub = server.owner.hub
        key = await tenant.auth_key(ephemeral=True)
        await until(lambda: hub.tenant(tenant.tenant.id), "the tenant is known")
        async with Recorder(server.url, key) as device:
            await joined(device)
            device_id = device.id

        def due() -> list[int]:
            return [found.id for found in hub.inactive_ephemeral(0.0)]

        await until(lambda: due() == [device_id], "it was silent for long enough")
        await put(server, database, tenant.tenant.id, "suspended")
        assert due() == []
        resumed_at = time.time()
        await put(server, database, tenant.tenant.id, "active")
        assert due() == [], "it has not had a chance to speak"
        await until(lambda: due() == [device_id], "it was silent again")
        assert hub.device(device_id).last_seen > resumed_at
