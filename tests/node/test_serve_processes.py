"""Processes that come and go: standby, deposed owner, kill -9, restart, and devices that outlive them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import Any

import httpx
import pytest

from app.client.serverkey import fetch_server_key
from app.errors import HsError
from tests.node.kit import Recorder, joined
from tests.node.support import (
    DEADLINE_S,
    ServeProcess,
    admin,
    eventually,
    run_sql,
)

FAST = {"HS_TIMING__LEASE_TTL": "2s"}
#: A takeover after kill -9: the holder's backend is gone for a second, or the TTL is over.
TAKEOVER_S = 10.0


async def state(process: ServeProcess) -> str:
    """What /health on the metrics address says the process is."""
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        try:
            answer = await client.get(f"{process.metrics_url}/health")
        except httpx.TransportError:
            return "silent"
    return str(answer.json()["state"]) if answer.status_code == 200 else f"status {answer.status_code}"


async def becomes(process: ServeProcess, wanted: str, deadline_s: float = TAKEOVER_S) -> None:
    async def is_so() -> bool:
        assert process.returncode is None, process.log()
        return await state(process) == wanted

    await eventually(is_so, f"the process is {wanted}", deadline_s)


@contextlib.asynccontextmanager
async def standby_of(owner: ServeProcess, *, wait: bool = True) -> Any:
    """A second process of the same cluster at addresses of its own."""
    second = ServeProcess(
        owner.dsn, owner.cluster, secret_key_file=owner.secret_key_file, settings=dict(FAST)
    )
    await second.start(wait=False)
    try:
        if wait:
            await becomes(second, "standby")
        yield second
    finally:
        if second.returncode is None:
            await second.stop()
        assert second.returncode == 0, second.log()


def point(to: Recorder, process: ServeProcess) -> None:
    """What DNS or a load balancer does: the same name leads elsewhere."""
    to.url = process.url


@pytest.mark.chaos
async def test_a_standby_takes_over_from_a_killed_owner(database: str) -> None:
    async with ServeProcess(database, settings=dict(FAST)) as owner, admin(database) as home:
        key = await home.auth_key()
        async with standby_of(owner) as second:
            assert await second.health() == 200  # it takes clients for the owner
            assert "waiting as its standby" in second.log()
            async with Recorder(owner.url, key) as a, Recorder(owner.url, key) as b:
                await joined(a)
                await joined(b)
                await a.sees(peers=1)
                noise_key, rows = a.server_key, {a.id: a.netmap.self_node, b.id: b.netmap.self_node}

                async def stored() -> bool:
                    return all(d.online for d in await home.devices())

                # Presence is written once a second; what is younger is lost with the process.
                await eventually(stored, "both are stored as online")
                await owner.kill()
                for one in (a, b):
                    point(one, second)
                await becomes(second, "owner")
                for one in (a, b):
                    await one.wait_for(lambda n, d=one: d.polls >= 2 and len(n.peers) == 1, TAKEOVER_S)
                    own = one.netmap.self_node or {}
                    before = rows[one.id] or {}
                    assert {k: own[k] for k in ("ID", "Addresses", "Name", "Key")} == {
                        k: before[k] for k in ("ID", "Addresses", "Name", "Key")
                    }
                assert await fetch_server_key(second.url, 130) == noise_key
                # They came back without a word to /machine/register, and nobody was seen to leave.
                metrics = await second.metrics()
                assert not [name for name in metrics if name.startswith("hs_registrations_total")]
                await b.update(endpoints=["192.0.2.1:1"])
                await a.sees(b.id, Endpoints=["192.0.2.1:1"], Online=True)
                assert not [n for n in a.news_of(b.id) if n.get("Online") is False]
                assert not a.violations + b.violations


async def test_without_standby_a_second_process_ends_with_a_sentence(database: str) -> None:
    async with ServeProcess(database) as owner:
        second = ServeProcess(database, secret_key_file=owner.secret_key_file, arguments=("--no-standby",))
        await second.start(wait=False)
        assert await second.wait_ended() == 4
        (line,) = [line for line in second.log().splitlines() if line.startswith("error: ")]
        assert line.startswith("error: cluster 'default' is served by instance ")
        assert f"-{owner.pid}-" in line
        assert "leave --no-standby out" in line
        assert await owner.health() == 200


async def test_a_waiting_standby_stops_when_told(database: str) -> None:
    async with ServeProcess(database, settings=dict(FAST)) as owner, standby_of(owner) as second:
        # Asked about its health all the time, it says so each time: asking disturbs no attempt to take over.
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            answers = await asyncio.gather(*(client.get(f"{second.metrics_url}/health") for _ in range(40)))
        assert [a.json()["state"] for a in answers if a.status_code == 200] == ["standby"] * 40
        assert await second.stop() == 0
        assert await owner.health() == 200
        assert await state(owner) == "owner"


async def test_a_deposed_owner_stops_and_writes_nothing_more(database: str) -> None:
    async with admin_later(database) as later, ServeProcess(database, settings=dict(FAST)) as owner:
        home = await later()
        key = await home.auth_key()
        async with Recorder(owner.url, key) as polls, Recorder(owner.url, key) as other:
            await joined(polls)
            await joined(other)
            async with standby_of(owner) as second:
                owner.send(signal.SIGSTOP)
                # While it sleeps its devices leave and speak: it will want to write that at once.
                point(polls, second)
                await becomes(second, "owner")
                polls.drop()
                await polls.wait_for(lambda n: polls.polls == 2 and n.messages > 0, TAKEOVER_S)
                await polls.update(endpoints=["192.0.2.1:1"])
                await second.wait_ready()
                epoch = await run_sql(
                    database, "SELECT holder, epoch FROM leases WHERE name LIKE 'cluster:%'"
                )
                owner.send(signal.SIGCONT)
                code = await owner.wait_ended()
                assert code == 4, owner.log()
                (line,) = [line for line in owner.log().splitlines() if line.startswith("error: ")]
                assert "cluster" in line
                assert await state(second) == "owner"
                after = await run_sql(
                    database, "SELECT holder, epoch FROM leases WHERE name LIKE 'cluster:%'"
                )
                assert after == epoch
                assert await polls.rotate() is not None
                point(other, second)
                await other.wait_for(lambda n: other.polls >= 2 and n.messages > 0, TAKEOVER_S)

                async def stored() -> bool:
                    (row,) = [d for d in await home.devices() if d.hostname == polls.hostname]
                    return row.endpoints == ("192.0.2.1:1",) and row.online

                await eventually(stored, "the new owner's picture is what is stored")


@contextlib.asynccontextmanager
async def admin_later(dsn: str) -> Any:
    """An administration that is opened once the cluster exists."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened() -> Any:
            return await stack.enter_async_context(admin(dsn))

        yield opened


