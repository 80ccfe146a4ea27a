"""Clients that do harm: floods of connections that get nowhere, polls nobody reads, TLS left half-way."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from app.entry.limits import MAX_HALF_OPEN
from tests.node.flooder import SOURCES
from tests.node.kit import Recorder, fleet, in_process, joined
from tests.node.support import DEADLINE_S, ROOT, ServeProcess, admin, clean_environment, eventually
from tests.node.test_entry_listener import Raw
from tests.node.test_entry_pages import make_certificate

#: In all more than may stand, from each address more than it may have.
EACH = 1100
#: A Go client gives a dial and its handshake so long.
JOIN_DEADLINE_S = 10.0
STANDING_DEADLINE_S = 60.0
#: What 4,096 unfinished connections may cost the process.
FLOOD_MEMORY_BYTES = 200 * 1024 * 1024


@contextlib.asynccontextmanager
async def flood(url: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.node.flooder", url, str(EACH)),
        cwd=ROOT,
        env=clean_environment({}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(STANDING_DEADLINE_S):
            assert await process.stdout.readline() == b"standing\n"
        yield
    finally:
        process.kill()
        await process.wait()


async def test_devices_join_while_a_flood_is_on(database: str) -> None:
    async with ServeProcess(database) as serve, admin(database) as home:
        key = await home.auth_key()
        async with fleet(serve.url, key, 2) as (viewer, talker):
            memory = psutil.Process(serve.pid).memory_info().rss
            async with flood(serve.url):
                assert EACH * len(SOURCES) > MAX_HALF_OPEN
                cut = 0.0
                for number in range(3):
                    began = time.monotonic()
                    async with Recorder(serve.url, key) as newcomer:
                        await joined(newcomer)
                        assert time.monotonic() - began < JOIN_DEADLINE_S
                        await viewer.sees(newcomer.id, Online=True)
                    # Who is in already is not bothered at all.
                    await talker.update(endpoints=[f"192.0.2.1:{number + 1}"])
                    await viewer.sees(talker.id, Endpoints=[f"192.0.2.1:{number + 1}"])
                    figures = await serve.metrics()
                    assert figures["hs_half_open_connections"] <= MAX_HALF_OPEN
                    assert figures["hs_displaced_connections"] > cut, "the flood is over"
                    cut = figures["hs_displaced_connections"]
                grown = psutil.Process(serve.pid).memory_info().rss - memory
                assert grown < FLOOD_MEMORY_BYTES

            async def over() -> bool:
                figures = await serve.metrics()
                return figures["hs_half_open_connections"] == 0 and figures["hs_tunnels"] == 2

            await eventually(over, "nothing of the flood is left")
            assert (viewer.polls, talker.polls) == (1, 1)
            assert not viewer.violations + talker.violations


async def test_polls_that_nobody_reads_cost_the_others_nothing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that stops taking what it is sent is caught up by one full map when it reads again."""
    monkeypatch.setattr("app.client.connection.STREAM_WINDOW_BYTES", 16 * 1024)
    rounds = 140
    async with ServeProcess(database) as serve, admin(database) as home:
        key = await home.auth_key()
        async with (
            fleet(serve.url, key, 2) as (viewer, talker),
            contextlib.AsyncExitStack() as stack,
        ):
            stuck = [await stack.enter_async_context(Recorder(serve.url, key, compress="")) for _ in range(6)]
            for one in stuck:
                await joined(one)
            for one in stuck:
                await one.sees(peers=7)
                one.reads.clear()
            maps = (await serve.metrics())["hs_full_maps_total"]
            for number in range(1, rounds + 1):
                endpoints = [f"[2001:db8:1234:5678:9abc::{place:x}]:{number}" for place in range(1, 65)]
                await talker.update(endpoints=endpoints)
                await viewer.sees(talker.id, Endpoints=endpoints)
            for one in stuck:
                one.reads.set()
            for one in stuck:
                await one.sees(talker.id, Endpoints=endpoints)
                assert one.polls == 1
                assert len(one.netmap.peers) == 7
                # Far fewer than were sent to those who read.
                assert one.netmap.messages < rounds
            assert (await serve.metrics())["hs_full_maps_total"] == maps + len(stuck)
            assert (viewer.polls, talker.polls) == (1, 1)
            for one in (viewer, talker, *stuck):
                assert not one.violations


async def test_tls_left_half_way_is_cut(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.listen.TLS_HANDSHAKE_S", 0.3)
    certificate, private = make_certificate(tmp_path)
    settings = {"HS_TLS_CERT_PATH": str(certificate), "HS_TLS_KEY_PATH": str(private)}
    async with in_process(database, tmp_path, settings) as server:
        began = time.monotonic()
        raw = await Raw.dial(server.url)
        # The beginning of a ClientHello of 512 bytes.
        await raw.ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert time.monotonic() - began < DEADLINE_S
