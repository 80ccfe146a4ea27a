"""Ephemeral devices: deleted when they are gone for long, never while they are coming or there.

The server runs in this process, since settings allow no inactivity that a test could wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from app.client.device import SimulatedDevice
from app.runtime import Daemon
from app.settings import load
from node import owner
from node.serve import Serving
from tests.node.support import (
    DEADLINE_S,
    Administration,
    ServeProcess,
    admin,
    device,
    eventually,
    has_peers,
    join,
    peer,
)

INACTIVITY_S = 1.0
#: Also what a registration adds to a device's life: more than a slow machine's pauses.
GRACE = {"HS_TIMING__OFFLINE_GRACE": "700ms"}
DRAIN_S = 10.0


@asynccontextmanager
async def serving(place: ServeProcess) -> AsyncIterator[str]:
    """What `place` would run, here, with a short inactivity."""
    settings = load(None, place.env, Path.cwd()).settings
    brief = settings.node.ephemeral.model_copy(update={"inactivity_timeout": INACTIVITY_S})
    settings = settings.model_copy(update={"node": settings.node.model_copy(update={"ephemeral": brief})})
    daemon, told = Daemon(), asyncio.Event()

    def tell(text: str) -> None:
        if text.startswith("hs-node"):
            told.set()

    async def main(running: Daemon) -> None:
        await Serving(running, settings, True, tell).run()

    task = asyncio.create_task(daemon.run(main, DRAIN_S))
    ready = asyncio.create_task(told.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    try:
        if task.done():
            raise AssertionError(f"serve ended with {task.result()}")
        yield place.url
    finally:
        daemon.stopping.set()
        assert await task == 0


@pytest.fixture
def stopped(database: str, monkeypatch: pytest.MonkeyPatch) -> ServeProcess:
    """Settings and addresses of a server that is not started."""
    monkeypatch.setattr(owner, "EPHEMERAL_CHECK_S", 0.05)
    return ServeProcess(database, settings=GRACE)


async def hostnames(home: Administration) -> set[str]:
    return {row.hostname for row in await home.devices()}


async def left_by(home: Administration, *leaving: SimulatedDevice) -> set[str]:
    """Who is there at the moment when these have been deleted."""
    names = {one.hostname for one in leaving}
    left: set[str] = set()

    async def deleted() -> bool:
        nonlocal left
        left = await hostnames(home)
        return not left & names

    await eventually(deleted, f"{names} are deleted")
    return left


async def test_gone_for_long_is_deleted_and_peers_forget_it(stopped: ServeProcess) -> None:
    async with serving(stopped) as url, admin(stopped.dsn) as home:
        key, lasting_key = await home.auth_key(ephemeral=True), await home.auth_key()
        async with (
            device(url, lasting_key) as viewer,
            device(url, key) as leaving,
            device(url, key) as staying,
            device(url, lasting_key) as lasting,
        ):
            for one in (viewer, leaving, staying, lasting):
                await join(one)
            await has_peers(viewer, leaving, staying, lasting)
            await leaving.close()
            await lasting.close()
            await has_peers(viewer, staying, lasting)
            assert await hostnames(home) == {viewer.hostname, staying.hostname, lasting.hostname}
            # It comes back as a new device, once it has found out.
            await leaving.poll()
            await leaving.wait_for(lambda n: bool(n.self_node and n.self_node.get("Expired")), DEADLINE_S)
            assert not viewer.violations


async def test_coming_back_in_time_cancels(stopped: ServeProcess) -> None:
    """Proof by one that leaves at the same time and does not come back."""
    async with serving(stopped) as url, admin(stopped.dsn) as home:
        key = await home.auth_key(ephemeral=True)
        async with device(url, key) as returning, device(url, key) as control:
            await join(returning)
            await join(control)
            await returning.close()
            await control.close()
            await returning.poll()
            await returning.wait_for(lambda n: returning.polls == 2 and n.messages > 0, DEADLINE_S)
            assert await left_by(home, control) == {returning.hostname}
            await has_peers(returning)


async def test_registered_and_not_yet_polling_has_its_time(stopped: ServeProcess) -> None:
    """headscale #3423: a device deleted between its registration and its first poll."""
    async with serving(stopped) as url, admin(stopped.dsn) as home:
        key = await home.auth_key(ephemeral=True)
        async with (
            device(url, await home.auth_key()) as viewer,
            device(url, key) as control,
            device(url, key) as idle,
        ):
            await join(viewer)
            await join(control)
            await has_peers(viewer, control)
            await control.close()
            await viewer.wait_for(lambda _: (peer(viewer, control) or {}).get("Online") is False, DEADLINE_S)
            await join(idle, poll=False)
            assert await left_by(home, control) == {viewer.hostname, idle.hostname}
            # But one that never polls does not stay for ever.
            assert await left_by(home, idle) == {viewer.hostname}


async def test_registering_again_counts_as_a_sign_of_life(stopped: ServeProcess) -> None:
    """A device wakes up just before its time is over: it must live until its poll arrives."""
    async with serving(stopped) as url, admin(stopped.dsn) as home:
        key = await home.auth_key(ephemeral=True)
        async with (
            device(url, await home.auth_key()) as viewer,
            device(url, key) as waking,
            device(url, key) as control,
        ):
            for one in (viewer, waking, control):
                await join(one)
            await has_peers(viewer, waking, control)
            await waking.close()
            await control.close()
            for one in (waking, control):
                await viewer.wait_for(
                    lambda _, one=one: (peer(viewer, one) or {}).get("Online") is False,  # type: ignore[misc]
                    DEADLINE_S,
                )
            assert not (await waking.register())["Error"]
            assert await left_by(home, control) == {viewer.hostname, waking.hostname}
            await waking.poll()
            await has_peers(waking, viewer)


async def test_inactivity_goes_on_over_a_restart_of_the_server(stopped: ServeProcess) -> None:
    """Whether the device was offline before, or only found to be gone after it."""
    async with AsyncExitStack() as stack:
        async with serving(stopped) as url:
            home = await stack.enter_async_context(admin(stopped.dsn))
            key = await home.auth_key(ephemeral=True)
            offline, cut, staying = [await stack.enter_async_context(device(url, key)) for _ in range(3)]
            for one in (offline, cut, staying):
                await join(one)
            await has_peers(staying, offline, cut)
            await offline.close()
            await staying.wait_for(
                lambda _: (peer(staying, offline) or {}).get("Online") is False, DEADLINE_S
            )
        await cut.close()
        assert await hostnames(home) == {offline.hostname, cut.hostname, staying.hostname}
        before = staying.polls
        async with serving(stopped):
            await staying.wait_for(lambda n: staying.polls > before and n.messages > 0, DEADLINE_S)
            assert await left_by(home, offline, cut) == {staying.hostname}
            await has_peers(staying)
