"""What an operator sees of one device: its poll, its netmap, and where its client differs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from app.model import DeviceId
from app.netmap.compare import MAX_LISTED, differences
from tests.node.kit import Recorder, joined, own_tenant
from tests.node.support import Administration, ServeProcess, eventually, fresh_database

#: More than fill the backlog of a device that does not read.
MANY_UPDATES = 400
PEER = {
    "ID": 2,
    "Name": "b.x.",
    "User": 1,
    "Key": "nodekey:1",
    "Addresses": ["100.64.0.2/32"],
    "AllowedIPs": ["100.64.0.2/32", "10.0.0.0/8"],
    "Online": True,
    "HomeDERP": 900,
}
MAP: dict[str, Any] = {"Node": {"ID": 1, "Name": "a.x."}, "Peers": [PEER]}


@pytest.mark.parametrize(
    ("has", "says"),
    [
        ({"Peers": [PEER], "SelfNode": {"ID": 1, "Name": "a.x."}}, []),
        ({"Peers": [PEER | {"AllowedIPs": PEER["AllowedIPs"][::-1], "Tags": None}]}, []),
        ({"Peers": None}, ["peer 2 (b.x.) is missing at the client"]),
        ({"Peers": [PEER, PEER | {"ID": 3}]}, ["peer 3 (b.x.) should not be at the client"]),
        ({"Peers": [PEER | {"HomeDERP": 0}]}, ["peer 2: HomeDERP is nothing, should be 900"]),
        ({"Peers": [PEER], "SelfNode": {"Name": "old.x."}}, ["itself: Name is old.x., should be a.x."]),
    ],
)
def test_differences_between_a_map_and_what_a_client_holds(has: dict[str, Any], says: list[str]) -> None:
    assert differences(MAP, has) == says


def test_a_client_that_is_wrong_in_everything_does_not_fill_the_screen() -> None:
    many = {"Node": {}, "Peers": [PEER | {"ID": number} for number in range(1000)]}
    assert len(differences(many, {"Peers": []})) == MAX_LISTED + 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve(pg_server: str) -> AsyncIterator[ServeProcess]:
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn) as process:
        yield process


@pytest.fixture
async def tenant(serve: ServeProcess) -> AsyncIterator[Administration]:
    async with own_tenant(serve.dsn) as place:
        yield place


async def test_debug_device(serve: ServeProcess, tenant: Administration) -> None:
    key = await tenant.auth_key()
    async with (
        Recorder(serve.url, key, hostname="one") as one,
        Recorder(serve.url, key, hostname="two") as two,
    ):
        await joined(one)
        await joined(two)
        await one.sees(two.id)
        await two.update(endpoints=["192.0.2.7:7"])
        await one.sees(two.id, Endpoints=["192.0.2.7:7"])
        words = ("debug", "device", "one", "--tenant", tenant.tenant.name)
        answer = await serve.shell(*words, "--no-ask", "-o", "json")
        assert answer.code == 0, answer
        facts = orjson.loads(answer.out)
        assert [peer["ID"] for peer in facts["would_get"]["Peers"]] == [two.id]
        session = facts["session"]
        assert (session["state"], session["form"]) == ("live", "zstd")
        assert session["messages"] >= 2
        assert session["last_map_bytes"] > 100
        assert session["last_delta"]["PeersChangedPatch"] == [
            {"NodeID": two.id, "Endpoints": ["192.0.2.7:7"]}
        ]
        table = await serve.shell(*words, "--no-ask")
        assert table.code == 0
        assert "live" in table.out
        gone = await serve.shell("debug", "device", "nobody", "--tenant", tenant.tenant.name)
        assert (gone.code, "there is no device" in gone.err) == (1, True)


@pytest.mark.soak
async def test_debug_device_that_does_not_read(
    serve: ServeProcess, tenant: Administration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was told last, what it would get now, and what it has missed: the difference."""
    monkeypatch.setattr("app.client.connection.STREAM_WINDOW_BYTES", 16 * 1024)
    key = await tenant.auth_key()
    words = ("debug", "device", "slow", "--tenant", tenant.tenant.name)

    async def facts() -> dict[str, Any]:
        answer = await serve.shell(*words, "--no-ask", "-o", "json")
        assert answer.code == 0, answer
        found: dict[str, Any] = orjson.loads(answer.out)
        return found

    async with (
        Recorder(serve.url, key, hostname="talker") as talker,
        Recorder(serve.url, key, hostname="silent") as silent,
        Recorder(serve.url, key, hostname="leaves") as leaves,
        Recorder(serve.url, key, hostname="slow", compress="") as slow,
    ):
        for device in (talker, silent, leaves, slow):
            await joined(device)
        await slow.sees(peers=3)
        assert (await facts())["session"]["missed"] == []
        slow.reads.clear()

        async def say(number: int) -> None:
            endpoints = [f"[2001:db8:{number:x}:{n:x}:1111:2222:3333:4444]:41641" for n in range(60)]
            await talker.update(endpoints=endpoints)
            await silent.sees(talker.id, Endpoints=endpoints)

        for number in range(1, MANY_UPDATES):
            await say(number)
            if (await serve.metrics())["hs_sessions_lagging"]:
                break
        await say(MANY_UPDATES)
        await leaves.logout()
        await tenant.scoped.delete_device(tenant.tenant.id, DeviceId(leaves.id))
        await silent.lost(leaves.id)

        found = await facts()
        session = found["session"]
        assert session["state"] == "lagging"
        assert session["unsent_bytes"] > 100_000
        assert session["missed"] == [talker.id, leaves.id]
        (told,) = session["last_delta"]["PeersChangedPatch"]
        (now,) = [peer for peer in found["would_get"]["Peers"] if peer["ID"] == talker.id]
        assert told["NodeID"] == talker.id
        assert told["Endpoints"] != now["Endpoints"] == list(talker.endpoints)
        assert found["differences"] == [
            f"peer {talker.id} ({now['Name']}) has changed, it was not told yet",
            f"peer {leaves.id} is gone, it was not told yet",
        ]
        table = await serve.shell(*words, "--no-ask")
        assert f"peer {leaves.id} is gone" in table.out

        slow.reads.set()
        await slow.sees(talker.id, Endpoints=list(talker.endpoints))
        found = await facts()
        assert (found["session"]["state"], found["session"]["missed"]) == ("live", [])
        assert found["differences"] is None


async def test_messages_are_counted_by_what_is_in_them(serve: ServeProcess, tenant: Administration) -> None:
    key = await tenant.auth_key()
    async with Recorder(serve.url, key) as one, Recorder(serve.url, key) as two:
        await joined(one)
        await joined(two)
        await one.sees(two.id)
        before = await serve.metrics()
        for number in range(3):
            await two.update(endpoints=[f"192.0.2.9:{1000 + number}"])
            await one.sees(two.id, Endpoints=[f"192.0.2.9:{1000 + number}"])

        async def counted() -> bool:
            after = await serve.metrics()

            def grown(series: str) -> float:
                return after[series] - before.get(series, 0.0)

            patches, puts = grown("hs_messages_total{kind=patch}"), grown("hs_netmap_puts_total")
            return patches >= 3 and puts >= 3 and grown("hs_loop_stall_seconds_count") > 0

        await eventually(counted, "messages, puts and the loop's lateness are counted")
