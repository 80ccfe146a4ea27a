"""The relay over real TLS on the loopback: routing, duplicates, limits, back-pressure, stop."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import pytest
from derp_client import HOST, DerpClient, allow, client_tls, running_relay, until
from nacl.public import PrivateKey

from app.wire import derp
from node.derp import head, outbox, server, session
from node.derp.server import RelayOptions

DISCO = derp.DISCO_MAGIC + bytes(derp.MIN_DISCO_BYTES)


async def test_two_clients_exchange_packets(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        a, b = await DerpClient.connect(port), await DerpClient.connect(port)
        assert a.server_key == relay.public_key
        for packet in (b"", b"hello", DISCO, bytes(derp.MAX_PACKET_BYTES)):
            a.send(b.key, packet)
            assert await b.packet() == (a.key, packet)
        b.send(a.key, b"back")
        assert await a.packet() == (b.key, b"back")
        assert relay.stats.clients == 2
        assert relay.stats.packets_received == 5
        await a.close()
        await b.close()
        await until(lambda: relay.stats.connections == 0 and relay.stats.clients == 0)


async def test_upgrade_names_version_and_key(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        client = await DerpClient.dial(port)
        answer = (await client.hello()).lower()
        assert "\r\nupgrade: derp\r\n" in answer
        assert f"\r\nderp-public-key: {relay.public_key.hex()}\r\n" in answer
        assert "\r\nderp-version: 2\r\n" in answer
        await client.close()


async def test_fast_start_sends_frames_at_once(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (_, port):
        a, b = await DerpClient.connect(port, fast=True), await DerpClient.connect(port)
        a.send(b.key, b"x")
        assert await b.packet() == (a.key, b"x")
        await a.close()
        await b.close()


async def test_head_and_client_info_in_one_write_and_byte_by_byte(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        for step in (1, 10_000):
            client = await DerpClient.dial(port)
            client.server_key = relay.public_key
            parts: list[bytes] = []
            info = derp.ClientInfo(version=2)
            parts.append(b"GET /derp HTTP/1.1\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n")
            nonce = bytes(derp.NONCE_SIZE)
            parts.append(derp.encode_client_info(info, bytes(client.private), relay.public_key, nonce))
            parts.append(derp.encode_send_packet(client.key, b"to myself"))
            data = b"".join(parts)
            for start in range(0, len(data), step):
                client.writer.write(data[start : start + step])
                await client.writer.drain()
            await client.expect(derp.FrameType.SERVER_KEY)
            await client.expect(derp.FrameType.SERVER_INFO)
            assert await client.packet() == (client.key, b"to myself")
            await client.close()


async def test_ping_is_answered_with_its_first_bytes(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (_, port):
        client = await DerpClient.connect(port)
        client.writer.write(derp.encode_frame(derp.FrameType.PING, b"12345678" + bytes(900)))
        assert (await client.expect(derp.FrameType.PONG)).payload == b"12345678"
        await client.close()


async def test_note_preferred_is_counted(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        client = await DerpClient.connect(port)
        for payload, count in ((b"\x01", 1), (b"\x01", 1), (b"\x00", 0), (b"\x01", 1)):
            client.writer.write(derp.encode_frame(derp.FrameType.NOTE_PREFERRED, payload))
            await client.sync()
            assert relay.stats.home_clients == count
        await client.close()
        await until(lambda: relay.stats.home_clients == 0)


async def test_unknown_frames_are_skipped(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (_, port):
        client = await DerpClient.connect(port)
        client.writer.write(b"\xee" + (300_000).to_bytes(4, "big") + bytes(300_000))
        assert await client.sync() == []
        await client.close()


@pytest.mark.parametrize(
    "frame",
    [
        b"\x04" + (32 + derp.MAX_PACKET_BYTES + 1).to_bytes(4, "big"),
        b"\xee" + (derp.MAX_SKIPPED_BYTES + 1).to_bytes(4, "big"),
        derp.encode_frame(derp.FrameType.WATCH_CONNS),
        derp.encode_frame(derp.FrameType.CLOSE_PEER, bytes(32)),
        derp.encode_frame(derp.FrameType.CLIENT_INFO, bytes(200)),
        derp.encode_frame(derp.FrameType.PING, b"1234567"),
    ],
    ids=["oversize", "oversize-unknown", "watch", "close-peer", "second-info", "short-ping"],
)
async def test_broken_frame_closes_that_connection_only(tmp_path: Path, frame: bytes) -> None:
    async with running_relay(tmp_path) as (relay, port):
        bad, good = await DerpClient.connect(port), await DerpClient.connect(port)
        bad.writer.write(frame)
        await bad.closed()
        assert relay.stats.protocol_errors == 1
        good.send(good.key, b"still here")
        assert await good.packet() == (good.key, b"still here")
        await bad.close()
        await good.close()


async def test_client_info_must_prove_its_key(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        client = await DerpClient.dial(port)
        await client.hello()
        other = bytes(PrivateKey.generate().public_key)
        frame = derp.encode_client_info(
            derp.ClientInfo(version=2), bytes(client.private), client.server_key, bytes(24)
        )
        client.writer.write(frame[:5] + other + frame[37:])
        assert await client.closed() == []
        assert relay.stats.accepted == 0
        await client.close()


# who is there


async def test_unknown_destination_is_told_for_disco_only_and_seldom(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        client = await DerpClient.connect(port)
        nobody = bytes(PrivateKey.generate().public_key)
        for _ in range(10):
            client.send(nobody, b"not disco")
            client.send(nobody, DISCO)
        frames = await client.sync()
        burst = int(session.NOT_HERE_BURST)
        gone = (derp.FrameType.PEER_GONE, nobody + bytes((derp.PeerGoneReason.NOT_HERE,)))
        assert [(f.type, f.payload) for f in frames][:burst] == [gone] * burst
        assert len(frames) <= burst + 1
        assert relay.stats.dropped_unknown_destination == 20
        await client.close()


async def test_leaving_is_told_to_those_who_received(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (_, port):
        a, b, c = [await DerpClient.connect(port) for _ in range(3)]
        a.send(b.key, b"x")
        await b.packet()
        await a.close()
        payload = (await b.expect(derp.FrameType.PEER_GONE)).payload
        assert payload == a.key + bytes((derp.PeerGoneReason.DISCONNECTED,))
        assert await c.sync() == []
        await b.close()
        await c.close()


async def test_receivers_remembered_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_REMEMBERED_RECEIVERS", 2)
    async with running_relay(tmp_path) as (_, port):
        sender = await DerpClient.connect(port)
        others = [await DerpClient.connect(port) for _ in range(3)]
        for other in others:
            sender.send(other.key, b"x")
            await other.packet()
        await sender.close()
        for other in others[1:]:
            await other.expect(derp.FrameType.PEER_GONE)
        assert await others[0].sync() == []
        for other in others:
            await other.close()


# one key, several connections


async def test_newest_connection_of_a_key_receives_and_the_old_may_write(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        key = PrivateKey.generate()
        peer = await DerpClient.connect(port)
        old = await DerpClient.connect(port, key)
        new = await DerpClient.connect(port, key)
        for each in (old, new):
            text = (await each.expect(derp.FrameType.HEALTH)).payload.decode()
            assert text == server.DUPLICATE_TEXT
        peer.send(old.key, b"to the newest")
        assert await new.packet() == (peer.key, b"to the newest")
        assert await old.sync() == []
        old.send(peer.key, b"from the old one")
        assert await peer.packet() == (old.key, b"from the old one")
        peer.send(old.key, b"to the last writer")
        assert await old.packet() == (peer.key, b"to the last writer")
        await old.close()
        assert (await new.expect(derp.FrameType.HEALTH)).payload == b""
        peer.send(old.key, b"again")
        assert await new.packet() == (peer.key, b"again")
        assert relay.stats.clients == 2
        assert relay.stats.duplicates == 1
        assert await peer.sync() == [], "one connection of the key is left: nobody is gone"
        await new.close()
        await peer.expect(derp.FrameType.PEER_GONE)
        await peer.close()


async def test_connections_of_one_key_are_bounded(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        key = PrivateKey.generate()
        clients = [await DerpClient.connect(port, key) for _ in range(server.MAX_CONNECTIONS_PER_KEY + 1)]
        await clients[0].closed()
        assert relay.stats.connections == server.MAX_CONNECTIONS_PER_KEY
        assert relay.stats.clients == 1
        for client in clients:
            await client.close()


# back-pressure


async def test_slow_reader_loses_the_oldest_then_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "WRITE_STALL_S", 1.0)
    async with running_relay(tmp_path) as (relay, port):
        writer = await DerpClient.connect(port)
        reader = await DerpClient.connect(port, receive_buffer=4096)
        other = await DerpClient.connect(port)
        reader.writer.transport.pause_reading()
        packet = bytes(32 * 1024)
        while not relay.stats.dropped_queue_data:
            for _ in range(8):
                writer.send(reader.key, packet)
            await writer.sync()
        writer.send(other.key, b"others go on")
        assert await other.packet() == (writer.key, b"others go on")
        await until(lambda: relay.stats.slow_readers_cut == 1)
        assert relay.stats.clients == 2
        for client in (writer, reader, other):
            await client.close()


async def test_reader_that_takes_something_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading slower than the packets come is no stall: the oldest go, the connection stays."""
    monkeypatch.setattr(session, "WRITE_STALL_S", 0.4)
    async with running_relay(tmp_path) as (relay, port):
        writer = await DerpClient.connect(port)
        reader = await DerpClient.connect(port, receive_buffer=4096)
        packet = bytes(32 * 1024)
        loop = asyncio.get_running_loop()
        end = loop.time() + 2.5 * session.WRITE_STALL_S
        while loop.time() < end:
            for _ in range(4):
                writer.send(reader.key, packet)
            await writer.sync()
            await reader.reader.read(32 * 1024)
        assert relay.stats.slow_readers_cut == 0
        assert relay.stats.clients == 2
        await writer.close()
        await reader.close()


