"""Owners tell consoles and standbys that something was committed, and not more often than they may."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg

from app.db.listen import FLEET_CHANNEL
from app.errors import Unavailable
from node import news
from node.news import FleetNews
from tests.node.support import ServeProcess, admin, device, eventually, fresh_database, join

DEVICES = 6


async def test_what_devices_and_operators_do_is_told_but_not_more_than_twice_a_second(
    pg_server: str, tmp_path: Path
) -> None:
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn, "a") as serve:
        heard: list[str] = []
        listening = await asyncpg.connect(dsn)
        await listening.add_listener(FLEET_CHANNEL, lambda *facts: heard.append(str(facts[-1])))
        began = time.monotonic()
        async with admin(dsn, "a") as shell:
            key = await shell.auth_key()
        for number in range(DEVICES):
            async with device(serve.url, key, hostname=f"one-{number}") as one:
                await join(one)

        async def told() -> bool:
            return bool(heard)

        await eventually(told, "the owner tells of it")
        took = time.monotonic() - began
        await listening.close()
        assert set(heard) == {"a"}
        assert len(heard) <= 2 + took / news.EVERY_S


async def test_what_could_not_be_told_is_told_later() -> None:
    sent: list[int] = []
    may_write = False

    async def notify() -> None:
        sent.append(len(sent))
        if len(sent) == 1:
            raise Unavailable("the database is away")

    teller = FleetNews(notify, lambda: may_write)
    running = asyncio.create_task(teller.run())
    teller.touch()

    async def twice() -> bool:
        return len(sent) == 2

    await eventually(lambda: asyncio.sleep(0, True), "the loop runs")
    assert sent == []
    may_write = True
    await eventually(twice, "it is tried again")
    running.cancel()
