"""HTTP/2 inside the Noise tunnel, without I/O: `receive` bytes -> events, `take_output` -> bytes.

Both clients speak it with prior knowledge and `:scheme https` (tailscale control/ts2021/conn.go;
tailscale-rs ts_control/src/control_dialer.rs). The server hands out whole requests, since the control
protocol has no uploads that are read piecemeal; answers are streams (`/machine/map`).
"""

from __future__ import annotations

from collections.abc import Sequence

from app.errors import LocalProtocolError
from app.wire import h2frames as h2
from app.wire.h2core import (
    MAX_CONTINUATION_FRAMES,
    MAX_HEADER_LIST_BYTES,
    MAX_IDLE_FRAMES,
    MAX_WASTED_STREAMS,
    Connection,
)
from app.wire.h2events import (
    Data,
    Drained,
    Event,
    GoAway,
    PingAck,
    Request,
    Response,
    StreamClosed,
    StreamEnded,
)
from app.wire.h2frames import ErrorCode, Malformed, Setting, Violation
from app.wire.h2streams import (
    MAX_CONTROL_OUTPUT_BYTES,
    MAX_REMEMBERED_RESETS,
    MAX_SEND_FRAME_BYTES,
    Incoming,
    Stream,
)

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_CONCURRENT_STREAMS",
    "MAX_CONTINUATION_FRAMES",
    "MAX_CONTROL_OUTPUT_BYTES",
    "MAX_HEADERS",
    "MAX_HEADER_LIST_BYTES",
    "MAX_HELD_BYTES",
    "MAX_IDLE_FRAMES",
    "MAX_REMEMBERED_RESETS",
    "MAX_SEND_FRAME_BYTES",
    "MAX_WASTED_STREAMS",
    "RECEIVE_WINDOW_BYTES",
    "ClientConnection",
    "Data",
    "Drained",
    "ErrorCode",
    "Event",
    "GoAway",
    "PingAck",
    "Request",
    "Response",
    "ServerConnection",
    "StreamClosed",
    "StreamEnded",
]

#: Body of one request; larger ones get 413 (headscale hscontrol/noise.go noiseBodyLimit has the same).
MAX_BODY_BYTES = 1024 * 1024
#: Headers and bodies of all requests of a connection that are not answered yet.
MAX_HELD_BYTES = 4 * 1024 * 1024
#: Requests a peer may have open at a time.
MAX_CONCURRENT_STREAMS = 128
#: Header fields of one request; more get 431.
MAX_HEADERS = 128
#: What the peer may send ahead, per stream and per connection.
RECEIVE_WINDOW_BYTES = 256 * 1024
#: SETTINGS_INITIAL_WINDOW_SIZE of Go clients (golang.org/x/net http2/transport.go).
GO_INITIAL_WINDOW_BYTES = 4 * 1024 * 1024


