"""Routing facts: who owns a cluster and where, who may be dialled, and who is connected."""

from __future__ import annotations

from db_helpers import Home, join

from app.db.scoped import Scoped
from app.db.setup import Database
from app.model import ClusterOwner, HotState, Instance
from tests.node.support import run_sql


async def test_entries_find_the_owner_of_any_cluster(prepared: Database, owner: Scoped) -> None:
    """Routing facts only, and only of who has said where it is; an expired lease names its holder still."""
    (holder,) = await run_sql(prepared.dsn, "SELECT holder, epoch FROM leases WHERE name = 'cluster:a'")
    assert await owner.cluster_owner("a") is None  # nobody knows where
    await owner.put_instance(Instance(holder[0], internal_addr="192.0.2.1:9443"))
    there = ClusterOwner("a", holder[0], holder[1], "192.0.2.1:9443")
    assert await owner.cluster_owner("a") == there
    standby = await Scoped.open(prepared.dsn, cluster_id="b", instance="standby", pool_size=1)
    assert await standby.cluster_owner("a") == there
    assert await standby.cluster_owner("b") is None
    await run_sql(prepared.dsn, "UPDATE leases SET expires_at = '-infinity' WHERE name = 'cluster:a'")
    assert await standby.cluster_owner("a") == there
    await run_sql(prepared.dsn, "UPDATE leases SET holder = '' WHERE name = 'cluster:a'")
    assert await standby.cluster_owner("a") is None
    await standby.close()


async def test_advertised_instances_are_the_living(prepared: Database, owner: Scoped) -> None:
    for name, address in (("i1", "192.0.2.1"), ("i2", ""), ("i3", "192.0.2.3"), ("i4", "192.0.2.4")):
        await owner.put_instance(Instance(name, advertise_addr=address))
    await run_sql(
        prepared.dsn, "UPDATE instances SET heartbeat_at = now() - interval '31 s' WHERE instance_id = 'i3'"
    )
    assert await owner.advertised_instances(30.0) == [("i1", "192.0.2.1"), ("i4", "192.0.2.4")]
    assert await owner.advertised_instances(60.0) == [
        ("i1", "192.0.2.1"),
        ("i3", "192.0.2.3"),
        ("i4", "192.0.2.4"),
    ]


async def test_states_are_read_without_devices(owner: Scoped, home: Home) -> None:
    devices = [(await join(owner, home.reusable)).device for _ in range(3)]
    states = [
        HotState(d.tenant_id, d.id, ("192.0.2.1:1",), 900 + n, n == 1, None if n == 1 else 4.0e9)
        for n, d in enumerate(devices)
        if d is not None
    ]
    await owner.flush_state(states)
    read = [state async for batch in owner.load_states() for state in batch]
    assert sorted(read, key=lambda state: state.device_id) == states
