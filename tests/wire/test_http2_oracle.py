"""The `h2` package as the other end: what it sends we understand, what we send it accepts."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from http2_kit import exchange

from app.errors import LocalProtocolError
from app.wire.http2 import (
    ClientConnection,
    Data,
    Drained,
    Event,
    GoAway,
    PingAck,
    Request,
    Response,
    ServerConnection,
    StreamClosed,
    StreamEnded,
)

HEADERS = [(":method", "POST"), (":scheme", "https"), (":authority", "c"), (":path", "/machine/map")]
Codes = h2.settings.SettingCodes


class OracleClient:
    """h2 as client of our server; `window` is its INITIAL_WINDOW_SIZE."""

    def __init__(self, server: ServerConnection, *, window: int = 65_535, **settings: int) -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.local_settings[Codes.INITIAL_WINDOW_SIZE] = window
        for name, value in settings.items():
            self.h2.local_settings[Codes[name]] = value
        self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.events: list[Any] = []
        self.refill = True
        server.start()

    def pump(self) -> list[Event]:
        """Passes bytes until both are silent; our server's events."""
        seen: list[Event] = []
        while True:
            up, down = self.h2.data_to_send(), self.server.take_output()
            if not up and not down:
                self.server.check_invariants()
                return seen
            seen += self.server.receive(up) if up else []
            for event in self.h2.receive_data(down) if down else []:
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived) and self.refill:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def request(self, body: bytes = b"", extra: list[tuple[str, str]] | None = None) -> int:
        stream_id: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, HEADERS + (extra or []), end_stream=not body)
        self.upload(stream_id, body)
        return stream_id

    def upload(self, stream_id: int, body: bytes) -> None:
        while body:
            self.pump()
            room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
            assert room > 0, "upload stalled"
            self.h2.send_data(stream_id, body[:room], end_stream=len(body) <= room)
            body = body[room:]

    def body(self, stream_id: int) -> bytes:
        return b"".join(
            e.data for e in self.events if isinstance(e, h2.events.DataReceived) and e.stream_id == stream_id
        )

    def saw(self, kind: type, stream_id: int) -> bool:
        return any(isinstance(e, kind) and e.stream_id == stream_id for e in self.events)


def test_request_and_answer() -> None:
    peer = OracleClient(ServerConnection())
    stream_id = peer.request(b'{"Version":113}', [("ts-lb", "nodekey:aa"), ("ts-lb", "nodekey:bb")])
    (request,) = peer.pump()
    assert request == Request(
        stream_id,
        "POST",
        "/machine/map",
        (("ts-lb", "nodekey:aa"), ("ts-lb", "nodekey:bb")),
        b'{"Version":113}',
    )
    peer.server.respond(stream_id, 200, [("content-type", "application/json"), ("x-strange", "é" * 200)])
    peer.pump()
    frame = peer.server.data_frame(stream_id, b"0123")
    assert frame is not None
    peer.events += peer.h2.receive_data(frame)
    peer.server.send(stream_id, b"4567", end_stream=True)
    peer.pump()
    (response,) = [e for e in peer.events if isinstance(e, h2.events.ResponseReceived)]
    assert [tuple(pair) for pair in response.headers] == [
        (b":status", b"200"),
        (b"content-type", b"application/json"),
        (b"x-strange", "é".encode("latin-1") * 200),
    ]
    assert peer.body(stream_id) == b"01234567"
    assert peer.saw(h2.events.StreamEnded, stream_id)
    assert peer.server.open_streams == 0
    assert not peer.server.is_open(stream_id)


@pytest.mark.parametrize("window", [1, 7, 65_535, 65_536, 4 * 1024 * 1024])
def test_large_answers_respect_the_windows(window: int) -> None:
    size = 300 if window == 1 else 5_000 if window == 7 else 225_000
    body = bytes(i % 251 for i in range(size))
    peer = OracleClient(ServerConnection(), window=window)
    stream_id = peer.request()
    peer.pump()
    peer.server.respond(stream_id, 200)
    peer.server.send(stream_id, body, end_stream=True)
    events = peer.pump()
    assert peer.body(stream_id) == body
    assert peer.saw(h2.events.StreamEnded, stream_id)
    assert (Drained(stream_id) in events) == (size > min(window, 65_535))
    assert peer.server.open_streams == 0


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 1_000_000, 1024 * 1024])
def test_uploads(size: int) -> None:
    body = b"u" * size
    peer = OracleClient(ServerConnection())
    stream_id = peer.request(body)
    events = peer.pump()
    assert [e.body for e in events if isinstance(e, Request)] == [body]
    assert stream_id == 1


