"""Operator requests end to end: asked at the desk, carried out by a serving process, seen by devices."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from acs.requests import HANDLERS as ACS_HANDLERS
from app.client.device import SimulatedDevice
from app.db.requests import RequestDesk
from app.keys import machine_key_text
from app.model import DeviceId, OperatorRequest, RequestId, UserId
from app.request_kinds import ACS_KINDS, KINDS
from app.tokens import RANDOM_BYTES, make_auth_token
from node.requests import HANDLERS
from tests.node.support import (
    DEADLINE_S,
    QUICK,
    Administration,
    ServeProcess,
    device,
    fresh_database,
    has_peers,
    join,
    new_tenant,
    own_id,
    peer,
    run_sql,
)

HOUR_S = 3600.0
Pair = tuple[SimulatedDevice, SimulatedDevice]


class Operator:
    """Somebody at the desk who looks after one tenant."""

    def __init__(self, desk: RequestDesk, place: Administration) -> None:
        self.desk = desk
        self.place = place

    async def submit(self, kind: str, **args: Any) -> RequestId:
        tenant = self.place.tenant
        return await self.desk.submit(tenant.cluster_id, tenant.id, kind, args, actor="ops", what="x")

    async def end_of(self, request_id: RequestId) -> OperatorRequest:
        """The request once it has ended."""
        return [request async for request in self.desk.follow(request_id, deadline_s=DEADLINE_S)][-1]

    async def ask(self, kind: str, **args: Any) -> OperatorRequest:
        return await self.end_of(await self.submit(kind, **args))

    async def do(self, kind: str, **args: Any) -> dict[str, Any]:
        request = await self.ask(kind, **args)
        assert (request.state, request.error) == ("done", None)
        assert request.result is not None
        return request.result

    async def refused(self, kind: str, **args: Any) -> str:
        request = await self.ask(kind, **args)
        assert (request.state, request.result) == ("failed", None)
        assert request.error is not None
        return request.error


@pytest.fixture
async def desk(serve: ServeProcess) -> AsyncIterator[RequestDesk]:
    opened = await RequestDesk.open(serve.dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def operator(desk: RequestDesk, place: Administration) -> Operator:
    return Operator(desk, place)


@pytest.fixture
async def pair(
    serve: ServeProcess, place: Administration
) -> AsyncIterator[tuple[SimulatedDevice, SimulatedDevice]]:
    """Two connected devices of alice, who see each other."""
    key = await place.auth_key()
    async with device(serve.url, key) as one, device(serve.url, key) as two:
        await join(one)
        await join(two)
        await has_peers(one, two)
        await has_peers(two, one)
        yield one, two


def test_every_kind_is_carried_out() -> None:
    assert HANDLERS.keys() | ACS_HANDLERS.keys() == KINDS.keys()
    assert ACS_HANDLERS.keys() == ACS_KINDS.keys()


async def test_rename_device(operator: Operator, pair: Pair) -> None:
    one, two = pair
    result = await operator.do("device_rename", device_id=own_id(one), name="web-1")
    assert result == {"device_id": own_id(one)}
    await two.wait_for(lambda _: (peer(two, one) or {})["Name"].startswith("web-1."), DEADLINE_S)
    await one.wait_for(lambda n: (n.self_node or {})["Name"].startswith("web-1."), DEADLINE_S)
    name = two.hostname
    assert "is called" in await operator.refused("device_rename", device_id=own_id(one), name=name)
    assert "DNS label" in await operator.refused("device_rename", device_id=own_id(one), name="No Label")
    assert "no device 999999" in await operator.refused("device_rename", device_id=999999, name="x")


async def test_expire_device_and_make_it_last(operator: Operator, pair: Pair) -> None:
    one, two = pair
    await operator.do("device_expire", device_id=own_id(one), at=time.time() - 1)
    await two.wait_for(lambda _: (peer(two, one) or {}).get("Expired") is True, DEADLINE_S)
    await operator.do("device_expire", device_id=own_id(one), at=None)
    await two.wait_for(lambda _: not (peer(two, one) or {}).get("Expired"), DEADLINE_S)
    # Once more: it is so already, which is no refusal.
    await operator.do("device_expire", device_id=own_id(one), at=None)
    assert "no device 999999" in await operator.refused("device_expire", device_id=999999, at=None)


async def test_tag_device(operator: Operator, pair: Pair) -> None:
    one, two = pair
    await operator.do("device_tag", device_id=own_id(one), tags=["tag:web", "tag:db"])
    await two.wait_for(lambda _: (peer(two, one) or {}).get("Tags") == ["tag:db", "tag:web"], DEADLINE_S)
    assert "lose all its tags" in await operator.refused("device_tag", device_id=own_id(one), tags=[])
    assert "tag:web" in await operator.refused("device_tag", device_id=own_id(two), tags=["web"])
    bob = await operator.place.user("bob")
    assert "belongs to its tags" in await operator.refused(
        "device_move_user", device_id=own_id(one), user_id=bob.id
    )


async def test_move_device(operator: Operator, pair: Pair) -> None:
    one, two = pair
    bob = UserId((await operator.do("user_create", name="bob", display_name="Bob"))["user_id"])
    await operator.do("device_move_user", device_id=own_id(one), user_id=bob)
    await two.wait_for(lambda _: (peer(two, one) or {}).get("User") == bob, DEADLINE_S)
    assert two.netmap.user_profiles[bob]["LoginName"]
    assert "no user 999999" in await operator.refused(
        "device_move_user", device_id=own_id(one), user_id=999999
    )


async def test_delete_device(operator: Operator, pair: Pair) -> None:
    one, two = pair
    gone = own_id(one)
    await operator.do("device_delete", device_id=gone)
    await has_peers(two)
    assert [d.id for d in await operator.place.devices()] == [own_id(two)]
    assert f"no device {gone}" in await operator.refused("device_delete", device_id=gone)


async def test_what_was_changed_meanwhile_is_not_overwritten(operator: Operator, pair: Pair) -> None:
    """Every kind that carries what its asker saw: a mismatch writes nothing and tells each difference."""
    one, _ = pair
    place = operator.place
    alice, bob, id_ = await place.user("alice"), await place.user("bob"), own_id(one)
    (device_,) = [d for d in await place.devices() if d.id == id_]
    net, key_text = "10.9.0.0/16", "0" * 12
    await place.scoped.set_device_routes(place.tenant.id, DeviceId(id_), announced=(net,))
    key = await place.scoped.insert_auth_key(place.tenant.id, key_text, b"1" * 32, alice.id)
    of_key = {"key_id": key.id}
    of_routes = {"device_id": id_, "routes": [net]}
    # kind, arguments, what is stored, what was seen instead
    cases: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
        ("device_rename", {"device_id": id_, "name": "n"}, {"name": device_.given_name}, {"name": "old"}),
        ("device_expire", {"device_id": id_, "at": 2e9}, {"expiry": device_.expiry}, {"expiry": 1.9e9}),
        ("device_move_user", {"device_id": id_, "user_id": bob.id}, {"user_id": alice.id}, {"user_id": 77}),
        ("device_tag", {"device_id": id_, "tags": ["tag:a"]}, {"tags": []}, {"tags": ["tag:old"]}),
        ("routes_approve", of_routes, {net: "waiting"}, {net: "withdrawn"}),
        ("routes_reject", of_routes, {net: "approved"}, {net: "waiting"}),
        ("device_delete", {"device_id": id_}, {"name": "n"}, {"name": device_.given_name}),
        ("user_rename", {"user_id": bob.id, "name": "bert"}, {"name": "bob"}, {"name": "robert"}),
        ("user_role", {"user_id": bob.id, "role": "admin"}, {"role": "member"}, {"role": "auditor"}),
        ("user_delete", {"user_id": bob.id}, {"name": "bert", "role": "admin"}, {"name": "bob"}),
        ("key_expire", of_key, {"revoked": False, "expiration": None, "uses": 0}, {"expiration": 2e9}),
        ("key_delete", of_key, {"revoked": True}, {"revoked": False}),
    ]
    carried = {kind for kind, record in KINDS.items() if "seen" in record.__struct_fields__}
    assert {case[0] for case in cases} == carried - ACS_KINDS.keys()
    for kind, args, stored, seen in cases:
        request = await operator.ask(kind, **args, seen=stored | seen)
        assert (request.state, request.result) == (
            "failed",
            {"conflict": {name: [was, stored[name]] for name, was in seen.items()}},
        ), (kind, request.error)
        assert "changed meanwhile" in (request.error or "")
        await operator.do(kind, **args, seen=stored)
        if not kind.endswith("_delete"):
            # What is there already is no conflict, whatever was seen: the request may be carried out twice.
            await operator.do(kind, **args, seen=seen)


async def test_users(operator: Operator, pair: Pair) -> None:
    one, _ = pair
    alice = await operator.place.user("alice")
    await operator.do("user_rename", user_id=alice.id, name="carol")
    await one.wait_for(lambda n: n.user_profiles[alice.id]["LoginName"].startswith("carol"), DEADLINE_S)
    assert "there is already a user 'carol'" in (
        await operator.refused("user_rename", user_id=(await operator.place.user("bob")).id, name="carol")
    )
    assert "still has devices (2)" in await operator.refused("user_delete", user_id=alice.id)
    bob = await operator.place.user("bob")
    await operator.do("user_delete", user_id=bob.id)
    assert [user.name for user in await operator.place.scoped.list_users(operator.place.tenant.id)] == [
        "carol"
    ]
    assert "already" in await operator.refused("user_create", name="carol")
    assert "printable" in await operator.refused("user_create", name="a\nb")


async def test_a_key_whose_text_only_the_asker_knows(serve: ServeProcess, operator: Operator) -> None:
    alice = await operator.place.user("alice")
    text, token = make_auth_token(operator.place.tenant.id, secrets.token_bytes(RANDOM_BYTES))
    stored = {"prefix": token.prefix, "hash_hex": token.hash.hex()}
    made = await operator.do("key_create", **stored, user_id=alice.id, expiration=time.time() + HOUR_S)
    async with device(serve.url, text) as newcomer:
        await join(newcomer)
    (key,) = await operator.place.scoped.list_auth_keys(operator.place.tenant.id)
    assert (key.id, key.used) == (made["key_id"], True)
    await operator.do("key_expire", key_id=key.id)
    async with device(serve.url, text) as late:
        assert "revoked" in (await late.register())["Error"]
    assert "no auth key" in await operator.refused("key_expire", key_id=999999)
    assert "needs a user or tags" in await operator.refused("key_create", **stored)
    assert "hexadecimal" in await operator.refused(
        "key_create", prefix=token.prefix, hash_hex="xy", user_id=1
    )


async def test_a_long_policy_is_put_into_force(operator: Operator, pair: Pair) -> None:
    one, _ = pair
    text = "// long\n" * 40_000 + '{"acls": []}'
    result = await operator.do("policy_set", text=text, expected_version=0)
    assert result == {"version": 1}
    await has_peers(one)


async def test_what_is_another_tenants_stays_untouched(
    serve: ServeProcess, operator: Operator, pair: Pair
) -> None:
    one, two = pair
    alice = await operator.place.user("alice")
    async with new_tenant(serve) as elsewhere:
        stranger = Operator(operator.desk, elsewhere)
        for kind, args in (
            ("device_expire", {"device_id": own_id(one), "at": time.time()}),
            ("device_rename", {"device_id": own_id(one), "name": "stolen"}),
            ("device_look", {"device_id": own_id(one)}),
            ("device_delete", {"device_id": own_id(one)}),
            ("device_tag", {"device_id": own_id(one), "tags": ["tag:x"]}),
            ("device_move_user", {"device_id": own_id(one), "user_id": alice.id}),
            ("user_rename", {"user_id": alice.id, "name": "stolen"}),
            ("user_delete", {"user_id": alice.id}),
        ):
            assert "there is no" in await stranger.refused(kind, **args), kind
    await operator.do("device_rename", device_id=own_id(two), name="still-here")
    await one.wait_for(lambda _: (peer(one, two) or {})["Name"].startswith("still-here."), DEADLINE_S)
    assert machine_key_text(one.machine_key) in {row["Machine"] for row in two.netmap.peers.values()}


async def test_audit_rows_and_metrics(serve: ServeProcess, operator: Operator) -> None:
    made = await operator.do("user_create", name="dora")
    await operator.refused("user_create", name="dora")
    rows = await run_sql(
        serve.dsn,
        "SELECT action, object, actor FROM hs.audit_log WHERE tenant_id = $1 ORDER BY id",
        operator.place.tenant.id,
    )
    assert [tuple(row) for row in rows] == [
        ("request_user_create", "x", "ops"),
        ("user_create", f"user:{made['user_id']}", "ops"),
        ("request_user_create", "x", "ops"),
    ]
    metrics = await serve.metrics()
    assert metrics["hs_operator_requests_total{kind=user_create,outcome=done}"] >= 1
    assert metrics["hs_operator_requests_total{kind=user_create,outcome=failed}"] >= 1


async def test_what_an_older_server_does_not_know_is_refused(serve: ServeProcess, operator: Operator) -> None:
    place = operator.place.tenant
    rows = await run_sql(
        serve.dsn,
        "INSERT INTO hs.requests (cluster_id, tenant_id, kind, requested_by) VALUES"
        " ($1, $2, 'reboot', 'x'), ($1, NULL, 'user_delete', 'x'), ($1, $2, 'user_delete', 'x') RETURNING id",
        place.cluster_id,
        place.id,
    )
    errors = [(await operator.end_of(request_id)).error or "" for (request_id,) in rows]
    assert "no request of kind 'reboot'" in errors[0]
    assert "cannot have these arguments" in errors[1]
    assert "cannot have these arguments" in errors[2]


async def test_many_requests_at_once_end_in_order(operator: Operator) -> None:
    # One after the other: ids of submissions at once may become visible in any order.
    asked = [await operator.submit("user_create", name=f"user-{number:02}") for number in range(40)]
    done = await asyncio.gather(*map(operator.end_of, asked))
    assert {request.state for request in done} == {"done"}
    by_claim = sorted(done, key=lambda request: request.finished_at or 0.0)
    assert [request.id for request in by_claim] == sorted(request.id for request in done)


async def test_a_killed_owners_requests_are_finished_by_the_next(pg_server: str) -> None:
    """What was asked while nobody serves, and what its owner left half done, both end well."""
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn, settings=QUICK) as process:
        desk = await RequestDesk.open(dsn)
        async with new_tenant(process) as place:
            operator = Operator(desk, place)
            key = await place.auth_key()
            async with device(process.url, key) as one, device(process.url, key) as two:
                await join(one)
                await join(two)
                await has_peers(one, two)
                renamed = own_id(two)
            await process.kill()

            deleted = await operator.submit("device_delete", device_id=own_id(one))
            created = await operator.submit("user_create", name="dora")
            keyed = await operator.submit("key_create", prefix="0" * 12, hash_hex="11" * 32, tags=["tag:x"])
            waiting = await operator.submit("device_rename", device_id=renamed, name="web-1")
            # The effects of the first three stand, but their owner died before it wrote the outcome.
            await place.scoped.delete_device(place.tenant.id, own_id(one))
            dora = await place.user("dora")
            made = await place.scoped.insert_auth_key(
                place.tenant.id, "0" * 12, bytes.fromhex("11" * 32), None, tags=["tag:x"]
            )
            await run_sql(
                dsn,
                "UPDATE hs.requests SET state = 'running', attempts = 1, claimed_by = 'dead',"
                " claimed_epoch = (SELECT epoch FROM hs.leases WHERE name = $1) WHERE id = ANY ($2)",
                f"cluster:{place.tenant.cluster_id}",
                [deleted, created, keyed],
            )
            await process.start()
            ends = [await operator.end_of(request_id) for request_id in (deleted, created, keyed, waiting)]
            assert [(end.state, end.attempts, end.result) for end in ends] == [
                ("done", 2, {"device_id": own_id(one)}),
                ("done", 2, {"user_id": dora.id}),
                ("done", 2, {"key_id": made.id}),
                ("done", 1, {"device_id": renamed}),
            ]
            assert [d.given_name for d in await place.devices()] == ["web-1"]
        await desk.close()


async def test_killed_in_the_midst_of_many(pg_server: str) -> None:
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn, settings=QUICK) as process:
        desk = await RequestDesk.open(dsn)
        async with new_tenant(process) as place:
            operator = Operator(desk, place)
            names = [f"user-{number:03}" for number in range(150)]
            asked = [
                await desk.submit(
                    place.tenant.cluster_id,
                    place.tenant.id,
                    "user_create",
                    {"name": name},
                    actor="ops",
                    what="x",
                )
                for name in names
            ]
            assert (await operator.end_of(asked[20])).state == "done"
            await process.kill()
            await process.start()
            ends = [await operator.end_of(request_id) for request_id in asked]
            assert {(end.state, end.error) for end in ends} == {("done", None)}
            users = await place.scoped.list_users(place.tenant.id)
            assert {user.name: user.id for user in users} == {
                name: end.result["user_id"] for name, end in zip(names, ends, strict=True) if end.result
            }
        await desk.close()
