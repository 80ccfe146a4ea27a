"""The receiving half of an HTTP/2 connection: frames, settings, windows, limits. No I/O.

A peer's cheap frames are paid for by useful ones, since there is no clock here: frames that carry
nothing since the last one that did, and streams that ended without an answer, count against limits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from hpack import Decoder, HPACKError, OversizedHeaderListError

from app.errors import LocalProtocolError, RemoteProtocolError
from app.wire import h2frames as h2
from app.wire.h2events import Event, GoAway, PingAck, StreamClosed
from app.wire.h2frames import ErrorCode, Setting, Violation
from app.wire.h2streams import MAX_CONTROL_OUTPUT_BYTES, MAX_SEND_FRAME_BYTES, Sender, Stream

#: Decoded header list of one message, counted as in RFC 9113 section 6.5.2; also its encoded size.
MAX_HEADER_LIST_BYTES = 64 * 1024
#: CONTINUATION frames of one header block.
MAX_CONTINUATION_FRAMES = 32
#: Frames that carry nothing (PING, SETTINGS, empty DATA, PRIORITY, unknown ones) between two that do.
#: WINDOW_UPDATE is free: one large answer brings thousands of them (Go gives back 4 KiB at a time).
MAX_IDLE_FRAMES = 1000
#: Streams that ended without a complete answer, less the completed ones.
MAX_WASTED_STREAMS = 100

_EXPECT_START, _EXPECT_PREFACE, _EXPECT_SETTINGS, _OPEN, _BROKEN = range(5)


_NEEDS_STREAM = frozenset((h2.DATA, h2.HEADERS, h2.PRIORITY, h2.RST_STREAM, h2.CONTINUATION))
_NEEDS_CONNECTION = frozenset((h2.SETTINGS, h2.PING, h2.GOAWAY))
_FIXED_BYTES = {h2.PRIORITY: 5, h2.RST_STREAM: 4, h2.PING: 8, h2.WINDOW_UPDATE: 4}


class Connection(Sender, ABC):
    """One end of a connection. `receive` and `take_output` are its wire, the rest its streams."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_frames",
        "_block_stream",
        "_connection_window",
        "_credit",
        "_decoder",
        "_need",
        "_owed",
        "_partial",
        "_settings_out",
        "_state",
        "_stream_credit",
        "_stream_window",
    )

    def __init__(self, *, stream_window: int, connection_window: int) -> None:
        for name, value in (("stream_window", stream_window), ("connection_window", connection_window)):
            if not 0 <= value <= h2.MAX_WINDOW_BYTES:
                raise LocalProtocolError("window out of range", name=name, value=value)
        super().__init__()
        self._state = _EXPECT_START
        self._partial: bytearray | None = None
        self._need = 0
        self._decoder: Decoder | None = None
        self._block: bytearray | None = None
        self._block_stream = self._block_flags = self._block_frames = 0
        # a smaller stream window than the default counts from the peer's ACK on
        self._stream_window = stream_window
        self._stream_credit = max(stream_window, h2.DEFAULT_WINDOW_BYTES)
        self._connection_window = max(connection_window, h2.DEFAULT_WINDOW_BYTES)
        self._credit = h2.DEFAULT_WINDOW_BYTES
        self._owed = 0
        self._settings_out = False

    def __repr__(self) -> str:
        state = ("not started", "awaits preface", "awaits settings", "open", "broken")[self._state]
        return (
            f"<{type(self).__name__} {state}, {len(self._streams)} streams, {len(self._blocked)} blocked, "
            f"window {self._window}>"
        )

    def _start(self, preface: bytes, settings: Iterable[tuple[int, int]], *, expect_preface: bool) -> None:
        if self._state != _EXPECT_START:
            raise LocalProtocolError("started twice")
        self._state = _EXPECT_PREFACE if expect_preface else _EXPECT_SETTINGS
        self._settings_out = True
        self._out.append(preface + h2.settings(settings))
        growth = self._connection_window - self._credit
        if growth:
            self._out.append(h2.window_update(0, growth))
            self._credit += growth

    def receive(self, data: bytes) -> list[Event]:
        """Events of `data`, which may be cut anywhere.

        Raises RemoteProtocolError (fact `error_code`) for broken input; the GOAWAY then waits in
        `take_output`, the events of this call are lost and all streams are closed.
        """
        if self._state in (_EXPECT_START, _BROKEN):
            if self._state == _BROKEN:
                raise RemoteProtocolError("input after a broken HTTP/2 connection")
            raise LocalProtocolError("receive before start")
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._need:
                return []
            data = bytes(self._partial)
            self._partial = None
        events: list[Event] = []
        try:
            rest = self._parse(data, events)
        except Violation as violation:
            self._break(violation.error_code, violation.message)
            raise RemoteProtocolError(
                f"HTTP/2: {violation.message}", error_code=int(violation.error_code)
            ) from None
        if rest:
            self._partial = bytearray(rest)
        return events

    def _parse(self, data: bytes, events: list[Event]) -> bytes:
        """Handles all complete frames; returns the rest and sets `_need` to when to look again."""
        at, end = 0, len(data)
        if self._state == _EXPECT_PREFACE:
            at = len(h2.PREFACE)
            if not h2.PREFACE.startswith(data[:at]):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
            if end < at:
                self._need = end + 1
                return data
            self._state = _EXPECT_SETTINGS
        while end - at >= h2.FRAME_HEADER_BYTES:
            word, flags, stream_id = h2.unpack_head(data, at)
            size = word >> 8
            if size > h2.MAX_FRAME_BYTES:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "frame larger than we allow")
            stop = at + h2.FRAME_HEADER_BYTES + size
            if stop > end:
                self._need = stop - at
                return data[at:]
            payload = data[at + h2.FRAME_HEADER_BYTES : stop]
            at = stop
            self._frame(word & 0xFF, flags, stream_id & h2.MAX_STREAM_ID, payload, events)
        self._need = h2.FRAME_HEADER_BYTES
        return data[at:]

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if self._block is not None and (kind != h2.CONTINUATION or stream_id != self._block_stream):
            raise Violation(ErrorCode.PROTOCOL_ERROR, "header block interrupted")
        if self._state == _EXPECT_SETTINGS:
            if kind != h2.SETTINGS or flags & h2.FLAG_ACK:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "first frame is not SETTINGS")
            self._state = _OPEN
        if kind in _NEEDS_STREAM:
            if not stream_id:
                raise Violation(ErrorCode.PROTOCOL_ERROR, f"frame type {kind} on stream 0")
        elif kind in _NEEDS_CONNECTION and stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"frame type {kind} on a stream")
        if kind in _FIXED_BYTES and len(payload) != _FIXED_BYTES[kind]:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"frame type {kind} of wrong size")
        if kind == h2.DATA:
            self._data_in(flags, stream_id, payload, events)
        elif kind == h2.HEADERS:
            self._headers_in(flags, stream_id, payload, events)
        elif kind == h2.CONTINUATION:
            self._continuation_in(flags, payload, events)
        elif kind == h2.WINDOW_UPDATE:
            self._window_update_in(stream_id, int.from_bytes(payload, "big") & h2.MAX_WINDOW_BYTES, events)
        elif kind == h2.PING:
            self._ping_in(flags, payload, events)
        elif kind == h2.SETTINGS:
            self._settings_in(flags, payload, events)
        elif kind == h2.RST_STREAM:
            self._rst_in(stream_id, int.from_bytes(payload, "big"), events)
        elif kind == h2.GOAWAY:
            self._idle_frame()
            if len(payload) < 8:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY too short")
            last = int.from_bytes(payload[:4], "big") & h2.MAX_STREAM_ID
            self._goaway_in(GoAway(int.from_bytes(payload[4:8], "big"), last, payload[8:]), events)
        elif kind == h2.PUSH_PROMISE:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE")
        else:  # PRIORITY says nothing to us; unknown types must be ignored
            self._idle_frame()

    def _break(self, error_code: ErrorCode, message: str) -> None:
        last = min(self._last_peer_stream, self._goaway_limit)
        self._out.append(h2.goaway(last, error_code, message.encode()))
        self._state = _BROKEN
        self._streams.clear()
        self._blocked.clear()
        self._ignored.clear()
        self._held = 0
        self._block = self._decoder = None

    # Limits

    def _idle_frame(self) -> None:
        self._idle_frames += 1
        if self._idle_frames > MAX_IDLE_FRAMES:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def _waste(self) -> None:
        self._wasted += 1
        if self._wasted > MAX_WASTED_STREAMS:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "too many streams cancelled or refused")

    def _control(self, data: bytes) -> None:
        """Queues an answer that the peer provoked."""
        self._control_bytes += len(data)
        if self._control_bytes > MAX_CONTROL_OUTPUT_BYTES:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "too many answers not taken")
        self._out.append(data)

    # Frames in

    def _headers_in(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        fragment = h2.header_fragment(flags, payload)
        if flags & h2.FLAG_END_HEADERS:
            self._block_done(stream_id, flags, fragment, events)
            return
        self._block = bytearray(fragment)
        self._block_stream, self._block_flags, self._block_frames = stream_id, flags, 0

    def _continuation_in(self, flags: int, payload: bytes, events: list[Event]) -> None:
        block = self._block
        if block is None:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block_frames += 1
        block += payload
        if self._block_frames > MAX_CONTINUATION_FRAMES or len(block) > MAX_HEADER_LIST_BYTES:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "header block too long")
        if flags & h2.FLAG_END_HEADERS:
            self._block = None
            self._block_done(self._block_stream, self._block_flags, bytes(block), events)

    def _block_done(self, stream_id: int, flags: int, block: bytes, events: list[Event]) -> None:
        if self._decoder is None:
            self._decoder = Decoder(MAX_HEADER_LIST_BYTES)
        try:
            pairs: list[tuple[bytes, bytes]] = list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "header list too long") from None
        except HPACKError:
            raise Violation(ErrorCode.COMPRESSION_ERROR, "header block cannot be decoded") from None
        self._headers_done(stream_id, bool(flags & h2.FLAG_END_STREAM), pairs, events)

    @abstractmethod
    def _headers_done(
        self, stream_id: int, end: bool, pairs: list[tuple[bytes, bytes]], events: list[Event]
    ) -> None: ...

    def _late_headers(self, stream_id: int, end: bool) -> None:
        """HEADERS on a stream we closed before the peer knew."""
        if end:
            del self._ignored[stream_id]
        self._idle_frame()

    @abstractmethod
    def _body(self, stream: Stream, body: bytes, size: int, end: bool, events: list[Event]) -> None:
        """`size` counts against the windows, `body` is without padding."""

    @abstractmethod
    def _is_idle(self, stream_id: int) -> bool: ...

    def _data_in(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        size = len(payload)
        end = bool(flags & h2.FLAG_END_STREAM)
        body = h2.unpad(flags, payload)
        stream = self._streams.get(stream_id)
        if stream is None and self._is_idle(stream_id):
            raise Violation(ErrorCode.PROTOCOL_ERROR, "DATA on an idle stream")
        if size > self._credit:
            raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "connection window overrun")
        self._credit -= size
        if stream is None:
            if stream_id not in self._ignored:
                raise Violation(ErrorCode.STREAM_CLOSED, "DATA on a closed stream")
            if end:
                del self._ignored[stream_id]
            self._idle_frame()
            self._give_back(None, size)
            return
        if not stream.remote_open:
            self._give_back(None, size)
            self._stream_error(stream, ErrorCode.STREAM_CLOSED, events)
            return
        if size > stream.credit:
            raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "stream window overrun")
        stream.credit -= size
        if body:
            self._idle_frames = 0
        elif not end:
            self._idle_frame()
        self._body(stream, body, size, end, events)

    def _give_back(self, stream: Stream | None, size: int) -> None:
        """Counts `size` consumed bytes and returns window once half of it is owed."""
        self._owed += size
        if self._owed and self._owed * 2 >= self._connection_window:
            self._control(h2.window_update(0, self._owed))
            self._credit += self._owed
            self._owed = 0
        if stream is None or not stream.remote_open:
            return
        stream.owed += size
        if stream.owed and stream.owed * 2 >= self._stream_window:
            self._control(h2.window_update(stream.id, stream.owed))
            stream.credit += stream.owed
            stream.owed = 0

    def _window_update_in(self, stream_id: int, increment: int, events: list[Event]) -> None:
        if not stream_id:
            if not increment:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            was_used_up = self._window <= 0
            self._window += increment
            if self._window > h2.MAX_WINDOW_BYTES:
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "connection window too large")
            if was_used_up:
                self._flush(self._blocked.values(), events)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
        elif not increment:
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR, events)
        elif stream.window + increment > h2.MAX_WINDOW_BYTES:
            self._stream_error(stream, ErrorCode.FLOW_CONTROL_ERROR, events)
        else:
            stream.window += increment
            self._flush((stream,), events)

    def _ping_in(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if flags & h2.FLAG_ACK and self._pings_out:
            self._pings_out -= 1
            events.append(PingAck(payload))
            return
        self._idle_frame()
        if not flags & h2.FLAG_ACK:
            self._control(h2.frame(h2.PING, h2.FLAG_ACK, 0, payload))

    def _settings_in(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if flags & h2.FLAG_ACK:
            if payload:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with content")
            if not self._settings_out:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "ACK of settings that were not sent")
            self._settings_out = False
            self._settings_acked()
            return
        self._idle_frame()
        window = self._peer_initial_window
        for key, value in h2.parse_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                if value > h2.MAX_WINDOW_BYTES:
                    raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "initial window too large")
                window = value
            elif key == Setting.MAX_FRAME_SIZE:
                if not h2.MAX_FRAME_BYTES <= value <= h2.MAX_FRAME_BYTES_CEILING:
                    raise Violation(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
                self._max_frame = min(value, MAX_SEND_FRAME_BYTES)
            elif key == Setting.HEADER_TABLE_SIZE:
                self._drop_table = self._drop_table or value < h2.DEFAULT_HEADER_TABLE_BYTES
            else:
                self._peer_setting(key, value)
        # the ACK goes first: a peer may take what the new values allow only once it has it
        self._control(h2.SETTINGS_ACK)
        growth = window - self._peer_initial_window
        if not growth:
            return
        self._peer_initial_window = window
        for stream in self._streams.values():
            stream.window += growth
            if stream.window > h2.MAX_WINDOW_BYTES:
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "stream window too large")
        if growth > 0:
            self._flush(self._blocked.values(), events)

    @abstractmethod
    def _peer_setting(self, key: int, value: int) -> None:
        """A setting whose meaning depends on the role."""

    def _settings_acked(self) -> None:
        change = self._stream_window - self._stream_credit
        if change:
            self._stream_credit = self._stream_window
            for stream in self._streams.values():
                stream.credit += change

    def _rst_in(self, stream_id: int, error_code: int, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._forget(stream)
            self._reset_in(stream, error_code, events)
            return
        if self._is_idle(stream_id):
            raise Violation(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        self._ignored.pop(stream_id, None)
        self._idle_frame()

    @abstractmethod
    def _reset_in(self, stream: Stream, error_code: int, events: list[Event]) -> None: ...

    def _goaway_in(self, event: GoAway, events: list[Event]) -> None:
        events.append(event)

    def _stream_error(self, stream: Stream, error_code: ErrorCode, events: list[Event]) -> None:
        """The peer broke a rule of one stream."""
        self._control(h2.rst_stream(stream.id, error_code))
        self._forget(stream, remember=stream.remote_open)
        if stream.visible:
            events.append(StreamClosed(stream.id, False, int(error_code)))
        self._waste()
