"""What an operator asks hs-acs for at the console: from the key press to tenants that live elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from textual.pilot import Pilot

from app.api.client import AcsClient
from app.api.records import RebalanceAsked, TenantAsked
from app.db.requests import RequestDesk
from app.errors import BadRequest
from app.model import OperatorRequest, TenantId
from app.request_kinds import ACS_KINDS
from console.main import ConsoleApp
from console.screens.base import ListScreen
from console.scripted import asked_for
from console.store import PgStore
from tests.acs.support import Deployment, deployed
from tests.console.support import running, shown, text, toasts, until
from tests.node.support import QUICK, eventually, run_sql

FAST = {"HS_ACS__REBALANCE__WAVE": "1", "HS_ACS__REBALANCE__PAUSE": "50ms", "HS_ACS__REBALANCE__SETTLE": "1s"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(pg_server: str) -> AsyncIterator[Deployment]:
    async with deployed(pg_server, "east", "west", node_settings=QUICK, acs_settings=FAST) as found:
        yield found


@pytest.fixture
async def admin(deployment: Deployment) -> AsyncIterator[AcsClient]:
    async with deployment.acs.client() as client:
        yield client


async def test_a_tenant_moves_at_the_consoles_word(deployment: Deployment, admin: AcsClient) -> None:
    await tenants_in(deployment, admin, "east", "t1")
    async with running(PgStore(deployment.nodes["east"].dsn), "tenants", size=(160, 40)) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        point_at(base, "t1")
        await base.action_command("tenant.move")
        await until(pilot, lambda: "To cluster" in text(app), "the form")
        await pilot.click("#submit")
        await until(pilot, lambda: "move t1 to west: done" in toasts(app), "the move")
        assert (await places(admin))["t1"] == "west"
        await until(pilot, lambda: [r.cluster_id for r in base.rows.values() if r.name == "t1"] == ["west"])
        # A cluster's own stays, with the reason, and what was chosen is not lost.
        point_at(base, "east")
        await base.action_command("tenant.move")
        await until(pilot, lambda: "To cluster" in text(app), "the form")
        await pilot.click("#submit")
        await until(pilot, lambda: any("is its cluster's own tenant" in line for line in toasts(app)))
        await until(pilot, lambda: "To cluster" in text(app), "the form again")
        await pilot.press("escape")
    audited = await audit(deployment, "request_tenant_move")
    assert [row[0] for row in audited] == ["console:ops"]


async def test_a_plan_is_proposed_approved_and_undone(deployment: Deployment, admin: AcsClient) -> None:
    await tenants_in(deployment, admin, "east", *(f"p{number}" for number in range(8)))
    before = await places(admin)
    async with running(PgStore(deployment.nodes["east"].dsn), "rebalance", size=(160, 40)) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        await confirmed(pilot, app, "plan.new", "y")
        await until(pilot, lambda: "propose a plan: done" in toasts(app), "the plan")
        await until(pilot, lambda: any(row.state == "proposed" for row in base.rows.values()), "its row")
        assert before == await places(admin)
        (plan,) = [row for row in base.rows.values() if row.state == "proposed"]
        assert plan.after["west"] > plan.before["west"]

        point_at(base, f"plan {plan.id}")
        await confirmed(pilot, app, "plan.approve", *str(plan.id), "enter")
        await until(pilot, lambda: f"approve plan {plan.id}: done" in toasts(app), "the approval")
        await until(pilot, lambda: base.rows[str(plan.id)].state == "done", "the end of the plan")
        after = await places(admin)
        assert sum(before[name] != after[name] for name in before) == plan.steps > 1
        # Its moves, one row each.
        await pilot.press("enter")
        await until(pilot, lambda: app.base is not None and app.base.NAME == "moves", "the moves")
        moves = await shown(app, pilot)
        await until(pilot, lambda: len(moves.rows) == plan.steps, "the moves of this plan only")
        assert {row.state for row in moves.rows.values()} == {"done"}
        # From there it can be undone as well.
        await confirmed(pilot, app, "plan.rollback", *str(plan.id), "enter")
        await until(pilot, lambda: {r.plan_state for r in moves.rows.values()} == {"rolled_back"}, "undone")
    assert before == await places(admin)


async def test_a_plan_that_changed_meanwhile_is_not_touched(deployment: Deployment, admin: AcsClient) -> None:
    await tenants_in(deployment, admin, "east", *(f"v{number}" for number in range(8)))
    plan = await admin.propose_rebalance(RebalanceAsked())
    async with running(PgStore(deployment.nodes["east"].dsn), "rebalance", size=(160, 40)) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up and str(plan.id) in base.rows, "the plan")
        point_at(base, f"plan {plan.id}")
        await base.action_command("plan.approve")
        await until(pilot, lambda: "Cancel" in text(app), "the dialog")
        await admin.rebalance_verb(plan.id, "stop")
        await pilot.press(*str(plan.id), "enter")
        await until(pilot, lambda: any("has another version now" in line for line in toasts(app)), "refused")
        await until(pilot, lambda: "Changed meanwhile" in text(app), "the difference")
        assert f"version: {plan.version} -> {plan.version + 1}" in text(app)
        assert "state: stopped now" in text(app)
        assert app.focused is not None
        assert app.focused.id == "reload"
        await pilot.press("enter")
        await until(pilot, lambda: base.rows[str(plan.id)].state == "stopped", "what is there now")
    assert (await admin.rebalance(plan.id)).state == "stopped"


async def test_a_cluster_is_drained_and_taken_back(deployment: Deployment, admin: AcsClient) -> None:
    await tenants_in(deployment, admin, "west", "d1", "d2")
    async with running(PgStore(deployment.nodes["east"].dsn), "overview", size=(160, 40)) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        base.table.move_to("west")
        await confirmed(pilot, app, "cluster.drain", *"west", "enter")
        await until(pilot, lambda: "drain west: done" in toasts(app), "the answer")
        await until(pilot, lambda: base.rows["west"].state == "drained", "nobody is left")
        assert "west" not in set((await places(admin)).values())
        await confirmed(pilot, app, "cluster.undrain", "y")
        await until(pilot, lambda: base.rows["west"].state == "active", "it takes tenants again")


async def test_a_tenant_is_suspended_resumed_and_given_more(deployment: Deployment, admin: AcsClient) -> None:
    await tenants_in(deployment, admin, "east", "s1")
    (tenant,) = [t async for t in admin.tenants() if t.name == "s1"]
    async with running(PgStore(deployment.nodes["east"].dsn), "tenants", size=(160, 40), clock=time.time) as (
        app,
        pilot,
    ):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        point_at(base, "s1")
        await confirmed(pilot, app, "tenant.suspend", *"s1", "enter")
        await until(pilot, lambda: "suspend s1: done" in toasts(app), "suspended")
        assert (await admin.tenant("s1")).status == "suspended"
        # What is shown is of a former version until the screen has read again.
        await until(pilot, lambda: base.rows[f"{tenant.id}"].state == "suspended", "its row")
        await confirmed(pilot, app, "tenant.resume", "y")
        await until(pilot, lambda: "resume s1: done" in toasts(app), "resumed")
        await base.action_command("tenant.quota")
        await until(pilot, lambda: "Devices" in text(app) and app.screen is not base, "the form")
        app.screen.query_one("#devices").value = "17"  # type: ignore[attr-defined]
        await pilot.click("#submit")
        await until(pilot, lambda: "quota of s1: done" in toasts(app), "more devices")
        assert (await admin.quota(tenant.id)).max_devices == 17
        await pilot.press("J")
        await until(pilot, lambda: app.base is not None and app.base.NAME == "jobs")
        jobs = await shown(app, pilot)
        point_at(jobs, "trim-answers")
        await confirmed(pilot, app, "job.run", "y")
        await until(pilot, lambda: "run trim-answers: done" in toasts(app), "the job is asked for")
        await until(
            pilot, lambda: [r.runs > 0 for r in jobs.rows.values() if r.name == "trim-answers"] == [True]
        )
        await pilot.press("0")
        await until(pilot, lambda: app.base is not None and app.base.NAME == "processes")
        processes = await shown(app, pilot)
        found = Counter((row.kind, row.state) for row in processes.rows.values())
        assert found[("node", "owner")] == 2
        assert found[("acs", "leader")] == 1
        assert found[("acs", "standby")] >= 1
        # Nobody has a device here; who serves none at all has no number.
        assert {(row.kind, row.connected) for row in processes.rows.values()} == {("node", 0), ("acs", None)}


async def test_what_was_asked_while_nobody_led_is_done_by_who_comes(
    deployment: Deployment, admin: AcsClient
) -> None:
    """Both hs-acs are killed; the wish waits, and the first that comes back carries it out, once."""
    await tenants_in(deployment, admin, "east", "w1")
    (tenant,) = [t async for t in admin.tenants() if t.name == "w1"]
    await deployment.acs.kill()
    await deployment.second.kill()
    desk = await RequestDesk.open(deployment.nodes["east"].dsn)
    try:
        args = {"tenant_id": tenant.id, "to": "west"}
        wish = await desk.submit(
            "", None, "tenant_move", args, actor="console:ops", what=f"tenant:{tenant.id}"
        )
        assert (await desk.get(wish)).state == "queued"
        await deployment.second.start()
        found = [request async for request in desk.follow(wish)][-1]
        assert (found.state, found.attempts, found.error) == ("done", 1, None)
    finally:
        await desk.close()
        await deployment.acs.start()
    assert (await places(admin))["w1"] == "west"


async def test_a_request_goes_to_whom_it_is_for(deployment: Deployment) -> None:
    desk = await RequestDesk.open(deployment.nodes["east"].dsn)
    try:
        for cluster, kind, args in (
            ("east", "rebalance_propose", {}),
            ("", "netmap_rebuild", {"scope": "cluster"}),
        ):
            with pytest.raises(BadRequest, match="is not for"):
                await desk.submit(cluster, TenantId(1), kind, args, actor="t", what="x")
    finally:
        await desk.close()


async def test_what_was_changed_meanwhile_is_not_overwritten(
    deployment: Deployment, admin: AcsClient
) -> None:
    """Every kind of hs-acs that carries what its asker saw: a mismatch writes nothing, what fits is done."""
    await tenants_in(deployment, admin, "east", "c1")
    (tenant,) = [t async for t in admin.tenants() if t.name == "c1"]
    of_tenant = {"tenant_id": tenant.id}
    more = of_tenant | {"max_devices": 9, "until": time.time() + 600}
    # kind, arguments, what is stored, what was seen instead
    cases: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
        ("quota_override", more, {"max_devices": tenant.max_devices}, {"max_devices": 4}),
        ("tenant_move", of_tenant | {"to": "west"}, {"cluster": "east"}, {"cluster": "north"}),
        ("cluster_drain", {"cluster": "west"}, {"state": "active"}, {"state": "drained"}),
        ("cluster_undrain", {"cluster": "west"}, {"state": "drained"}, {"state": "active"}),
    ]
    carried = {kind for kind in ACS_KINDS if "seen" in ACS_KINDS[kind].__struct_fields__}
    assert {case[0] for case in cases} == carried
    desk = await RequestDesk.open(deployment.nodes["east"].dsn)

    async def ask(kind: str, args: dict[str, Any]) -> OperatorRequest:
        wish = await desk.submit("", None, kind, args, actor="console:ops", what="x")
        return [request async for request in desk.follow(wish)][-1]

    try:
        for kind, args, stored, seen in cases:
            if kind == "cluster_undrain":
                await eventually(lambda: _is_drained(admin, "west"), "west is empty")
            failed = await ask(kind, args | {"seen": seen})
            assert failed.result == {"conflict": {n: [was, stored[n]] for n, was in seen.items()}}, kind
            done = await ask(kind, args | {"seen": stored})
            assert (done.state, done.error) == ("done", None), kind
    finally:
        await desk.close()
    assert (await places(admin))["c1"] == "east"


async def _is_drained(admin: AcsClient, name: str) -> bool:
    return (await admin.cluster(name)).state == "drained"


async def tenants_in(deployment: Deployment, admin: AcsClient, cluster: str, *names: str) -> None:
    """Only these, there, and free to move."""
    for name in ("east", "west"):
        await admin.cluster_verb(name, "admit")
    async for tenant in admin.tenants():
        if not tenant.home:
            await admin.delete_tenant(tenant.id)
    for name in names:
        await admin.place(TenantAsked(name=name, cluster=cluster))
    await run_sql(deployment.nodes["east"].dsn, "UPDATE tenants SET pinned = NULL")


async def places(admin: AcsClient) -> dict[str, str]:
    return {tenant.name: tenant.cluster async for tenant in admin.tenants() if not tenant.home}


async def audit(deployment: Deployment, action: str) -> list[Any]:
    return await run_sql(
        deployment.nodes["east"].dsn, f"SELECT actor, object FROM audit_log WHERE action = '{action}'"
    )


def point_at(base: ListScreen[Any], name: str) -> None:
    base.table.move_to(next(key for key, row in base.rows.items() if base.name_of(row) == name))


async def confirmed(pilot: Pilot[Any], app: ConsoleApp, action: str, *keys: str) -> None:
    """An action, and its dialog answered by keys."""
    base = app.base
    assert base is not None
    await base.action_command(action)
    await until(pilot, lambda: "Cancel" in text(app), f"the dialog of {action}")
    await pilot.press(*keys)
    await until(pilot, lambda: app.screen is base, "the list")


async def test_a_pinned_tenant_and_a_step_left_out_stay(deployment: Deployment, admin: AcsClient) -> None:
    """The planner leaves who is pinned, with the reason; a step is left out and taken in again."""
    await tenants_in(deployment, admin, "east", *(f"k{number}" for number in range(8)))
    async with running(PgStore(deployment.nodes["east"].dsn), "tenants", size=(160, 40)) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        point_at(base, "k0")
        await confirmed(pilot, app, "tenant.pin", "y")
        await until(pilot, lambda: "pin k0: done" in toasts(app), "the pin")
        plan = await admin.propose_rebalance(RebalanceAsked())
        await pilot.press("8")
        await until(pilot, lambda: app.base is not None and app.base.NAME == "rebalance")
        plans = await shown(app, pilot)
        await until(pilot, lambda: str(plan.id) in plans.rows, "its row")
        assert any("pinned to east, so staying there: k0" in n for n in plans.rows[str(plan.id)].notes)
        point_at(plans, f"plan {plan.id}")
        await pilot.press("enter")
        await until(pilot, lambda: app.base is not None and app.base.NAME == "moves")
        moves = await shown(app, pilot)
        await until(pilot, lambda: len(moves.rows) == plan.steps > 1, "the steps")
        assert "k0" not in {row.tenant for row in moves.rows.values()}
        first = next(row.tenant for row in moves.rows.values())
        for state in ("skipped", "waiting", "skipped"):
            point_at(moves, first)
            await confirmed(pilot, app, "plan.step", "y")
            await until(
                pilot,
                lambda state=state: state in {r.state for r in moves.rows.values() if r.tenant == first},
                state,
            )
        # A warning wants a reason besides the number, at a shell before anything is sent.
        wish = {"plan": plan.id, "verb": "approve", "version": 1}
        with pytest.raises(BadRequest, match=f"plan {plan.id} has .* warning.*--reason of 8 characters"):
            await asked_for(app.store, "plan.approve", wish, scope=None, tenant=None)
        await moves.action_command("plan.approve")
        await until(pilot, lambda: "Reason" in text(app), "the dialog")
        await pilot.press(*str(plan.id), "enter")
        assert app.screen is not moves
        await pilot.press(*"as agreed", "enter")
        await until(pilot, lambda: {r.plan_state for r in moves.rows.values()} == {"done"}, "the end")
        assert (await places(admin))[first] == "east"
    rows = await run_sql(
        deployment.nodes["east"].dsn,
        "SELECT after->'args'->>'reason' FROM audit_log WHERE action = 'request_rebalance_verb'"
        " ORDER BY id DESC LIMIT 1",
    )
    assert [row[0] for row in rows] == ["as agreed"]
