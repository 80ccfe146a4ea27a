"""One client's Noise tunnel: records in, HTTP/2 requests out, answers back.

Requests are small and complete when they arrive. Those that need the database run as tasks; map
polls stay open as sessions (node.session). A broken record or frame ends this connection only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app import log
from app.entry.listener import Handshake, Outlet
from app.errors import HsError, RemoteProtocolError
from app.keys import MachineKey, short
from app.wire import http2, records
from node.ticks import Ticks

_log = log.get("tunnel")

#: A tunnel with no stream open is closed after this many seconds; strangers can open tunnels.
IDLE_CLOSE_S = 120.0

Headers = list[tuple[str, str]]
JSON: Headers = [("content-type", "application/json")]
TEXT: Headers = [("content-type", "text/plain; charset=utf-8")]


class StreamOwner:
    """Whoever keeps a stream open after its request: told when it ends or can be written again."""

    def stream_closed(self) -> None:
        """The peer or the connection ended the stream."""

    def stream_drained(self) -> None:
        """All queued bytes of the stream went out."""


#: Answers a request, at once or by returning an awaitable that will.
Dispatch = Callable[["TunnelProtocol", http2.Request], Awaitable[None] | None]


class TunnelProtocol:
    """The server side of one tunnel, after the handshake."""

    __slots__ = (
        "_dispatch",
        "_h2",
        "_idle",
        "_on_closed",
        "_opener",
        "_outlet",
        "_owners",
        "_sealer",
        "_tasks",
        "capver",
        "closed",
        "machine_key",
        "remote",
        "ticks",
        "write_paused",
    )

    def __init__(
        self,
        handshake: Handshake,
        outlet: Outlet,
        preface: bytes,
        early_payload: bytes,
        dispatch: Dispatch,
        on_closed: Callable[[TunnelProtocol], None],
        ticks: Ticks,
    ) -> None:
        self.machine_key: MachineKey = handshake.responder.machine_key
        self.capver = handshake.responder.version
        self.remote = handshake.remote
        self.closed = False
        self.write_paused = False
        self._outlet = outlet
        self._dispatch = dispatch
        self._on_closed = on_closed
        self._sealer = records.Sealer(handshake.keys.tx)
        self._opener = records.Opener(handshake.keys.rx)
        self._h2 = http2.ServerConnection()
        self._owners: dict[int, StreamOwner] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.ticks = ticks
        self._h2.start()
        outlet.write(preface + self._sealer.seal(early_payload + self._h2.take_output()))
        self._idle = self.ticks.later(IDLE_CLOSE_S, self._close_if_idle)

    def __repr__(self) -> str:
        return f"<tunnel {short(self.machine_key)} {self.remote} streams={self._h2.open_streams}>"

    @property
    def heard(self) -> bool:
        return self._opener.opened

    # -- from the client ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        try:
            events = self._h2.receive(self._opener.feed(data))
        except RemoteProtocolError as error:
            _log.info("tunnel_broken", machine=short(self.machine_key), reason=error.message)
            self._push()
            self.close()
            return
        for event in events:
            self._handle(event)
        self._push()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self._finish()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        for owner in list(self._owners.values()):
            owner.stream_drained()

    def _handle(self, event: http2.Event) -> None:
        match event:
            case http2.Request():
                self._start(event)
            case http2.StreamClosed(stream_id=stream_id):
                owner = self._owners.pop(stream_id, None)
                if owner is not None:
                    owner.stream_closed()
            case http2.Drained(stream_id=stream_id):
                owner = self._owners.get(stream_id)
                if owner is not None and not self.write_paused:
                    owner.stream_drained()
            case _:
                pass

    def _start(self, request: http2.Request) -> None:
        try:
            work = self._dispatch(self, request)
        except HsError as error:
            self.answer(request.stream_id, 400, error.message.encode(), TEXT)
            return
        if work is not None:
            task = asyncio.ensure_future(self._guard(request, work))
            task.set_name(f"tunnel{short(self.machine_key)} {request.path}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _guard(self, request: http2.Request, work: Awaitable[None]) -> None:
        """The outermost frame of a request's task: every failure becomes an answer and a log line."""
        try:
            await work
        except HsError as error:
            status = 503 if error.retryable else 400
            self._fail(request.stream_id, status, error.message.encode())
        except Exception:  # noqa: BLE001 - a defect in one handler must not take the process down
            _log.exception("request_failed", path=request.path, machine=short(self.machine_key))
            self._fail(request.stream_id, 500, b"internal error\n")

    def _fail(self, stream_id: int, status: int, text: bytes) -> None:
        """An error answer, or the end of a stream whose answer has begun."""
        if stream_id in self._owners:
            self.end_stream(stream_id)
        else:
            self.answer(stream_id, status, text, TEXT)

    # -- towards the client ---------------------------------------------------------------------

    def answer(self, stream_id: int, status: int, body: bytes, headers: Headers = JSON) -> None:
        """A complete response; dropped when the client has gone away meanwhile."""
        if self.closed or not self._h2.is_open(stream_id):
            return
        self._h2.respond(stream_id, status, headers, end_stream=not body)
        if body:
            self._h2.send(stream_id, body, end_stream=True)
        self._push()

    def open_stream(self, stream_id: int, owner: StreamOwner, headers: Headers) -> bool:
        """Answer 200 and keep the stream for `owner`. False: the client has gone away."""
        if self.closed or not self._h2.is_open(stream_id):
            return False
        self._h2.respond(stream_id, 200, headers)
        self._owners[stream_id] = owner
        return True

    def send(self, stream_id: int, data: bytes) -> None:
        """Bytes of an open stream, at once when both windows allow it, else queued in order."""
        if self.send_at_once(stream_id, data) or self.closed or not self._h2.is_open(stream_id):
            return
        self._h2.send(stream_id, data)
        self._push()

    def send_at_once(self, stream_id: int, data: bytes) -> bool:
        """The same if nothing stands in the way. False: nothing was sent, ask for the `backlog`.

        Without a pause the transport holds less than PAUSE_WRITING_BYTES (app.entry.sockets).
        """
        if self.closed or self.write_paused:
            return False
        frames = self._h2.data_frame(stream_id, data)
        if frames is None:
            return False
        self._outlet.write(self._sealer.seal(frames))
        return True

    def backlog(self, stream_id: int) -> int:
        """Bytes written for a stream that have not left this process."""
        return self._h2.queued_bytes(stream_id) + self._outlet.get_write_buffer_size()

    def end_stream(self, stream_id: int, *, drop_queued: bool = False) -> None:
        """End a stream; the Go client polls again over the same connection within 20 ms."""
        self._owners.pop(stream_id, None)
        if self.closed or not self._h2.is_open(stream_id):
            return
        if drop_queued and self._h2.queued_bytes(stream_id):
            self._h2.drop_queued(stream_id)
            self._h2.reset(stream_id)
        else:
            self._h2.end(stream_id)
        self._push()

    def goaway(self) -> None:
        """Ask the client to open its next connection elsewhere; open streams go on."""
        if not self.closed:
            self._h2.goaway(graceful=True)
            self._push()

    def close(self) -> None:
        """Flush what is written and close the connection."""
        if self.closed:
            return
        self.closed = True
        self._outlet.close()
        self._finish()

    def abort(self) -> None:
        """Close without flushing: for a client that does not read."""
        if self.closed:
            return
        self.closed = True
        self._outlet.abort()
        self._finish()

    def _push(self) -> None:
        output = self._h2.take_output()
        if output and not self.closed:
            self._outlet.write(self._sealer.seal(output))

    def _finish(self) -> None:
        self.ticks.forget(self._idle, self._close_if_idle)
        owners, self._owners = self._owners, {}
        for owner in owners.values():
            owner.stream_closed()
        # Requests under way go on: what they commit must be known here too, heard or not.
        self._on_closed(self)

    def _close_if_idle(self) -> None:
        if self._h2.open_streams == 0 and not self._tasks:
            self.close()
        elif not self.closed:
            self._idle = self.ticks.later(IDLE_CLOSE_S, self._close_if_idle)