def test_many_uploads_never_stall() -> None:
    peer = OracleClient(ServerConnection(receive_window_bytes=65_535))
    for _ in range(300):
        stream_id = peer.request(b"m" * 1_300)
        (request,) = peer.pump()
        assert isinstance(request, Request)
        peer.server.respond(stream_id, 204, end_stream=True)
    peer.pump()
    assert sum(isinstance(e, h2.events.StreamEnded) for e in peer.events) == 300


def test_large_header_lists_use_continuation_both_ways() -> None:
    extra = [(f"x-{i}", "v" * 500) for i in range(60)]
    peer = OracleClient(ServerConnection(), MAX_HEADER_LIST_SIZE=100_000)
    peer.h2.decoder.max_header_list_size = 100_000
    stream_id = peer.request(b"", extra)
    (request,) = peer.pump()
    assert isinstance(request, Request)
    assert list(request.headers) == extra
    peer.server.respond(stream_id, 200, extra, end_stream=True)
    peer.pump()
    (response,) = [e for e in peer.events if isinstance(e, h2.events.ResponseReceived)]
    assert len(response.headers) == 61


def test_indexed_headers_of_repeated_requests() -> None:
    peer = OracleClient(ServerConnection())
    for i in range(40):
        stream_id = peer.request(b"", [("ts-lb", "nodekey:" + "a" * 64), ("x-n", str(i))])
        (request,) = peer.pump()
        assert isinstance(request, Request)
        assert dict(request.headers)["x-n"] == str(i)
        peer.server.respond(stream_id, 200, [("content-length", "0")], end_stream=True)


def test_header_table_size_of_zero_is_acknowledged_in_the_next_block() -> None:
    peer = OracleClient(ServerConnection(), HEADER_TABLE_SIZE=0)
    peer.h2.decoder.max_allowed_table_size = 0
    stream_id = peer.request()
    peer.pump()
    peer.server.respond(stream_id, 200, [("x-a", "b")])
    wire = peer.server.take_output()
    assert wire[9:10] == b"\x20"
    peer.h2.receive_data(wire)
    assert peer.h2.decoder.header_table_size == 0


def test_trailers_end_a_request() -> None:
    peer = OracleClient(ServerConnection())
    peer.h2.send_headers(1, HEADERS)
    peer.h2.send_data(1, b"body")
    peer.h2.send_headers(1, [("x-checksum", "1")], end_stream=True)
    assert peer.pump() == [Request(1, "POST", "/machine/map", (), b"body")]


def test_padding_is_dropped_and_paid_for() -> None:
    peer = OracleClient(ServerConnection())
    peer.h2.send_headers(1, HEADERS, priority_weight=3)
    for _ in range(3000):
        peer.h2.send_data(1, b"x", pad_length=200)
        peer.server.receive(peer.h2.data_to_send())
        peer.h2.receive_data(peer.server.take_output())
    peer.h2.end_stream(1)
    assert peer.pump() == [Request(1, "POST", "/machine/map", (), b"x" * 3000)]


def test_settings_change_windows_in_mid_stream() -> None:
    peer = OracleClient(ServerConnection(), window=1_000)
    peer.refill = False
    stream_id = peer.request()
    peer.pump()
    peer.server.respond(stream_id, 200)
    peer.server.send(stream_id, b"s" * 5_000)
    peer.pump()
    assert len(peer.body(stream_id)) == 1_000
    peer.h2.update_settings({Codes.INITIAL_WINDOW_SIZE: 300})
    assert peer.pump() == []
    peer.h2.increment_flow_control_window(600, stream_id)
    assert peer.pump() == []  # 300 - 1000 + 600 < 0
    assert len(peer.body(stream_id)) == 1_000
    peer.h2.update_settings({Codes.INITIAL_WINDOW_SIZE: 2_000, Codes.MAX_FRAME_SIZE: 32_768})
    peer.pump()
    assert len(peer.body(stream_id)) == 2_600
    assert peer.server.queued_bytes(stream_id) == 2_400
    peer.h2.increment_flow_control_window(2_400, stream_id)
    assert peer.pump() == [Drained(stream_id)]
    assert peer.body(stream_id) == b"s" * 5_000


def test_larger_frames_are_used_up_to_our_limit() -> None:
    peer = OracleClient(ServerConnection(), window=1_000_000)
    peer.h2.update_settings({Codes.MAX_FRAME_SIZE: 1_000_000})
    peer.h2.increment_flow_control_window(1_000_000)
    stream_id = peer.request()
    peer.pump()
    peer.server.respond(stream_id, 200)
    peer.server.send(stream_id, b"f" * 200_000, end_stream=True)
    peer.pump()
    sizes = [len(e.data) for e in peer.events if isinstance(e, h2.events.DataReceived)]
    assert sizes == [65_536, 65_536, 65_536, 3_392]


