"""What a suspended tenant's silence means for devices that are deleted when they are silent."""

from __future__ import annotations

import time
from pathlib import Path

from tests.node.kit import Recorder, in_process, joined, own_tenant, until
from tests.node.support import QUICK, run_sql


async def test_ephemeral_devices_outlive_a_suspension(database: str, tmp_path: Path) -> None:
    async with in_process(database, tmp_path, QUICK) as server, own_tenant(database) as tenant:
        hub = server.owner.hub
        key = await tenant.auth_key(ephemeral=True)
        await until(lambda: hub.tenant(tenant.tenant.id), "the tenant is known")
        async with Recorder(server.url, key) as device:
            await joined(device)
            device_id = device.id

        async def put(status: str) -> None:
            sql = "UPDATE hs.tenants SET status = $2 WHERE tenant_id = $1 RETURNING tenant_id"
            assert await run_sql(database, sql, tenant.tenant.id, status)
            await until(lambda: hub.tenant(tenant.tenant.id).status == status, f"it is {status}")

        def due() -> list[int]:
            return [found.id for found in hub.inactive_ephemeral(0.0)]

        await until(lambda: due() == [device_id], "it was silent for long enough")
        await put("suspended")
        assert due() == []
        resumed_at = time.time()
        await put("active")
        assert due() == [], "it has not had a chance to speak"
        await until(lambda: due() == [device_id], "it was silent again")
        assert hub.device(device_id).last_seen > resumed_at
