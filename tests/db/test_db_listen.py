"""The listener: wakes, heals itself, says when to load anew, and stays bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from db_helpers import Home, Proxy, as_role, until

from app.db.listen import QUEUE_LIMIT, Listener, Resync, Wake
from app.db.scoped import Scoped
from app.db.setup import Database

CHANNEL = "netmap_dirty_a"


@pytest.fixture
async def cable(prepared: Database) -> AsyncIterator[Proxy]:
    async with Proxy(prepared.dsn) as proxy:
        yield proxy


@pytest.fixture
async def listener(cable: Proxy) -> AsyncIterator[Listener]:
    listening = Listener(cable.dsn, [CHANNEL, "hs_routing"], cluster_id="a", heartbeat_s=0.2)
    task = asyncio.create_task(listening.run())
    yield listening
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def following(events: AsyncIterator[Wake | Resync]) -> Wake | Resync:
    async with asyncio.timeout(15):
        return await anext(events)


async def test_resync_first_then_wakes(listener: Listener, admin: Scoped) -> None:
    events = aiter(listener)
    first = await following(events)
    assert first == Resync((await admin.load()).generation, False)
    user = await admin.create_user((await admin.tenant()).id, "alice")
    assert await following(events) == Wake(CHANNEL, f"user:{user.id}")


async def test_cut_muted_and_terminated(
    listener: Listener, cable: Proxy, admin: Scoped, prepared: Database
) -> None:
    events = aiter(listener)
    await following(events)
    cable.cut()
    await until(lambda: not listener.connected)
    await admin.create_user((await admin.tenant()).id, "while cut")
    cable.mend()
    assert isinstance(await following(events), Resync)
    cable.mute()
    await until(lambda: not listener.connected)
    cable.unmute()
    assert isinstance(await following(events), Resync)
    boss = await as_role(prepared.dsn, "none")
    await boss.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await boss.close()
    event = await following(events)
    assert isinstance(event, Resync)
    assert not event.new_generation


async def test_pool_and_reader_heal_after_all_backends_died(
    listener: Listener, admin: Scoped, owner: Scoped, prepared: Database, home: Home
) -> None:
    events = aiter(listener)
    await following(events)
    snapshot = await owner.load()
    boss = await as_role(prepared.dsn, "none")
    await boss.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await boss.execute(
        "INSERT INTO hs.users (tenant_id, cluster_id, name) VALUES ($1, 'a', 'x')", home.tenant.id
    )
    await boss.close()
    assert isinstance(await following(events), Resync)

    async def read() -> bool:
        _, found = await owner.changes(snapshot.position)
        return [change.kind for change in found] == ["user"]

    await until(read)


async def test_another_generation_is_told(prepared: Database) -> None:
    listening = Listener(prepared.dsn, [CHANNEL], cluster_id="a", generation="other/00000001")
    task = asyncio.create_task(listening.run())
    event = await following(aiter(listening))
    assert isinstance(event, Resync)
    assert event.new_generation
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_slow_reader_costs_a_bounded_queue(listener: Listener, prepared: Database) -> None:
    events = aiter(listener)
    await following(events)
    conn = await as_role(prepared.dsn, "hs_owner")
    for number in range(QUEUE_LIMIT + 1):
        await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, str(number % 3))
    await conn.execute("SELECT pg_notify($1, 'last')", CHANNEL)
    got = []
    while not got or got[-1] != Wake(CHANNEL, "last"):
        got.append(await following(events))
    assert len(got) <= 8
    listener._wakes.clear()
    for number in range(2 * QUEUE_LIMIT):
        listener._on_notify(None, 0, CHANNEL, str(number))
        assert len(listener._wakes) <= QUEUE_LIMIT
    await conn.close()
