"""Python's cyclic collector: it is watched, and has nothing to do with what connections leave behind."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from pathlib import Path

from app.entry.listener import EntryProtocol
from node.collector import THRESHOLDS, Collector
from node.session import MapSession
from node.tunnel import TunnelProtocol
from tests.node.kit import fleet, in_process, own_tenant, until

OURS = (EntryProtocol, TunnelProtocol, MapSession)


def alive() -> Counter[str]:
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, OURS))


async def test_a_closed_connection_is_freed_without_the_collector(database: str, tmp_path: Path) -> None:
    """A full collection holds the process for long, so it comes seldom: nothing may wait for one."""
    async with in_process(database, tmp_path) as server, own_tenant(database) as place:
        key = await place.auth_key()
        gc.collect()
        gc.disable()
        try:
            async with fleet(server.url, key, 5):
                assert alive()["MapSession"] == 5
            await until(lambda: not server.owner.hub.sessions(), "all polls have ended")
            await asyncio.sleep(0)
            await until(lambda: not alive(), f"freed by reference counts: {alive()}")
        finally:
            gc.enable()


def test_collections_are_told_with_their_generation() -> None:
    heard: list[tuple[int, float]] = []
    before = gc.get_threshold()
    with Collector(lambda generation, seconds: heard.append((generation, seconds))):
        assert gc.get_threshold() == THRESHOLDS
        gc.collect(1)
    gc.collect(0)
    assert [generation for generation, _ in heard] == [1]
    assert heard[0][1] >= 0
    assert gc.get_threshold() == before
