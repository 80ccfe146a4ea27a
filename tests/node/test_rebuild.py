"""`hs-node rebuild`: a scope read again, made from scratch and sent whole, and nobody else disturbed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest
import pytest_asyncio

from app.errors import BadRequest
from app.scopes import Scope, parse_scope
from tests.node.kit import Recorder, joined, own_tenant
from tests.node.support import DEADLINE_S, Administration, ServeProcess, fresh_database, run_sql


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve(pg_server: str) -> AsyncIterator[ServeProcess]:
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn) as process:
        yield process


@pytest.fixture
async def tenant(serve: ServeProcess) -> AsyncIterator[Administration]:
    async with own_tenant(serve.dsn) as place:
        yield place


async def _rebuild(serve: ServeProcess, tenant: Administration, *words: str) -> dict[str, int]:
    answer = await serve.shell("rebuild", *words, "--tenant", tenant.tenant.name, "-o", "json")
    assert answer.code == 0, answer
    result: dict[str, int] = orjson.loads(answer.out)
    return result


def _maps(device: Recorder) -> int:
    """How many messages so far replaced everything."""
    return sum(1 for message in device.seen if "Peers" in message)


async def _has_maps(device: Recorder, count: int) -> None:
    await device.wait_for(lambda _: _maps(device) >= count, DEADLINE_S)


async def test_what_memory_missed_is_right_after_a_rebuild(
    serve: ServeProcess, tenant: Administration
) -> None:
    """A write past the capture triggers stands for whatever could make memory wrong."""
    key = await tenant.auth_key()
    async with (
        Recorder(serve.url, key, hostname="one") as one,
        Recorder(serve.url, key, hostname="two") as two,
    ):
        await joined(one)
        await joined(two)
        await one.sees(two.id)
        await two.sees(one.id)
        before = _maps(one), _maps(two)
        await run_sql(
            serve.dsn,
            "WITH quiet AS MATERIALIZED (SELECT set_config('session_replication_role', 'replica', false))"
            " UPDATE hs.nodes SET given_name = 'renamed' FROM quiet WHERE id = $1",
            one.id,
        )
        result = await _rebuild(serve, tenant, "device", "two")
        assert (result["devices"], result["maps"]) == (1, 1)
        assert two.netmap.peers[one.id]["Name"].startswith("one.")
        result = await _rebuild(serve, tenant, "device", str(one.id))
        assert (result["devices"], result["maps"], result["waiting"]) == (1, 1, 0)
        assert result["bytes"] > 200
        assert 0 < result["read_ms"] + result["send_ms"] <= result["ms"] + 1
        await two.sees(one.id)
        await two.wait_for(lambda n: n.peers[one.id]["Name"].startswith("renamed."), DEADLINE_S)
        await one.wait_for(lambda n: (n.self_node or {})["Name"].startswith("renamed."), DEADLINE_S)
        assert (_maps(one), _maps(two)) == (before[0] + 1, before[1] + 1)
        assert one.violations == two.violations == []


async def test_every_scope_reaches_its_devices_and_no_others(
    serve: ServeProcess, tenant: Administration
) -> None:
    alice, bob = await tenant.auth_key(), await tenant.auth_key("bob")
    tagged = await tenant.auth_key(None, tags=["tag:web"])
    async with (
        Recorder(serve.url, alice, hostname="a") as a,
        Recorder(serve.url, bob, hostname="b") as b,
        Recorder(serve.url, tagged, hostname="c") as c,
    ):
        for one in (a, b, c):
            await joined(one)
        for words, reached in (
            (("user", "bob"), {b}),
            (("tag", "web"), {c}),
            (("tag", "tag:web"), {c}),
            (("tenant",), {a, b, c}),
            (("cluster",), {a, b, c}),
        ):
            before = {one: _maps(one) for one in (a, b, c)}
            result = await _rebuild(serve, tenant, *words)
            assert result["maps"] >= len(reached)
            for one in reached:
                await _has_maps(one, before[one] + 1)
            assert {one for one in before if _maps(one) > before[one]} == reached, words
        assert a.violations == b.violations == c.violations == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("device",), "takes a name"),
        (("tenant", "x"), "takes no name"),
        (("device", "nobody"), "there is no device"),
        (("tag", "unused"), "there is no device in tag:unused"),
    ],
)
async def test_what_cannot_be_rebuilt_is_a_sentence(
    serve: ServeProcess, tenant: Administration, words: tuple[str, ...], says: str
) -> None:
    answer = await serve.shell("rebuild", *words, "--tenant", tenant.tenant.name)
    assert answer.code == 1
    assert says in answer.err


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("device:17", Scope("device", "17")),
        ("user:3", Scope("user", "3")),
        ("tag:web", Scope("tag", "web")),
        ("tenant", Scope("tenant")),
        ("cluster", Scope("cluster")),
    ],
)
def test_scopes_are_read_and_written_alike(text: str, scope: Scope) -> None:
    assert parse_scope(text) == scope
    assert str(scope) == text


@pytest.mark.parametrize(
    "text", ["", "device", "device:", "device:x", "user:-1", "tenant:1", "route:x", "tag:"]
)
def test_what_is_no_scope_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_scope(text)
