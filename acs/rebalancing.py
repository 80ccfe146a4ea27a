"""Use case: tenants move. Plans are proposed, approved, carried out in waves, verified, undone.

Any hs-acs may carry a plan on; rows are locked, and what was moved is known by where it is. The leading one
does it by the clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from app import log, planner
from app.db.admission import Admission
from app.db.base import check_seen
from app.errors import Conflict, HsError, Refused, Unavailable
from app.model import Rebalance, RebalanceStep, TenantId
from app.planner import MovePlan, Step
from app.settings_model import RebalanceSettings
from app.settings_values import hours_of

_log = log.get("rebalancing")

#: Plans made without being asked, as the audit log names their author.
AUTOMATIC = "automatic"
DAY_S = 86400.0
#: One run of the job that carries plans on; the next one goes on.
RUN_S = 1.5
#: Reasons that a sentence holds; the plan has all.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Rebalancing:
    """Deciding is `app.planner`, doing is `app.db.rebalances`; here is who decides when."""

    store: Admission
    settings: RebalanceSettings
    #: Epoch seconds.
    clock: Callable[[], float]

    # -- proposing ------------------------------------------------------------------------------

    async def plan(self, purpose: str, subject: str) -> MovePlan:
        """What would be done now. Raises NotFound for a cluster nobody has."""
        if subject:
            await self.store.cluster_load(subject)
        clusters, seats = await self.store.cluster_loads(), await self.store.seats()
        if purpose == planner.REBALANCE:
            return planner.rebalance(clusters, seats, band=self.settings.band)
        return planner.drain(subject, clusters, seats, purpose)

    async def propose(self, purpose: str, subject: str, *, why: str, actor: str) -> Rebalance:
        """A stored plan that waits for approval. Raises NotFound, Refused when nothing is to be done."""
        plan = await self.plan(purpose, subject)
        if not plan.steps:
            notes = "; ".join(plan.notes) or "every cluster is within its share"
            raise Refused(f"nobody would move: {notes}", code="nothing_to_do", notes=list(plan.notes))
        return await self._store(plan, subject, why, actor)

    async def move(
        self,
        tenant_id: TenantId,
        target: str,
        *,
        why: str,
        actor: str,
        seen: Mapping[str, Any] | None = None,
    ) -> Rebalance:
        """One tenant, at once: a plan of one step. Raises NotFound, Conflict, Refused, Unavailable."""
        tenant = await self.store.tenant(tenant_id)
        await self.store.cluster_load(target)
        clusters, seats = await self.store.cluster_loads(), await self.store.seats()
        plan = planner.move(tenant.id, target, clusters, seats)
        # A step moves its tenant from where the plan found it, or not at all.
        source = plan.steps[0].source if plan.steps else tenant.cluster_id
        check_seen(f"tenant {tenant.name!r}", seen, {"cluster": source, "max_devices": tenant.max_devices})
        if not plan.steps:
            raise Refused(plan.notes[0], code="cannot_move")
        stored = await self._store(plan, "", why, actor)
        await self.store.rebalance_verb(stored.id, "approve", actor=actor)
        await self.advance(stored.id)
        done = await self.store.rebalance(stored.id)
        if done.error is not None:
            await self.store.rebalance_verb(stored.id, "stop", actor=actor)
            raise Refused(done.error, code="cannot_move")
        return done

    async def _store(self, plan: MovePlan, subject: str, why: str, actor: str) -> Rebalance:
        plan_id = await self.store.create_rebalance(plan, subject=subject, why=why, actor=actor)
        return await self.store.rebalance(plan_id)

    # -- carrying out ---------------------------------------------------------------------------

    async def verb(self, plan_id: int, verb: str, *, actor: str, version: int | None = None) -> Rebalance:
        """approve, pause, resume, stop, rollback. Raises NotFound, Conflict.

        A plan is approved as long as each of its steps is possible in the picture of now.
        """
        before = await self.store.rebalance(plan_id)
        if (verb, before.state) == ("approve", "proposed") and version in (None, before.version):
            await self._still_holds(before)
        await self.store.rebalance_verb(plan_id, verb, actor=actor, version=version)
        if verb == "rollback" and before.purpose == planner.DRAIN:
            # Or nobody could come back to it.
            await self.store.update_cluster(before.subject, actor=actor, state="active")
        return await self.store.rebalance(plan_id)

    async def _still_holds(self, plan: Rebalance) -> None:
        """Raises Conflict when a step is not possible any more; the plan says why, as the sentence does."""
        kept = [_step(step) for step in await self.store.rebalance_steps(plan.id) if step.state == "waiting"]
        checked = await self._checked(plan, kept)
        if len(checked.steps) < len(kept):
            await self.store.note_checks(plan.id, checked, version=plan.version)
            why = "; ".join(checked.notes[:NAMED])
            raise Conflict(
                f"plan {plan.id} does not hold any more: {why}; leave these steps out or propose anew",
                code="plan_outdated",
            )

    async def _checked(self, plan: Rebalance, steps: Sequence[Step]) -> MovePlan:
        clusters, seats = await self.store.cluster_loads(), await self.store.seats()
        return planner.checked(plan.purpose, steps, clusters, seats)

    async def leave_out(self, plan_id: int, step: int, *, skip: bool, actor: str, version: int) -> Rebalance:
        """A step less, or one more, of a plan that nobody has approved yet; the rest is checked anew.

        Raises NotFound, Conflict.
        """
        steps = await self.store.rebalance_steps(plan_id)
        kept = [_step(s) for s in steps if (s.state == "waiting" if s.step != step else not skip)]
        checked = await self._checked(await self.store.rebalance(plan_id), kept)
        await self.store.skip_step(plan_id, step, checked, skip=skip, actor=actor, version=version)
        return await self.store.rebalance(plan_id)

    async def carry_on(self) -> str:
        """Waves of every plan that is due, with their pauses between them; for RUN_S at most."""
        told: dict[str, None] = {}
        end_s = time.monotonic() + RUN_S
        while due := await self.store.due_rebalances(self.settings.pause, self.settings.settle):
            for plan_id in due:
                await self.advance(plan_id)
                told[f"plan {plan_id}"] = None
            if time.monotonic() + self.settings.pause > end_s:
                break
            await asyncio.sleep(self.settings.pause)
        for cluster_id in await self.store.end_draining(actor=AUTOMATIC):
            told[f"{cluster_id} is drained"] = None
        return ", ".join(told) or "nothing is due"

    async def advance(self, plan_id: int) -> None:
        """The next wave of a plan, or its verification."""
        plan = await self.store.rebalance(plan_id)
        match plan.state:
            case "applying":
                await self._wave(plan, undo=False)
            case "rolling_back":
                await self._wave(plan, undo=True)
            case "verifying":
                await self._verify(plan)
            case _:
                pass

    async def _wave(self, plan: Rebalance, *, undo: bool) -> None:
        steps = await self.store.next_steps(plan.id, undo=undo, limit=self.settings.wave)
        if not steps:
            await self.store.pass_on(plan.id, plan.state, "rolled_back" if undo else "verifying")
            return
        served = {load.cluster_id for load in await self.store.cluster_loads() if load.is_owned}
        for step in steps:
            target = step.source if undo else step.target
            error: str | None = f"nobody serves cluster {target} now"
            if target in served:
                try:
                    error = await self.store.carry_out(plan.id, step, undo=undo, actor=plan.created_by)
                except Unavailable as failure:
                    error = failure.message
            if error is not None:
                _log.warning("plan_held_up", plan=plan.id, tenant=step.tenant_id, reason=error)
                sentence = f"tenant {step.tenant!r} to {target}: {error}"
                # Undone by halves is no state to stay in silently either.
                await self.store.pass_on(plan.id, plan.state, "failed" if undo else "paused", sentence)
                return
        _log.info("plan_wave", plan=plan.id, moved=len(steps), undo=undo)

    async def _verify(self, plan: Rebalance) -> None:
        """Whether those who were connected before are connected again."""
        await self.store.count_back(plan.id)
        steps = [step for step in await self.store.rebalance_steps(plan.id) if step.state == "done"]
        missing = sum(max(0, (s.connected_before or 0) - (s.connected_after or 0)) for s in steps)
        error = f"{missing} devices that were connected are not back" if missing else None
        await self.store.pass_on(plan.id, "verifying", "done", error)
        _log.info("plan_done", plan=plan.id, tenants=len(steps), missing=missing)

    # -- without being asked --------------------------------------------------------------------

    async def by_itself(self) -> str:
        """Proposes a rebalance when it is due, and applies it within hours and limits if that is wanted."""
        if await self.store.open_rebalances(planner.REBALANCE, ""):
            return "a plan is open"
        plan = await self.plan(planner.REBALANCE, "")
        left = self.settings.devices_per_day - await self.store.moved_within(AUTOMATIC, DAY_S)
        applies = self.settings.mode == "apply"
        if applies:
            if datetime.fromtimestamp(self.clock(), UTC).hour not in hours_of(self.settings.hours):
                return "not at this hour"
            plan = first_steps(plan, left)
        if not plan.steps:
            return "nobody would move"
        stored = await self._store(plan, "", "made by itself", AUTOMATIC)
        if applies:
            await self.store.rebalance_verb(stored.id, "approve", actor=AUTOMATIC)
        return f"plan {stored.id}: {len(plan.steps)} tenants, {plan.devices} devices"

    async def supervise(self) -> str:
        """Empties clusters whose owner has been lost for too long."""
        told = []
        for cluster_id in await self.store.lost_clusters(self.settings.evacuate_after):
            if await self.store.open_rebalances(planner.EVACUATE, cluster_id):
                continue
            try:
                why = f"no owner and no standby for {self.settings.evacuate_after:g} s"
                stored = await self.propose(planner.EVACUATE, cluster_id, why=why, actor=AUTOMATIC)
            except HsError as error:
                _log.error("cluster_not_evacuated", cluster=cluster_id, reason=error.message)
                told.append(f"{cluster_id}: {error.message}")
                continue
            await self.store.rebalance_verb(stored.id, "approve", actor=AUTOMATIC)
            _log.warning("cluster_evacuated", cluster=cluster_id, plan=stored.id, tenants=stored.steps)
            told.append(f"{cluster_id}: plan {stored.id}")
        return "; ".join(told) or "nobody is lost"


def _step(stored: RebalanceStep) -> Step:
    return Step(stored.tenant_id, stored.tenant, stored.source, stored.target, stored.devices)


def first_steps(plan: MovePlan, devices: int) -> MovePlan:
    """As many steps of a plan as do not move more devices."""
    sums = accumulate(step.devices for step in plan.steps)
    steps = tuple(step for step, moved in zip(plan.steps, sums, strict=True) if moved <= devices)
    after = dict(plan.before)
    for step in steps:
        after[step.source] -= step.devices
        after[step.target] += step.devices
    return replace(plan, steps=steps, after=after)
