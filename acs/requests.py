"""Operators' requests to the deployment, carried out by the leading hs-acs, one at a time.

A request may be carried out again when its first leader died before it wrote the outcome: every handler leads
to the same end then. A refusal is an outcome, its sentence is what the operator sees.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from acs.rebalancing import Rebalancing
from app import log, planner
from app.db.admission import Admission
from app.errors import BadRequest, Conflict, Refused, Unavailable
from app.jobs import Job
from app.model import OperatorRequest, Rebalance, TenantId
from app.request_kinds import (
    REASON_MIN,
    AlarmAcknowledge,
    ClusterDrain,
    ClusterUndrain,
    JobRun,
    PlanStep,
    QuotaOverride,
    RebalancePropose,
    RebalanceVerb,
    RequestArgs,
    TenantMove,
    TenantPin,
    TenantResume,
    TenantSuspend,
    TenantUnpin,
    seen_of,
)
from app.request_outcome import Result, outcome_of

_log = log.get("requests")

#: How soon a request is taken up.
LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Work:
    """One request and what is needed to carry it out."""

    rebalancing: Rebalancing
    request: OperatorRequest

    @property
    def store(self) -> Admission:
        return self.rebalancing.store

    @property
    def actor(self) -> str:
        return self.request.requested_by

    @property
    def again(self) -> bool:
        """Whether an earlier attempt may have had its effect."""
        return self.request.attempts > 1

    @property
    def why(self) -> str:
        """By this the plan of an earlier attempt is known."""
        return f"request {self.request.id}"

    async def made_before(self) -> Rebalance | None:
        """The plan of an earlier attempt."""
        if not self.again:
            return None
        found = await self.store.list_rebalances(0, 50)
        return next((plan for plan in found if plan.why == self.why), None)


def _told(plan: Rebalance) -> Result:
    return {"plan": plan.id, "state": plan.state, "tenants": plan.steps, "devices": plan.devices}


async def _move(work: Work, args: TenantMove) -> Result:
    tenant_id = TenantId(args.tenant_id)
    if work.again and (await work.store.tenant(tenant_id)).cluster_id == args.to:
        return {"tenant": args.tenant_id, "cluster": args.to}
    plan = await work.rebalancing.move(
        tenant_id, args.to, why=work.why, actor=work.actor, seen=seen_of(args.seen)
    )
    return _told(plan)


async def _status(work: Work, tenant_id: int, version: int, was: str, then: str) -> Result:
    tenant = await work.store.tenant(TenantId(tenant_id))
    if work.again and tenant.status == then:
        return {"tenant": tenant_id, "state": then}
    if tenant.status != was:
        changed = {"status": [was, tenant.status]}
        raise Conflict(f"tenant {tenant.name!r} is {tenant.status}", code="tenant_status", changed=changed)
    action = "tenant_suspend" if then == "suspended" else "tenant_resume"
    tenant = await work.store.update_tenant(
        tenant.id, actor=work.actor, action=action, status=then, version=version
    )
    return {"tenant": tenant_id, "state": tenant.status}


async def _suspend(work: Work, args: TenantSuspend) -> Result:
    return await _status(work, args.tenant_id, args.version, "active", "suspended")


async def _resume(work: Work, args: TenantResume) -> Result:
    return await _status(work, args.tenant_id, args.version, "suspended", "active")


async def _pin(work: Work, args: TenantPin) -> Result:
    return await _pinned(work, TenantId(args.tenant_id), args.cluster, args.version)


async def _unpin(work: Work, args: TenantUnpin) -> Result:
    return await _pinned(work, TenantId(args.tenant_id), "", args.version)


async def _pinned(work: Work, tenant_id: TenantId, cluster: str, version: int) -> Result:
    tenant = await work.store.tenant(tenant_id)
    if not (work.again and (tenant.pinned or "") == cluster):
        if cluster and tenant.cluster_id != cluster:
            changed = {"cluster": [cluster, tenant.cluster_id]}
            sentence = f"tenant {tenant.name!r} lives in {tenant.cluster_id} now"
            raise Conflict(sentence, code="tenant_moved", changed=changed)
        action = "tenant_pin" if cluster else "tenant_unpin"
        await work.store.update_tenant(
            tenant_id, actor=work.actor, action=action, pinned=cluster, version=version
        )
    return {"tenant": tenant_id, "pinned": cluster or None}


async def _override(work: Work, args: QuotaOverride) -> Result:
    if args.until <= work.rebalancing.clock():
        raise BadRequest("an override ends in the future", code="bad_until")
    limits, tenant_id = {"max_devices": args.max_devices}, TenantId(args.tenant_id)
    done = work.again and (await work.store.tenant(tenant_id)).max_devices == args.max_devices
    seen = {} if done else seen_of(args.seen)
    tenant = await work.store.put_override(tenant_id, limits, args.until, actor=work.actor, seen=seen)
    return {"tenant": args.tenant_id, "max_devices": tenant.max_devices}


async def _run_job(work: Work, args: JobRun) -> Result:
    job = await work.store.request_job(args.name, actor=work.actor)
    return {"job": job.name}


async def _drain(work: Work, args: ClusterDrain) -> Result:
    plan = await work.made_before()
    if plan is None:
        begun = work.again and (await work.store.cluster_load(args.cluster)).state == "draining"
        seen = {} if begun else seen_of(args.seen)
        await work.store.update_cluster(args.cluster, actor=work.actor, state="draining", seen=seen)
        try:
            plan = await work.rebalancing.propose(planner.DRAIN, args.cluster, why=work.why, actor=work.actor)
        except Refused as error:
            if error.code != "nothing_to_do" or error.facts.get("notes"):
                raise
            return {"tenants": 0, "devices": 0}
    if plan.state == "proposed":
        plan = await work.rebalancing.verb(plan.id, "approve", actor=work.actor)
    return _told(plan)


async def _undrain(work: Work, args: ClusterUndrain) -> Result:
    load = await work.store.cluster_load(args.cluster)
    if load.state != "active":
        load = await work.store.update_cluster(
            args.cluster, actor=work.actor, state="active", seen=seen_of(args.seen)
        )
    for plan_id, state in await work.store.open_rebalances(planner.DRAIN, args.cluster):
        if state in ("proposed", "applying", "paused"):
            await work.rebalancing.verb(plan_id, "stop", actor=work.actor)
    return {"cluster": load.cluster_id, "tenants": load.tenants}


async def _propose(work: Work, args: RebalancePropose) -> Result:
    plan = await work.made_before()
    if plan is None:
        plan = await work.rebalancing.propose(planner.REBALANCE, "", why=work.why, actor=work.actor)
    return _told(plan)


async def _verb(work: Work, args: RebalanceVerb) -> Result:
    if work.again and (await work.store.rebalance(args.plan)).version > args.version:
        return _told(await work.store.rebalance(args.plan))
    notes = (await work.store.rebalance(args.plan)).dry_run["notes"]
    if args.verb == "approve" and notes and len(args.reason.strip()) < REASON_MIN:
        raise Refused(
            f"plan {args.plan} has warnings: give a reason ({REASON_MIN} characters)", code="reason_wanted"
        )
    return _told(await work.rebalancing.verb(args.plan, args.verb, actor=work.actor, version=args.version))


async def _step(work: Work, args: PlanStep) -> Result:
    if work.again and (await work.store.rebalance(args.plan)).version > args.version:
        return _told(await work.store.rebalance(args.plan))
    plan = await work.rebalancing.leave_out(
        args.plan, args.step, skip=args.skip, actor=work.actor, version=args.version
    )
    return _told(plan) | {"notes": plan.dry_run["notes"]}


async def _acknowledge(work: Work, args: AlarmAcknowledge) -> Result:
    return await work.store.acknowledge_alarm(args.alarm, actor=work.actor)


#: Kind of request -> what carries it out.
HANDLERS: Mapping[str, Callable[[Work, Any], Awaitable[Result]]] = {
    "tenant_move": _move,
    "tenant_pin": _pin,
    "tenant_unpin": _unpin,
    "tenant_suspend": _suspend,
    "tenant_resume": _resume,
    "quota_override": _override,
    "job_run": _run_job,
    "cluster_drain": _drain,
    "cluster_undrain": _undrain,
    "rebalance_propose": _propose,
    "rebalance_verb": _verb,
    "plan_step": _step,
    "alarm_acknowledge": _acknowledge,
}


class RequestRunner:
    """Carries out what waits, while its instance leads."""

    def __init__(self, rebalancing: Rebalancing, instance: str, *, epoch: Callable[[], int | None]) -> None:
        """`epoch`: of the lease this instance leads by, None while it does not."""
        self._rebalancing = rebalancing
        self._store = rebalancing.store
        self._instance = instance
        self._epoch = epoch

    def by_the_clock(self) -> Job:
        return Job("carry out requests", LOOK_EVERY_S, self.run)

    async def run(self) -> None:
        """Everything that waits now."""
        try:
            while (epoch := self._epoch()) is not None:
                request = await self._store.claim_acs_request(self._instance, epoch)
                if request is None:
                    return
                result, error = await outcome_of(request, partial(self._carry_out, request))
                await self._store.finish_acs_request(request.id, epoch, result=result, error=error)
                _log.info(
                    "request_done" if error is None else "request_failed",
                    request=request.id,
                    kind=request.kind,
                    by=request.requested_by,
                    reason=error,
                )
        except Unavailable as error:
            _log.warning("requests_delayed", reason=error.message)

    async def _carry_out(self, request: OperatorRequest, args: RequestArgs) -> Result:
        return await HANDLERS[request.kind](Work(self._rebalancing, request), args)
