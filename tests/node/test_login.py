"""Logging in without an auth key, over the wire: the URL, the wait, the decision, and interruptions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest

from app.client.device import SimulatedDevice
from app.db.logins import LOGIN_ID_BYTES, MAX_LOGINS_PER_NETWORK
from app.entry.login_page import HEADERS
from app.keys import fingerprint, node_key_text
from node.login import MAX_WAITERS_PER_LOGIN
from tests.node.support import (
    DEADLINE_S,
    QUICK,
    Administration,
    ServeProcess,
    admin,
    device,
    eventually,
    fresh_database,
    has_peers,
    join,
    own_id,
    peer,
    run_sql,
)

DENIED = "an administrator denied this login"
LOGIN_DEADLINE_S = 45.0


@asynccontextmanager
async def logging_in(
    simulated: SimulatedDevice, *, fresh_key: bool = False
) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
    """A login under way that has shown its first URL."""
    shown = len(simulated.login_urls)
    task = asyncio.create_task(simulated.login(LOGIN_DEADLINE_S, fresh_key=fresh_key))
    try:
        await next_url(simulated, shown)
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def next_url(simulated: SimulatedDevice, shown: int) -> str:
    await simulated.wait_for(lambda _: len(simulated.login_urls) > shown, DEADLINE_S)
    return simulated.login_urls[-1]


def id_of(url: str) -> str:
    return url.rpartition("/")[2]


async def waits(serve: ServeProcess, count: int = 1) -> None:
    """Until so many registrations asked the database and did not get in."""
    name = "hs_registrations_total{outcome=needs_login}"

    async def enough() -> bool:
        return (await serve.metrics()).get(name, 0) >= count

    await eventually(enough, f"{count} registrations without a key")


async def approve(place: Administration, url: str, user: str = "alice") -> None:
    await place.scoped.approve_login(id_of(url), place.tenant.id, (await place.user(user)).id)


async def page(url: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        return await client.get(url)


async def test_a_device_without_a_key_is_let_in_by_the_shell(
    serve: ServeProcess, place: Administration
) -> None:
    await place.user("alice")
    async with device(serve.url, await place.auth_key()) as viewer, device(serve.url, None) as one:
        await join(viewer)
        async with logging_in(one) as task:
            (url,) = one.login_urls
            assert url == f"{serve.url}/register/{id_of(url)}"
            assert len(id_of(url)) == 2 * LOGIN_ID_BYTES
            listed = await serve.shell("auth", "list", "-o", "json")
            (row,) = [row for row in orjson.loads(listed.out) if row["id"] == id_of(url)]
            assert (row["hostname"], row["state"]) == (one.hostname, "pending")
            assert row["fingerprint"] == fingerprint(one.machine_key)
            assert (row["address"], row["cluster"]) == ("127.0.0.1", "default")
            done = await serve.shell(
                "auth", "approve", id_of(url), "--user", "alice", "--tenant", place.tenant.name, "-o", "json"
            )
            assert done.code == 0, done.err
            assert orjson.loads(done.out)["state"] == "approved"
            answer = await task
        assert (answer["Error"], answer["AuthURL"]) == ("", "")
        assert answer["MachineAuthorized"]
        assert answer["Login"]["LoginName"] == "alice"
        await one.poll()
        await has_peers(one, viewer)
        await has_peers(viewer, one)
    stored = await place.device(one.hostname)
    assert (stored.register_method, stored.auth_key_id) == ("login", None)
    (audit,) = await run_sql(
        serve.dsn, f"SELECT actor, tenant_id FROM audit_log WHERE object = 'login:{id_of(url)}'"
    )
    assert audit["actor"].startswith("shell:")
    assert audit["tenant_id"] == place.tenant.id


async def test_the_page_says_how_it_stands(serve: ServeProcess, place: Administration) -> None:
    hostile = '<script>alert("1")</script>\u202e'
    async with device(serve.url, None, hostname=hostile) as one, device(serve.url, None) as other:  # noqa: SIM117
        async with logging_in(one) as task, logging_in(other) as denied:
            (url,) = one.login_urls
            answer = await page(url)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            wanted = {**HEADERS, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
            assert {name: answer.headers[name] for name in wanted} == wanted
            assert "<script" not in answer.text
            assert "&lt;script&gt;alert(" in answer.text
            assert "\u202e" not in answer.text
            assert f"hs-node auth approve {id_of(url)} --user USER" in answer.text
            assert fingerprint(one.machine_key) in answer.text
            await approve(place, url)
            await task
            assert "Approved" in (await page(url)).text
            await place.scoped.deny_login(id_of(other.login_urls[0]))
            assert (await denied)["Error"] == DENIED
            assert "Denied" in (await page(other.login_urls[0])).text
    for login_id in ("0" * 24, "x", id_of(url) + "0"):
        answer = await page(f"{serve.url}/register/{login_id}")
        assert answer.status_code == 404
        assert "is over, or never was" in answer.text
        assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]


async def test_a_denied_device_stays_denied(serve: ServeProcess, place: Administration) -> None:
    async with device(serve.url, None) as one:
        async with logging_in(one) as task:
            (url,) = one.login_urls
            result = await serve.shell("auth", "deny", id_of(url), "-o", "json")
            assert orjson.loads(result.out)["state"] == "denied"
            assert (await task)["Error"] == DENIED
        for followup in (url, ""):
            answer = await one.register(Followup=followup)
            assert (answer["Error"], answer["AuthURL"], answer["MachineAuthorized"]) == (DENIED, "", False)
    assert await place.devices() == []


async def test_the_shells_refusals(serve: ServeProcess, place: Administration) -> None:
    await place.user("alice")
    tenant = ("--tenant", place.tenant.name)
    async with device(serve.url, None) as one:
        login_id = id_of((await one.register())["AuthURL"])
        for arguments, code, sentence in (
            (("approve", "0" * 24, "--user", "alice", *tenant), 1, f"no login {'0' * 24} is waiting"),
            (("approve", login_id, "--user", "nobody", *tenant), 1, "there is no user 'nobody' in tenant"),
            (("approve", login_id, "--user", "alice", "--tenant", "x"), 1, "there is no tenant x"),
            (("approve", login_id), 2, "Missing option '-u' / '--user'"),
            (("deny", "nonsense"), 1, "no login nonsense is waiting"),
            (("deny", login_id), 0, ""),
            (("approve", login_id, "--user", "alice", *tenant), 1, f"login {login_id} was denied already"),
        ):
            result = await serve.shell("auth", *arguments)
            assert result.code == code, (arguments, result)
            assert sentence in result.err
            assert "Traceback" not in result.err


async def test_several_requests_wait_and_all_are_answered(serve: ServeProcess, place: Administration) -> None:
    """Proxies cut, clients repeat over other connections: one device comes of it."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(device(serve.url, None))
        twins = [
            await stack.enter_async_context(
                device(
                    serve.url,
                    None,
                    hostname=first.hostname,
                    machine_private=first.machine_private,
                    node_private=first.node_private,
                )
            )
            for _ in range(MAX_WAITERS_PER_LOGIN - 1)
        ]
        url = (await first.register())["AuthURL"]
        for twin in twins:
            assert (await twin.register())["AuthURL"] == url
        before = (await serve.metrics())["hs_registrations_total{outcome=needs_login}"]
        tasks = [asyncio.create_task(one.register(Followup=url)) for one in (first, *twins)]
        await waits(serve, int(before) + len(tasks))
        await approve(place, url)
        answers = await asyncio.gather(*tasks)
    assert {answer["Error"] for answer in answers} == {""}
    assert {answer["AuthURL"] for answer in answers} == {""}
    (row,) = await place.devices()
    assert row.hostname == first.hostname


