"""The sending half of an HTTP/2 connection: streams, both windows, output. No I/O.

Invariants (`check_invariants`): bytes wait on a stream only while its own window or the connection's
is used up; a stream is writable exactly when its headers went out, nothing waits and it is not ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from app.errors import LocalProtocolError
from app.wire import h2frames as h2
from app.wire.h2events import Drained, Event
from app.wire.h2frames import ErrorCode

#: Answers to the peer's control frames that nobody has taken yet.
MAX_CONTROL_OUTPUT_BYTES = 64 * 1024
#: Streams we closed while the peer still sent, whose late frames are ignored.
MAX_REMEMBERED_RESETS = 256
#: We cut our DATA at this size even if the peer takes larger frames.
MAX_SEND_FRAME_BYTES = 64 * 1024


class Incoming:
    """A request whose end has not come yet (server)."""

    __slots__ = ("body", "headers", "length", "method", "path")

    def __init__(
        self, method: str, path: str, headers: tuple[tuple[str, str], ...], length: int | None
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.length = length
        self.body = bytearray()


class Stream:
    """One stream, open on one side at least. `window` bounds what we send, `credit` what the peer may."""

    __slots__ = (
        "answered",
        "cost",
        "credit",
        "end_queued",
        "ended",
        "id",
        "incoming",
        "owed",
        "queue",
        "queued",
        "remote_open",
        "started",
        "visible",
        "window",
        "writable",
    )

    def __init__(self, stream_id: int, window: int, credit: int) -> None:
        self.id = stream_id
        self.window = window
        self.credit = credit
        self.owed = 0  # consumed, not yet given back by a WINDOW_UPDATE
        self.queue: deque[bytes | memoryview] | None = None
        self.queued = 0
        self.end_queued = False
        self.started = False  # our headers went out
        self.ended = False  # our END_STREAM went out
        self.writable = False
        self.remote_open = True
        self.incoming: Incoming | None = None
        self.cost = 0  # bytes held for an unanswered request
        self.visible = False  # our caller knows this stream
        self.answered = False  # client: the response's head has come


class Sender:
    """Streams and what goes out on them."""

    __slots__ = (
        "_blocked",
        "_control_bytes",
        "_drop_table",
        "_goaway_limit",
        "_held",
        "_idle_frames",
        "_ignored",
        "_last_peer_stream",
        "_max_frame",
        "_out",
        "_peer_initial_window",
        "_pings_out",
        "_streams",
        "_wasted",
        "_window",
    )

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._blocked: dict[int, Stream] = {}  # those with waiting bytes, longest unserved first
        self._ignored: dict[int, None] = {}  # closed by us while the peer still sent
        self._out: list[bytes | memoryview] = []
        self._control_bytes = 0
        self._window = h2.DEFAULT_WINDOW_BYTES
        self._peer_initial_window = h2.DEFAULT_WINDOW_BYTES
        self._max_frame = h2.MAX_FRAME_BYTES
        self._drop_table = False
        self._pings_out = 0
        self._last_peer_stream = 0
        self._goaway_limit = h2.MAX_STREAM_ID
        self._held = 0  # bytes of requests that are not answered yet
        self._idle_frames = 0
        self._wasted = 0

    def take_output(self) -> bytes:
        """All bytes that wait to be sent, in order."""
        out = self._out
        if not out:
            return b""
        self._out = []
        self._control_bytes = 0
        return b"".join(out)

    @property
    def open_streams(self) -> int:
        """Streams open on at least one side."""
        return len(self._streams)

    def is_open(self, stream_id: int) -> bool:
        """Whether we may still send on this stream."""
        stream = self._streams.get(stream_id)
        return stream is not None and not stream.ended and not stream.end_queued

    def send(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Body bytes; what the windows do not allow now waits inside, in order.

        Raises LocalProtocolError if the stream is not open (see `is_open`) or has no headers yet.
        """
        stream = self._sendable(stream_id)
        if not data and not end_stream:
            return
        size = len(data)
        if stream.queue is None:
            room = min(stream.window, self._window)
            if size <= room or not size:
                self._emit(stream, data, end_stream)
                return
            rest: bytes | memoryview = data
            if room > 0:
                view = memoryview(data)
                self._emit(stream, view[:room], False)
                rest = view[room:]
            stream.queue = deque((rest,))
            stream.queued = len(rest)
            stream.writable = False
            self._blocked[stream_id] = stream
        elif size:
            stream.queue.append(data)
            stream.queued += size
        stream.end_queued = end_stream

    def data_frame(self, stream_id: int, data: bytes) -> bytes | None:
        """The complete wire bytes of DATA for `data`, if they may be sent right now.

        None, and nothing changed, if windows, waiting bytes or output not yet taken forbid it: `send` then.
        """
        stream = self._streams.get(stream_id)
        if stream is None or not stream.writable or self._out:
            return None
        size = len(data)
        if size > stream.window or size > self._window:
            return None
        stream.window -= size
        self._window -= size
        self._idle_frames = 0
        if size > self._max_frame:
            return b"".join(h2.data_pieces(stream_id, data, self._max_frame, end_stream=False))
        return h2.pack_head(size << 8, 0, stream_id) + data

    def end(self, stream_id: int) -> None:
        """Ends our side, after what waits. Raises LocalProtocolError if the stream is not open."""
        self.send(stream_id, b"", end_stream=True)

    def reset(self, stream_id: int, error_code: int = ErrorCode.CANCEL) -> None:
        """Closes the stream at once and drops what waits; nothing happens if it is closed already."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._out.append(h2.rst_stream(stream_id, error_code))
            self._forget(stream, remember=stream.remote_open)

    def queued_bytes(self, stream_id: int) -> int:
        """Bytes that wait for window on this stream."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.queued

    def drop_queued(self, stream_id: int) -> int:
        """Discards what waits, and a waiting end with it; returns the bytes.

        What was framed may end inside a message: `end` or `reset` the stream next.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.queue is None:
            return 0
        dropped = stream.queued
        self._unblock(stream)
        stream.end_queued = False
        stream.writable = True
        return dropped

    def ping(self, payload: bytes) -> None:
        """Asks for a PingAck with these 8 bytes."""
        if len(payload) != h2.PING_BYTES:
            raise LocalProtocolError("a ping carries 8 bytes", size=len(payload))
        self._pings_out += 1
        self._out.append(h2.frame(h2.PING, 0, 0, payload))

    def goaway(self, *, graceful: bool) -> None:
        """Asks the peer to open no more streams; what is open lives on.

        Graceful names no last stream, so that requests under way are still taken (Go then moves new
        ones to a new connection). Otherwise later ones are ignored.
        """
        last = h2.MAX_STREAM_ID if graceful else self._last_peer_stream
        self._goaway_limit = min(self._goaway_limit, last)
        self._out.append(h2.goaway(self._goaway_limit, ErrorCode.NO_ERROR))

    def _sendable(self, stream_id: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended or stream.end_queued:
            raise LocalProtocolError("stream is not open for sending", stream_id=stream_id)
        if not stream.started:
            raise LocalProtocolError("body before headers", stream_id=stream_id)
        return stream

    def _send_headers(self, stream: Stream, headers: Iterable[tuple[str, str]], end_stream: bool) -> None:
        block = self._header_block(headers)
        self._out.append(h2.header_frames(stream.id, block, self._max_frame, end_stream=end_stream))
        stream.started = stream.writable = True
        if end_stream:
            self._local_end(stream)

    def _header_block(self, headers: Iterable[tuple[str, str]]) -> bytes:
        block = h2.encode_headers(headers)
        if self._drop_table:
            block = h2.DROP_TABLE + block
            self._drop_table = False
        return block

    def _emit(self, stream: Stream, data: bytes | memoryview, end: bool) -> None:
        """Frames bytes that both windows allow."""
        size = len(data)
        stream.window -= size
        self._window -= size
        self._idle_frames = 0
        self._out += h2.data_pieces(stream.id, data, self._max_frame, end_stream=end)
        if end:
            self._local_end(stream)

    def _flush(self, streams: Iterable[Stream], events: list[Event]) -> None:
        """Frames what waits, one frame per stream and turn."""
        turn = list(streams)
        while turn and self._window > 0:
            turn = [stream for stream in turn if self._frame_one(stream, events)]

    def _frame_one(self, stream: Stream, events: list[Event]) -> bool:
        """One frame of the first waiting piece, as far as the windows go; False if they do not."""
        queue = stream.queue
        room = min(stream.window, self._window, self._max_frame)
        if queue is None or room <= 0:
            return False
        piece = queue.popleft()
        if len(piece) > room:
            piece = memoryview(piece)
            queue.appendleft(piece[room:])
            piece = piece[:room]
        stream.queued -= len(piece)
        if queue:
            self._emit(stream, piece, False)
            self._blocked[stream.id] = self._blocked.pop(stream.id)  # to the end: fair over small windows
            return True
        end = stream.end_queued
        self._unblock(stream)
        stream.writable = True
        self._emit(stream, piece, end)
        events.append(Drained(stream.id))
        return True

    def _release(self, stream: Stream) -> None:
        self._held -= stream.cost
        stream.cost = 0

    def _unblock(self, stream: Stream) -> None:
        stream.queue = None
        stream.queued = 0
        self._blocked.pop(stream.id, None)

    def _local_end(self, stream: Stream) -> None:
        stream.ended = True
        stream.writable = stream.end_queued = False
        if self._wasted:
            self._wasted -= 1
        if not stream.remote_open:
            self._forget(stream)

    def _forget(self, stream: Stream, *, remember: bool = False) -> None:
        """Closes the stream; `remember` if the peer does not know and still sends on it."""
        self._streams.pop(stream.id, None)
        self._unblock(stream)
        self._release(stream)
        stream.writable = False
        if remember:
            self._ignored[stream.id] = None
            if len(self._ignored) > MAX_REMEMBERED_RESETS:
                del self._ignored[next(iter(self._ignored))]

    def check_invariants(self) -> None:
        """Raises AssertionError if the module's invariants do not hold; for tests."""
        for stream in self._streams.values():
            waits = stream.queue is not None
            assert stream.writable == (stream.started and not waits and not stream.ended), stream.id
            assert waits == (stream.id in self._blocked), stream.id
            assert stream.queued == sum(len(piece) for piece in stream.queue or ()), stream.id
            assert not waits or stream.queued, stream.id
            assert not waits or min(stream.window, self._window) <= 0, stream.id
            assert stream.window <= h2.MAX_WINDOW_BYTES, stream.id
        assert self._blocked.keys() <= self._streams.keys()
        assert self._held == sum(stream.cost for stream in self._streams.values())
        assert self._control_bytes <= MAX_CONTROL_OUTPUT_BYTES
        assert len(self._ignored) <= MAX_REMEMBERED_RESETS
