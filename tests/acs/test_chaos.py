"""Plans under fire: whoever dies, in whatever phase, tenants end where they should and no device is lost."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.api.client import AcsClient
from app.api.records import JoinAsked, RebalanceAsked, TenantAsked
from app.client.netmap import ClientNetmap
from app.errors import HsError
from app.pg import EmbeddedPostgres
from app.simulation.fleet import Fleet
from app.simulation.scenario import Spec, fleet
from tests.acs.support import Deployment, deployed
from tests.node.kit import SOME_DERP_MAP, Recorder, joined
from tests.node.support import QUICK, eventually, run_sql

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

SLOW = {
    "HS_ACS__REBALANCE__WAVE": "1",
    "HS_ACS__REBALANCE__PAUSE": "200ms",
    "HS_ACS__REBALANCE__SETTLE": "2s",
    "HS_ACS__REQUESTS_PER_MINUTE": "100000",
}
TENANTS, DEVICES_EACH = 8, 2
PHASES = ("applying", "verifying", "rolling_back")
VICTIMS = ("owner of the source", "owner of the target", "leading hs-acs", "database")
END_S = 90.0


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that this test may stop."""
    place = Path(tempfile.mkdtemp(prefix="hs-chaos-"))
    place.chmod(0o711)
    server = EmbeddedPostgres(place / "pg", durable=False)
    yield server
    server.release()
    shutil.rmtree(place)


async def own_deployment(
    own_server: EmbeddedPostgres, place: Path, *clusters: str, settings: dict[str, str] = SLOW
) -> Any:
    path = place / "derp.yaml"
    await asyncio.to_thread(path.write_text, SOME_DERP_MAP)
    nodes = {"HS_DERP__SERVER__ENABLED": "false", "HS_DERP__PATHS": str(path), **QUICK}
    dsn = await asyncio.to_thread(own_server.acquire)
    return deployed(dsn, *clusters, node_settings=nodes, acs_settings=settings)


async def quietly(asked: Callable[[], Any]) -> Any:
    """An answer, or None while something is away."""
    try:
        return await asked()
    except HsError:
        return None


async def leader_of(deployment: Deployment) -> tuple[Any, Any]:
    async with AcsClient(deployment.acs.url) as first:
        leads = (await first.service()).leads
    pair = (deployment.acs, deployment.second)
    return pair if leads else pair[::-1]


async def strike(victim: str, deployment: Deployment, own_server: EmbeddedPostgres, phase: str) -> None:
    """Somebody dies, and is started again."""
    source, target = ("west", "east") if phase == "rolling_back" else ("east", "west")
    if victim == "database":
        await asyncio.to_thread(own_server.release)
        await asyncio.to_thread(own_server.acquire)
        return
    if victim == "leading hs-acs":
        process: Any = (await leader_of(deployment))[0]
    else:
        process = deployment.nodes[source if victim == "owner of the source" else target]
    await process.kill()
    await process.start()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victim", VICTIMS)
async def test_a_plan_survives(own_server: EmbeddedPostgres, tmp_path: Path, victim: str, phase: str) -> None:
    async with await own_deployment(own_server, tmp_path, "east", "west") as deployment:
        dsn = deployment.nodes["east"].dsn
        async with deployment.acs.client() as admin, AsyncExitStack() as stack:
            devices = []
            for number in range(TENANTS):
                await admin.place(TenantAsked(name=f"t{number}", cluster="east"))
                answer = await admin.join(JoinAsked(tenant=f"t{number}", user="alice", reusable=True))
                for _ in range(DEVICES_EACH):
                    # By the URL of a cluster's owner: an entry that dies is not this test's matter.
                    made = Recorder(deployment.nodes["east"].url, answer.auth_key)
                    devices.append(await joined(await stack.enter_async_context(made)))
            await run_sql(dsn, "UPDATE tenants SET pinned = NULL")
            own = [device.netmap.self_node["Addresses"] for device in devices]  # type: ignore[index]
            ids = [device.id for device in devices]
            plan = await admin.propose_rebalance(
                RebalanceAsked(purpose="drain", cluster="east", approve=True)
            )
            if phase == "rolling_back":
                await eventually(_state(admin, plan.id, "done", "verifying"), "it is carried out", END_S)
                await eventually(_verb(admin, plan.id, "rollback"), "it is being undone")
            await eventually(_middle(admin, plan.id, phase), f"it is {phase}", END_S)
            await strike(victim, deployment, own_server, phase)
            end = "rolled_back" if phase == "rolling_back" else "done"
            await eventually(_ends(admin, plan.id, end), f"it is {end}", END_S)
            where = "east" if phase == "rolling_back" else "west"
            rows = await run_sql(dsn, "SELECT DISTINCT cluster_id FROM tenants WHERE NOT is_home")
            assert [row[0] for row in rows] == [where]
            for device in devices:
                await device.sees(peers=DEVICES_EACH - 1)
            firsts = range(0, len(devices), DEVICES_EACH)
            await asyncio.gather(*(_hears(devices, at, ids[at]) for at in firsts))
            for device, addresses in zip(devices, own, strict=True):
                # One that comes back once more has no map for a moment.
                await device.wait_for(_has_addresses(addresses), END_S)
            assert not any(device.violations for device in devices)


