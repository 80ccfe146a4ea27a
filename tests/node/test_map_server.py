"""What of the map poll can only be seen from inside: order of announcements, slow readers, keep-alives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.compression import compress
from app.entry import sockets
from app.keys import disco_key_text
from app.wire import mapstream
from node import session as session_module
from node import tunnel as tunnel_module
from node.session import (
    KEEPALIVE_JITTER_S,
    KEEPALIVE_S,
    MAX_BACKLOG_BYTES,
    STUCK_CLOSE_S,
    MapSession,
    SessionState,
)
from tests.node.kit import InProcess, RawPoll, Recorder, fleet, in_process, joined, shrink_buffers, until
from tests.node.support import DEADLINE_S, admin


@pytest.fixture
async def inside(database: str, tmp_path: Path) -> AsyncIterator[tuple[InProcess, str]]:
    """A server in this loop, and a reusable auth key."""
    settings = {"HS_TIMING__OFFLINE_GRACE": "300ms"}
    async with in_process(database, tmp_path, settings) as server, admin(database) as home:
        yield server, await home.auth_key()


class Writes:
    """What the server writes to whom, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, int]] = []
        send_map, send_delta = MapSession.send_map, MapSession.send_delta

        def spy_map(session: MapSession, body: bytes) -> None:
            self.log.append(("map", session.device_id))
            send_map(session, body)

        def spy_delta(session: MapSession, body: bytes) -> bool:
            written = send_delta(session, body)
            if written:
                self.log.append(("delta", session.device_id))
            return written

        monkeypatch.setattr(MapSession, "send_map", spy_map)
        monkeypatch.setattr(MapSession, "send_delta", spy_delta)


