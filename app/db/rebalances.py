"""Stored plans for moving tenants: proposed, carried out step by step by whoever leads, undone.

A step and its record are one transaction: whoever dies in between leaves it waiting or done, and anybody goes
on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from app.db.access import NO_CLUSTER
from app.db.base import PoolBase, PoolConnection, again_when_busy, write_audit
from app.db.moves import move_with, refusal_of
from app.errors import Conflict, NotFound
from app.model import Rebalance, RebalanceStep, TenantId
from app.placement import RESERVE, Wish
from app.planner import MovePlan, Seat
from app.sql import QUERIES

#: An instance that was not heard of for so long does not count as a standby.
SILENT_INSTANCE_S = 30.0

#: What may be done to a plan in which states, and what it is then.
VERBS: Mapping[str, tuple[frozenset[str], str]] = {
    "approve": (frozenset({"proposed"}), "applying"),
    "pause": (frozenset({"applying"}), "paused"),
    "resume": (frozenset({"paused"}), "applying"),
    "stop": (frozenset({"proposed", "applying", "paused"}), "stopped"),
    "rollback": (frozenset({"paused", "stopped", "failed", "verifying", "done"}), "rolling_back"),
}
_ENDS = frozenset({"done", "stopped", "failed", "rolled_back"})


class Rebalances(PoolBase):
    """The part of Admission about plans for moving tenants."""

    async def seats(self) -> list[Seat]:
        """All tenants as the planner sees them."""
        found = await self._fetch(QUERIES["planning_seats"], RESERVE)
        return [
            Seat(row[0], row[1], row[2], Wish(row[3], orjson.loads(row[4]), row[5], row[6], row[7]), row[8])
            for row in found
        ]

    async def create_rebalance(self, plan: MovePlan, *, subject: str, why: str, actor: str) -> int:
        """The id of a plan that is proposed."""
        dry_run = {"before": dict(plan.before), "after": dict(plan.after), "notes": list(plan.notes)}
        async with self._connection() as conn, conn.transaction():
            plan_id: int = await conn.fetchval(
                QUERIES["create_rebalance"],
                *(plan.purpose, subject, why, orjson.dumps(dry_run).decode(), actor),
                [step.tenant_id for step in plan.steps],
                [step.tenant for step in plan.steps],
                [step.source for step in plan.steps],
                [step.target for step in plan.steps],
                [step.devices for step in plan.steps],
            )
            after = {"purpose": plan.purpose, "subject": subject, "steps": len(plan.steps)}
            await write_audit(
                conn, NO_CLUSTER, None, actor, "rebalance_propose", f"rebalance:{plan_id}", None, after
            )
        return plan_id

    async def rebalance(self, plan_id: int) -> Rebalance:
        """Raises NotFound."""
        found = await self._rebalances(plan_id, 0, 1)
        if not found:
            raise NotFound(f"there is no plan {plan_id}")
        return found[0]

    async def list_rebalances(self, before_id: int, limit: int) -> list[Rebalance]:
        """The newest first; 0 for all."""
        return await self._rebalances(None, before_id, limit)

    async def _rebalances(self, plan_id: int | None, before_id: int, limit: int) -> list[Rebalance]:
        found = await self._fetch(QUERIES["list_rebalances"], plan_id, before_id, limit)
        return [_rebalance(row) for row in found]

    async def rebalance_steps(self, plan_id: int) -> list[RebalanceStep]:
        return [RebalanceStep(*row) for row in await self._fetch(QUERIES["rebalance_steps"], plan_id)]

    async def rebalance_verb(
        self, plan_id: int, verb: str, *, actor: str, version: int | None = None
    ) -> None:
        """approve, pause, resume, stop or rollback. Raises NotFound, Conflict."""
        allowed, then = VERBS[verb]
        async with self._connection() as conn, conn.transaction():
            row = await _locked(conn, plan_id)
            if row is None:
                raise NotFound(f"there is no plan {plan_id}")
            if version is not None and version != row[1]:
                raise _changed_meanwhile(plan_id, version, row)
            if row[0] not in allowed:
                raise Conflict(f"plan {plan_id} is {row[0]}: it cannot {verb} now", code="plan_state")
            approved_by = actor if verb == "approve" else None
            await _set(conn, plan_id, then, approved_by=approved_by)
            await write_audit(
                conn,
                *(NO_CLUSTER, None, actor, f"rebalance_{verb}", f"rebalance:{plan_id}"),
                {"state": row[0]},
                {"state": then},
            )

    async def skip_step(
        self, plan_id: int, step: int, checked: MovePlan, *, skip: bool, actor: str, version: int
    ) -> None:
        """Leaves a step of a proposed plan out, or takes it in again. Raises NotFound, Conflict."""
        async with self._connection() as conn, conn.transaction():
            row = await _locked(conn, plan_id)
            if row is None:
                raise NotFound(f"there is no plan {plan_id}")
            if version != row[1]:
                raise _changed_meanwhile(plan_id, version, row)
            if row[0] != "proposed":
                raise Conflict(f"plan {plan_id} is {row[0]}: its steps stand", code="plan_state")
            was, then = ("waiting", "skipped") if skip else ("skipped", "waiting")
            if await conn.fetchval(QUERIES["skip_step"], plan_id, step, was, then) is None:
                raise Conflict(f"step {step} of plan {plan_id} is not {was}", code="step_state")
            await _put_checks(conn, plan_id, checked)
            await write_audit(
                conn,
                *(NO_CLUSTER, None, actor, "plan_step", f"rebalance:{plan_id}"),
                {"step": step, "state": was},
                {"step": step, "state": then},
            )

    async def note_checks(self, plan_id: int, checked: MovePlan, *, version: int) -> None:
        """What a proposed plan would come to now, with what stands in its way. Raises Conflict."""
        async with self._connection() as conn, conn.transaction():
            row = await _locked(conn, plan_id)
            if row is None or (row[0], row[1]) != ("proposed", version):
                raise _changed_meanwhile(plan_id, version, row or ("gone", 0))
            await _put_checks(conn, plan_id, checked)

    async def due_rebalances(self, pause_s: float, settle_s: float) -> list[int]:
        """Plans whose next wave, or whose verification, is due."""
        return [row[0] for row in await self._fetch(QUERIES["due_rebalances"], pause_s, settle_s)]

    async def pass_on(self, plan_id: int, was: str, then: str, error: str | None = None) -> bool:
        """The plan goes on to another state, unless somebody has changed it meanwhile."""
        async with self._connection() as conn, conn.transaction():
            row = await _locked(conn, plan_id)
            if row is None or row[0] != was:
                return False
            await _set(conn, plan_id, then, error=error)
            return True

    async def next_steps(self, plan_id: int, *, undo: bool, limit: int) -> list[RebalanceStep]:
        """The steps of the next wave, which begins now."""
        async with self._connection() as conn, conn.transaction():
            await conn.execute(QUERIES["begin_wave"], plan_id)
            found = await conn.fetch(QUERIES["next_steps"], plan_id, undo, limit)
        return [RebalanceStep(*row) for row in found]

    async def carry_out(self, plan_id: int, step: RebalanceStep, *, undo: bool, actor: str) -> str | None:
        """One step, there or back. A sentence when it could not be done."""
        return await again_when_busy(lambda: self._carry_out(plan_id, step, undo=undo, actor=actor))

    async def _carry_out(self, plan_id: int, step: RebalanceStep, *, undo: bool, actor: str) -> str | None:
        source, target = (step.target, step.source) if undo else (step.source, step.target)
        tenant_id = TenantId(step.tenant_id)
        async with self._connection() as conn, conn.transaction():
            state = await conn.fetchval(QUERIES["lock_step"], plan_id, step.step)
            if state != ("done" if undo else "waiting"):
                return None
            connected = await conn.fetchval(QUERIES["connected_devices"], source, tenant_id)
            outcome = await move_with(conn, tenant_id, source, target, actor=actor, why=f"plan {plan_id}")
            done, error = ("undone" if undo else "done"), None
            if outcome == "not_here":
                place = await conn.fetchval(QUERIES["tenant_place"], tenant_id)
                if place != target:
                    done = "undone" if undo else "skipped"
                    error = "it is no more" if place is None else f"it lives in {place} now"
            elif outcome != "moved":
                error = refusal_of(outcome, tenant_id, source, target).message
                done = state if undo else "failed"
            await conn.execute(
                QUERIES["end_step"], plan_id, step.step, done, error, None if undo else connected
            )
            return error if outcome not in ("moved", "not_here") else None

    async def count_back(self, plan_id: int) -> None:
        """Write down how many devices of the moved tenants are connected now."""
        await self._execute(QUERIES["count_back"], plan_id)

    async def moved_within(self, actor: str, within_s: float) -> int:
        """Devices that plans of one author have moved."""
        moved: int = await self._fetchval(QUERIES["moved_today"], actor, within_s)
        return moved

    async def open_rebalances(self, purpose: str, subject: str) -> list[tuple[int, str]]:
        """(id, state) of plans that are not at their end."""
        found = await self._fetch(QUERIES["open_rebalances"], purpose, subject)
        return [(row[0], row[1]) for row in found]

    async def end_draining(self, *, actor: str) -> list[str]:
        """Clusters that are drained now: being drained, and nobody left."""
        async with self._connection() as conn, conn.transaction():
            ended = sorted(row[0] for row in await conn.fetch(QUERIES["end_draining"]))
            for cluster_id in ended:
                await write_audit(
                    conn,
                    *(cluster_id, None, actor, "cluster_update", f"cluster:{cluster_id}"),
                    {"state": "draining"},
                    {"state": "drained"},
                )
        return ended

    async def lost_clusters(self, lost_s: float) -> list[str]:
        """Clusters with tenants whose owner has been lost for so long, and that have no standby."""
        found: list[Any] = await self._fetch(QUERIES["lost_clusters"], lost_s, SILENT_INSTANCE_S)
        return [row[0] for row in found]


def _rebalance(row: Any) -> Rebalance:
    values = list(row)
    values[5] = orjson.loads(values[5])
    return Rebalance(*values)


def _changed_meanwhile(plan_id: int, seen: int, now: tuple[str, int]) -> Conflict:
    changed = {"version": [seen, now[1]], "state": [None, now[0]]}
    sentence = f"plan {plan_id} has another version now: read it again"
    return Conflict(sentence, code="version", changed=changed)


async def _locked(conn: PoolConnection, plan_id: int) -> tuple[str, int] | None:
    """(state, version), which stay until the end of the transaction."""
    row = await conn.fetchrow(QUERIES["lock_rebalance"], plan_id)
    return None if row is None else (row[0], row[1])


async def _set(
    conn: PoolConnection,
    plan_id: int,
    state: str,
    *,
    error: str | None = None,
    approved_by: str | None = None,
) -> None:
    await conn.execute(QUERIES["set_rebalance"], plan_id, state, error, approved_by, state in _ENDS)


async def _put_checks(conn: PoolConnection, plan_id: int, checked: MovePlan) -> None:
    after, notes = orjson.dumps(dict(checked.after)).decode(), orjson.dumps(checked.notes).decode()
    await conn.execute(QUERIES["put_checks"], plan_id, after, notes)
