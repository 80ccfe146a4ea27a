"""Builders for the HTTP/2 tests: connections past their greeting, and raw frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from app.wire import h2frames as h2
from app.wire.h2core import Connection
from app.wire.http2 import ClientConnection, Event, ServerConnection

HELLO = h2.PREFACE + h2.settings(())
GET = ((":method", "GET"), (":scheme", "https"), (":path", "/machine/whoami"), (":authority", "c"))
POST = ((":method", "POST"), (":scheme", "https"), (":path", "/machine/register"), (":authority", "c"))


def block(*extra: tuple[str, str], base: Iterable[tuple[str, str]] = POST) -> bytes:
    """A request's header block."""
    return h2.encode_headers((*base, *extra))


def headers(
    stream_id: int, *extra: tuple[str, str], end: bool = True, base: Iterable[tuple[str, str]] = POST
) -> bytes:
    """A request's HEADERS."""
    return h2.header_frames(stream_id, block(*extra, base=base), 16_384, end_stream=end)


def data(stream_id: int, body: bytes = b"", *, end: bool = False) -> bytes:
    """One DATA frame."""
    return h2.frame(h2.DATA, h2.FLAG_END_STREAM if end else 0, stream_id, body)


def server(**limits: int) -> ServerConnection:
    """A server that has the client's preface and SETTINGS; nothing to send."""
    connection = ServerConnection(**limits)
    connection.start()
    assert connection.receive(HELLO + h2.SETTINGS_ACK) == []
    connection.take_output()
    return connection


def client(**options: object) -> ClientConnection:
    """A client that has the server's SETTINGS; nothing to send."""
    connection = ClientConnection(**options)  # type: ignore[arg-type]
    connection.start()
    connection.receive(h2.settings(()) + h2.SETTINGS_ACK)
    connection.take_output()
    return connection


def frames(wire: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, stream id and payload of each frame; a preface is skipped."""
    at = len(h2.PREFACE) if wire.startswith(h2.PREFACE) else 0
    while at < len(wire):
        word, flags, stream_id = h2.unpack_head(wire, at)
        stop = at + 9 + (word >> 8)
        assert stop <= len(wire)
        yield word & 0xFF, flags, stream_id, wire[at + 9 : stop]
        at = stop


def exchange(left: Connection, right: Connection) -> tuple[list[Event], list[Event]]:
    """Passes output to and fro until both are silent; events of left and of right."""
    seen: tuple[list[Event], list[Event]] = ([], [])
    while True:
        to_right, to_left = left.take_output(), right.take_output()
        if not to_right and not to_left:
            return seen
        seen[1].extend(right.receive(to_right))
        seen[0].extend(left.receive(to_left))