async def test_peers_hear_of_a_newcomer_before_it_gets_its_map(
    inside: tuple[InProcess, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, key = inside
    async with fleet(server.url, key, 5) as peers, Recorder(server.url, key) as newcomer:
        writes = Writes(monkeypatch)
        await joined(newcomer)
        at = writes.log.index(("map", newcomer.id))
        # The server wrote to every peer, and what it wrote names the newcomer with its disco key.
        assert {i for kind, i in writes.log[:at] if kind == "delta"} >= {p.id for p in peers}
        for peer in peers:
            await peer.sees(newcomer.id, DiscoKey=disco_key_text(newcomer.disco_key), Online=True)


async def test_a_device_back_with_another_disco_key_counts_as_a_newcomer(
    inside: tuple[InProcess, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, key = inside
    async with fleet(server.url, key, 3) as (*peers, device):
        device_id = device.id
        await device.close()
        again = Recorder(
            server.url, None, machine_private=device.machine_private, node_private=device.node_private
        )
        async with again:
            writes = Writes(monkeypatch)
            starts = [len(peer.seen) for peer in peers]
            await again.poll()
            await again.sees(peers=2)
            at = writes.log.index(("map", device_id))
            assert {i for kind, i in writes.log[:at] if kind == "delta"} == {p.id for p in peers}
            for peer, start in zip(peers, starts, strict=True):
                await peer.sees(device_id, DiscoKey=disco_key_text(again.disco_key), Online=True)
                assert len(peer.seen) == start + 1


async def test_updates_that_say_nothing_new_cost_no_frame(inside: tuple[InProcess, str]) -> None:
    server, key = inside
    async with fleet(server.url, key, 4) as (a, b, *others):
        await a.update(endpoints=["192.0.2.1:1"], home_derp=17)
        for viewer in (b, *others):
            await viewer.sees(a.id, Endpoints=["192.0.2.1:1"], HomeDERP=17)
        before = server.metrics()
        for _ in range(10):
            await a.update()
        assert server.metrics()["hs_map_requests_total"] > before["hs_map_requests_total"]
        await b.update(endpoints=["192.0.2.2:2"])
        for viewer in (a, *others):
            await viewer.sees(b.id, Endpoints=["192.0.2.2:2"])
        after = server.metrics()
        assert after["hs_delta_frames_total"] - before["hs_delta_frames_total"] == 3
        assert after["hs_delta_encodings_total"] - before["hs_delta_encodings_total"] == 2
        assert after["hs_changed_devices_total"] - before["hs_changed_devices_total"] == 1
        assert after["hs_full_maps_total"] == before["hs_full_maps_total"]


@contextlib.asynccontextmanager
async def busy_tenant(server: InProcess, key: str) -> AsyncIterator[tuple[Recorder, Recorder, Any]]:
    """(talker, prompt viewer, a coroutine function that makes the talker say something big)."""
    async with fleet(server.url, key, 2) as (talker, prompt):
        rounds = iter(range(1, 10_000))

        async def say() -> None:
            number = next(rounds)
            endpoints = [f"[2001:db8:{number:x}:{n:x}:1111:2222:3333:4444]:41641" for n in range(60)]
            await talker.update(endpoints=endpoints)
            await prompt.sees(talker.id, Endpoints=endpoints)

        yield talker, prompt, say


def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits that matter to slow readers, at a tenth."""
    monkeypatch.setattr(session_module, "MAX_BACKLOG_BYTES", 24 * 1024)
    monkeypatch.setattr(session_module, "CAUGHT_UP_BYTES", 6 * 1024)
    monkeypatch.setattr(sockets, "PAUSE_WRITING_BYTES", 6 * 1024)
    monkeypatch.setattr(sockets, "RESUME_WRITING_BYTES", 2 * 1024)


@pytest.mark.parametrize("stops", ["http2 window", "tcp"])
async def test_a_slow_reader_holds_nobody_up_and_gets_one_full_map(
    inside: tuple[InProcess, str], monkeypatch: pytest.MonkeyPatch, stops: str
) -> None:
    server, key = inside
    small_buffers(monkeypatch)
    if stops == "http2 window":
        monkeypatch.setattr("app.client.connection.STREAM_WINDOW_BYTES", 16 * 1024)
    async with (
        busy_tenant(server, key) as (talker, prompt, say),
        Recorder(server.url, key, compress="") as slow,
    ):
        await joined(slow)
        await slow.sees(peers=2)
        session = server.session(slow)
        if stops == "tcp":
            shrink_buffers(
                slow.transport.get_extra_info("socket"), session.tunnel._outlet.get_extra_info("socket")
            )
            slow.transport.pause_reading()
        else:
            slow.reads.clear()
        written, quiet = session.messages, 0
        for _ in range(400):
            await say()  # each round is over only when the prompt viewer has heard
            # The kernel may take some more at first; then nothing is added, whatever happens.
            silent = session.state is SessionState.LAGGING and session.messages == written
            written, quiet = session.messages, quiet + 1 if silent else 0
            if quiet == 8:
                break
        assert quiet == 8
        assert session.tunnel.backlog(session.stream_id) <= 24 * 1024 + 8 * 1024
        maps = server.metrics()["hs_full_maps_total"]
        if stops == "tcp":
            slow.transport.resume_reading()
        else:
            slow.reads.set()
        await slow.sees(talker.id, Endpoints=list(talker.endpoints))
        assert session.state is SessionState.LIVE
        assert server.session(slow) is session
        assert server.metrics()["hs_full_maps_total"] == maps + 1
        assert (slow.polls, prompt.polls) == (1, 1)
        await say()
        await slow.sees(talker.id, Endpoints=list(talker.endpoints))
        assert not slow.violations + prompt.violations


async def test_a_reader_that_never_reads_again_is_cut(
    inside: tuple[InProcess, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, key = inside
    small_buffers(monkeypatch)
    monkeypatch.setattr(session_module, "STUCK_CLOSE_S", 0.2)
    monkeypatch.setattr(session_module, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(session_module, "KEEPALIVE_JITTER_S", 0.0)
    monkeypatch.setattr("app.client.connection.STREAM_WINDOW_BYTES", 16 * 1024)
    async with (
        busy_tenant(server, key) as (_, prompt, say),
        Recorder(server.url, key, compress="") as stuck,
    ):
        await joined(stuck)
        session, stuck_id = server.session(stuck), stuck.id
        connection = stuck._connection
        assert connection is not None
        stuck.reads.clear()
        while session.state is SessionState.LIVE:
            await say()
        async with asyncio.timeout(DEADLINE_S):
            await connection.wait_closed()
        assert session.state is SessionState.CLOSED
        assert session.tunnel.closed
        # Like every client it may come back; nobody else noticed but for a grace.
        await say()
        assert prompt.polls == 1
        stuck.reads.set()
        await stuck.wait_for(lambda n: stuck.polls == 2 and len(n.peers) == 2, DEADLINE_S)
        await prompt.sees(stuck_id, Online=True)


@pytest.mark.parametrize("packing", ["zstd", ""])
async def test_keep_alives_are_always_the_same_bytes(
    inside: tuple[InProcess, str], monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    server, key = inside
    monkeypatch.setattr(session_module, "KEEPALIVE_S", 0.03)
    monkeypatch.setattr(session_module, "KEEPALIVE_JITTER_S", 0.01)
    async with Recorder(server.url, key, compress=packing) as device:
        await joined(device)
        await until(lambda: device.netmap.keepalives >= 3, "three keep-alives")
        expected = b'{"KeepAlive":true}'
        assert set(device.blobs[1:]) == {compress(expected) if packing else expected}
        assert device.messages[-1].kind == "keepalive"


async def test_keep_alives_count_from_the_last_message(
    inside: tuple[InProcess, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, key = inside
    async with fleet(server.url, key, 2) as (talker, device):
        monkeypatch.setattr(session_module, "KEEPALIVE_S", 0.3)
        monkeypatch.setattr(session_module, "KEEPALIVE_JITTER_S", 0.0)
        device.drop()
        await device.wait_for(lambda n: device.polls == 2 and n.messages > 0, DEADLINE_S)
        session = server.session(device)
        loop = asyncio.get_running_loop()
        opened, number = loop.time(), 0
        while loop.time() < opened + 1.0:
            number += 1
            await talker.update(endpoints=[f"192.0.2.1:{number}"])
            await device.sees(talker.id, Endpoints=[f"192.0.2.1:{number}"])
        # Messages came at shorter distance than a keep-alive's, so there was no need of any.
        gaps = [
            b.arrived_s - a.arrived_s
            for a, b in zip(device.messages, list(device.messages)[1:], strict=False)
        ]
        if max(gaps[-number:]) < 0.3:
            assert device.netmap.keepalives == 0
        await until(lambda: device.netmap.keepalives > 0, "a keep-alive once it is quiet")
        assert session._interval == 0.3


def test_the_limits_are_what_proxies_and_clients_bear() -> None:
    # Proxies cut after 50-60 s of silence, clients after 120 s (PROTOCOL.md 4.2, DESIGN.md 6.6).
    assert (KEEPALIVE_S, KEEPALIVE_S + KEEPALIVE_JITTER_S) == (35.0, 45.0)
    assert STUCK_CLOSE_S == 120.0
    assert MAX_BACKLOG_BYTES == 256 * 1024
    # A transport that is not full never says so: what it may hold unasked must count as caught up.
    assert session_module.CAUGHT_UP_BYTES == sockets.PAUSE_WRITING_BYTES == 64 * 1024
    assert sockets.RESUME_WRITING_BYTES == 16 * 1024
    assert mapstream.KEEPALIVE == b'{"KeepAlive":true}'
    assert tunnel_module.IDLE_CLOSE_S == 120.0


async def test_jitter_spreads_keep_alives(inside: tuple[InProcess, str]) -> None:
    server, key = inside
    async with fleet(server.url, key, 4):
        intervals = {session._interval for session in server.owner.hub.sessions()}
        assert len(intervals) == 4
        assert all(35.0 <= interval <= 45.0 for interval in intervals)


async def test_an_idle_tunnel_is_closed_and_one_with_a_poll_is_not(
    inside: tuple[InProcess, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, key = inside
    monkeypatch.setattr(tunnel_module, "IDLE_CLOSE_S", 0.05)
    async with Recorder(server.url, key) as polls, Recorder(server.url, key) as idle:
        await joined(polls)
        await idle.register()
        assert idle._connection is not None
        async with asyncio.timeout(DEADLINE_S):
            await idle._connection.wait_closed()
        assert server.metrics()["hs_tunnels"] == 1
        assert polls.polls == 1
        assert polls._connection is not None
        assert polls._connection.is_usable
        assert server.owner.limits.half_open == 0


async def test_a_poll_whose_client_went_away_is_no_presence(inside: tuple[InProcess, str]) -> None:
    server, key = inside
    async with Recorder(server.url, key) as viewer, Recorder(server.url, key) as device:
        await joined(viewer)
        await device.register()
        poll = await RawPoll.open(device)
        poll.connection.abort()
        await until(lambda: server.metrics()["hs_tunnels"] == 2, "the poll's tunnel is gone")
        await until(lambda: server.metrics()["hs_sessions"] == 1, "the session is gone")
        await viewer.sees(peers=1)
        (device_id,) = viewer.netmap.peers
        await viewer.wait_for(lambda n: not n.peers[device_id].get("Online"), DEADLINE_S)


async def test_many_polls_of_one_device_leave_one_session(inside: tuple[InProcess, str]) -> None:
    server, key = inside
    async with Recorder(server.url, key, machine_private=X25519PrivateKey.generate()) as device:
        await device.register()
        polls = await asyncio.gather(*(RawPoll.open(device) for _ in range(10)))
        try:
            await until(lambda: server.metrics()["hs_map_requests_total"] >= 10, "all polls have arrived")
            ended = 0
            for poll in polls:
                async with asyncio.timeout(DEADLINE_S):
                    first = await poll.message()
                    if first is None or (ended < 9 and await poll.message() is None):
                        ended += 1
            assert ended == 9
            assert server.metrics()["hs_sessions"] == 1
        finally:
            for poll in polls:
                await poll.close()
