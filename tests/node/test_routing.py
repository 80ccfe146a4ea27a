"""Two clusters behind one URL: who comes to the wrong owner is led to its own, also when its tenant moves."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.db.admission import Admission
from app.db.setup import Database
from app.errors import NotFound, Refused
from app.keys import MachineKey
from node.elsewhere import MAX_CLOSES
from tests.node.kit import SOME_DERP_MAP, Recorder, fleet, joined
from tests.node.support import (
    DEADLINE_S,
    QUICK,
    Administration,
    ServeProcess,
    admin,
    eventually,
    fresh_database,
    run_sql,
)

CLUSTERS = ("A", "B")


def derp_map(place: Path) -> Path:
    path = place / "derp.yaml"
    path.write_text(SOME_DERP_MAP)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(
    pg_server: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, ServeProcess]]:
    path = derp_map(tmp_path_factory.mktemp("derp"))
    settings = {"HS_DERP__SERVER__ENABLED": "false", "HS_DERP__PATHS": str(path), **QUICK}
    async with (
        fresh_database(pg_server) as dsn,
        ServeProcess(dsn, "A", settings=settings) as a,
        ServeProcess(dsn, "B", settings=settings, secret_key_file=a.secret_key_file) as b,
    ):
        yield {"A": a, "B": b}


@pytest_asyncio.fixture
async def admission(servers: dict[str, ServeProcess]) -> AsyncIterator[Admission]:
    found = await Admission.open(servers["A"].dsn, pool_size=2)
    yield found
    await found.close()


@asynccontextmanager
async def tenant_in(servers: dict[str, ServeProcess], cluster: str) -> AsyncIterator[Administration]:
    name = f"t-{secrets.token_hex(4)}"
    await Database(servers["A"].dsn).create_tenant(cluster, name)
    async with admin(servers["A"].dsn, cluster, name) as found:
        yield found


async def key_of(place: Administration, **facts: Any) -> str:
    await place.user("alice")
    return await place.auth_key("alice", **facts)


def identity(device: Recorder) -> dict[str, Any]:
    own = device.netmap.self_node
    assert own is not None
    return {name: own[name] for name in ("ID", "Addresses", "Name", "Key", "Machine", "User")}


async def sent(server: ServeProcess) -> float:
    return (await server.metrics()).get("hs_map_requests_total{kind=sent_elsewhere}", 0.0)


async def test_d15_a_key_of_another_cluster_joins_there_through_any_url(
    servers: dict[str, ServeProcess],
) -> None:
    """D12, D15: the request that reaches the wrong owner makes no row there."""
    async with tenant_in(servers, "B") as place:
        key = await key_of(place, reusable=True)
        async with fleet(servers["A"].url, key, 3) as devices:
            assert len(await place.devices()) == 3
            rows = await run_sql(
                servers["A"].dsn,
                "SELECT DISTINCT cluster_id FROM nodes WHERE tenant_id = " + str(place.tenant.id),
            )
            assert [row[0] for row in rows] == ["B"]
            assert (await servers["A"].metrics())["hs_relayed_connections"] == 3
            # From now on the machine is known, and no owner but its own is asked.
            before = await sent(servers["A"])
            polls = devices[0].polls
            devices[0].drop()
            await eventually(_polls(devices[0], polls), "it is back")
            assert await sent(servers["A"]) == before
            assert not any(device.violations for device in devices)


def _polls(device: Recorder, before: int) -> Any:
    async def more() -> bool:
        return device.polls > before

    return more


async def test_one_machine_with_profiles_in_two_clusters(servers: dict[str, ServeProcess]) -> None:
    async with tenant_in(servers, "A") as one, tenant_in(servers, "B") as two, AsyncExitStack() as stack:
        first = await stack.enter_async_context(Recorder(servers["A"].url, await key_of(one)))
        await joined(first)
        second = await stack.enter_async_context(
            Recorder(servers["A"].url, await key_of(two), machine_private=first.machine_private)
        )
        await joined(second)
        assert [device.hostname for device in await one.devices()] == [first.hostname]
        assert [device.hostname for device in await two.devices()] == [second.hostname]
        for device in (first, second):
            polls, mine = device.polls, identity(device)
            device.drop()
            await eventually(_polls(device, polls), f"{device.hostname} is back")
            await device.wait_for(lambda netmap: netmap.self_node is not None, DEADLINE_S)
            assert identity(device) == mine
        assert first.netmap.violations == second.netmap.violations == []


async def test_who_approves_a_login_decides_the_cluster(servers: dict[str, ServeProcess]) -> None:
    """Nobody of another cluster takes a device in at A: the device is led to that one."""
    async with tenant_in(servers, "B") as place, Recorder(servers["A"].url, None) as device:
        alice = await place.user("alice")
        login = asyncio.create_task(device.login(DEADLINE_S))
        await eventually(_shown(device), "a URL is shown")
        login_id = device.login_urls[0].rpartition("/")[2]
        await place.scoped.approve_login(login_id, place.tenant.id, alice.id)
        assert not (await login).get("Error")
        assert [row.hostname for row in await place.devices()] == [device.hostname]
        # Out of its own cluster, through A.
        assert (await device.logout())["NodeKeyExpired"]


def _shown(device: Recorder) -> Any:
    async def shown() -> bool:
        return bool(device.login_urls)

    return shown


async def test_who_goes_in_circles_is_told_so(servers: dict[str, ServeProcess]) -> None:
    async with (
        tenant_in(servers, "B") as place,
        Recorder(servers["A"].url, await key_of(place)) as device,
    ):
        await servers_hints(servers, device.machine_key, MAX_CLOSES, "A")
        answer = await device.register()
        assert "another cluster" in answer["Error"]
        assert await place.devices() == []


async def servers_hints(
    servers: dict[str, ServeProcess], machine_key: MachineKey, count: int, cluster: str
) -> None:
    admission = await Admission.open(servers["A"].dsn, pool_size=1)
    try:
        for number in range(1, count + 1):
            assert await admission.put_route_hint(machine_key, cluster) == number
    finally:
        await admission.close()


async def test_an_unknown_key_is_404_everywhere_and_a_deleted_device_is_told_by_its_own(
    servers: dict[str, ServeProcess],
) -> None:
    async with tenant_in(servers, "B") as place:
        key = await key_of(place, reusable=False)
        async with Recorder(servers["A"].url, key) as device:
            status, _ = await device.request("/machine/map", device.map_request())
            assert status == 404
            await joined(device)
            (row,) = await place.devices()
            await place.scoped.delete_device(place.tenant.id, row.id, actor="test")
            await device.wait_for(
                lambda netmap: bool(netmap.self_node and "KeyExpiry" in netmap.self_node), DEADLINE_S
            )
            # Through A again: not A's to say that it is unknown.
            assert (await device.register())["Error"]


async def test_a_tenant_moves_and_its_devices_notice_nothing(
    servers: dict[str, ServeProcess], admission: Admission
) -> None:
    """D43: there and back again; ids, addresses, keys and peers stay, nobody is logged out."""
    async with tenant_in(servers, "A") as place, tenant_in(servers, "A") as other:
        key = await key_of(place, reusable=True)
        bystander_key = await key_of(other, reusable=True)
        async with (
            fleet(servers["A"].url, key, 6) as devices,
            fleet(servers["A"].url, bystander_key, 2) as bystanders,
        ):
            before = [identity(device) for device in devices]
            seen = [len(device.seen) for device in bystanders]
            for source, target in (("A", "B"), ("B", "A"), ("A", "B")):
                polls = [device.polls for device in devices]
                await admission.move_tenant(place.tenant.id, source, target, actor="test", why="a test")
                for device, count in zip(devices, polls, strict=True):
                    await eventually(_polls(device, count), "it polls its new owner")
                    await device.sees(peers=len(devices) - 1)
                assert [identity(device) for device in devices] == before
                assert all(row["Online"] for device in devices for row in device.netmap.peers.values())
                # Changes arrive by the new owner.
                async with Recorder(servers["A"].url, key) as newcomer:
                    await joined(newcomer)
                    for device in devices:
                        await device.sees(newcomer.id, Online=True)
                    await newcomer.logout()
                    for device in devices:
                        await device.sees(newcomer.id, Online=False)
                where = "SELECT cluster_id FROM nodes WHERE tenant_id = " + str(place.tenant.id)
                rows = await run_sql(servers["A"].dsn, where)
                assert {row[0] for row in rows} == {target}
                async with admin(servers["A"].dsn, target, place.tenant.name) as there:
                    for row in await there.devices():
                        if row.id not in {device.id for device in devices}:
                            await there.scoped.delete_device(there.tenant.id, row.id, actor="test")
                for device in devices:
                    await device.sees(peers=len(devices) - 1)
            assert not any(device.violations for device in devices)
            assert [len(device.seen) for device in bystanders] == seen
            expired = [m for device in devices for m in device.seen if "KeyExpiry" in (m.get("Node") or {})]
            assert all(m["Node"]["KeyExpiry"] > "2027" for m in expired)


@pytest.mark.parametrize(
    ("source", "target", "error", "code"),
    [
        ("B", "A", NotFound, "not_here"),
        ("A", "C", NotFound, "target_unknown"),
        ("A", "A", Refused, "target_same"),
    ],
)
async def test_moves_that_cannot_be(
    servers: dict[str, ServeProcess],
    admission: Admission,
    source: str,
    target: str,
    error: type[Exception],
    code: str,
) -> None:
    async with tenant_in(servers, "A") as place:
        with pytest.raises(error) as caught:
            await admission.move_tenant(place.tenant.id, source, target, actor="test")
        assert caught.value.code == code  # type: ignore[attr-defined]


async def test_a_target_that_takes_nobody(servers: dict[str, ServeProcess], admission: Admission) -> None:
    async with tenant_in(servers, "A") as place:
        for change, code in (
            ({"max_devices": 10}, "target_full"),
            ({"max_devices": 1000, "max_tenants": 0}, "target_full"),
            ({"max_tenants": 1000, "state": "draining"}, "target_not_active"),
        ):
            await admission.update_cluster("B", actor="test", **change)  # type: ignore[arg-type]
            with pytest.raises(Refused) as caught:
                await admission.move_tenant(place.tenant.id, "A", "B", actor="test")
            assert caught.value.code == code
        await admission.update_cluster("B", actor="test", state="active")
        (home,) = await run_sql(
            servers["A"].dsn, "SELECT tenant_id FROM tenants WHERE is_home AND cluster_id = 'A'"
        )
        with pytest.raises(Refused) as caught:
            await admission.move_tenant(home[0], "A", "B", actor="test")
        assert caught.value.code == "home_tenant"


async def test_opposite_moves_under_registrations_lose_nothing(
    servers: dict[str, ServeProcess], admission: Admission
) -> None:
    """DATABASE.md 7: no deadlock, no row left behind; who registers meanwhile gets in."""
    async with tenant_in(servers, "A") as place, AsyncExitStack() as stack:
        key = await key_of(place, reusable=True)
        devices = [
            await stack.enter_async_context(Recorder(servers[CLUSTERS[n % 2]].url, key)) for n in range(8)
        ]

        async def to_and_fro() -> None:
            for source, target in (("A", "B"), ("B", "A")) * 3:
                await admission.move_tenant(place.tenant.id, source, target, actor="test")

        moving = asyncio.create_task(to_and_fro())
        answers = await asyncio.gather(*(device.register() for device in devices))
        await moving
        for device, answer in zip(devices, answers, strict=True):
            # Six moves in no time: who went in circles comes again.
            again = await device.register() if "another cluster" in answer.get("Error", "") else answer
            assert not again.get("Error"), again
        rows = await run_sql(
            servers["A"].dsn,
            f"SELECT cluster_id, count(*) FROM nodes WHERE tenant_id = {place.tenant.id} GROUP BY 1",
        )
        assert [tuple(row) for row in rows] == [("A", 8)]