def test_graceful_goaway_leaves_streams_usable() -> None:
    peer = OracleClient(ServerConnection())
    stream_id = peer.request()
    peer.pump()
    peer.server.respond(stream_id, 200)
    peer.server.goaway(graceful=True)
    wire = peer.server.take_output()
    # h2 refuses to work on after any GOAWAY, so it is only asked whether it understands this one
    (goaway,) = [e for e in peer.h2.receive_data(wire) if isinstance(e, h2.events.ConnectionTerminated)]
    assert (goaway.error_code, goaway.last_stream_id) == (0, 2**31 - 1)
    assert peer.server.data_frame(stream_id, b"more") is not None
    peer.server.end(stream_id)
    assert peer.server.open_streams == 0


def test_abrupt_goaway_names_the_last_stream() -> None:
    peer = OracleClient(ServerConnection())
    stream_id = peer.request()
    peer.pump()
    peer.server.goaway(graceful=False)
    peer.pump()
    (goaway,) = [e for e in peer.events if isinstance(e, h2.events.ConnectionTerminated)]
    assert (goaway.error_code, goaway.last_stream_id) == (0, stream_id)
    assert peer.server.is_open(stream_id)


def test_peer_goaway_ping_and_reset() -> None:
    peer = OracleClient(ServerConnection())
    stream_id = peer.request()
    peer.pump()
    peer.server.ping(b"12345678")
    assert peer.pump() == [PingAck(b"12345678")]
    peer.h2.ping(b"abcdefgh")
    peer.pump()
    assert any(isinstance(e, h2.events.PingAckReceived) and e.ping_data == b"abcdefgh" for e in peer.events)
    peer.server.respond(stream_id, 200)
    peer.server.send(stream_id, b"x" * 100_000)
    peer.h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
    assert peer.server.receive(peer.h2.data_to_send()) == [StreamClosed(stream_id, True, 8)]
    assert not peer.server.is_open(stream_id)
    assert peer.server.queued_bytes(stream_id) == 0
    peer.h2.close_connection(additional_data=b"bye")
    assert peer.server.receive(peer.h2.data_to_send()) == [GoAway(0, 0, b"bye")]


def test_reset_of_ours() -> None:
    peer = OracleClient(ServerConnection())
    stream_id = peer.request()
    peer.pump()
    peer.server.reset(stream_id, 8)
    peer.server.reset(stream_id, 8)
    peer.pump()
    (reset,) = [e for e in peer.events if isinstance(e, h2.events.StreamReset)]
    assert (reset.stream_id, reset.error_code) == (stream_id, 8)


def test_body_over_the_limit_gets_413_and_the_connection_lives() -> None:
    peer = OracleClient(ServerConnection(max_body_bytes=1_000))
    for extra in ([], [("content-length", "1001")]):
        stream_id = peer.h2.get_next_available_stream_id()
        peer.h2.send_headers(stream_id, HEADERS + extra)
        peer.h2.send_data(stream_id, b"b" * 1_001)
        assert peer.pump() == []
        (status,) = [
            dict(e.headers)[b":status"]
            for e in peer.events
            if isinstance(e, h2.events.ResponseReceived) and e.stream_id == stream_id
        ]
        assert status == b"413"
        assert peer.saw(h2.events.StreamReset, stream_id)
    stream_id = peer.request(b"b" * 1_000)
    assert len(peer.pump()) == 1
    peer.server.respond(stream_id, 200, end_stream=True)
    peer.pump()
    assert peer.saw(h2.events.StreamEnded, stream_id)


def test_many_streams_at_a_time() -> None:
    peer = OracleClient(ServerConnection())
    ids = [peer.request() for _ in range(128)]
    assert [e.stream_id for e in peer.pump() if isinstance(e, Request)] == ids
    for stream_id in ids:
        peer.server.respond(stream_id, 200)
        peer.server.send(stream_id, stream_id.to_bytes(2, "big") * 2_000, end_stream=True)
    peer.pump()
    for stream_id in ids:
        assert peer.body(stream_id) == stream_id.to_bytes(2, "big") * 2_000
    assert peer.server.open_streams == 0


