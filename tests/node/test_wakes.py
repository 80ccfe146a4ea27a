"""Wake-ups are hints: late, double or for nothing, what is committed reaches who shall hear it, once."""

from __future__ import annotations

import asyncio

import asyncpg

from app.db.listen import CHANNEL_PREFIX
from tests.node.kit import Recorder, fleet, own_tenant
from tests.node.support import ServeProcess, eventually, run_sql

K = 40


async def counted(serve: ServeProcess, *names: str) -> dict[str, float]:
    found = await serve.metrics()
    return {name: found.get(name, 0.0) for name in names}


async def settled(*devices: Recorder) -> list[int]:
    """How many messages each has, once none has come for a while of the loop's clock."""
    before = [len(device.seen) for device in devices]
    quiet_since = asyncio.get_running_loop().time()

    async def quiet() -> bool:
        nonlocal before, quiet_since
        now = [len(device.seen) for device in devices]
        if now != before:
            before, quiet_since = now, asyncio.get_running_loop().time()
        return asyncio.get_running_loop().time() - quiet_since > 1.5

    await eventually(quiet, "nothing more comes")
    return before


async def test_wake_ups_without_a_change_cost_nobody_anything(serve: ServeProcess) -> None:
    async with own_tenant(serve.dsn) as place, fleet(serve.url, await place.auth_key(), 3) as devices:
        messages = await settled(*devices)
        rows = await counted(serve, "hs_foreign_changes_total", "hs_delta_frames_total")
        connection = await asyncpg.connect(serve.dsn, timeout=10)
        try:
            for number in range(200):
                await connection.execute(
                    "SELECT pg_notify($1, $2)", CHANNEL_PREFIX + serve.cluster, f"device:{number}"
                )
        finally:
            await connection.close(timeout=10)
        # A change after them is heard; by then they have been dealt with.
        a, b, _ = devices
        await run_sql(serve.dsn, "UPDATE hs.nodes SET given_name = 'after' WHERE id = $1", b.id)
        await a.wait_for(lambda netmap: netmap.peers[b.id]["Name"].startswith("after."), 10)
        assert len(a.seen) == messages[0] + 1
        after = await counted(serve, "hs_foreign_changes_total", "hs_delta_frames_total")
        assert after["hs_foreign_changes_total"] == rows["hs_foreign_changes_total"] + 1
        assert after["hs_delta_frames_total"] <= rows["hs_delta_frames_total"] + 3


async def test_a_long_transaction_commits_late_and_is_heard_once(serve: ServeProcess) -> None:
    """It wrote before many others that commit while it is open: its rows are older than what was read."""
    async with own_tenant(serve.dsn) as place, fleet(serve.url, await place.auth_key(), 3) as (a, b, c):
        long = await asyncpg.connect(serve.dsn, timeout=10)
        try:
            transaction = long.transaction()
            await transaction.start()
            await long.execute("UPDATE hs.nodes SET given_name = 'late' WHERE id = $1", b.id)
            for number in range(20):
                await run_sql(
                    serve.dsn, "UPDATE hs.nodes SET given_name = $2 WHERE id = $1", c.id, f"c{number}"
                )
                await a.wait_for(lambda netmap, n=number: netmap.peers[c.id]["Name"].startswith(f"c{n}."), 10)
            assert not any(news.get("Name", "").startswith("late.") for news in a.news_of(b.id))
            await transaction.commit()
        finally:
            await long.close(timeout=10)
        await a.wait_for(lambda netmap: netmap.peers[b.id]["Name"].startswith("late."), 10)
        await settled(a, c)
        for device in (a, c):
            told = [news for news in device.news_of(b.id) if news.get("Name", "").startswith("late.")]
            assert len(told) == 1


async def test_many_changes_in_one_window_are_one_rebuild(serve: ServeProcess) -> None:
    async with own_tenant(serve.dsn) as place, fleet(serve.url, await place.auth_key(), 4) as devices:
        a, b, c, _ = devices
        await settled(*devices)
        rounds = await counted(serve, "hs_round_seconds_count", "hs_changed_devices_total")
        before = len(a.seen)
        connection = await asyncpg.connect(serve.dsn, timeout=10)
        try:
            # One transaction: one wake-up, one read, one round, one message to each who sees them.
            async with connection.transaction():
                for number in range(K):
                    for device in (b, c):
                        await connection.execute(
                            "UPDATE hs.nodes SET given_name = $2 WHERE id = $1",
                            device.id,
                            f"n{number}-{device.id}",
                        )
        finally:
            await connection.close(timeout=10)
        last = f"n{K - 1}-{b.id}."
        await a.wait_for(lambda netmap: netmap.peers[b.id]["Name"].startswith(last), 10)
        await settled(a)
        assert len(a.seen) == before + 1
        assert len([n for n in a.news_of(b.id) if "Name" in n]) == len(
            [n for n in a.news_of(c.id) if "Name" in n]
        )
        after = await counted(serve, "hs_round_seconds_count", "hs_changed_devices_total")
        assert after["hs_changed_devices_total"] == rounds["hs_changed_devices_total"] + 2
        # Other tenants of this server may have had a round of their own meanwhile.
        assert after["hs_round_seconds_count"] <= rounds["hs_round_seconds_count"] + 2


async def test_a_burst_of_transactions_shares_rounds(serve: ServeProcess) -> None:
    """K commits one after the other: the last picture arrives, in far fewer messages than commits."""
    async with own_tenant(serve.dsn) as place, fleet(serve.url, await place.auth_key(), 3) as devices:
        a, b, _ = devices
        await settled(*devices)
        before = len(a.seen)
        connection = await asyncpg.connect(serve.dsn, timeout=10)
        try:
            for number in range(K):
                await connection.execute(
                    "UPDATE hs.nodes SET given_name = $2 WHERE id = $1", b.id, f"k{number}"
                )
        finally:
            await connection.close(timeout=10)
        await a.wait_for(lambda netmap: netmap.peers[b.id]["Name"].startswith(f"k{K - 1}."), 10)
        await settled(a)
        # The first at once, the rest by ticks of 100 ms and more; K commits take a small part of a second.
        assert len(a.seen) - before < K / 2
