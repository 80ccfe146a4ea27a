"""Tenants move by plans: at once, in waves, held up, undone, and finished by whoever is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from app.api.client import AcsClient
from app.api.records import JoinAsked, MoveAsked, RebalanceAsked, RebalanceRecord, TenantAsked
from app.errors import Conflict, NotFound, Refused
from tests.acs.support import AcsProcess, Deployment, deployed, parsed
from tests.node.kit import SOME_DERP_MAP, Recorder, joined
from tests.node.support import QUICK, eventually, run_sql

CLUSTERS = ("east", "west", "north")
#: One tenant a wave, so that plans can be caught under way.
SLOW = {
    "HS_ACS__REBALANCE__WAVE": "1",
    "HS_ACS__REBALANCE__PAUSE": "200ms",
    "HS_ACS__REBALANCE__SETTLE": "1s",
    "HS_ACS__REQUESTS_PER_MINUTE": "100000",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(pg_server: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    path = tmp_path_factory.mktemp("derp") / "derp.yaml"
    await asyncio.to_thread(path.write_text, SOME_DERP_MAP)
    settings = {"HS_DERP__SERVER__ENABLED": "false", "HS_DERP__PATHS": str(path), **QUICK}
    async with deployed(pg_server, *CLUSTERS, node_settings=settings, acs_settings=SLOW) as found:
        yield found


@pytest.fixture
async def admin(deployment: Deployment) -> AsyncIterator[AcsClient]:
    """The API, with every cluster active and without tenants."""
    async with deployment.acs.client() as client:
        for cluster in CLUSTERS:
            await client.cluster_verb(cluster, "admit")
        yield client
        async for plan in client.rebalances():
            if plan.ended_at is None and plan.state != "verifying":
                await client.rebalance_verb(plan.id, "stop")
        async for tenant in client.tenants():
            if not tenant.home:
                await client.delete_tenant(tenant.id)


async def tenants_in(admin: AcsClient, cluster: str, *names: str) -> None:
    for name in names:
        await admin.place(TenantAsked(name=name, cluster=cluster))


async def unpinned(deployment: Deployment) -> None:
    await run_sql(deployment.nodes["east"].dsn, "UPDATE tenants SET pinned = NULL")


async def places(admin: AcsClient) -> dict[str, str]:
    return {tenant.name: tenant.cluster async for tenant in admin.tenants() if not tenant.home}


def becomes(
    admin: AcsClient, plan: RebalanceRecord, *states: str, done: int = 0
) -> Callable[[], Awaitable[object]]:
    async def now() -> RebalanceRecord | None:
        found = await admin.rebalance(plan.id)
        return found if found.state in states and found.done >= done else None

    return now


async def devices_of(
    stack: AsyncExitStack, admin: AcsClient, entry: AcsProcess, tenant: str
) -> list[Recorder]:
    answer = await admin.join(JoinAsked(tenant=tenant, user="alice", reusable=True))
    devices = [await stack.enter_async_context(Recorder(entry.url, answer.auth_key)) for _ in range(2)]
    for device in devices:
        await joined(device)
    return devices


async def test_d43_one_tenant_moves_at_a_word(deployment: Deployment, admin: AcsClient) -> None:
    await tenants_in(admin, "east", "wanderer")
    await unpinned(deployment)
    plan = await admin.move(MoveAsked(tenant="wanderer", to="west", why="asked for"))
    assert (plan.purpose, plan.state, plan.done) in [("move", "applying", 1), ("move", "verifying", 1)]
    assert (await places(admin))["wanderer"] == "west"
    for target, error in (("west", Refused), ("nowhere", NotFound)):
        with pytest.raises(error):
            await admin.move(MoveAsked(tenant="wanderer", to=target))
    await eventually(becomes(admin, plan, "done"), "it is verified")
    told = await deployment.acs.shell(
        "move", "wanderer", "--to", "north", "-o", "json", token=await token(deployment)
    )
    assert parsed(told)["done"] == 1
    assert (await places(admin))["wanderer"] == "north"
    (row,) = await run_sql(
        deployment.nodes["east"].dsn,
        "SELECT before ->> 'cluster', after ->> 'cluster', actor FROM audit_log"
        " WHERE action = 'tenant_move' ORDER BY id DESC LIMIT 1",
    )
    assert tuple(row)[:2] == ("west", "north")
    assert row[2].startswith("token:")


async def token(deployment: Deployment) -> str:
    return await deployment.acs.token()


async def test_a_rebalance_fills_a_new_cluster_and_its_devices_come_along(
    deployment: Deployment, admin: AcsClient
) -> None:
    """Dry run, approval, waves; everybody who was connected is connected again."""
    names = [f"spread {number}" for number in range(6)]
    await tenants_in(admin, "east", *names)
    await unpinned(deployment)
    async with AsyncExitStack() as stack:
        devices = [d for name in names for d in await devices_of(stack, admin, deployment.second, name)]
        own = [device.netmap.self_node["Addresses"] for device in devices]  # type: ignore[index]
        plan = await admin.propose_rebalance(RebalanceAsked())
        assert plan.state == "proposed"
        assert (plan.dry_run.before, plan.dry_run.after) == (
            {"east": 300, "north": 0, "west": 0},
            {"east": 100, "north": 100, "west": 100},
        )
        assert set((await places(admin)).values()) == {"east"}, "nobody has moved yet"
        with pytest.raises(Conflict):
            await admin.rebalance_verb(plan.id, "approve", version=plan.version + 1)
        await admin.rebalance_verb(plan.id, "approve")
        done = await eventually(becomes(admin, plan, "done"), "it is carried out")
        assert (done.done, done.failed, done.error) == (4, 0, None)
        assert Counter((await places(admin)).values()) == dict.fromkeys(CLUSTERS, 2)
        steps = await admin.rebalance_steps(plan.id)
        assert {(step.connected_before, step.connected_after) for step in steps} == {(2, 2)}
        for device in devices:
            await device.sees(peers=1)
        assert [device.netmap.self_node["Addresses"] for device in devices] == own  # type: ignore[index]
        assert not any(device.violations for device in devices)
        with pytest.raises(Refused, match="within its share"):
            await admin.propose_rebalance(RebalanceAsked())


async def test_a_plan_is_held_up_goes_on_is_stopped_and_undone(
    deployment: Deployment, admin: AcsClient
) -> None:
    await tenants_in(admin, "east", *(f"slow {number}" for number in range(8)))
    await unpinned(deployment)
    before = await places(admin)
    plan = await admin.propose_rebalance(RebalanceAsked(purpose="drain", cluster="east", approve=True))
    assert plan.steps == 8
    await eventually(becomes(admin, plan, "applying", done=1), "a wave is over")
    held = await admin.rebalance_verb(plan.id, "pause")
    assert held.state == "paused"
    with pytest.raises(Conflict, match="is paused: it cannot pause"):
        await admin.rebalance_verb(plan.id, "pause")
    await admin.rebalance_verb(plan.id, "resume")
    await eventually(becomes(admin, plan, "applying", done=held.done + 1), "another wave is over")
    stopped = await admin.rebalance_verb(plan.id, "stop")
    assert 0 < stopped.done < 8
    moved = {step.tenant for step in await admin.rebalance_steps(plan.id) if step.state == "done"}
    now = await places(admin)
    assert {name for name in now if now[name] != "east"} >= moved
    await admin.rebalance_verb(plan.id, "rollback")
    await eventually(becomes(admin, plan, "rolled_back"), "it is undone")
    assert await places(admin) == before


async def test_a_plan_holds_as_long_as_its_steps_are_possible(
    deployment: Deployment, admin: AcsClient
) -> None:
    """Before it is approved that is refused; afterwards the step that fails holds it up."""
    await tenants_in(admin, "east", *(f"held {number}" for number in range(8)))
    await unpinned(deployment)
    plan = await admin.propose_rebalance(RebalanceAsked(purpose="drain", cluster="east"))
    for cluster in ("west", "north"):
        await admin.cluster_verb(cluster, "drain")
    with pytest.raises(Conflict, match=r"does not hold any more: .* cannot take tenant 'held"):
        await admin.rebalance_verb(plan.id, "approve")
    (told,) = [found async for found in admin.rebalances() if found.id == plan.id]
    assert told.state == "proposed"
    assert len(told.dry_run.notes) == 8, "the plan itself says so too"
    for cluster in ("west", "north"):
        await admin.cluster_verb(cluster, "admit")
    await admin.rebalance_verb(plan.id, "approve")
    await eventually(becomes(admin, plan, "applying", done=1), "a wave is over")
    for cluster in ("west", "north"):
        await admin.cluster_verb(cluster, "drain")
    held = await eventually(becomes(admin, plan, "paused"), "it is held up")
    assert "takes no tenants now" in held.error
    for cluster in ("west", "north"):
        await admin.cluster_verb(cluster, "admit")
    await admin.rebalance_verb(plan.id, "rollback")
    await eventually(becomes(admin, plan, "rolled_back"), "it is undone")
    assert set((await places(admin)).values()) == {"east"}


async def test_a_drained_cluster_is_drained_at_the_end(deployment: Deployment, admin: AcsClient) -> None:
    await tenants_in(admin, "north", "last one")
    await unpinned(deployment)
    told = await deployment.acs.shell("clusters", "drain", "north", "--move", token=await token(deployment))
    assert told.code == 0, told.err

    async def drained() -> bool:
        return (await admin.cluster("north")).state == "drained"

    await eventually(drained, "it is drained")
    assert (await places(admin))["last one"] != "north"
    told = await deployment.acs.shell("clusters", "undrain", "north", token=await token(deployment))
    assert (await admin.cluster("north")).state == "active"


@pytest.mark.parametrize("phase", ["applying", pytest.param("rolling_back", marks=pytest.mark.chaos)])
async def test_whoever_is_left_finishes_the_plan(
    deployment: Deployment, admin: AcsClient, phase: str
) -> None:
    """kill -9 of the leading hs-acs in the middle."""
    await tenants_in(admin, "east", *(f"{phase} {number}" for number in range(6)))
    await unpinned(deployment)
    before = await places(admin)
    async with AcsClient(deployment.acs.url) as first:
        leader = deployment.acs if (await first.service()).leads else deployment.second
    other = deployment.second if leader is deployment.acs else deployment.acs
    async with other.client() as client:
        plan = await client.propose_rebalance(RebalanceAsked(purpose="drain", cluster="east", approve=True))
        if phase == "rolling_back":
            await eventually(becomes(client, plan, "verifying", "done"), "it is carried out")
            plan = await client.rebalance_verb(plan.id, "rollback")
        await eventually(_under_way(client, plan, phase), "it is in the middle")
        await leader.kill()
        end = "done" if phase == "applying" else "rolled_back"
        finished = await eventually(becomes(client, plan, end), "the other one finishes it", 20.0)
        assert finished.error is None
        now = await places(client)
        assert now == before if phase == "rolling_back" else "east" not in now.values()
    await leader.start()


def _under_way(client: AcsClient, plan: RebalanceRecord, phase: str) -> Callable[[], Awaitable[object]]:
    async def middle() -> bool:
        states = Counter(step.state for step in await client.rebalance_steps(plan.id))
        return (await client.rebalance(plan.id)).state == phase and 0 < states["done"] < 6

    return middle


async def test_a_lost_cluster_is_evacuated_and_plans_are_made_by_themselves(
    deployment: Deployment, admin: AcsClient
) -> None:
    for acs in (deployment.acs, deployment.second):
        acs.settings |= {"HS_ACS__REBALANCE__EVACUATE_AFTER": "1s", "HS_ACS__REBALANCE__MODE": "propose"}
        await acs.stop()
        await acs.start()
    await tenants_in(admin, "west", *(f"lost {number}" for number in range(3)))
    await unpinned(deployment)
    async with AsyncExitStack() as stack:
        devices = await devices_of(stack, admin, deployment.acs, "lost 0")
        await deployment.nodes["west"].kill()
        await run_sql(
            deployment.nodes["west"].dsn,
            "UPDATE instances SET heartbeat_at = now() - interval '1 minute' WHERE cluster_id = 'west'",
        )

        async def nobody_left() -> bool:
            return "west" not in (await places(admin)).values()

        await eventually(nobody_left, "the lost cluster is empty", 30.0)
        polls = [device.polls for device in devices]
        for device, count in zip(devices, polls, strict=True):
            await device.sees(peers=1)
            assert device.polls >= count
        assert not any(device.violations for device in devices)
    await deployment.nodes["west"].start()
    for _ in range(2):
        with_plan = await _run_job(admin)
    assert "plan" in with_plan or "nobody would move" in with_plan


async def _run_job(admin: AcsClient) -> str:
    asked = await admin.run_job("rebalance")

    async def ran() -> str | None:
        job = await admin.job("rebalance")
        fresh = (
            job.started_at is not None
            and asked.requested_at is not None
            and job.started_at >= asked.requested_at
        )
        return (job.result or job.error) if fresh and job.state != "running" else None

    result: str = await eventually(ran, "the job has run")
    return result