class OracleServer:
    """h2 as server of our client."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.events: list[Any] = []
        client.start()

    def pump(self) -> list[Event]:
        seen: list[Event] = []
        while True:
            down, up = self.h2.data_to_send(), self.client.take_output()
            if not up and not down:
                self.client.check_invariants()
                return seen
            for event in self.h2.receive_data(up) if up else []:
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            seen += self.client.receive(down) if down else []

    def send(self, stream_id: int, body: bytes) -> list[Event]:
        """Sends all of the body, pumping whenever the window is used up."""
        seen: list[Event] = []
        while body:
            room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
            if room <= 0:
                self.h2.ping(b"stalled?")
                more = self.pump()
                seen += more
                room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
                assert room > 0, "download stalled"
            self.h2.send_data(stream_id, body[:room], end_stream=len(body) <= room)
            body = body[room:]
        return seen + self.pump()


@pytest.mark.parametrize("window", [1, 7, 65_535, 65_536, 4 * 1024 * 1024])
def test_client_downloads(window: int) -> None:
    size = 300 if window == 1 else 5_000 if window == 7 else 500_000
    peer = OracleServer(ClientConnection(initial_window_bytes=window))
    stream_id = peer.client.request("POST", "/machine/map", [("content-length", "2")], b"{}")
    assert peer.pump() == []
    peer.h2.send_headers(stream_id, [(":status", "103")])
    peer.h2.send_headers(stream_id, [(":status", "200"), ("content-type", "application/json")])
    events = peer.send(stream_id, b"d" * size)
    assert events[0] == Response(stream_id, 200, (("content-type", "application/json"),))
    assert events[-1] == StreamEnded(stream_id)
    assert b"".join(e.data for e in events if isinstance(e, Data)) == b"d" * size
    assert peer.client.open_streams == 0


def test_client_uploads_and_sees_trailers() -> None:
    peer = OracleServer(ClientConnection())
    peer.pump()
    stream_id = peer.client.request("POST", "/x", body=b"1" * 200_000, end_stream=False)
    peer.client.send(stream_id, b"2" * 10, end_stream=True)
    assert Drained(stream_id) in peer.pump()
    body = b"".join(e.data for e in peer.events if isinstance(e, h2.events.DataReceived))
    assert body == b"1" * 200_000 + b"2" * 10
    peer.h2.send_headers(stream_id, [(":status", "200")])
    peer.h2.send_headers(stream_id, [("x-trailer", "1")], end_stream=True)
    assert peer.pump() == [Response(stream_id, 200, ()), StreamEnded(stream_id)]


def test_client_resets_pings_and_goaway() -> None:
    peer = OracleServer(ClientConnection())
    first, second, third = (peer.client.request("GET", "/") for _ in range(3))
    peer.pump()
    peer.client.reset(first)
    peer.client.ping(b"pingping")
    peer.h2.send_headers(second, [(":status", "200")])
    peer.h2.reset_stream(third, 2)
    events = peer.pump()
    assert events == [Response(second, 200, ()), StreamClosed(third, True, 2), PingAck(b"pingping")]
    assert any(isinstance(e, h2.events.StreamReset) and e.stream_id == first for e in peer.events)
    peer.h2.close_connection(last_stream_id=0)
    assert peer.pump() == [GoAway(0, 0, b""), StreamClosed(second, False, 7)]
    with pytest.raises(LocalProtocolError):
        peer.client.request("GET", "/")


def test_client_obeys_the_peers_stream_limit() -> None:
    peer = OracleServer(ClientConnection())
    peer.h2.update_settings({Codes.MAX_CONCURRENT_STREAMS: 2})
    peer.pump()
    first = peer.client.request("GET", "/")
    peer.client.request("GET", "/")
    with pytest.raises(LocalProtocolError):
        peer.client.request("GET", "/")
    peer.client.reset(first)
    peer.client.request("GET", "/")


def test_slow_reader_gets_no_more_than_it_allows() -> None:
    client, server = (
        ClientConnection(initial_window_bytes=1_000, auto_window=False),
        ServerConnection(),
    )
    client.start()
    server.start()
    stream_id = client.request("POST", "/machine/map", body=b"{}")
    _, seen = exchange(client, server)
    assert [type(e) for e in seen] == [Request]
    server.respond(stream_id, 200)
    server.send(stream_id, b"z" * 3_000)
    got, _ = exchange(client, server)
    assert [len(e.data) for e in got if isinstance(e, Data)] == [1_000]
    assert server.queued_bytes(stream_id) == 2_000
    assert server.data_frame(stream_id, b"z") is None
    client.acknowledge(stream_id, 500)
    got, _ = exchange(client, server)
    assert [len(e.data) for e in got if isinstance(e, Data)] == [500]
    assert server.drop_queued(stream_id) == 1_500
    server.end(stream_id)
    got, _ = exchange(client, server)
    assert got == [StreamEnded(stream_id)]
    assert (client.open_streams, server.open_streams) == (0, 0)