@pytest.mark.parametrize("how", [pytest.param("stopped", marks=pytest.mark.chaos), "killed"])
async def test_a_wait_survives_a_restart(pg_server: str, how: str) -> None:
    """Approved while no server ran, and the client showed one URL all the time."""
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn, settings=QUICK) as serve:  # noqa: SIM117
        async with device(serve.url, None) as one, logging_in(one) as task:
            await waits(serve, 2)
            if how == "stopped":
                assert await serve.stop() == 0
            else:
                await serve.kill()
            async with admin(dsn) as place:
                await approve(place, one.login_urls[0])
            await serve.start()
            assert (await task)["Error"] == ""
            assert len(one.login_urls) == 1


async def test_a_wait_goes_on_in_another_process(pg_server: str) -> None:
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn, settings=QUICK) as serve:
        standby = ServeProcess(dsn, secret_key_file=serve.secret_key_file, settings=QUICK)
        async with AsyncExitStack() as stack:
            await standby.start(wait=False)
            stack.push_async_exit(standby)
            one = await stack.enter_async_context(device(serve.url, None))
            url = (await one.register())["AuthURL"]
            await serve.kill()
            await standby.wait_ready()
            moved = await stack.enter_async_context(
                device(
                    standby.url,
                    None,
                    hostname=one.hostname,
                    machine_private=one.machine_private,
                    node_private=one.node_private,
                )
            )
            task = asyncio.create_task(moved.register(Followup=url))
            await waits(standby)
            assert "hs-node auth approve" in (await page(url.replace(serve.url, standby.url))).text
            async with admin(dsn) as place:
                await approve(place, url)
                assert (await task)["Error"] == ""
                assert (await place.device(one.hostname)).node_key == one.node_key


