"""What broken or greedy peers get: the error code of every rule, and every named limit."""

from __future__ import annotations

import tracemalloc

import pytest
from http2_kit import GET, HELLO, block, client, data, frames, headers, server

from app.errors import LocalProtocolError, RemoteProtocolError
from app.wire import h2frames as h2
from app.wire import http2
from app.wire.h2core import Connection
from app.wire.h2frames import ErrorCode as E
from app.wire.http2 import ClientConnection, Request, Response, ServerConnection, StreamClosed

BIG = h2.MAX_WINDOW_BYTES
RESPONSE = h2.header_frames(1, b"\x88", 16_384, end_stream=False)


def failure(connection: Connection, wire: bytes) -> E:
    """Feeds input that must break the connection; its error code, which the GOAWAY must carry."""
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive(wire)
    *_, (kind, _, stream_id, payload) = frames(connection.take_output())
    assert (kind, stream_id) == (h2.GOAWAY, 0)
    code = E(int.from_bytes(payload[4:8], "big"))
    assert caught.value.facts["error_code"] == code
    assert connection.open_streams == 0
    with pytest.raises(RemoteProtocolError):
        connection.receive(b"")
    assert connection.take_output() == b""
    return code


GET_1 = headers(1, base=GET)
OPEN_1 = headers(1, end=False)
CONNECTION_ERRORS = {
    "oversized frame": (h2.frame(h2.DATA, 0, 1, b"x" * 16_385)[:9], E.FRAME_SIZE_ERROR),
    "data on stream 0": (data(0), E.PROTOCOL_ERROR),
    "headers on stream 0": (headers(0), E.PROTOCOL_ERROR),
    "priority on stream 0": (h2.frame(h2.PRIORITY, 0, 0, b"12345"), E.PROTOCOL_ERROR),
    "rst on stream 0": (h2.rst_stream(0, 0), E.PROTOCOL_ERROR),
    "continuation on stream 0": (h2.frame(h2.CONTINUATION, 4, 0), E.PROTOCOL_ERROR),
    "settings on a stream": (h2.frame(h2.SETTINGS, 0, 1), E.PROTOCOL_ERROR),
    "ping on a stream": (h2.frame(h2.PING, 0, 1, b"12345678"), E.PROTOCOL_ERROR),
    "goaway on a stream": (h2.frame(h2.GOAWAY, 0, 1, b"12345678"), E.PROTOCOL_ERROR),
    "priority of 4 bytes": (h2.frame(h2.PRIORITY, 0, 1, b"1234"), E.FRAME_SIZE_ERROR),
    "rst of 5 bytes": (OPEN_1 + h2.frame(h2.RST_STREAM, 0, 1, b"12345"), E.FRAME_SIZE_ERROR),
    "ping of 7 bytes": (h2.frame(h2.PING, 0, 0, b"1234567"), E.FRAME_SIZE_ERROR),
    "window update of 3 bytes": (h2.frame(h2.WINDOW_UPDATE, 0, 0, b"123"), E.FRAME_SIZE_ERROR),
    "settings of 7 bytes": (h2.frame(h2.SETTINGS, 0, 0, b"1234567"), E.FRAME_SIZE_ERROR),
    "settings ack with content": (h2.frame(h2.SETTINGS, 1, 0, b"123456"), E.FRAME_SIZE_ERROR),
    "settings ack too many": (h2.SETTINGS_ACK, E.PROTOCOL_ERROR),
    "goaway of 7 bytes": (h2.frame(h2.GOAWAY, 0, 0, b"1234567"), E.FRAME_SIZE_ERROR),
    "enable push 2": (h2.settings(((2, 2),)), E.PROTOCOL_ERROR),
    "initial window too large": (h2.settings(((4, BIG + 1),)), E.FLOW_CONTROL_ERROR),
    "max frame too small": (h2.settings(((5, 16_383),)), E.PROTOCOL_ERROR),
    "max frame too large": (h2.settings(((5, 2**24),)), E.PROTOCOL_ERROR),
    "stream window pushed over": (
        GET_1 + h2.window_update(1, BIG - 65_535) + h2.settings(((4, 65_536),)),
        E.FLOW_CONTROL_ERROR,
    ),
    "connection window too large": (h2.window_update(0, BIG), E.FLOW_CONTROL_ERROR),
    "connection window update of 0": (h2.window_update(0, 0), E.PROTOCOL_ERROR),
    "push promise": (h2.frame(h2.PUSH_PROMISE, 4, 1, b"\0\0\0\2\x88"), E.PROTOCOL_ERROR),
    "data on idle": (data(1), E.PROTOCOL_ERROR),
    "data on an even stream": (GET_1 + data(2), E.PROTOCOL_ERROR),
    "rst on idle": (h2.rst_stream(1, 0), E.PROTOCOL_ERROR),
    "window update on idle": (h2.window_update(1, 1), E.PROTOCOL_ERROR),
    "even stream id": (headers(2), E.PROTOCOL_ERROR),
    "stream id going back": (headers(5) + headers(3), E.PROTOCOL_ERROR),
    "request on a reset stream": (OPEN_1 + h2.rst_stream(1, 8) + GET_1, E.PROTOCOL_ERROR),
    "data after the peer's reset": (OPEN_1 + h2.rst_stream(1, 8) + data(1, b"x"), E.STREAM_CLOSED),
    "data padding too long": (OPEN_1 + h2.frame(h2.DATA, h2.FLAG_PADDED, 1, b"\3ab"), E.PROTOCOL_ERROR),
    "data without pad length": (OPEN_1 + h2.frame(h2.DATA, h2.FLAG_PADDED, 1), E.FRAME_SIZE_ERROR),
    "headers padding too long": (h2.frame(h2.HEADERS, h2.FLAG_PADDED | 4, 1, b"\1"), E.PROTOCOL_ERROR),
    "headers priority cut": (h2.frame(h2.HEADERS, h2.FLAG_PRIORITY | 4, 1, b"1234"), E.FRAME_SIZE_ERROR),
    "block interrupted": (
        h2.frame(h2.HEADERS, 0, 1, b"\x83") + h2.frame(h2.PING, 0, 0, b"12345678"),
        E.PROTOCOL_ERROR,
    ),
    "block interrupted by an unknown frame": (
        h2.frame(h2.HEADERS, 0, 1) + h2.frame(99, 0, 1),
        E.PROTOCOL_ERROR,
    ),
    "continuation of another stream": (
        h2.frame(h2.HEADERS, 0, 1) + h2.frame(h2.CONTINUATION, 4, 3),
        E.PROTOCOL_ERROR,
    ),
    "continuation alone": (h2.frame(h2.CONTINUATION, 4, 1), E.PROTOCOL_ERROR),
    "bad index": (h2.frame(h2.HEADERS, 5, 1, b"\xff\xff\x01"), E.COMPRESSION_ERROR),
    "cut literal": (h2.frame(h2.HEADERS, 5, 1, b"\x00\x05ab"), E.COMPRESSION_ERROR),
    "bad huffman": (h2.frame(h2.HEADERS, 5, 1, b"\x00\x84\xff\xff\xff\xff\x00"), E.COMPRESSION_ERROR),
    "table larger than allowed": (h2.frame(h2.HEADERS, 5, 1, b"\x3f\xe1\xff\x03"), E.COMPRESSION_ERROR),
    "endless integer": (h2.frame(h2.HEADERS, 5, 1, b"\xff" + b"\x80" * 50), E.COMPRESSION_ERROR),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_connection_error(name: str) -> None:
    wire, code = CONNECTION_ERRORS[name]
    assert failure(server(), wire) == code


STREAM_ERRORS = {
    "window update of 0": (GET_1 + h2.window_update(1, 0), E.PROTOCOL_ERROR, True),
    "window too large": (GET_1 + h2.window_update(1, BIG), E.FLOW_CONTROL_ERROR, True),
    "data after the end": (GET_1 + data(1, b"x"), E.STREAM_CLOSED, True),
    "headers after the end": (GET_1 + GET_1, E.STREAM_CLOSED, True),
    "trailers without end": (OPEN_1 + headers(1, base=(("x", "y"),), end=False), E.PROTOCOL_ERROR, False),
    "trailers with pseudo headers": (OPEN_1 + headers(1), E.PROTOCOL_ERROR, False),
    "no path": (headers(1, base=GET[:2]), E.PROTOCOL_ERROR, False),
    "connect": (headers(1, base=((":method", "CONNECT"), (":authority", "c"))), E.PROTOCOL_ERROR, False),
    "empty path": (headers(1, base=(*GET[:2], (":path", ""))), E.PROTOCOL_ERROR, False),
    "relative path": (headers(1, base=(*GET[:2], (":path", "x"))), E.PROTOCOL_ERROR, False),
    "method twice": (headers(1, base=(*GET, GET[0])), E.PROTOCOL_ERROR, False),
    "status in a request": (headers(1, (":status", "200"), base=GET), E.PROTOCOL_ERROR, False),
    "pseudo header after others": (headers(1, base=(("x", "y"), *GET)), E.PROTOCOL_ERROR, False),
    "connection header": (headers(1, ("connection", "close")), E.PROTOCOL_ERROR, False),
    "te other than trailers": (headers(1, ("te", "gzip")), E.PROTOCOL_ERROR, False),
    "upper case name": (
        h2.frame(h2.HEADERS, 5, 1, block(base=GET) + b"\x00\x01X\x01y"),
        E.PROTOCOL_ERROR,
        False,
    ),
    "line break": (
        h2.frame(h2.HEADERS, 5, 1, block(base=GET) + b"\x00\x01x\x03a\nb"),
        E.PROTOCOL_ERROR,
        False,
    ),
    "content-length is no number": (headers(1, ("content-length", "+1"), end=False), E.PROTOCOL_ERROR, False),
    "content-lengths differ": (
        headers(1, ("content-length", "1"), ("content-length", "2"), end=False),
        E.PROTOCOL_ERROR,
        False,
    ),
    "content-length without body": (headers(1, ("content-length", "1")), E.PROTOCOL_ERROR, False),
    "body shorter than content-length": (
        headers(1, ("content-length", "3"), end=False) + data(1, b"xx", end=True),
        E.PROTOCOL_ERROR,
        False,
    ),
}


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_stream_error(name: str) -> None:
    wire, code, was_known = STREAM_ERRORS[name]
    connection = server()
    events = connection.receive(wire)
    assert h2.rst_stream(1, code) in connection.take_output()
    assert events == ([events[0], StreamClosed(1, False, code)] if was_known else [])
    assert connection.open_streams == 0
    connection.check_invariants()
    (request,) = connection.receive(headers(3))  # the connection and its header tables live on
    assert isinstance(request, Request)


ACCEPTED = {
    "priority": h2.frame(h2.PRIORITY, 0, 9, b"\0\0\0\11\1"),
    "unknown type": h2.frame(0xBE, 0xFF, 7, b"anything"),
    "unknown setting": h2.settings(((0xFE, 1), (3, 0), (6, 0), (8, 1))),
    "reserved bit": h2.frame(h2.PING, 0, 1 << 31, b"12345678"),
    "ping ack nobody asked for": h2.frame(h2.PING, h2.FLAG_ACK, 0, b"12345678"),
    "headers with priority": h2.frame(h2.HEADERS, 0x2D, 1, b"\1\0\0\0\0\1" + block() + b"\0"),
    "window update after the end": GET_1 + h2.rst_stream(1, 8) + h2.window_update(1, 9) + h2.rst_stream(1, 8),
    "empty data": OPEN_1 + data(1),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    connection = server()
    connection.receive(ACCEPTED[name])
    assert len(connection.receive(headers(11))) == 1


def test_first_frame_must_be_settings() -> None:
    for wire in (h2.frame(h2.PING, 0, 0, b"12345678"), h2.SETTINGS_ACK):
        connection = ServerConnection()
        connection.start()
        assert failure(connection, h2.PREFACE + wire) == E.PROTOCOL_ERROR
        peer = ClientConnection()
        peer.start()
        assert failure(peer, wire) == E.PROTOCOL_ERROR


@pytest.mark.parametrize("wire", [b"G", b"GET / HTTP/1.1\r\n\r\n", h2.PREFACE[:-1] + b"x", b"\0\0\0"])
def test_preface_must_match(wire: bytes) -> None:
    connection = ServerConnection()
    connection.start()
    assert failure(connection, wire) == E.PROTOCOL_ERROR


def test_frames_on_a_stream_we_reset_are_ignored() -> None:
    connection = server(max_body_bytes=10)
    assert connection.receive(headers(1, end=False) + data(1, b"x" * 11)) == []
    sent = connection.take_output()
    assert h2.rst_stream(1, E.NO_ERROR) in sent
    late = data(1, b"y" * 9_000) + h2.window_update(1, 5) + headers(1, base=(("x", "y"),))
    assert connection.receive(late) == []
    assert failure(connection, data(1)) == E.STREAM_CLOSED  # its end was seen, so nothing more may come


def test_window_of_ignored_and_misplaced_bytes_comes_back() -> None:
    connection = server(max_body_bytes=10, receive_window_bytes=65_535)
    returned = 0
    for i in range(20):
        late, ended = 4 * i + 1, 4 * i + 3
        connection.receive(headers(late, end=False) + data(late, b"x" * 11) + data(late, b"y" * 15_000))
        connection.receive(headers(ended) + data(ended, b"z" * 15_000))
        for kind, _, stream_id, payload in frames(connection.take_output()):
            if (kind, stream_id) == (h2.WINDOW_UPDATE, 0):
                returned += int.from_bytes(payload, "big")
    assert 20 * 30_011 - 65_535 // 2 <= returned <= 20 * 30_011


def test_abrupt_goaway_ignores_later_requests() -> None:
    connection = server()
    connection.receive(GET_1)
    connection.goaway(graceful=False)
    connection.goaway(graceful=True)
    assert connection.take_output() == h2.goaway(1, 0) * 2
    assert connection.receive(headers(3, end=False) + data(3, b"x" * 9, end=True) + headers(5)) == []
    assert connection.is_open(1)
    assert failure(connection, data(3)) == E.STREAM_CLOSED


def test_goaway_of_an_error_never_names_more_than_before() -> None:
    connection = server()
    connection.receive(GET_1)
    connection.goaway(graceful=False)
    connection.receive(headers(3))
    with pytest.raises(RemoteProtocolError):
        connection.receive(data(0))
    assert connection.take_output().endswith(h2.goaway(1, E.PROTOCOL_ERROR, b"frame type 0 on stream 0"))


# Limits


def test_windows_are_enforced() -> None:
    slow = client(initial_window_bytes=100, auto_window=False)
    slow.request("GET", "/")
    assert len(slow.receive(RESPONSE + data(1, b"x" * 100))) == 2
    assert failure(slow, data(1, b"x")) == E.FLOW_CONTROL_ERROR
    slow = client(initial_window_bytes=70_000, connection_window_bytes=65_535, auto_window=False)
    slow.request("GET", "/")
    slow.receive(RESPONSE + data(1, b"x" * 16_383) * 4)
    assert failure(slow, data(1, b"x" * 5)) == E.FLOW_CONTROL_ERROR


def test_a_small_window_counts_only_from_the_ack_on() -> None:
    slow = ClientConnection(initial_window_bytes=10, auto_window=False)
    slow.start()
    slow.request("GET", "/")
    assert len(slow.receive(h2.settings(()) + RESPONSE + data(1, b"x" * 1_000))) == 2
    assert slow.receive(h2.SETTINGS_ACK) == []
    slow.acknowledge(1, 1_000)
    assert len(slow.receive(data(1, b"x" * 10))) == 1
    assert failure(slow, data(1, b"x")) == E.FLOW_CONTROL_ERROR


def test_max_body_bytes() -> None:
    assert http2.MAX_BODY_BYTES == 1024 * 1024
    connection = server(max_body_bytes=100)
    (request,) = connection.receive(headers(1, end=False) + data(1, b"x" * 100, end=True))
    assert isinstance(request, Request)
    for stream_id, wire in (
        (3, headers(3, end=False) + data(3, b"x" * 101, end=True)),
        (5, headers(5, ("content-length", "101"), end=False)),
    ):
        assert connection.receive(wire) == []
        kinds = [(kind, sid) for kind, _, sid, _ in frames(connection.take_output())]
        assert kinds[0] == (h2.HEADERS, stream_id)
        assert kinds[1:] == ([] if stream_id == 3 else [(h2.RST_STREAM, 5)])  # 3 had ended by itself
        assert connection.open_streams == 1


def test_max_held_bytes() -> None:
    connection = server(max_held_bytes=1_000)
    connection.receive(headers(1, end=False) + data(1, b"x" * 300))
    assert connection.receive(headers(3, end=False) + data(3, b"x" * 600)) == []
    assert connection.take_output() == h2.rst_stream(3, E.REFUSED_STREAM)
    assert len(connection.receive(data(1, end=True))) == 1
    connection.receive(headers(5, end=False) + data(5, b"x" * 600))
    assert connection.take_output() == h2.rst_stream(5, E.REFUSED_STREAM)  # 1 is not answered yet
    connection.respond(1, 200)
    assert len(connection.receive(headers(7, end=False) + data(7, b"x" * 600, end=True))) == 1
    connection.check_invariants()


def test_max_headers() -> None:
    connection = server()
    assert len(connection.receive(headers(1, *[("x", "y")] * (http2.MAX_HEADERS - len(GET))))) == 1
    assert connection.receive(headers(3, *[("x", "y")] * http2.MAX_HEADERS)) == []
    ((kind, flags, stream_id, payload),) = frames(connection.take_output())
    assert (kind, flags, stream_id) == (h2.HEADERS, 5, 3)
    assert b"431" in payload


def test_max_concurrent_streams() -> None:
    connection = server(max_concurrent_streams=3)
    assert len(connection.receive(b"".join(headers(i) for i in (1, 3, 5, 7)))) == 3
    assert connection.take_output() == h2.rst_stream(7, E.REFUSED_STREAM)
    connection.respond(3, 200, end_stream=True)
    assert len(connection.receive(headers(9))) == 1
    assert http2.MAX_CONCURRENT_STREAMS == 128


def test_max_header_list_bytes() -> None:
    bomb = b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4_000 + b"\xbe" * 20  # one entry of 4,033 bytes, 21 times
    assert failure(server(), h2.frame(h2.HEADERS, 5, 1, block() + bomb)) == E.ENHANCE_YOUR_CALM
    part = b"\x00\x01a\x7f\x81\x7f" + b"v" * 16_000
    wire = h2.frame(h2.HEADERS, 0, 1, part) + h2.frame(h2.CONTINUATION, 0, 1, part) * 3
    connection = server()
    connection.receive(wire)
    assert failure(connection, h2.frame(h2.CONTINUATION, 0, 1, part)) == E.ENHANCE_YOUR_CALM


def test_max_continuation_frames() -> None:
    connection = server()
    start = h2.frame(h2.HEADERS, 1, 1, block())
    empty = h2.frame(h2.CONTINUATION, 0, 1)
    last = h2.frame(h2.CONTINUATION, h2.FLAG_END_HEADERS, 1)
    assert len(connection.receive(start + empty * (http2.MAX_CONTINUATION_FRAMES - 1) + last)) == 1
    assert failure(server(), start + empty * http2.MAX_CONTINUATION_FRAMES + last) == E.ENHANCE_YOUR_CALM


IDLE = {
    "ping": h2.frame(h2.PING, 0, 0, b"12345678"),
    "ping ack": h2.frame(h2.PING, 1, 0, b"12345678"),
    "settings": h2.settings(((4, 65_535),)),
    "empty data": data(1),
    "padding only": h2.frame(h2.DATA, h2.FLAG_PADDED, 1, b"\1\0"),
    "priority": h2.frame(h2.PRIORITY, 0, 1, b"12345"),
    "unknown": h2.frame(77, 0, 0),
    "rst of a closed stream": h2.rst_stream(3, 8),
    "goaway": h2.goaway(0, 0),
}


@pytest.mark.parametrize("name", IDLE)
def test_max_idle_frames(name: str) -> None:
    connection = server()
    connection.receive(headers(1, end=False) + headers(3) + h2.rst_stream(3, 8) + data(1, b"x"))
    for _ in range(http2.MAX_IDLE_FRAMES):
        connection.receive(IDLE[name])
        connection.take_output()
    assert failure(connection, IDLE[name]) == E.ENHANCE_YOUR_CALM


def test_useful_traffic_pays_for_idle_frames() -> None:
    connection = server()
    connection.receive(h2.window_update(0, 1_000_000) + GET_1)
    connection.respond(1, 200)
    connection.take_output()
    ping = IDLE["ping"]
    for _ in range(3):
        connection.receive(ping * http2.MAX_IDLE_FRAMES)
        connection.take_output()
        assert connection.data_frame(1, b"keep-alive") is not None
    connection.receive(ping * http2.MAX_IDLE_FRAMES)


def test_window_updates_are_free() -> None:
    """Go answers one 12 MB body with about 3,000 of them, while we send nothing."""
    connection = server()
    connection.receive(GET_1)
    connection.receive(h2.window_update(0, 4_096) + h2.window_update(1, 4_096))
    for _ in range(3 * http2.MAX_IDLE_FRAMES):
        connection.receive(h2.window_update(0, 4_096) + h2.window_update(1, 4_096))
    assert connection.is_open(1)


def test_max_wasted_streams() -> None:
    def rapid_reset(stream_id: int) -> bytes:
        return headers(stream_id) + h2.rst_stream(stream_id, 8)

    connection = server()
    for i in range(http2.MAX_WASTED_STREAMS):
        assert len(connection.receive(rapid_reset(2 * i + 1))) == 2
    assert len(connection.receive(headers(1_001))) == 1
    connection.respond(1_001, 200, end_stream=True)  # an answer pays for one more
    assert len(connection.receive(rapid_reset(1_003))) == 2
    assert failure(connection, rapid_reset(1_005)) == E.ENHANCE_YOUR_CALM


def test_refused_streams_are_wasted_ones() -> None:
    connection = server(max_concurrent_streams=1)
    connection.receive(GET_1)
    last = 3 + 2 * http2.MAX_WASTED_STREAMS
    assert connection.receive(b"".join(headers(i) for i in range(3, last, 2))) == []
    assert failure(connection, headers(last)) == E.ENHANCE_YOUR_CALM


def test_answered_streams_may_be_cancelled_for_ever() -> None:
    connection = server()
    for stream_id in range(1, 6 * http2.MAX_WASTED_STREAMS, 2):
        connection.receive(headers(stream_id))
        connection.respond(stream_id, 200)
        assert connection.receive(h2.rst_stream(stream_id, 8)) == [StreamClosed(stream_id, True, 8)]


def test_max_control_output_bytes() -> None:
    connection = server()
    connection.receive(headers(1, end=False))
    # useful bytes between the pings, so that only the output limit can act
    wire = (IDLE["ping"] * 100 + data(1, b"x")) * 100
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive(wire)
    assert caught.value.facts["error_code"] == E.ENHANCE_YOUR_CALM
    waiting = len(connection.take_output())
    assert http2.MAX_CONTROL_OUTPUT_BYTES - 17 < waiting <= http2.MAX_CONTROL_OUTPUT_BYTES + 100


def test_max_remembered_resets() -> None:
    connection = server(max_body_bytes=0)
    for i in range(http2.MAX_REMEMBERED_RESETS + 1):
        stream_id = 4 * i + 1
        connection.receive(headers(stream_id, end=False) + data(stream_id, b"x"))
        connection.receive(headers(stream_id + 2))
        connection.respond(stream_id + 2, 200, end_stream=True)
        connection.take_output()
        connection.check_invariants()
    connection.receive(data(5, b"late"))
    assert failure(connection, data(1, b"late")) == E.STREAM_CLOSED


# The client's side


CLIENT_ERRORS = {
    "push promise": (h2.frame(h2.PUSH_PROMISE, 4, 1, b"\0\0\0\2\x88"), E.PROTOCOL_ERROR),
    "server enables push": (h2.settings(((2, 1),)), E.PROTOCOL_ERROR),
    "answer on an idle stream": (h2.frame(h2.HEADERS, 4, 3, b"\x88"), E.PROTOCOL_ERROR),
    "data on an idle stream": (data(3), E.PROTOCOL_ERROR),
    "answer on a server stream": (h2.frame(h2.HEADERS, 4, 2, b"\x88"), E.PROTOCOL_ERROR),
    "answer after the end": (h2.header_frames(1, b"\x88", 99, end_stream=True) + RESPONSE, E.STREAM_CLOSED),
}


@pytest.mark.parametrize("name", CLIENT_ERRORS)
def test_client_connection_error(name: str) -> None:
    wire, code = CLIENT_ERRORS[name]
    connection = client()
    connection.request("GET", "/")
    connection.take_output()
    assert failure(connection, wire) == code


CLIENT_STREAM_ERRORS = {
    "data before the head": data(1, b"x"),
    "no status": h2.frame(h2.HEADERS, 4, 1, h2.encode_headers((("x", "y"),))),
    "status of two digits": h2.frame(h2.HEADERS, 4, 1, h2.encode_headers(((":status", "20"),))),
    "interim answer with end": h2.frame(h2.HEADERS, 5, 1, h2.encode_headers(((":status", "103"),))),
    "second head": RESPONSE + RESPONSE,
}


@pytest.mark.parametrize("name", CLIENT_STREAM_ERRORS)
def test_client_stream_error(name: str) -> None:
    connection = client()
    connection.request("GET", "/")
    connection.take_output()
    events = connection.receive(CLIENT_STREAM_ERRORS[name])
    assert events[-1] == StreamClosed(1, False, E.PROTOCOL_ERROR)
    assert connection.take_output() == h2.rst_stream(1, E.PROTOCOL_ERROR)
    connection.request("GET", "/")
    head = h2.header_frames(3, b"\x88", 99, end_stream=False)
    assert connection.receive(head) == [Response(3, 200, ())]


# Misuse by our own side


def test_local_misuse() -> None:
    connection = ServerConnection()
    with pytest.raises(LocalProtocolError):
        connection.receive(HELLO)
    connection.start()
    with pytest.raises(LocalProtocolError):
        connection.start()
    connection.receive(HELLO + GET_1)
    for call in (
        lambda: connection.send(1, b"x"),
        lambda: connection.end(1),
        lambda: connection.respond(3, 200),
        lambda: connection.respond(1, 103),
        lambda: connection.ping(b"short"),
        lambda: ServerConnection(receive_window_bytes=2**31),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    connection.respond(1, 200)
    with pytest.raises(LocalProtocolError):
        connection.respond(1, 200)
    connection.end(1)
    with pytest.raises(LocalProtocolError):
        connection.send(1, b"x")
    assert connection.data_frame(1, b"x") is None


def test_repr_states_the_condition() -> None:
    connection = ServerConnection()
    assert repr(connection) == "<ServerConnection not started, 0 streams, 0 blocked, window 65535>"
    connection = server()
    connection.receive(GET_1)
    assert "open, 1 streams" in repr(connection)
    failure(connection, data(0))
    assert "broken" in repr(connection)


def test_an_idle_connection_with_a_map_stream_is_small() -> None:
    wire = HELLO + h2.SETTINGS_ACK + headers(1, ("ts-lb", "nodekey:" + "a" * 64), ("content-length", "0"))

    def one() -> ServerConnection:
        connection = ServerConnection()
        connection.start()
        connection.receive(wire)
        connection.respond(1, 200)
        connection.take_output()
        return connection

    kept = [one()]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept += [one() for _ in range(200)]
    per_connection = (tracemalloc.get_traced_memory()[0] - before) / 200
    tracemalloc.stop()
    assert len(kept) == 201
    assert per_connection < 4_000
