"""Operator requests: asked by who may only look, carried out by the cluster's owner.

RequestDesk is for askers (role hs_console, any cluster), Requests is the owner's part of Scoped,
AcsRequests that of the leading hs-acs: requests to the deployment as a whole carry no cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import orjson

from app.db import rows
from app.db.access import NO_CLUSTER
from app.db.base import ACQUIRE_TIMEOUT_S, PoolBase, ScopedBase, write_audit
from app.db.connect import create_pool, server_settings
from app.db.errors import translated
from app.errors import BadRequest, NotFound, Refused, Unavailable
from app.model import OperatorRequest, RequestId, TenantId
from app.policy.hujson import MAX_POLICY_CHARS
from app.request_kinds import is_for_acs, parse_request
from app.sql import QUERIES

#: Requests of one cluster that wait for its owner; further ones are refused.
MAX_OPEN = 1000
MAX_ARGS_BYTES = 64 * 1024
#: The same where a whole policy is among them: JSON takes up to six bytes for a character.
MAX_ARGS_OF_KIND = {"policy_set": 6 * MAX_POLICY_CHARS + MAX_ARGS_BYTES}
#: Longer texts are in the audit log by their length only.
MAX_AUDITED_TEXT = 4_000
MAX_DEDUP = 255
#: A request may be claimed between two looks at it; then an equal wish is queued anew.
DEDUP_ATTEMPTS = 5
DESK_POOL = 2
FOLLOW_POLL_S = 0.1
FOLLOW_DEADLINE_S = 30.0
#: A process that was not heard of for so long stands by no more.
SILENT_STANDBY_S = 30.0
REQUESTS_KEPT_S = 30 * 86400.0


class RequestDesk(PoolBase):
    """Where operators' tools ask: a request, its audit row and the owner's wake-up in one transaction.

    On a pool in the role hs_console.
    """

    @classmethod
    async def open(cls, dsn: str, *, pool_size: int = DESK_POOL) -> Self:
        """A desk with a pool of its own. Raises ConfigError, Unavailable."""
        return cls(await create_pool(dsn, pool_size, server_settings("hs_console")))

    async def submit(
        self,
        cluster_id: str,
        tenant_id: TenantId | None,
        kind: str,
        args: dict[str, Any],
        *,
        actor: str,
        what: str,
        dedup: str | None = None,
    ) -> RequestId:
        """Asks the owner of a cluster, or without one hs-acs.

        `what` names the object for the audit log (`device:17`).

        With `dedup` an equal wish that is still queued is answered instead of asking twice. Raises
        BadRequest for kind or arguments, NotFound for cluster or tenant, Refused, Unavailable.
        """
        parse_request(kind, args)
        if is_for_acs(kind) != (cluster_id == NO_CLUSTER):
            raise BadRequest(f"a {kind} request is not for {cluster_id or 'hs-acs'}", code="bad_request_kind")
        try:
            encoded = orjson.dumps(args)
        except orjson.JSONEncodeError as error:
            raise BadRequest(f"these arguments cannot be stored: {error}", code="bad_args") from error
        text = encoded.decode()
        if len(encoded) > MAX_ARGS_OF_KIND.get(kind, MAX_ARGS_BYTES) or len(dedup or "") > MAX_DEDUP:
            raise BadRequest("the arguments of this request are too long", code="bad_args")
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as conn, conn.transaction():
                place = await conn.fetchrow(QUERIES["request_place"], cluster_id, tenant_id)
                assert place is not None
                is_there, waiting = place
                if not is_there:
                    raise NotFound(f"tenant {tenant_id} does not live in cluster {cluster_id}")
                if waiting >= MAX_OPEN:
                    raise Refused(
                        f"{waiting} requests wait for {_whom(cluster_id)} already",
                        code="too_many_requests",
                    )
                for _ in range(DEDUP_ATTEMPTS):
                    new: int | None = await conn.fetchval(
                        QUERIES["submit_request"], cluster_id, tenant_id, kind, text, dedup, actor
                    )
                    if new is not None:
                        after = {"request": new, "args": _audited(args)}
                        await write_audit(
                            conn, cluster_id, tenant_id, actor, f"request_{kind}", what, None, after
                        )
                        return RequestId(new)
                    old: int | None = await conn.fetchval(QUERIES["queued_request"], cluster_id, kind, dedup)
                    if old is not None:
                        return RequestId(old)
        raise Unavailable("the database is busy with equal requests", code="busy")

    async def get(self, request_id: RequestId) -> OperatorRequest:
        """A request as it stands. Raises NotFound, Unavailable."""
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as conn:
                row = await conn.fetchrow(QUERIES["get_request"], request_id)
        if row is None:
            raise NotFound(f"there is no request {request_id}")
        return rows.request(row)

    async def follow(
        self, request_id: RequestId, *, deadline_s: float = FOLLOW_DEADLINE_S
    ) -> AsyncIterator[OperatorRequest]:
        """A request now and whenever it has changed, until it is done or failed.

        Raises NotFound, and Unavailable when it has not ended after `deadline_s`: it stays in line.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        last: OperatorRequest | None = None
        while True:
            request = await self.get(request_id)
            if request != last:
                yield request
                last = request
            if request.is_finished:
                return
            if loop.time() >= end:
                raise Unavailable(
                    f"request {request_id} is {request.state} still after {deadline_s:g} s:"
                    + (
                        f" is cluster {request.cluster_id} served?"
                        if request.cluster_id
                        else " does a hs-acs lead?"
                    ),
                    code="request_waits",
                )
            await asyncio.sleep(FOLLOW_POLL_S)