async def test_a_graceful_stop_hands_clients_back_and_flushes(database: str) -> None:
    settings = {"HS_TIMING__OFFLINE_GRACE": "300ms"}
    async with ServeProcess(database, settings=settings) as serve, admin(database) as home:
        key = await home.auth_key()
        async with Recorder(serve.url, key) as stays, Recorder(serve.url, key) as leaves:
            await joined(stays)
            await joined(leaves)
            await stays.sees(peers=1)
            gone = leaves.id
            await leaves.close()
            await stays.sees(gone, Online=False)
            await stays.update(endpoints=["192.0.2.9:9"], home_derp=900)
            connection = stays._connection
            assert connection is not None
            assert await serve.stop() == 0
            async with asyncio.timeout(DEADLINE_S):
                await connection.wait_closed()
            rows = {d.hostname: d for d in await home.devices()}
            assert rows[stays.hostname].endpoints == ("192.0.2.9:9",)
            assert rows[stays.hostname].home_derp == 900
            assert rows[stays.hostname].online
            assert not rows[leaves.hostname].online
            assert rows[leaves.hostname].last_seen is not None
            assert "Traceback" not in serve.log()
            assert await run_sql(database, "SELECT instance_id FROM instances") == []
            # The next start is no flicker for whoever looks.
            await serve.start()
            await stays.wait_for(lambda n: stays.polls >= 2 and len(n.peers) == 1, DEADLINE_S)
            assert stays.netmap.peers[gone]["Online"] is False
            assert not stays.violations


