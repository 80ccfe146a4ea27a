"""STUN over real UDP sockets on the loopback."""

from __future__ import annotations

import asyncio
import socket

import pytest

from app.wire import stun
from node.derp.stats import RelayStats
from node.derp.stun import StunServer

TXID = b"transaction!"


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")


async def _ask(host: str, port: int, *datagrams: bytes) -> tuple[bytes, tuple[str, int], tuple[str, int]]:
    """Sends from a socket that is not connected: (answer, who answered, our address)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind(("::1" if ":" in host else "127.0.0.1", 0))
        for datagram in datagrams:
            sock.sendto(datagram, (host, port))
        answer, peer = await asyncio.to_thread(sock.recvfrom, 2048)
        return answer, peer[:2], sock.getsockname()[:2]


@pytest.mark.parametrize(
    ("bound", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        pytest.param("::1", "::1", marks=needs_ipv6),
        pytest.param("::", "::1", marks=needs_ipv6),
        pytest.param("::", "127.0.0.1", marks=needs_ipv6),
    ],
)
async def test_answers_where_the_request_came_from(bound: str, asked: str) -> None:
    stats = RelayStats()
    server = StunServer(stats)
    port = server.start(bound, 0)
    try:
        answer, peer, own = await _ask(asked, port, stun.encode_request(TXID))
        assert stun.parse_response(answer) == (TXID, *own)
        assert peer == (asked, port)
        assert (stats.stun_requests, stats.stun_ignored) == (1, 0)
    finally:
        server.stop()


async def test_answer_leaves_from_the_address_that_was_asked() -> None:
    server = StunServer(RelayStats())
    port = server.start("0.0.0.0", 0)
    try:
        _, peer, _ = await _ask("127.0.0.77", port, stun.encode_request(TXID))
        assert peer == ("127.0.0.77", port)
    finally:
        server.stop()


async def test_other_datagrams_get_no_answer() -> None:
    stats = RelayStats()
    server = StunServer(stats)
    port = server.start("127.0.0.1", 0)
    try:
        odd = [b"", b"x", bytes(20), stun.encode_request(TXID)[:-1], bytes(4000)]
        answer, _, own = await _ask("127.0.0.1", port, *odd, stun.encode_request(TXID))
        assert stun.parse_response(answer) == (TXID, *own)
        assert (stats.stun_requests, stats.stun_ignored) == (1, len(odd))
    finally:
        server.stop()


async def test_taken_port_is_an_error_and_leaks_nothing() -> None:
    first, second = StunServer(RelayStats()), StunServer(RelayStats())
    port = first.start("127.0.0.1", 0)
    try:
        with pytest.raises(OSError):
            second.start("127.0.0.1", port)
    finally:
        first.stop()
        second.stop()
