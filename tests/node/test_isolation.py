"""Two clusters on one database, as alike as can be: neither sees nor touches anything of the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from app.client.device import SimulatedDevice
from app.keys import node_key_text
from tests.node.support import (
    DEADLINE_S,
    QUICK,
    Administration,
    ServeProcess,
    admin,
    device,
    eventually,
    fresh_database,
    has_peers,
    join,
    own_id,
    run_sql,
)

#: Everything of one cluster that only its own people may change. Not here: presence and heartbeats.
TABLES = (
    *("clusters", "tenants", "tenant_counters", "users", "pre_auth_keys", "nodes", "deleted_devices"),
    *("derp_regions", "changes", "audit_log"),
)
HOSTNAMES = ("web", "laptop")


@dataclass(frozen=True, slots=True)
class Side:
    """One cluster with its server, a user, a key and two connected devices."""

    serve: ServeProcess
    home: Administration
    key: str
    devices: tuple[SimulatedDevice, SimulatedDevice]

    async def dump(self) -> dict[str, list[Any]]:
        return {
            table: sorted(
                map(tuple, await run_sql(self.serve.dsn, f"SELECT * FROM {table} {self._own}")), key=repr
            )
            for table in TABLES
        }

    @property
    def _own(self) -> str:
        return f"WHERE cluster_id = '{self.serve.cluster}'"

    async def foreign_changes(self) -> float:
        return (await self.serve.metrics())["hs_foreign_changes_total"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(pg_server: str) -> AsyncIterator[tuple[ServeProcess, ServeProcess]]:
    async with (
        fresh_database(pg_server) as dsn,
        ServeProcess(dsn, "A", settings=QUICK) as a,
        ServeProcess(dsn, "B", settings=QUICK, secret_key_file=a.secret_key_file) as b,
    ):
        yield a, b


@pytest.fixture
async def sides(servers: tuple[ServeProcess, ServeProcess]) -> AsyncIterator[tuple[Side, Side]]:
    """Equal users, devices and names on both sides; the devices are gone again afterwards."""
    async with AsyncExitStack() as stack:
        made = []
        for serve in servers:
            home = await stack.enter_async_context(admin(serve.dsn, serve.cluster))
            key = await home.auth_key("alice")
            first, second = [
                await stack.enter_async_context(device(serve.url, key, hostname=name)) for name in HOSTNAMES
            ]
            await join(first)
            await join(second)
            await has_peers(first, second)
            await has_peers(second, first)
            made.append(Side(serve, home, key, (first, second)))
        a, b = made
        yield a, b
        await run_sql(servers[0].dsn, "DELETE FROM nodes")
        await run_sql(servers[0].dsn, "UPDATE tenant_counters SET next_off = 1")


async def test_equal_addresses_and_names_and_nobody_sees_the_other(sides: tuple[Side, Side]) -> None:
    a, b = sides
    for here, there in zip(a.devices, b.devices, strict=True):
        mine, theirs = here.netmap.self_node, there.netmap.self_node
        assert mine is not None
        assert theirs is not None
        assert mine["Addresses"] == theirs["Addresses"]
        assert mine["Name"].split(".")[0] == theirs["Name"].split(".")[0]
        assert mine["Name"] != theirs["Name"]
        assert mine["ID"] != theirs["ID"]
    # A change on either side is seen there, and by then nothing else has arrived.
    for side in sides:
        first, second = side.devices
        await second.update(home_derp=7)
        await first.wait_for(lambda n: [row.get("HomeDERP") for row in n.peers.values()] == [7], DEADLINE_S)
        await has_peers(first, second)
        assert {p["LoginName"] for p in first.netmap.user_profiles.values()} == {"alice"}
        assert not first.violations


async def test_lists_show_one_side_only(sides: tuple[Side, Side]) -> None:
    for side in sides:
        ids = {str(own_id(one)) for one in side.devices}
        listed = await side.serve.shell("nodes", "list")
        rows = [line.split() for line in listed.out.splitlines()[1:]]
        assert {row[0] for row in rows} == ids
        users = await side.serve.shell("users", "list")
        assert len(users.out.splitlines()) == 2


async def test_a_relay_admits_devices_of_the_whole_deployment(sides: tuple[Side, Side]) -> None:
    """On purpose: clusters share their relays."""
    a, b = sides
    keys = {node_key_text(side.devices[0].node_key): True for side in sides} | {"nodekey:" + "ef" * 32: False}
    async with httpx.AsyncClient(trust_env=False) as client:
        for side in (a, b):
            for key, allowed in keys.items():
                answer = await client.post(f"{side.serve.url}/verify", json={"NodePublic": key, "Source": ""})
                assert answer.json() == {"Allow": allowed}


async def test_both_have_the_same_relays(sides: tuple[Side, Side]) -> None:
    """The union of all regions, so that their devices could meet and tenants can move."""
    relays: list[set[str]] = []
    for side in sides:
        await side.devices[0].wait_for(lambda n: len((n.derp_map or {})["Regions"]) == 2, DEADLINE_S)
        regions = (side.devices[0].netmap.derp_map or {})["Regions"].values()
        relays.append({region["RegionName"] for region in regions})
        assert len({node["Name"] for region in regions for node in region["Nodes"]}) == 2
    assert relays == [{"cluster A", "cluster B"}] * 2


async def test_an_auth_key_of_the_other_cluster_lets_nobody_in_here(sides: tuple[Side, Side]) -> None:
    """It opens its own cluster, wherever it is shown."""
    a, b = sides
    before = await b.dump()
    async with device(b.serve.url, a.key, hostname="lost") as lost:
        await join(lost)
        await has_peers(lost, *a.devices)
        await a.home.scoped.delete_device(a.home.tenant.id, own_id(lost))
    await has_peers(a.devices[0], a.devices[1])
    assert await b.dump() == before


async def test_a_device_of_the_other_cluster_is_that_clusters_even_when_deleted(
    sides: tuple[Side, Side],
) -> None:
    """No farewell without proof in the own cluster: the device would log itself out for nothing."""
    a, b = sides
    one, watcher = a.devices
    async with device(
        b.serve.url,
        None,
        machine_private=one.machine_private,
        node_private=one.node_private,
    ) as astray:
        before = await b.dump()
        await astray.update(home_derp=1)
        assert not (await astray.register()).get("AuthURL")
        await a.home.scoped.delete_device(a.home.tenant.id, own_id(one))
        await has_peers(watcher)
        await astray.update(home_derp=1)
        assert (await astray.register())["AuthURL"].startswith(f"{a.serve.url}/register/")
        assert await b.dump() == before


async def test_one_machine_may_be_in_both_clusters(sides: tuple[Side, Side]) -> None:
    a, b = sides
    one = a.devices[0]
    before = await a.dump()
    async with device(b.serve.url, b.key, machine_private=one.machine_private, hostname="both") as twin:
        await join(twin)
        await has_peers(twin, *b.devices)
    assert await a.dump() == before
    assert one.polls == 1


COMMANDS = {
    "expire": ("nodes", "expire", "-i", "{device}"),
    "disable expiry": ("nodes", "expire", "-i", "{device}", "--disable"),
    "delete": ("nodes", "delete", "-i", "{device}", "--yes"),
    "expire a key": ("preauthkeys", "expire", "-i", "{key}"),
    "a key for a user": ("preauthkeys", "create", "--user", "{user}"),
    "the other's tenant": ("nodes", "list", "--tenant", "{tenant}"),
    "delete in the other's tenant": ("nodes", "delete", "-i", "{device}", "-y", "--tenant", "{tenant}"),
    "a user in the other's tenant": ("users", "create", "eve", "--tenant", "{tenant}"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
async def test_ids_of_the_other_cluster_are_not_found_and_nothing_is_touched(
    sides: tuple[Side, Side], command: tuple[str, ...]
) -> None:
    a, b = sides
    (alice,) = await a.home.scoped.list_users(a.home.tenant.id, "alice")
    facts = {
        "device": str(own_id(a.devices[0])),
        "key": str((await a.home.scoped.list_auth_keys(a.home.tenant.id))[-1].id),
        "user": str(alice.id),
        "tenant": a.home.tenant.name,
    }
    before = await a.dump(), await b.dump()
    result = await b.serve.shell(*(word.format(**facts) for word in command))
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith("error: there is no ")
    assert len(result.err.splitlines()) == 1
    assert (await a.dump(), await b.dump()) == before
    assert all(one.polls == 1 for side in sides for one in side.devices)


async def test_work_in_one_cluster_leaves_the_others_rows_alone(sides: tuple[Side, Side]) -> None:
    a, b = sides
    before = await a.dump()
    one, watcher = b.devices
    for words in (
        ("users", "create", "carol"),
        ("preauthkeys", "create", "--user", "carol"),
        ("nodes", "expire", "-i", str(own_id(one))),
        ("nodes", "delete", "-i", str(own_id(one)), "--yes"),
    ):
        assert (await b.serve.shell(*words)).code == 0
    await has_peers(watcher)
    assert await a.dump() == before
    await run_sql(
        b.serve.dsn, "DELETE FROM pre_auth_keys WHERE user_id IN (SELECT id FROM users WHERE name = 'carol')"
    )
    await run_sql(b.serve.dsn, "DELETE FROM users WHERE name = 'carol'")


async def test_changes_of_one_cluster_wake_nobody_in_the_other(sides: tuple[Side, Side]) -> None:
    """Whoever makes them; counted on the other side after a change of its own has passed through."""
    a, b = sides
    rows_a, rows_b = await a.foreign_changes(), await b.foreign_changes()
    frames = (await a.serve.metrics())["hs_delta_frames_total"]
    await run_sql(b.serve.dsn, "UPDATE nodes SET capver = capver + 1 WHERE cluster_id = 'B'")
    await eventually(lambda: _at_least(b, rows_b + 2), "B reads its two rows")
    one, watcher = a.devices
    await run_sql(a.serve.dsn, f"UPDATE nodes SET given_name = 'marker' WHERE id = {own_id(one)}")
    await watcher.wait_for(
        lambda n: any(row["Name"].startswith("marker.") for row in n.peers.values()), DEADLINE_S
    )
    await eventually(lambda: _at_least(a, rows_a + 1), "A reads its own row")
    assert await a.foreign_changes() == rows_a + 1
    assert await b.foreign_changes() == rows_b + 2
    # The device itself and its only peer.
    assert (await a.serve.metrics())["hs_delta_frames_total"] == frames + 2


async def _at_least(side: Side, count: float) -> bool:
    return await side.foreign_changes() >= count
