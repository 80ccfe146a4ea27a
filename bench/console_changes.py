"""What the owners of many clusters write in a busy fleet: `python -m bench.console_changes DSN RATE`.

Prints a line for every second: how many changes were committed in it.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from contextlib import AsyncExitStack

from app.db.connect import connect
from app.db.lease import Lease
from app.db.scoped import Scoped
from app.model import DeviceId, HotState, TenantId
from node.news import FleetNews

#: Devices of each cluster that change, and writes under way at a time.
BUSY_DEVICES, WRITERS = 200, 4
INSTANCE = "bench"
#: Longer than any measurement: a lease once taken is ours.
LEASE_S = 7200.0
_PLACES = """
SELECT n.cluster_id, max(l.epoch), array_agg(tenant_id ORDER BY id), array_agg(id ORDER BY id)
  FROM (SELECT *, row_number() OVER (PARTITION BY cluster_id ORDER BY id) AS nth FROM nodes) n
  JOIN leases l ON l.name = 'cluster:' || n.cluster_id
 WHERE nth <= $1 GROUP BY n.cluster_id ORDER BY n.cluster_id
"""

Place = tuple[Scoped, FleetNews, TenantId, DeviceId]


async def own(dsn: str, clusters: list[str]) -> None:
    """Takes the leases of all clusters, so that what is written here passes the fence."""
    for cluster_id in clusters:
        lease = Lease(dsn, f"cluster:{cluster_id}", INSTANCE, ttl_s=LEASE_S)
        assert await lease.acquire() is not None
        lease.close()


async def change(place: Place, number: int) -> None:
    """As an owner: presence in the batch of the hot state, or a new hostname, which netmaps hear of."""
    scoped, news, tenant_id, device_id = place
    if number % 2:
        seen = time.time()
        state = HotState(tenant_id, device_id, ("203.0.113.9:41641",), 900, number % 4 == 1, seen)
        await scoped.flush_state([state])
    else:
        await scoped.update_device(tenant_id, device_id, hostname=f"host{number}")
    news.touch()


async def run(dsn: str, rate: float) -> None:
    """For ever, at this rate a second."""
    connection = await connect(dsn, "hs_owner")
    rows = await connection.fetch(_PLACES, BUSY_DEVICES)
    await connection.close(timeout=10)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        places: list[Place] = []
        for cluster_id, epoch, tenants, devices in rows:
            scoped = await Scoped.open(
                dsn, cluster_id=cluster_id, instance=INSTANCE, epoch=epoch, pool_size=2
            )
            stack.push_async_callback(scoped.close)
            news = FleetNews(scoped.notify_fleet, lambda: True)
            group.create_task(news.run())
            places += [(scoped, news, *ids) for ids in zip(tenants, devices, strict=True)]
        committed, started, numbers = 0, time.monotonic(), iter(range(1 << 60))

        async def write() -> None:
            nonlocal committed
            for number in numbers:
                await asyncio.sleep(started + number / rate - time.monotonic())
                await change(random.choice(places), number)
                committed += 1

        for _ in range(WRITERS):
            group.create_task(write())
        while True:
            before = committed
            await asyncio.sleep(1.0)
            print(committed - before, flush=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], float(sys.argv[2])))
