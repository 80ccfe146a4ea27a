"""Devices behind nginx and HAProxy with the samples of `deploy/` and the packages' default timeouts."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

import pytest

from tests.deploy.behind import Behind
from tests.deploy.proxies import ADDRESS
from tests.node.kit import Recorder, joined, until
from tests.node.support import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: After a restart of the proxy or the server; a device tries again with a growing pause.
BACK_DEADLINE_S = 20.0


async def test_devices_join_by_every_way(place: Behind) -> None:
    """Over TLS as clients do, as WebSocket as browsers do, over port 80, and past the proxy: one netmap."""
    async with contextlib.AsyncExitStack() as stack:
        tenant = await stack.enter_async_context(place.tenant("ways"))
        key = await tenant.auth_key()
        ways = {
            "tls": place.device(key),
            "websocket": place.device(key, websocket=True),
            "port 80": place.device(key, plain=True),
            "websocket on port 80": place.device(key, plain=True, websocket=True),
            "direct": Recorder(place.serve.url, key),
        }
        for device in ways.values():
            await joined(await stack.enter_async_context(device))
        for device in ways.values():
            await device.sees(peers=len(ways) - 1)
        speaker = ways["websocket"]
        await speaker.update(endpoints=["192.0.2.7:41641"])
        for way, device in ways.items():
            if device is not speaker:
                await device.sees(speaker.id, Endpoints=["192.0.2.7:41641"], Online=True)
            assert device.polls == 1, way
            assert not device.violations, way


async def test_maps_larger_than_all_buffers_pass(place: Behind) -> None:
    """A device's poll carries what a proxy has to hold back for a slow reader, and nothing is lost."""
    async with place.tenant("large") as tenant:
        key = await tenant.auth_key()
        async with place.device(key) as slow, Recorder(place.serve.url, key) as speaker:
            await joined(slow)
            await joined(speaker)
            slow.reads.clear()
            many = [f"192.0.2.{n}:{port}" for n in range(1, 20) for port in (41641, 41642)]
            for round_ in range(200):
                await speaker.update(endpoints=many[round_ % 7 :])
            slow.reads.set()
            await slow.sees(speaker.id, Endpoints=many[199 % 7 :])
            assert slow.polls == 1
            assert not slow.violations


async def test_pages_pass_and_port_80_sends_browsers_to_tls(place: Behind) -> None:
    assert "cluster default" in (await place.get("/")).text
    assert (await place.get("/health")).status_code == 200
    assert (await place.get("/register/" + "0" * 24)).status_code == 404
    moved = await place.get("/key?v=130", plain=True)
    assert moved.status_code == 301
    # HAProxy keeps the request's port, nginx leaves it out: where it is 80, both send to 443.
    to = urlsplit(moved.headers["location"])
    assert (to.scheme, to.hostname, to.path, to.query) == ("https", ADDRESS, "/key", "v=130")


async def test_a_login_waits_and_is_approved(place: Behind) -> None:
    """The page's address is the proxy's, and the request that waits gets its answer through it."""
    async with place.tenant("login") as tenant, place.device(None) as device:
        await tenant.user("alice")
        waiting = asyncio.create_task(device.login(DEADLINE_S))
        await until(lambda: device.login_urls, "a page is shown")
        (url,) = device.login_urls
        assert url.startswith(place.at.url + "/register/")
        page = await place.get(url.removeprefix(place.at.url))
        assert device.hostname in page.text
        login_id = url.rpartition("/")[2]
        approved = await place.serve.shell(
            "auth", "approve", login_id, "--user", "alice", "--tenant", tenant.tenant.name
        )
        assert approved.code == 0, approved.err
        assert (await waiting)["MachineAuthorized"]


async def test_a_restarted_proxy_brings_all_back_and_nobody_was_seen_to_leave(place: Behind) -> None:
    async with contextlib.AsyncExitStack() as stack:
        tenant = await stack.enter_async_context(place.tenant("restart"))
        key = await tenant.auth_key()
        watcher = await stack.enter_async_context(Recorder(place.serve.url, key))
        tls = await stack.enter_async_context(place.device(key))
        web = await stack.enter_async_context(place.device(key, websocket=True))
        for device in (watcher, tls, web):
            await joined(device)
        await watcher.sees(peers=2)
        await place.stop()
        for device in (tls, web):
            await until(lambda d=device: d.failures, "the poll is cut")
        await place.start()
        for device in (tls, web):
            await device.wait_for(lambda n, d=device: d.polls >= 2 and len(n.peers) == 2, BACK_DEADLINE_S)
        await tls.update(endpoints=["192.0.2.8:1"])
        await watcher.sees(tls.id, Endpoints=["192.0.2.8:1"], Online=True)
        assert watcher.polls == 1
        gone = [news for d in (tls, web) for news in watcher.news_of(d.id) if news.get("Online") is False]
        assert not gone


async def test_a_restarted_server_gets_its_devices_back_through_the_proxy(place: Behind) -> None:
    """Meanwhile the proxy answers 502 or 503; the devices try again."""
    async with place.tenant("again") as tenant:
        key = await tenant.auth_key()
        async with place.device(key) as tls, place.device(key, websocket=True) as web:
            await joined(tls)
            await joined(web)
            await place.serve.stop()
            assert (await place.get("/key?v=130")).status_code in (502, 503)
            await place.serve.start()
            for device in (tls, web):
                await device.wait_for(lambda n, d=device: d.polls >= 2 and len(n.peers) == 1, BACK_DEADLINE_S)
                assert not device.violations

            # A proxy that checks may have found it away just before it was back: two checks pass meanwhile.
            async def answers() -> bool:
                return (await place.get("/key?v=130")).status_code == 200

            await eventually(answers, "the proxy has noticed", BACK_DEADLINE_S)


async def test_a_request_without_upgrade_is_told_why(place: Behind) -> None:
    """What a proxy that strips the header looks like from the outside."""
    answer = await place.ask("POST", "/ts2021")
    assert answer.status_code == 400
    assert "does a proxy in between strip it?" in answer.text


async def test_logs_have_the_clients_address(place: Behind) -> None:
    """Of both; and what a client claims about itself counts for nothing."""
    lies = {"X-Forwarded-For": "203.0.113.99"}
    answer = await place.ask("POST", "/ts2021", source="127.0.0.9", headers=lies)
    assert answer.status_code == 400
    await until(
        lambda: [line for line in place.log().splitlines() if "127.0.0.9" in line and "/ts2021" in line],
        "the proxy's log has a line of the request",
    )
    refused = [line for line in place.serve.log().splitlines() if "entry_refused" in line]
    assert "remote=127.0.0.9 " in refused[-1]
