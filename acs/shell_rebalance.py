"""What `hs-acs move` and the commands of `hs-acs rebalance` do."""

from __future__ import annotations

import asyncio

from acs.shell import api, row
from app.api.client import AcsClient
from app.api.records import MoveAsked, RebalanceAsked, RebalanceRecord
from app.errors import Refused, Unavailable
from app.output import show
from app.settings import Settings

#: Between two looks at a plan under way.
LOOK_S = 0.25
#: States in which a plan waits for somebody.
AT_REST = frozenset({"proposed", "paused", "done", "stopped", "failed", "rolled_back"})


async def move(settings: Settings, tenant: str, target: str, why: str, output: str) -> None:
    async with api(settings) as client:
        plan = await client.move(MoveAsked(tenant=tenant, to=target, why=why))
    show(_short(plan), output, upright=True)


async def propose(settings: Settings, drained: str | None, why: str, approve: bool, output: str) -> None:
    asked = RebalanceAsked(
        purpose="rebalance" if drained is None else "drain", cluster=drained, why=why, approve=approve
    )
    async with api(settings) as client:
        plan = await client.propose_rebalance(asked)
        await _show(client, plan, output)


async def list_all(settings: Settings, output: str) -> None:
    async with api(settings) as client:
        found = [_short(plan) async for plan in client.rebalances()]
    show(found, output)


async def show_one(settings: Settings, plan_id: int, output: str) -> None:
    async with api(settings) as client:
        await _show(client, await client.rebalance(plan_id), output)


async def do(settings: Settings, plan_id: int, verb: str, wait_s: float, output: str) -> None:
    """Raises Refused when it has come to rest with an error, Unavailable when it has not in time."""
    async with api(settings) as client:
        plan = await client.rebalance_verb(plan_id, verb)
        if wait_s:
            plan = await _rest(client, plan, wait_s)
        show(_short(plan), output, upright=True)
    if wait_s and plan.error is not None:
        raise Refused(f"plan {plan.id} is {plan.state}: {plan.error}", code="plan_error")


async def _rest(client: AcsClient, plan: RebalanceRecord, wait_s: float) -> RebalanceRecord:
    try:
        async with asyncio.timeout(wait_s):
            while plan.state not in AT_REST:
                await asyncio.sleep(LOOK_S)
                plan = await client.rebalance(plan.id)
    except TimeoutError as error:
        raise Unavailable(
            f"plan {plan.id} is still {plan.state} after {wait_s:g} s", code="plan_slow"
        ) from error
    return plan


async def _show(client: AcsClient, plan: RebalanceRecord, output: str) -> None:
    steps = [row(step) for step in await client.rebalance_steps(plan.id)]
    if output != "table":
        show(row(plan) | {"moves": steps}, output, upright=True)
        return
    show(_short(plan), output, upright=True)
    before, after = plan.dry_run.before, plan.dry_run.after
    show([{"cluster": name, "before": before[name], "after": after.get(name, 0)} for name in before], output)
    show(steps, output)
    for note in plan.dry_run.notes:
        show({"note": note}, output, upright=True)


def _short(plan: RebalanceRecord) -> dict[str, object]:
    return {name: value for name, value in row(plan).items() if name != "dry_run"}