async def test_kill_in_a_registration_storm_loses_no_answer(database: str) -> None:
    """Every device that was told "you are in" is; the rest gets in by asking again, also with a used key."""
    count = 60
    async with ServeProcess(database, settings=dict(FAST)) as serve, admin(database) as home:
        shared, text = await home.auth_key_row()
        # Every second device has a key of its own that serves once.
        keys = [
            text if number % 2 else (await home.auth_key_row(reusable=False))[1] for number in range(count)
        ]
        devices = [Recorder(serve.url, key) for key in keys]
        answered: list[str] = []
        killed = asyncio.Event()

        async def register(one: Recorder) -> None:
            try:
                answer = await one.register()
            except HsError:
                return
            if answer.get("MachineAuthorized") and not answer.get("Error"):
                answered.append(one.hostname)
                if len(answered) == count // 3:
                    killed.set()

        tasks = [asyncio.create_task(register(one)) for one in devices]
        async with asyncio.timeout(DEADLINE_S):
            await killed.wait()
        await serve.kill()
        promised = set(answered)
        assert len(promised) < count, "the storm was over before the kill"
        stored = {d.hostname: d for d in await home.devices()}
        assert promised <= set(stored)
        await serve.start()
        await asyncio.gather(*tasks)
        for one in devices:  # whoever got no answer asks again, as clients do
            if one.hostname not in answered:
                await register(one)
        assert sorted(answered) == sorted(one.hostname for one in devices)
        rows = await home.devices()
        assert len(rows) == count
        for name in ("id", "ipv4", "ipv6", "node_key", "machine_key", "given_name"):
            assert len({getattr(row, name) for row in rows}) == count, name
        after = {row.hostname: row for row in rows}
        assert all((after[name].id, after[name].ipv4) == (row.id, row.ipv4) for name, row in stored.items())
        # Each key counts whom it let in, once, whatever answers got lost.
        for key in await home.scoped.list_auth_keys(home.tenant.id):
            assert key.uses == (count // 2 if key.id == shared.id else 1)
        for one in devices:
            await one.poll()
        for one in devices:
            await one.sees(peers=count - 1)
            assert not one.violations
        for one in devices:
            await one.close()


async def test_a_restart_keeps_what_identifies(database: str) -> None:
    async with ServeProcess(database) as serve, admin(database) as home:
        key = await home.auth_key()
        async with Recorder(serve.url, key) as a, Recorder(serve.url, key) as b:
            await joined(a)
            await joined(b)
            await a.sees(peers=1)
            noise_key = await fetch_server_key(serve.url, 130)
            region = a.netmap.derp_map
            before = {d.id: (d.ipv4, d.ipv6, d.given_name, d.node_key) for d in await home.devices()}
            await serve.kill()
            await serve.start()
            for one in (a, b):
                await one.wait_for(lambda n, d=one: d.polls >= 2 and len(n.peers) == 1, DEADLINE_S)
            assert await fetch_server_key(serve.url, 130) == noise_key
            after = {d.id: (d.ipv4, d.ipv6, d.given_name, d.node_key) for d in await home.devices()}
            assert after == before
            # The relay's certificate and key are kept too; its port was free choice.
            old = json.loads(json.dumps(region))["Regions"]
            new = (a.netmap.derp_map or {})["Regions"]
            assert [r["Nodes"][0]["CertName"] for r in old.values()] == [
                r["Nodes"][0]["CertName"] for r in new.values()
            ]
            async with Recorder(serve.url, key) as c:
                await joined(c)
                await c.sees(peers=2)
                assert c.id not in before