async def test_flood_does_not_grow_memory_of_the_receiver(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        writer = await DerpClient.connect(port)
        reader = await DerpClient.connect(port, receive_buffer=4096)
        reader.writer.transport.pause_reading()
        target = next(s for s in relay._connections if s.key == reader.key)
        for index in range(400):
            writer.send(reader.key, bytes(16 * 1024))
            writer.send(reader.key, DISCO + index.to_bytes(2, "big"))
            if index % 20 == 0:
                await writer.sync()
        await writer.sync()
        waiting = target._outbox
        assert len(waiting.data) <= outbox.QUEUE_PACKETS
        assert waiting.data.size_bytes <= outbox.QUEUE_BYTES
        assert len(waiting.disco) <= outbox.QUEUE_PACKETS
        await writer.close()
        await reader.close()


async def test_burst_to_a_reader_that_reads_is_not_dropped(tmp_path: Path) -> None:
    """More packets in one read than a queue holds: they are written in between."""
    async with running_relay(tmp_path) as (relay, port):
        a, b = await DerpClient.connect(port), await DerpClient.connect(port)
        count = 8 * outbox.QUEUE_PACKETS
        a.writer.write(b"".join(derp.encode_send_packet(b.key, bytes((i,)) * 100) for i in range(count)))
        for i in range(count):
            assert (await b.packet())[1] == bytes((i,)) * 100
        assert relay.stats.dropped_queue_data == 0
        await a.close()
        await b.close()


async def test_rate_limit_holds_a_client_back_and_loses_nothing(tmp_path: Path) -> None:
    burst = server.MIN_RATE_BURST_BYTES
    options = RelayOptions(rate_bytes_per_s=400_000, rate_burst_bytes=burst)
    async with running_relay(tmp_path, options=options) as (relay, port):
        a, b = await DerpClient.connect(port), await DerpClient.connect(port)
        total = 2 * burst
        for _ in range(total // 1000):
            a.send(b.key, bytes(1000))
        for _ in range(total // 1000):
            await b.packet()
        await a.sync()
        assert relay.stats.rate_limited >= 1
        b.send(a.key, b"others are free")
        assert await a.packet() == (b.key, b"others are free")
        await a.close()
        await b.close()


# admission and limits


async def test_refused_key_is_closed_without_server_info(tmp_path: Path) -> None:
    seen: list[tuple[bytes, str]] = []

    async def verify(node_key: bytes, source_ip: str) -> bool:
        seen.append((node_key, source_ip))
        return False

    async with running_relay(tmp_path, verify) as (relay, port):
        client = await DerpClient.dial(port)
        await client.hello()
        client.send_client_info()
        assert await client.closed() == []
        assert seen == [(client.key, HOST)]
        assert (relay.stats.refused_admission, relay.stats.clients) == (1, 0)
        await client.close()


async def test_verify_that_breaks_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def verify(node_key: bytes, source_ip: str) -> bool:
        raise RuntimeError("broken")

    caplog.set_level(logging.CRITICAL)
    async with running_relay(tmp_path, verify) as (relay, port):
        client = await DerpClient.dial(port)
        await client.hello()
        client.send_client_info()
        assert await client.closed() == []
        assert relay.stats.refused_admission == 1
        await client.close()


async def test_frames_sent_during_admission_are_kept(tmp_path: Path) -> None:
    decide = asyncio.Event()

    async def verify(node_key: bytes, source_ip: str) -> bool:
        await decide.wait()
        return True

    async with running_relay(tmp_path, verify) as (_, port):
        client = await DerpClient.dial(port)
        await client.hello()
        client.send_client_info()
        client.send(client.key, b"early")
        await client.writer.drain()
        decide.set()
        await client.expect(derp.FrameType.SERVER_INFO)
        assert await client.packet() == (client.key, b"early")
        await client.close()


async def test_client_that_leaves_during_admission_leaves_nothing(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def verify(node_key: bytes, source_ip: str) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    async with running_relay(tmp_path, verify) as (relay, port):
        client = await DerpClient.dial(port)
        await client.hello()
        client.send_client_info()
        async with asyncio.timeout(5):
            await asked.wait()
        client.send(client.key, b"x")
        await client.close()
        # Reading is paused, so the end is only seen at a write or at the deadline: stop must not wait.
    assert relay.stats.connections == 0


async def test_full_relay_takes_known_keys_only(tmp_path: Path) -> None:
    async with running_relay(tmp_path, options=RelayOptions(max_clients=1)) as (relay, port):
        first = await DerpClient.connect(port)
        second = await DerpClient.dial(port)
        await second.hello()
        second.send_client_info()
        assert await second.closed() == []
        assert relay.stats.refused_busy == 1
        again = await DerpClient.connect(port, first.private)
        for client in (first, second, again):
            await client.close()


@pytest.mark.parametrize("limit", ["max_half_open", "max_half_open_per_address"])
async def test_half_open_connections_are_bounded(tmp_path: Path, limit: str) -> None:
    async with running_relay(tmp_path, options=RelayOptions(**{limit: 2})) as (relay, port):
        client = await DerpClient.connect(port)
        idle = [await asyncio.open_connection(HOST, port) for _ in range(2)]
        await until(lambda: relay.stats.connections == 3)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await DerpClient.dial(port)
        assert relay.stats.refused_half_open == 1
        client.send(client.key, b"admitted ones do not count")
        await client.packet()
        for _, writer in idle:
            writer.transport.abort()
        await until(lambda: relay.stats.connections == 1)
        again = await DerpClient.connect(port)
        await client.close()
        await again.close()


@pytest.mark.parametrize("step", ["nothing", "tls", "head", "hello"])
async def test_handshake_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(session, "HANDSHAKE_DEADLINE_S", 0.3)
    async with running_relay(tmp_path) as (relay, port):
        if step == "nothing":
            _, writer = await asyncio.open_connection(HOST, port)
        else:
            client = await DerpClient.dial(port)
            writer = client.writer
            if step == "head":
                writer.write(b"GET /derp HTTP/1.1\r\n")
            elif step == "hello":
                await client.hello()
        await until(lambda: relay.stats.handshakes_failed == 1)
        assert repr(relay) == "<Relay 0 clients, 0 connections, 0 half-open>"
        writer.transport.abort()


async def test_plain_bytes_on_the_tls_port_are_closed(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"GET /derp/probe HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(5):
            await reader.read()
        await until(lambda: relay.stats.connections == 0)
        writer.transport.abort()


async def test_keep_alive_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr(session, "KEEP_ALIVE_JITTER_S", 0.01)
    async with running_relay(tmp_path) as (_, port):
        client = await DerpClient.connect(port)
        for _ in range(3):
            await client.expect(derp.FrameType.KEEP_ALIVE)
        await client.close()


def test_limits_are_what_the_papers_say() -> None:
    assert session.KEEP_ALIVE_S + session.KEEP_ALIVE_JITTER_S <= 65.0
    assert (session.HANDSHAKE_DEADLINE_S, session.WRITE_STALL_S) == (10.0, 2.0)
    assert (session.NOT_HERE_PER_S, session.NOT_HERE_BURST) == (1.0, 3.0)
    assert (outbox.QUEUE_PACKETS, server.MIN_RATE_BURST_BYTES) == (32, 64 * 1024 + 32 + 5)


# stop


async def test_stop_tells_clients_to_come_back(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (relay, port):
        client, pending = await DerpClient.connect(port), await DerpClient.dial(port)
        client.send(client.key, b"last")
        await client.packet()
        stopping = asyncio.create_task(relay.stop())
        frames = await client.closed()
        assert [frame.type for frame in frames] == [derp.FrameType.RESTARTING]
        reconnect_in_ms, try_for_ms = derp.parse_restarting(frames[0].payload)
        assert 0 <= reconnect_in_ms <= server.RESTART_RECONNECT_MAX_MS
        assert try_for_ms == server.RESTART_TRY_FOR_MS
        await client.close()
        await pending.closed()
        await pending.close()
        await stopping
        assert relay.stats.connections == 0
        with pytest.raises(OSError):
            await asyncio.open_connection(HOST, port)


async def test_stop_does_not_wait_for_who_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STOP_DEADLINE_S", 0.2)
    async with running_relay(tmp_path) as (relay, port):
        writer = await DerpClient.connect(port)
        reader = await DerpClient.connect(port, receive_buffer=4096)
        reader.writer.transport.pause_reading()
        while not relay.stats.dropped_queue_data:
            for _ in range(8):
                writer.send(reader.key, bytes(32 * 1024))
            await writer.sync()
        async with asyncio.timeout(5):
            await relay.stop()
        assert relay.stats.connections == 0
        await writer.close()
        await reader.close()


# pages


async def _get(port: int, request: bytes) -> tuple[str, bytes]:
    reader, writer = await asyncio.open_connection(HOST, port, ssl=client_tls(), server_hostname="")
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.transport.abort()
    answer_head, _, body = answer.partition(b"\r\n\r\n")
    return answer_head.decode(), body


@pytest.mark.parametrize(
    ("request_head", "status", "fields", "body"),
    [
        ("GET /derp/probe HTTP/1.1", 200, "Access-Control-Allow-Origin: *", b""),
        ("HEAD /derp/latency-check HTTP/1.1", 200, "Access-Control-Allow-Origin: *", b""),
        ("POST /derp/probe HTTP/1.1", 405, "Allow: GET, HEAD", b"only GET and HEAD here\n"),
        ("GET /generate_204 HTTP/1.1", 204, "", b""),
        (
            "GET /generate_204 HTTP/1.1\r\nX-Tailscale-Challenge: ts_a.b:c-1",
            *(204, "X-Tailscale-Response: response ts_a.b:c-1", b""),
        ),
        ("GET /bootstrap-dns?q=c.example HTTP/1.1", 200, "", b'{"c.example":["192.0.2.1"]}'),
        ("GET /derp HTTP/1.1", 426, "Upgrade: DERP", None),
        ("GET /derp HTTP/1.1\r\nUpgrade: websocket", 426, "", None),
        ("POST /derp HTTP/1.1\r\nUpgrade: DERP", 405, "Allow: GET", None),
        ("GET /nothing HTTP/1.1", 404, "", None),
        ("HEAD /nothing HTTP/1.1", 404, "", b""),
        ("GET / HTTP/1.1", 200, "", None),
        ("nonsense", 400, "", None),
        ("GET /derp HTTP/2.0", 400, "", None),
        ("GET / HTTP/1.1\r\nno colon", 400, "", None),
        ("GET / HTTP/1.1\r\nA: \x01", 400, "", None),
        ("GET / HTTP/1.1" + "\r\nA: b" * (head.MAX_HEADER_FIELDS + 1), 400, "", None),
        ("GET / HTTP/1.1\r\nA: " + "b" * head.MAX_HEAD_BYTES, 431, "", None),
    ],
)
async def test_pages(tmp_path: Path, request_head: str, status: int, fields: str, body: bytes | None) -> None:
    options = RelayOptions(bootstrap_dns={"c.example": ["192.0.2.1"]})
    async with running_relay(tmp_path, allow, options) as (relay, port):
        answer, content = await _get(port, request_head.encode("latin-1") + b"\r\n\r\n")
        assert answer.startswith(f"HTTP/1.1 {status} "), answer
        assert fields in answer
        assert "\r\nConnection: close" in answer
        if body is not None:
            assert content == body
        await until(lambda: relay.stats.connections == 0)


@pytest.mark.parametrize("challenge", ["a" * 65, "a b", "a\u00e9", ""])
async def test_odd_challenge_is_not_echoed(tmp_path: Path, challenge: str) -> None:
    async with running_relay(tmp_path) as (_, port):
        request = f"GET /generate_204 HTTP/1.1\r\nX-Tailscale-Challenge: {challenge}\r\n\r\n"
        answer, _ = await _get(port, request.encode("latin-1"))
        assert "X-Tailscale-Response" not in answer