class Requests(ScopedBase):
    """The carrying-out part of Scoped."""

    async def claim_request(self, *, resume: bool = False) -> OperatorRequest | None:
        """The next request to carry out, None when there is none.

        One that an owner of a lower epoch left unfinished counts as well. `resume`: also one of this
        very epoch, for a caller that knows it carries out none. Raises LeaseLost, Unavailable.
        """
        row = await self._fetchrow(QUERIES["claim_request"], self.cluster_id, resume)
        return None if row is None else rows.request(row)

    async def finish_request(
        self, request_id: RequestId, *, result: dict[str, Any] | None = None, error: str | None = None
    ) -> bool:
        """Writes the outcome; False when the request is not held by this owner. Raises LeaseLost."""
        text = None if result is None else orjson.dumps(result).decode()
        return await self._execute(QUERIES["finish_request"], self.cluster_id, request_id, text, error) > 0

    async def report_progress(self, request_id: RequestId, progress: dict[str, Any]) -> None:
        """Writes how far a request is that this owner holds. Raises LeaseLost, Unavailable."""
        text = orjson.dumps(progress).decode()
        await self._execute(QUERIES["progress_request"], self.cluster_id, request_id, text)

    async def count_standbys(self) -> int:
        """Other processes of this cluster that were heard of lately."""
        found: int = await self._fetchval(QUERIES["count_standbys"], self.cluster_id, SILENT_STANDBY_S)
        return found

    async def trim_requests(self, max_age_s: float = REQUESTS_KEPT_S) -> int:
        """Forgets requests that ended longer ago than this."""
        gone: int = await self._fetchval(QUERIES["trim_requests"], self.cluster_id, max_age_s)
        return gone


class AcsRequests(PoolBase):
    """The part of Admission about requests to the deployment; only the leading hs-acs claims them."""

    async def claim_acs_request(self, instance: str, epoch: int) -> OperatorRequest | None:
        """The next one to carry out, also one that a leader left, None when there is none."""
        row = await self._fetchrow(QUERIES["claim_acs_request"], instance, epoch)
        return None if row is None else rows.request(row)

    async def finish_acs_request(
        self,
        request_id: RequestId,
        epoch: int,
        *,
        result: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """Writes the outcome, unless a later leader has taken it up."""
        text = None if result is None else orjson.dumps(result).decode()
        await self._execute(QUERIES["finish_acs_request"], request_id, epoch, text, error)

    async def trim_acs_requests(self, max_age_s: float = REQUESTS_KEPT_S) -> int:
        """Forgets those that ended longer ago than this."""
        gone: int = await self._fetchval(QUERIES["trim_acs_requests"], max_age_s)
        return gone


def _audited(args: dict[str, Any]) -> dict[str, Any]:
    return {
        name: f"({len(value):,} characters)"
        if isinstance(value, str) and len(value) > MAX_AUDITED_TEXT
        else value
        for name, value in args.items()
    }


def _whom(cluster_id: str) -> str:
    return f"the owner of cluster {cluster_id}" if cluster_id else "the leading hs-acs"
