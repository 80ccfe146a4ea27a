"""A silent map poll outlives the default timeouts of both proxies, which do cut what is really silent."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client.connection import ControlConnection
from node.session import KEEPALIVE_JITTER_S, KEEPALIVE_S
from tests.deploy.behind import CAPVER, Behind
from tests.deploy.proxies import CUTS_AFTER_S
from tests.node.kit import joined, until
from tests.node.support import DEADLINE_S, has_peers

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: What a busy machine may add to a timer, seconds.
SLACK_S = 4.0


async def test_keepalives_come_before_any_default_timeout() -> None:
    assert min(CUTS_AFTER_S.values()) > KEEPALIVE_S + KEEPALIVE_JITTER_S + SLACK_S


async def _cut_after_s(place: Behind, *, websocket: bool) -> float:
    """Seconds until a tunnel without a poll, on which nothing is said, is cut."""
    connection = await ControlConnection.open(
        place.at.url,
        machine_private=X25519PrivateKey.generate(),
        capver=CAPVER,
        server_key=place.server_key,
        websocket=websocket,
        ssl=place.tls,
    )
    began = time.monotonic()
    await connection.wait_closed()
    return time.monotonic() - began


@pytest.mark.soak
@pytest.mark.timeout(180)
async def test_a_silent_poll_is_held_longer_than_the_timeout(place: Behind) -> None:
    limit_s = CUTS_AFTER_S[place.name]
    async with contextlib.AsyncExitStack() as stack:
        tenant = await stack.enter_async_context(place.tenant("idle"))
        key = await tenant.auth_key()
        held = [place.device(key), place.device(key, websocket=True), place.device(key, plain=True)]
        for device in held:
            await joined(await stack.enter_async_context(device))
        for device in held:
            await has_peers(device, *(other for other in held if other is not device))
        heard = [len(device.messages) for device in held]
        # These two are cut: so the timeout is in force, and it is what the polls have outlived.
        async with asyncio.timeout(limit_s + 15):
            cut = await asyncio.gather(*(_cut_after_s(place, websocket=web) for web in (False, True)))
        assert all(limit_s - SLACK_S < after_s < limit_s + SLACK_S for after_s in cut), cut
        for device, before in zip(held, heard, strict=True):
            since = list(device.messages)[before:]
            assert since, "no keep-alive"
            assert {message.kind for message in since} == {"keepalive"}
            assert device.polls == 1
            assert not device.failures
        await held[0].update(endpoints=["192.0.2.9:9"])
        for device in held[1:]:
            await device.sees(held[0].id, Endpoints=["192.0.2.9:9"], Online=True)
            assert device.polls == 1
        print(f"{place.name}: silent tunnels cut after {cut} s, polls held, keep-alives heard")


@pytest.mark.soak
@pytest.mark.timeout(180)
async def test_a_login_that_waits_longer_than_the_timeout_is_let_in(place: Behind) -> None:
    """Nothing is said while a person thinks: the proxy cuts, the device asks again with the same page."""
    limit_s = CUTS_AFTER_S[place.name]
    async with place.tenant("patience") as tenant, place.device(None) as device:
        await tenant.user("alice")
        waiting = asyncio.create_task(device.login(limit_s + 60))
        await until(lambda: device.failures, "the waiting request is cut", limit_s + 15)
        (url,) = device.login_urls
        login_id = url.rpartition("/")[2]
        approved = await place.serve.shell(
            "auth", "approve", login_id, "--user", "alice", "--tenant", tenant.tenant.name
        )
        assert approved.code == 0, approved.err
        async with asyncio.timeout(DEADLINE_S):
            answer = await waiting
        assert answer["MachineAuthorized"], answer
        assert device.login_urls == [url]
