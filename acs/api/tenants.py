"""Operations on tenants and plans."""

from __future__ import annotations

import re
from typing import Any

from acs.api.operation import ADMIN, MAY, READ_ONLY, TENANT_ADMIN, Call, Operation, Reply, cursor_id
from acs.api.tokens import moment
from app.api.records import (
    PLAN_NAME,
    Explanation,
    Page,
    Placed,
    PlanAsked,
    PlanRecord,
    TenantAsked,
    TenantChange,
    TenantRecord,
    TenantsAsked,
)
from app.db.tenants import Tenants
from app.errors import BadRequest, Conflict
from app.model import Plan, TenantFacts
from app.placement import RESERVE, Wish


def shown(tenant: TenantFacts) -> TenantRecord:
    created_at = moment(tenant.created_at)
    assert created_at is not None
    return TenantRecord(
        id=tenant.id,
        name=tenant.name,
        cluster=tenant.cluster_id,
        dns_label=tenant.dns_label,
        status=tenant.status,
        home=tenant.is_home,
        plan=tenant.plan,
        region=tenant.region,
        labels=dict(tenant.labels),
        dedicated=tenant.dedicated,
        pinned=tenant.pinned,
        max_devices=tenant.max_devices,
        max_users=tenant.max_users,
        max_keys=tenant.max_keys,
        max_routes=tenant.max_routes,
        max_requests=tenant.max_requests,
        devices=tenant.devices,
        users=tenant.users,
        keys=tenant.keys,
        routes=tenant.routes,
        version=tenant.version,
        created_at=created_at,
        deleted_at=moment(tenant.deleted_at),
    )


def wish_of(asked: TenantAsked) -> Wish:
    return Wish(asked.region, asked.labels, asked.cluster, asked.dedicated, RESERVE)


def operations(store: Tenants) -> list[Operation[Any]]:
    """What the API offers about tenants."""

    async def create(call: Call) -> Reply:
        asked: TenantAsked = call.body
        tenant, placement = await store.place_tenant(
            asked.name, wish_of(asked), plan=asked.plan, actor=call.caller.actor
        )
        placed = Placed(
            tenant=shown(tenant),
            created=placement is not None,
            explanation=[] if placement is None else placement.explanation,
        )
        return Reply(placed, status=201 if placed.created else 200, version=tenant.version)

    async def explain(call: Call) -> Reply:
        placement = await store.explain(wish_of(call.body))
        return Reply(Explanation(cluster=placement.chosen, explanation=placement.explanation))

    async def tenants(call: Call) -> Reply:
        query: TenantsAsked = call.query
        if query.name is not None:
            return Reply(Page[TenantRecord](items=[shown(await store.tenant_named(query.name))]))
        found = await store.list_tenants(
            cursor_id(query.cursor), query.limit, cluster_id=query.cluster, with_deleted=query.deleted
        )
        following = str(found[-1].id) if len(found) == query.limit else None
        return Reply(Page[TenantRecord](items=[shown(tenant) for tenant in found], next=following))

    async def one(call: Call) -> Reply:
        tenant = await store.tenant(call.tenant())
        return Reply(shown(tenant), version=tenant.version)

    async def change(call: Call) -> Reply:
        asked: TenantChange = call.body
        tenant = await store.update_tenant(
            call.tenant(),
            actor=call.caller.actor,
            version=call.if_match,
            **asked.model_dump(exclude_unset=True),
        )
        return Reply(shown(tenant), version=tenant.version)

    def into(status: str, action: str, *, only_from: tuple[str, ...]) -> Any:
        async def run(call: Call) -> Reply:
            tenant = await store.tenant(call.tenant())
            if tenant.status not in (*only_from, status):
                raise Conflict(f"tenant {tenant.name!r} is {tenant.status}", code="tenant_status")
            tenant = await store.update_tenant(
                tenant.id, actor=call.caller.actor, action=action, status=status, version=call.if_match
            )
            return Reply(shown(tenant), version=tenant.version)

        return run

    at, may, tags = "/v1/tenants", MAY[ADMIN], ("tenants",)
    one_at = f"{at}/{{tenant}}"
    return [
        Operation(
            *("POST", at, "Place a tenant, or find it where it is.", may, create, Placed),
            body=TenantAsked,
            status=201,
            or_status=200,
            tags=tags,
        ),
        Operation(
            *("POST", "/v1/placement/explain", "Where a tenant would go now.", MAY[READ_ONLY], explain),
            Explanation,
            body=TenantAsked,
            tags=tags,
        ),
        Operation(
            *("GET", at, "Tenants.", MAY[READ_ONLY], tenants, Page[TenantRecord]),
            query=TenantsAsked,
            tags=tags,
        ),
        Operation(
            *("GET", one_at, "A tenant.", MAY[READ_ONLY] | MAY[TENANT_ADMIN], one, TenantRecord),
            versioned=True,
            tags=tags,
        ),
        Operation(
            *("PATCH", one_at, "Change a tenant.", may, change, TenantRecord),
            body=TenantChange,
            versioned=True,
            tags=tags,
        ),
        Operation(
            *("POST", f"{one_at}/suspend", "Let nobody in any more.", may),
            into("suspended", "tenant_suspend", only_from=("active",)),
            TenantRecord,
            tags=tags,
        ),
        Operation(
            *("POST", f"{one_at}/resume", "Let devices in again.", may),
            into("active", "tenant_resume", only_from=("suspended",)),
            TenantRecord,
            tags=tags,
        ),
        Operation(
            *("DELETE", one_at, "Delete a tenant; it can be restored for a while.", may),
            into("deleted", "tenant_delete", only_from=("active", "suspended")),
            TenantRecord,
            versioned=True,
            tags=tags,
        ),
        Operation(
            *("POST", f"{one_at}/restore", "Undo a deletion.", may),
            into("active", "tenant_restore", only_from=("deleted",)),
            TenantRecord,
            tags=tags,
        ),
    ]


def plan_operations(store: Tenants) -> list[Operation[Any]]:
    """What the API offers about plans."""

    async def put(call: Call) -> Reply:
        asked: PlanAsked = call.body
        name = call.path["plan"]
        if not re.fullmatch(PLAN_NAME, name, re.ASCII) or name.endswith("\n"):
            raise BadRequest("a plan's name is of a-z, 0-9, - and _", code="bad_plan_name")
        plan = Plan(name, **asked.model_dump(), version=0)
        stored = await store.put_plan(plan, actor=call.caller.actor)
        return Reply(PlanRecord.model_validate(stored), version=stored.version)

    async def plans(call: Call) -> Reply:
        found = [PlanRecord.model_validate(plan) for plan in await store.list_plans()]
        return Reply(Page[PlanRecord](items=found))

    tags = ("plans",)
    return [
        Operation("GET", "/v1/plans", "All plans.", MAY[READ_ONLY], plans, Page[PlanRecord], tags=tags),
        Operation(
            *("PUT", "/v1/plans/{plan}", "Make or change a plan, and the limits of its tenants."),
            *(MAY[ADMIN], put, PlanRecord),
            body=PlanAsked,
            tags=tags,
        ),
    ]