class ServerConnection(Connection):
    """Our end of a device's connection."""

    __slots__ = ("_max_body", "_max_held", "_max_streams")

    def __init__(
        self,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_held_bytes: int = MAX_HELD_BYTES,
        max_concurrent_streams: int = MAX_CONCURRENT_STREAMS,
        receive_window_bytes: int = RECEIVE_WINDOW_BYTES,
    ) -> None:
        super().__init__(stream_window=receive_window_bytes, connection_window=receive_window_bytes)
        self._max_body = max_body_bytes
        self._max_held = max_held_bytes
        self._max_streams = max_concurrent_streams

    def start(self) -> None:
        """Queues our SETTINGS, which need not wait for the client's preface."""
        self._start(
            b"",
            (
                (Setting.MAX_CONCURRENT_STREAMS, self._max_streams),
                (Setting.INITIAL_WINDOW_SIZE, self._stream_window),
                (Setting.MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST_BYTES),
            ),
            expect_preface=True,
        )

    def respond(
        self,
        stream_id: int,
        status: int,
        headers: Sequence[tuple[str, str]] = (),
        *,
        end_stream: bool = False,
    ) -> None:
        """The head of the answer. Raises LocalProtocolError if the stream is not open or has one."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.visible or stream.started:
            raise LocalProtocolError("no request waits for an answer", stream_id=stream_id)
        if not 200 <= status <= 999:
            raise LocalProtocolError("not a final status", status=status)
        self._release(stream)
        self._send_headers(stream, ((":status", str(status)), *headers), end_stream)

    def _headers_done(
        self, stream_id: int, end: bool, pairs: list[tuple[bytes, bytes]], events: list[Event]
    ) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._trailers(stream, end, pairs, events)
            return
        if not stream_id & 1:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "request on a server's stream id")
        if stream_id <= self._last_peer_stream:
            if stream_id not in self._ignored:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "stream id used before")
            self._late_headers(stream_id, end)
            return
        self._last_peer_stream = stream_id
        full = len(self._streams) >= self._max_streams
        stream = Stream(stream_id, self._peer_initial_window, self._stream_credit)
        stream.remote_open = not end
        if stream_id > self._goaway_limit:
            self._forget(stream, remember=not end)
            self._idle_frame()
        elif full:
            self._stream_error(stream, ErrorCode.REFUSED_STREAM, events)
        else:
            self._streams[stream_id] = stream
            self._request(stream, end, pairs, events)

    def _request(
        self, stream: Stream, end: bool, pairs: list[tuple[bytes, bytes]], events: list[Event]
    ) -> None:
        if len(pairs) > MAX_HEADERS:
            self._refuse(stream, 431)
            return
        try:
            method, path, headers, length = h2.parse_request(pairs)
        except Malformed:
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR, events)
            return
        stream.incoming = Incoming(method, path, headers, length)
        if length is not None and length > self._max_body and not end:
            self._refuse(stream, 413)
        elif self._hold(stream, h2.headers_cost(pairs), events) and end:
            self._deliver(stream, events)

    def _trailers(
        self, stream: Stream, end: bool, pairs: list[tuple[bytes, bytes]], events: list[Event]
    ) -> None:
        if not stream.remote_open:
            self._stream_error(stream, ErrorCode.STREAM_CLOSED, events)
            return
        stream.remote_open = not end
        if not end or not h2.are_trailers(pairs):
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR, events)
            return
        self._deliver(stream, events)

    def _body(self, stream: Stream, body: bytes, size: int, end: bool, events: list[Event]) -> None:
        stream.remote_open = not end
        incoming = stream.incoming
        assert incoming is not None  # only a stream without its request complete takes bodies
        incoming.body += body
        self._give_back(stream, size)
        if len(incoming.body) > self._max_body:
            self._refuse(stream, 413)
        elif self._hold(stream, len(body), events) and end:
            self._deliver(stream, events)

    def _hold(self, stream: Stream, size: int, events: list[Event]) -> bool:
        """Counts bytes of an unanswered request; False if that was too much and the stream is refused."""
        stream.cost += size
        self._held += size
        if self._held <= self._max_held:
            return True
        self._stream_error(stream, ErrorCode.REFUSED_STREAM, events)
        return False

    def _deliver(self, stream: Stream, events: list[Event]) -> None:
        incoming = stream.incoming
        assert incoming is not None  # set by _request
        body = bytes(incoming.body)
        if incoming.length is not None and incoming.length != len(body):
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR, events)
            return
        stream.incoming = None
        stream.visible = True
        self._idle_frames = 0
        events.append(Request(stream.id, incoming.method, incoming.path, incoming.headers, body))

    def _refuse(self, stream: Stream, status: int) -> None:
        """Answers in place of the caller, and stops the rest of the request (RFC 9113 section 8.1)."""
        block = self._header_block(((":status", str(status)), ("content-length", "0")))
        self._control(h2.header_frames(stream.id, block, self._max_frame, end_stream=True))
        if stream.remote_open:
            self._control(h2.rst_stream(stream.id, ErrorCode.NO_ERROR))
        self._forget(stream, remember=stream.remote_open)
        self._waste()

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id > self._last_peer_stream or not stream_id & 1

    def _peer_setting(self, key: int, value: int) -> None:
        if key == Setting.ENABLE_PUSH and value > 1:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")

    def _reset_in(self, stream: Stream, error_code: int, events: list[Event]) -> None:
        if stream.visible:
            events.append(StreamClosed(stream.id, True, error_code))
        if not stream.started:
            self._waste()


class ClientConnection(Connection):
    """A device's end, for simulated devices and tests.

    With `auto_window=False` no window is given back until `acknowledge`: a slow reader.
    """

    __slots__ = ("_authority", "_auto_window", "_next_stream", "_peer_gone", "_peer_max_streams")

    def __init__(
        self,
        *,
        authority: str = "control",
        initial_window_bytes: int = GO_INITIAL_WINDOW_BYTES,
        connection_window_bytes: int | None = None,
        auto_window: bool = True,
    ) -> None:
        connection = initial_window_bytes if connection_window_bytes is None else connection_window_bytes
        super().__init__(stream_window=initial_window_bytes, connection_window=connection)
        self._authority = authority
        self._auto_window = auto_window
        self._next_stream = 1
        self._peer_gone = False
        self._peer_max_streams = h2.MAX_STREAM_ID

    def start(self) -> None:
        """Queues the preface and our SETTINGS."""
        self._start(
            h2.PREFACE,
            (
                (Setting.ENABLE_PUSH, 0),
                (Setting.INITIAL_WINDOW_SIZE, self._stream_window),
                (Setting.MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST_BYTES),
            ),
            expect_preface=False,
        )

    def request(
        self,
        method: str,
        path: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        end_stream: bool = True,
    ) -> int:
        """Opens a stream and returns its id; with `end_stream=False` go on with `send`.

        Raises LocalProtocolError after a GOAWAY and beyond the peer's limit of open streams.
        """
        if self._peer_gone or self._next_stream > h2.MAX_STREAM_ID:
            raise LocalProtocolError("this connection takes no more requests")
        if len(self._streams) >= self._peer_max_streams:
            raise LocalProtocolError("too many open streams", limit=self._peer_max_streams)
        stream = Stream(self._next_stream, self._peer_initial_window, self._stream_credit)
        stream.visible = True
        fixed = (
            (":method", method),
            (":scheme", "https"),
            (":authority", self._authority),
            (":path", path),
        )
        self._send_headers(stream, (*fixed, *headers), end_stream and not body)
        self._next_stream += 2
        self._streams[stream.id] = stream
        if body:
            self.send(stream.id, body, end_stream=end_stream)
        return stream.id

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Gives `size` consumed bytes back to the stream, if it is open, and to the connection."""
        stream = self._streams.get(stream_id)
        self._out.append(h2.window_update(0, size))
        self._credit += size
        if stream is not None and stream.remote_open:
            self._out.append(h2.window_update(stream_id, size))
            stream.credit += size

    def _headers_done(
        self, stream_id: int, end: bool, pairs: list[tuple[bytes, bytes]], events: list[Event]
    ) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "answer on an idle stream")
            if stream_id not in self._ignored:
                raise Violation(ErrorCode.STREAM_CLOSED, "answer on a closed stream")
            self._late_headers(stream_id, end)
            return
        if not stream.remote_open:
            self._stream_error(stream, ErrorCode.STREAM_CLOSED, events)
            return
        if stream.answered:
            stream.remote_open = not end
            if not end or not h2.are_trailers(pairs):
                self._stream_error(stream, ErrorCode.PROTOCOL_ERROR, events)
                return
            self._remote_end(stream, events)
            return
        try:
            status, headers = h2.parse_response(pairs)
        except Malformed:
            status = 0
        if status < 100 or (status < 200 and end):
            stream.remote_open = not end
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR, events)
            return
        if status < 200:
            self._idle_frame()
            return
        self._idle_frames = 0
        stream.answered = True
        events.append(Response(stream_id, status, headers))
        if end:
            self._remote_end(stream, events)

    def _body(self, stream: Stream, body: bytes, size: int, end: bool, events: list[Event]) -> None:
        if not stream.answered:
            self._give_back(None, size)
            stream.remote_open = not end
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR, events)
            return
        stream.remote_open = not end
        self._give_back(stream, size if self._auto_window else size - len(body))
        if body:
            events.append(Data(stream.id, body))
        if end:
            self._remote_end(stream, events)

    def _remote_end(self, stream: Stream, events: list[Event]) -> None:
        stream.remote_open = False
        events.append(StreamEnded(stream.id))
        if stream.ended:
            self._forget(stream)

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id >= self._next_stream or not stream_id & 1

    def _peer_setting(self, key: int, value: int) -> None:
        if key == Setting.MAX_CONCURRENT_STREAMS:
            self._peer_max_streams = value
        elif key == Setting.ENABLE_PUSH and value:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "a server cannot enable push")

    def _reset_in(self, stream: Stream, error_code: int, events: list[Event]) -> None:
        events.append(StreamClosed(stream.id, True, error_code))

    def _goaway_in(self, event: GoAway, events: list[Event]) -> None:
        self._peer_gone = True
        events.append(event)
        for stream in [one for one in self._streams.values() if one.id > event.last_stream_id]:
            self._forget(stream)
            events.append(StreamClosed(stream.id, False, int(ErrorCode.REFUSED_STREAM)))