def _has_addresses(addresses: list[str]) -> Callable[[ClientNetmap], bool]:
    return lambda netmap: netmap.self_node is not None and netmap.self_node["Addresses"] == addresses


async def _hears(devices: list[Recorder], at: int, device_id: int) -> None:
    """What the first device of a tenant says now reaches the second."""
    one, two = devices[at : at + 2]

    async def told() -> bool:
        return await quietly(lambda: _said(one)) is not None

    await eventually(told, "it can speak", END_S)
    await two.sees(device_id, HomeDERP=901)


async def _said(device: Recorder) -> bool:
    await device.update(home_derp=901)
    return True


def _state(admin: AcsClient, plan_id: int, *states: str) -> Callable[[], Any]:
    async def now() -> bool:
        plan = await quietly(lambda: admin.rebalance(plan_id))
        return plan is not None and plan.state in states

    return now


def _verb(admin: AcsClient, plan_id: int, verb: str) -> Callable[[], Any]:
    async def done() -> bool:
        return await quietly(lambda: admin.rebalance_verb(plan_id, verb)) is not None

    return done


def _middle(admin: AcsClient, plan_id: int, phase: str) -> Callable[[], Any]:
    async def middle() -> bool:
        plan = await admin.rebalance(plan_id)
        states = Counter(step.state for step in await admin.rebalance_steps(plan_id))
        return plan.state == phase and (phase == "verifying" or 0 < states["done"] < TENANTS)

    return middle


def _ends(admin: AcsClient, plan_id: int, end: str) -> Callable[[], Any]:
    async def ended() -> bool:
        """An operator goes on with a plan that was held up because somebody was away."""
        plan = await quietly(lambda: admin.rebalance(plan_id))
        if plan is None:
            return False
        if plan.state == "paused":
            await quietly(lambda: admin.rebalance_verb(plan_id, "resume"))
        elif plan.state == "failed":
            await quietly(lambda: admin.rebalance_verb(plan_id, "rollback"))
        return bool(plan.state == end)

    return ended


async def test_twenty_tenants_of_fifty_devices_are_rebalanced(
    own_server: EmbeddedPostgres, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """D42: devices that change all the while; every message they get is checked."""
    settings = {**SLOW, "HS_ACS__REBALANCE__WAVE": "4", "HS_ACS__REBALANCE__SETTLE": "5s"}
    async with (
        await own_deployment(own_server, tmp_path, "east", "west", "north", settings=settings) as deployment,
        deployment.acs.client() as admin,
        AsyncExitStack() as stack,
    ):
        specs: list[Spec] = []
        for number in range(20):
            await admin.place(TenantAsked(name=f"t{number}", cluster="east"))
            answer = await admin.join(JoinAsked(tenant=f"t{number}", user="alice", reusable=True))
            specs += fleet(deployment.second.url, [answer.auth_key], 50, prefix=f"t{number}")
        await run_sql(deployment.nodes["east"].dsn, "UPDATE tenants SET pinned = NULL")
        devices = await stack.enter_async_context(Fleet(specs))
        await devices.join()
        plan = await admin.propose_rebalance(RebalanceAsked(approve=True))
        await eventually(_ends(admin, plan.id, "done"), "it is carried out", END_S)
        done = await admin.rebalance(plan.id)
        spread = Counter([t.cluster async for t in admin.tenants() if not t.home])
        await devices.settle()
        report = devices.report()
        shown = f"{done.done} tenants, {done.devices} devices, {dict(spread)}, error {done.error}"
        print(shown)
        record_property("rebalanced", shown)
        assert done.error is None
        assert max(spread.values()) - min(spread.values()) <= 1
        assert report["violations"]["count"] == 0, report["violations"]
        assert devices.here == 1000