@pytest.mark.parametrize(
    "loss",
    ["UPDATE pending_logins SET expires_at = now() - interval '1 s'", "DELETE FROM pending_logins"],
    ids=["expired", "lost"],
)
async def test_a_login_that_is_over_gets_a_new_url(
    serve: ServeProcess, place: Administration, loss: str
) -> None:
    async with device(serve.url, None) as one, logging_in(one) as task:
        (first,) = one.login_urls
        await run_sql(serve.dsn, f"{loss} WHERE id = '{id_of(first)}'")
        second = await next_url(one, 1)
        assert second != first
        await approve(place, second)
        assert (await task)["Error"] == ""
        assert (await page(first)).status_code == 404


async def test_a_foreign_login_is_of_no_use(serve: ServeProcess, place: Administration) -> None:
    """Whoever learns an id may look at its page, but not wait there or take the approval."""
    async with device(serve.url, None) as owner, device(serve.url, None) as thief:
        url = (await owner.register())["AuthURL"]
        for followup in (url, f"{serve.url}/register/x", "http://[", "https://elsewhere.example/a/b"):
            answer = await thief.register(Followup=followup)
            assert answer["AuthURL"] not in ("", url)
        await approve(place, url)
        assert (await thief.register(Followup=url))["AuthURL"] not in ("", url)
        assert (await owner.register(Followup=url))["Error"] == ""
    assert [row.hostname for row in await place.devices()] == [owner.hostname]


async def test_asking_again_shows_the_same_url(serve: ServeProcess) -> None:
    async with device(serve.url, None) as one:
        urls = {(await one.register())["AuthURL"] for _ in range(3)}
    assert len(urls) == 1


async def test_an_approval_serves_once(serve: ServeProcess, place: Administration) -> None:
    async with device(serve.url, None) as one:
        url = (await one.register())["AuthURL"]
        await approve(place, url)
        await join(one)
        await place.scoped.delete_device(place.tenant.id, own_id(one))

        async def asked_again() -> bool:
            return (await one.register(Followup=url))["AuthURL"] not in ("", url)

        await eventually(asked_again, "the deleted device has to ask anew")
    assert await place.devices() == []


