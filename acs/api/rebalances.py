"""Operations that move tenants: one at once, or many by a plan."""

from __future__ import annotations

from typing import Any

from acs.api.operation import ADMIN, MAY, READ_ONLY, Call, Operation, Reply, cursor_id
from acs.api.tokens import moment
from acs.rebalancing import Rebalancing
from app import planner
from app.api.records import (
    DryRun,
    MoveAsked,
    Page,
    PageAsked,
    RebalanceAsked,
    RebalanceRecord,
    StepRecord,
)
from app.errors import BadRequest
from app.model import Rebalance, TenantId

VERBS = {
    "approve": "Carry a plan out.",
    "pause": "Hold a plan up after the wave under way.",
    "resume": "Go on with a plan that was held up.",
    "stop": "End a plan where it is.",
    "rollback": "Undo what a plan has done, last first.",
}


def shown(plan: Rebalance) -> RebalanceRecord:
    created_at = moment(plan.created_at)
    assert created_at is not None
    return RebalanceRecord(
        id=plan.id,
        purpose=plan.purpose,
        cluster=plan.subject,
        state=plan.state,
        why=plan.why,
        dry_run=DryRun.model_validate(dict(plan.dry_run)),
        error=plan.error,
        created_by=plan.created_by,
        created_at=created_at,
        approved_by=plan.approved_by,
        ended_at=moment(plan.ended_at),
        version=plan.version,
        steps=plan.steps,
        devices=plan.devices,
        done=plan.done,
        failed=plan.failed,
    )


def operations(rebalancing: Rebalancing) -> list[Operation[Any]]:
    """What the API offers about moving tenants."""
    store = rebalancing.store

    async def move(call: Call) -> Reply:
        asked: MoveAsked = call.body
        tenant_id = (
            TenantId(int(asked.tenant))
            if asked.tenant.isascii() and asked.tenant.isdigit() and len(asked.tenant) < 19
            else (await store.tenant_named(asked.tenant)).id
        )
        plan = await rebalancing.move(tenant_id, asked.to, why=asked.why, actor=call.caller.actor)
        return Reply(shown(plan), status=201, version=plan.version)

    async def propose(call: Call) -> Reply:
        asked: RebalanceAsked = call.body
        if (asked.cluster is None) != (asked.purpose == planner.REBALANCE):
            raise BadRequest("a drain or an evacuation names its cluster, a rebalance none", code="bad_plan")
        actor = call.caller.actor
        plan = await rebalancing.propose(asked.purpose, asked.cluster or "", why=asked.why, actor=actor)
        if asked.approve:
            plan = await rebalancing.verb(plan.id, "approve", actor=actor)
        return Reply(shown(plan), status=201, version=plan.version)

    async def plans(call: Call) -> Reply:
        query: PageAsked = call.query
        found = await store.list_rebalances(cursor_id(query.cursor), query.limit)
        following = str(found[-1].id) if len(found) == query.limit else None
        return Reply(Page[RebalanceRecord](items=[shown(plan) for plan in found], next=following))

    async def one(call: Call) -> Reply:
        plan = await store.rebalance(call.id("plan"))
        return Reply(shown(plan), version=plan.version)

    async def steps(call: Call) -> Reply:
        plan = await store.rebalance(call.id("plan"))
        found = await store.rebalance_steps(plan.id)
        return Reply(Page[StepRecord](items=[StepRecord.model_validate(step) for step in found]))

    def verb(name: str) -> Any:
        async def run(call: Call) -> Reply:
            plan = await rebalancing.verb(
                call.id("plan"), name, actor=call.caller.actor, version=call.if_match
            )
            return Reply(shown(plan), version=plan.version)

        return run

    at, may, look, tags = "/v1/rebalances", MAY[ADMIN], MAY[READ_ONLY], ("rebalances",)
    one_at = f"{at}/{{plan}}"
    return [
        Operation(
            *("POST", "/v1/moves", "Move one tenant, at once.", may, move, RebalanceRecord),
            body=MoveAsked,
            status=201,
            tags=tags,
        ),
        Operation(
            *("POST", at, "Propose who moves where; nobody does yet.", may, propose, RebalanceRecord),
            body=RebalanceAsked,
            status=201,
            tags=tags,
        ),
        Operation(
            *("GET", at, "Plans, the newest first.", look, plans, Page[RebalanceRecord]),
            query=PageAsked,
            tags=tags,
        ),
        Operation("GET", one_at, "A plan.", look, one, RebalanceRecord, versioned=True, tags=tags),
        Operation(
            *("GET", f"{one_at}/steps", "The tenants of a plan.", look, steps, Page[StepRecord]), tags=tags
        ),
        *(
            Operation(
                *("POST", f"{one_at}/{name}", text, may, verb(name), RebalanceRecord),
                versioned=True,
                tags=tags,
            )
            for name, text in VERBS.items()
        ),
    ]
