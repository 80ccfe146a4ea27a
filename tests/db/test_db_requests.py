"""Operator requests in the database: asking, claiming once, taking over, finishing, rights."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from db_helpers import Home, as_role, rows_of, take_lease

from app.db import requests
from app.db.listen import CHANNEL_PREFIX, REQUEST_PAYLOAD
from app.db.requests import MAX_ARGS_BYTES, MAX_DEDUP, MAX_OPEN, RequestDesk
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import BadRequest, LeaseLost, NotFound, Refused, Unavailable
from app.model import OperatorRequest, RequestId, TenantId
from app.policy.hujson import MAX_POLICY_CHARS

DELETE = {"device_id": 1}


@pytest.fixture
async def desk(prepared: Database) -> AsyncIterator[RequestDesk]:
    opened = await RequestDesk.open(prepared.dsn, pool_size=4)
    yield opened
    await opened.close()


async def ask(desk: RequestDesk, home: Home, args: dict[str, Any] = DELETE, **options: Any) -> RequestId:
    options = {"kind": "device_delete", "actor": "ops", "what": "device:1", **options}
    return await desk.submit("a", home.tenant.id, args=args, **options)


async def next_owner(dsn: str, name: str) -> Scoped:
    epoch = await take_lease(dsn, "a", name)
    return await Scoped.open(dsn, cluster_id="a", instance=name, epoch=epoch, pool_size=8)


async def test_from_asking_to_done(prepared: Database, desk: RequestDesk, owner: Scoped, home: Home) -> None:
    assert await owner.claim_request() is None
    request_id = await ask(desk, home)
    queued = await desk.get(request_id)
    assert (queued.cluster_id, queued.tenant_id, queued.kind) == ("a", home.tenant.id, "device_delete")
    assert (queued.args, queued.state, queued.requested_by) == (DELETE, "queued", "ops")
    assert (queued.attempts, queued.claimed_by, queued.result, queued.is_finished) == (0, None, None, False)
    claimed = await owner.claim_request()
    assert claimed is not None
    assert (claimed.id, claimed.state, claimed.attempts, claimed.claimed_by) == (
        request_id, "running", 1, "owner-a"
    )  # fmt: skip
    assert await owner.finish_request(request_id, result={"device_id": 1})
    done = await desk.get(request_id)
    assert (done.state, done.result, done.error) == ("done", {"device_id": 1}, None)
    assert done.is_finished
    assert done.finished_at is not None
    assert done.finished_at >= done.requested_at
    assert not await owner.finish_request(request_id, error="too late")
    assert await owner.claim_request(resume=True) is None
    audit = (await rows_of(prepared.dsn, "a"))["audit_log"]
    assert sum(",ops,request_device_delete,device:1," in row for row in audit) == 1


async def test_a_refusal_has_a_sentence(desk: RequestDesk, owner: Scoped, home: Home) -> None:
    request_id = await ask(desk, home)
    await owner.claim_request()
    assert await owner.finish_request(request_id, error="there is no device 1 here")
    failed = await desk.get(request_id)
    assert (failed.state, failed.error, failed.result) == ("failed", "there is no device 1 here", None)


async def test_requests_are_claimed_in_order(desk: RequestDesk, owner: Scoped, home: Home) -> None:
    asked = [await ask(desk, home) for _ in range(3)]
    claimed = [await owner.claim_request() for _ in range(4)]
    assert [request.id for request in claimed if request] == asked
    assert claimed[3] is None


async def test_eight_claimers_get_one_request(desk: RequestDesk, owner: Scoped, home: Home) -> None:
    for _ in range(5):
        request_id = await ask(desk, home)
        claimed = await asyncio.gather(*(owner.claim_request() for _ in range(8)))
        assert [request.id for request in claimed if request] == [request_id]


async def test_takeover(prepared: Database, desk: RequestDesk, owner: Scoped, home: Home) -> None:
    first = await ask(desk, home)
    second = await ask(desk, home)
    assert await owner.claim_request() is not None
    successor = await next_owner(prepared.dsn, "owner-2")
    for call in (
        owner.claim_request(), owner.claim_request(resume=True), owner.finish_request(first, result={}),
    ):  # fmt: skip
        with pytest.raises(LeaseLost):
            await call
    assert (await desk.get(first)).state == "running"
    taken = await successor.claim_request()
    assert taken is not None
    assert (taken.id, taken.attempts, taken.claimed_by) == (first, 2, "owner-2")
    other = await successor.claim_request()
    assert other is not None
    assert (other.id, other.attempts) == (second, 1)
    # What this epoch runs is not claimed twice, unless its claimer says that it runs nothing.
    assert await successor.claim_request() is None
    again = await successor.claim_request(resume=True)
    assert again is not None
    assert (again.id, again.attempts) == (first, 3)
    assert await successor.finish_request(first, result={})
    await successor.close()


async def test_a_finished_request_is_not_taken_over(
    prepared: Database, desk: RequestDesk, owner: Scoped, home: Home
) -> None:
    request_id = await ask(desk, home)
    await owner.claim_request()
    await owner.finish_request(request_id, result={})
    successor = await next_owner(prepared.dsn, "owner-2")
    assert await successor.claim_request(resume=True) is None
    assert not await successor.finish_request(request_id, error="x")
    await successor.close()


async def test_equal_wishes_are_one_request(
    prepared: Database, desk: RequestDesk, owner: Scoped, home: Home
) -> None:
    same = await asyncio.gather(*(ask(desk, home, dedup="device:1") for _ in range(8)))
    assert len(set(same)) == 1
    assert await ask(desk, home, dedup="device:2") not in same
    assert await ask(desk, home) != await ask(desk, home)
    rows = await rows_of(prepared.dsn, "a")
    assert len(rows["requests"]) == 4
    assert sum("request_device_delete" in row for row in rows["audit_log"]) == 4
    # Once claimed it has begun: an equal wish is a new one.
    claimed = await owner.claim_request()
    assert claimed is not None
    assert claimed.id == same[0]
    assert await ask(desk, home, dedup="device:1") != same[0]


async def test_one_wake_up_for_each_new_request(prepared: Database, desk: RequestDesk, home: Home) -> None:
    listener = await as_role(prepared.dsn, "hs_node", "a")
    heard: asyncio.Queue[tuple[str, object]] = asyncio.Queue(100)
    for cluster_id in ("a", "b"):
        await listener.add_listener(
            CHANNEL_PREFIX + cluster_id, lambda _c, _p, channel, payload: heard.put_nowait((channel, payload))
        )
    await ask(desk, home, dedup="x")
    await ask(desk, home, dedup="x")
    await ask(desk, home)
    await listener.execute(f"NOTIFY {CHANNEL_PREFIX}b, 'end'")
    async with asyncio.timeout(10):
        told = [await heard.get() for _ in range(3)]
    assert told == [("netmap_dirty_a", REQUEST_PAYLOAD)] * 2 + [("netmap_dirty_b", "end")]
    await listener.close()


async def test_request_and_audit_row_stand_or_fall_together(
    prepared: Database, desk: RequestDesk, home: Home
) -> None:
    conn = await asyncpg.connect(prepared.dsn)
    await conn.execute("ALTER TABLE hs.audit_log ADD CONSTRAINT full_disk CHECK (actor <> 'ops') NOT VALID")
    await conn.close()
    with pytest.raises(BadRequest):
        await ask(desk, home)
    assert (await rows_of(prepared.dsn, "a"))["requests"] == []


BAD_ARGS = [
    ("device_delete", {}),
    ("device_delete", {"device_id": "1"}),
    ("device_delete", {"device_id": 1, "more": 1}),
    ("device_delete", {"device_id": 10**30}),
    ("device_expire", {"device_id": 1}),
    ("device_expire", {"device_id": 1, "at": math.nan}),
    ("device_expire", {"device_id": 1, "at": math.inf}),
    ("device_expire", {"device_id": 1, "at": 0.0}),
    ("device_tag", {"device_id": 1, "tags": "tag:x"}),
    ("device_rename", {"device_id": 1, "name": "\ud800"}),
    ("device_rename", {"device_id": 1, "name": "a\0b"}),
    ("device_rename", {"device_id": 1, "name": "x" * MAX_ARGS_BYTES}),
    ("device_rename", {"device_id": 1, "name": "\u20ac" * (MAX_ARGS_BYTES // 3)}),
    ("key_create", {"prefix": "p"}),
    ("reboot", {}),
    ("", {}),
]


async def test_a_whole_policy_can_be_asked_for(prepared: Database, desk: RequestDesk, home: Home) -> None:
    """As long as a policy may be, however it is encoded; the audit log tells its length."""
    text = "\x01" * MAX_POLICY_CHARS
    await ask(desk, home, {"text": text, "expected_version": 1}, kind="policy_set")
    audit = [row for row in (await rows_of(prepared.dsn, "a"))["audit_log"] if "request_policy_set" in row]
    assert len(audit) == 1
    assert "(1,048,576 characters)" in audit[0]
    assert len(audit[0]) < 1_000
    with pytest.raises(BadRequest):
        await ask(desk, home, {"text": text + "x", "expected_version": 1}, kind="policy_set")


@pytest.mark.parametrize(("kind", "args"), BAD_ARGS, ids=range(len(BAD_ARGS)))
async def test_bad_arguments_are_refused_at_the_desk(
    prepared: Database, desk: RequestDesk, home: Home, kind: str, args: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest):
        await ask(desk, home, args, kind=kind)
    assert (await rows_of(prepared.dsn, "a"))["requests"] == []


async def test_wrong_places(desk: RequestDesk, home: Home) -> None:
    for cluster_id, tenant_id in (("b", home.tenant.id), ("nowhere", home.tenant.id), ("a", TenantId(999))):
        with pytest.raises(NotFound, match="does not live in cluster"):
            await desk.submit(cluster_id, tenant_id, "device_delete", DELETE, actor="ops", what="device:1")
    with pytest.raises(NotFound, match="no request 999"):
        await desk.get(RequestId(999))
    with pytest.raises(BadRequest):
        await ask(desk, home, dedup="x" * (MAX_DEDUP + 1))


async def test_the_line_is_bounded(prepared: Database, desk: RequestDesk, owner: Scoped, home: Home) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    await conn.execute(
        "INSERT INTO requests (cluster_id, tenant_id, kind, requested_by)"
        " SELECT 'a', $1, 'device_delete', 'x' FROM generate_series(1, $2::integer)",
        home.tenant.id,
        MAX_OPEN - 1,
    )
    await conn.close()
    await ask(desk, home)
    with pytest.raises(Refused) as raised:
        await ask(desk, home)
    assert raised.value.code == "too_many_requests"
    claimed = await owner.claim_request()
    assert claimed is not None
    await owner.finish_request(claimed.id, result={})
    await ask(desk, home)


async def test_following(desk: RequestDesk, owner: Scoped, home: Home) -> None:
    request_id = await ask(desk, home)
    seen: list[OperatorRequest] = []
    async for request in desk.follow(request_id):
        seen.append(request)
        if request.state == "queued":
            await owner.claim_request()
        elif request.state == "running":
            await owner.finish_request(request_id, result={"device_id": 1})
    assert [request.state for request in seen] == ["queued", "running", "done"]
    waiting = await ask(desk, home)
    with pytest.raises(Unavailable, match="is cluster a served") as raised:
        [request async for request in desk.follow(waiting, deadline_s=0.0)]
    assert raised.value.code == "request_waits"


async def test_old_requests_are_forgotten(
    prepared: Database, desk: RequestDesk, owner: Scoped, home: Home
) -> None:
    done, failed, running, queued = [await ask(desk, home) for _ in range(4)]
    for _ in range(3):
        await owner.claim_request()
    await owner.finish_request(done, result={})
    await owner.finish_request(failed, error="no")
    assert await owner.trim_requests() == 0
    assert requests.REQUESTS_KEPT_S >= 7 * 86400
    assert await owner.trim_requests(-1.0) == 2
    for kept in (running, queued):
        await desk.get(kept)
    with pytest.raises(NotFound):
        await desk.get(done)


async def test_what_the_console_may_do(prepared: Database, desk: RequestDesk, home: Home) -> None:
    request_id = await ask(desk, home)
    conn = await as_role(prepared.dsn, "hs_console")
    insert = (
        "INSERT INTO requests (cluster_id, tenant_id, kind, requested_by{}) VALUES ('a', 1, 'x', 'ops'{})"
    )
    await conn.execute(insert.format("", ""))
    for column, value in (
        ("state, claimed_epoch", "'running', 1"), ("attempts", "1"), ("claimed_by", "'x'"),
        ("claimed_epoch", "1"), ("progress", "'{}'"), ("result", "'{}'"),
        ("state, claimed_epoch, finished_at", "'done', 1, now()"),
    ):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(insert.format(f", {column}", f", {value}"))
    for statement in (
        "UPDATE requests SET state = 'queued'", "DELETE FROM requests", "TRUNCATE requests",
        "UPDATE requests SET requested_by = 'another'", "SELECT trim_requests('a', 0)",
    ):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)
    await conn.close()
    console = await Scoped.open(prepared.dsn, cluster_id="a", role="hs_admin", pool_size=1)
    for call in (console.claim_request(), console.finish_request(request_id, result={})):
        with pytest.raises(Refused):
            await call
    await console.close()