async def test_forced_login_of_the_same_user_rotates_in_place(
    serve: ServeProcess, place: Administration
) -> None:
    async with device(serve.url, await place.auth_key()) as viewer, device(serve.url, None) as one:
        await join(viewer)
        url = (await one.register())["AuthURL"]
        await approve(place, url)
        await join(one)
        before = await place.device(one.hostname)
        old_key = one.node_key
        await has_peers(viewer, one)
        async with logging_in(one, fresh_key=True) as task:
            polls = one.polls
            await viewer.update(endpoints=["192.0.2.1:4242"])
            await one.wait_for(
                lambda _: (peer(one, viewer) or {}).get("Endpoints") == ["192.0.2.1:4242"], DEADLINE_S
            )
            assert (one.polls, one.node_key) == (polls, old_key), "the old key works while the new one waits"
            await approve(place, one.login_urls[-1])
            assert (await task)["Error"] == ""
        assert one.node_key != old_key
        await has_peers(viewer, one)
        await has_peers(one, viewer)
        assert (peer(viewer, one) or {})["Key"] == node_key_text(one.node_key)
        assert not viewer.violations
    after = await place.device(one.hostname)
    assert (after.id, after.ipv4, after.given_name) == (before.id, before.ipv4, before.given_name)


async def test_forced_login_of_another_user_makes_another_device(
    serve: ServeProcess, place: Administration
) -> None:
    async with device(serve.url, await place.auth_key("alice")) as one:
        await join(one)
        before = own_id(one)
        one.auth_key = None
        async with logging_in(one, fresh_key=True) as task:
            await approve(place, one.login_urls[-1], "bob")
            assert (await task)["Login"]["LoginName"] == "bob"
        await one.wait_for(
            lambda netmap: netmap.self_node is not None and netmap.self_node["ID"] != before, DEADLINE_S
        )
    owners = {row.id: row.user_id for row in await place.devices()}
    assert owners[before] == (await place.user("alice")).id
    assert owners[own_id(one)] == (await place.user("bob")).id


async def test_an_expired_device_logs_in_again(serve: ServeProcess, place: Administration) -> None:
    async with device(serve.url, await place.auth_key()) as one:
        await join(one)
        before = own_id(one)
        await place.scoped.expire_device(place.tenant.id, before, time.time() - 1)
        one.auth_key = None
        assert (await one.register())["NodeKeyExpired"]
        async with logging_in(one, fresh_key=True) as task:
            await approve(place, one.login_urls[-1])
            assert (await task)["Error"] == ""
        (row,) = await place.devices()
        assert (row.id, row.node_key, row.expiry) == (before, one.node_key, None)


async def test_an_ephemeral_wish_is_kept(serve: ServeProcess, place: Administration) -> None:
    async with device(serve.url, None, ephemeral=True) as one:
        url = (await one.register())["AuthURL"]
        assert "Ephemeral" in (await page(url)).text
        await approve(place, url)
        assert (await one.register(Followup=url))["Error"] == ""
        assert (await place.device(one.hostname)).ephemeral


async def test_a_flood_from_one_address_costs_only_itself(pg_server: str) -> None:
    """The table is bounded, the oldest give way; a waiting device that lost its place gets a new URL."""
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn, settings=QUICK) as serve:  # noqa: SIM117
        async with admin(dsn) as place, device(serve.url, None) as honest, logging_in(honest) as task:
            async with device(serve.url, None) as flood:
                for number in range(1, MAX_LOGINS_PER_NETWORK + 5):
                    node_key = number.to_bytes(32, "big")
                    assert (await flood.register(NodeKey=node_key_text(node_key)))["AuthURL"]
            pending = await place.scoped.logins()
            assert len(pending) <= MAX_LOGINS_PER_NETWORK
            url = await next_url(honest, 1)
            await approve(place, url)
            assert (await task)["Error"] == ""
