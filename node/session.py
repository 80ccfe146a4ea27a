"""One map poll: framed messages, keep-alives, and a bounded backlog.

States: waiting for a full map -> live (gets every delta) -> lagging (gets nothing until its queue is
almost empty, then waits for one full map) -> closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum
from typing import Final, Protocol

from app.compression import compress
from app.entry.sockets import PAUSE_WRITING_BYTES
from app.model import DeviceId
from app.netmap.variant import Variant
from app.wire import mapstream
from node.tunnel import StreamOwner, TunnelProtocol

#: A session that has more than this unsent when a delta is due gets a full map instead, later.
MAX_BACKLOG_BYTES = 256 * 1024
#: A lagging session has caught up when no more is unsent; a transport tells us of more, not of less.
CAUGHT_UP_BYTES = PAUSE_WRITING_BYTES
#: A session that stays behind for so long is cut: its client does not read.
STUCK_CLOSE_S = 120.0
#: Keep-alives go out after this much silence plus jitter; proxies cut at 50-60 s, clients at 120 s.
KEEPALIVE_S = 35.0
KEEPALIVE_JITTER_S = 10.0
#: Always the same bytes: newer clients recognise the frame and skip decoding it.
_KEEPALIVE = {Variant.PLAIN: mapstream.KEEPALIVE, Variant.ZSTD: compress(mapstream.KEEPALIVE)}
_NOTHING: Final[Mapping[DeviceId, float]] = {}


class SessionState(Enum):
    WAITING = "waiting"
    LIVE = "live"
    LAGGING = "lagging"
    CLOSED = "closed"


class SessionKeeper(Protocol):
    """Who is told what becomes of a session (node.hub)."""

    def session_caught_up(self, session: MapSession) -> None:
        """A lagging session has sent its queue and needs a full map."""

    def session_closed(self, session: MapSession) -> None:
        """The poll is over, from whichever side."""


class MapSession(StreamOwner):
    """A `Stream: true` poll of one device."""

    __slots__ = (
        "_interval",
        "_keeper",
        "_lagging_since",
        "_loop",
        "_timer",
        "bytes_sent",
        "changed",
        "device_id",
        "last_delta",
        "last_map",
        "last_sent",
        "messages",
        "node_key",
        "opened_at",
        "state",
        "stream_id",
        "tunnel",
        "variant",
    )

    def __init__(
        self,
        tunnel: TunnelProtocol,
        stream_id: int,
        *,
        device_id: DeviceId,
        node_key: bytes,
        variant: Variant,
        keeper: SessionKeeper,
        jitter: float,
    ) -> None:
        """`jitter` in 0..1 spreads keep-alives."""
        self.tunnel = tunnel
        self.stream_id = stream_id
        self.device_id = device_id
        self.node_key = node_key
        self.variant = variant
        self.state = SessionState.WAITING
        self.messages = 0
        self.bytes_sent = 0
        #: The last delta, whose bytes are shared by many, and (epoch of the loop, bytes) of the last map.
        self.last_delta: bytes | None = None
        self.last_map: tuple[float, int] | None = None
        #: Of a lagging session: when which devices changed, kept and shared by its tenant's rounds.
        self.changed = _NOTHING
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        #: Times of the loop's clock.
        self.opened_at = self.last_sent = self._loop.time()
        self._lagging_since = 0.0
        self._interval = KEEPALIVE_S + KEEPALIVE_JITTER_S * jitter
        self._timer = tunnel.ticks.later(self._interval, self._tick)

    def __repr__(self) -> str:
        return f"<session device={self.device_id} {self.state.value} messages={self.messages}>"

    @property
    def is_open(self) -> bool:
        return self.state is not SessionState.CLOSED

    @property
    def unsent(self) -> int:
        """Bytes written to it that have not left this process."""
        return self.tunnel.backlog(self.stream_id)

    def missed(self) -> list[DeviceId]:
        """Devices that changed since it stopped following."""
        if self.state is not SessionState.LAGGING:
            return []
        return sorted(device_id for device_id, at in self.changed.items() if at >= self.last_sent)

    def send_map(self, body: bytes) -> None:
        """A full map; from here on the session is live."""
        self.state, self.changed = SessionState.LIVE, _NOTHING
        self.last_delta, self.last_map = None, (self._loop.time(), len(body))
        self._write(body)

    def send_delta(self, body: bytes) -> bool:
        """A delta for a live session. False: it is too far behind and has stopped following."""
        framed = mapstream.frame(body)
        if not self.tunnel.send_at_once(self.stream_id, framed):
            if self.unsent > MAX_BACKLOG_BYTES:
                self.state = SessionState.LAGGING
                self._lagging_since = self._loop.time()
                return False
            self.tunnel.send(self.stream_id, framed)
        self.last_delta = body
        self._count(body)
        return True

    def send_last(self, body: bytes) -> None:
        """One last message, then the end of the stream."""
        self._write(body)
        self.end()

    def send_side_message(self, body: bytes) -> None:
        """A message that is no map (keep-alive, ping); allowed in every open state."""
        if self.is_open and self.state is not SessionState.LAGGING:
            self._write(body)

    def end(self) -> None:
        """Close the stream from our side; a lagging queue is dropped."""
        if self.is_open:
            lagging = self.state is SessionState.LAGGING
            self._close()
            self.tunnel.end_stream(self.stream_id, drop_queued=lagging)

    # -- StreamOwner ----------------------------------------------------------------------------

    def stream_closed(self) -> None:
        if self.is_open:
            self._close()

    def stream_drained(self) -> None:
        if self.state is SessionState.LAGGING and self.unsent <= CAUGHT_UP_BYTES:
            self.state = SessionState.WAITING
            self._keeper.session_caught_up(self)

    # -- inside ---------------------------------------------------------------------------------

    def _write(self, body: bytes) -> None:
        self.tunnel.send(self.stream_id, mapstream.frame(body))
        self._count(body)

    def _count(self, body: bytes) -> None:
        self.messages += 1
        self.bytes_sent += len(body)
        self.last_sent = self._loop.time()

    def _tick(self) -> None:
        now = self._loop.time()
        if self.state is SessionState.LAGGING:
            if now - self._lagging_since >= STUCK_CLOSE_S:
                self.tunnel.abort()
                return
            self.stream_drained()
        silent_for = now - self.last_sent
        if silent_for >= self._interval:
            self.send_side_message(_KEEPALIVE[self.variant])
            silent_for = 0.0
        if self.is_open:
            self._timer = self.tunnel.ticks.later(self._interval - silent_for, self._tick)

    def _close(self) -> None:
        self.state = SessionState.CLOSED
        self.tunnel.ticks.forget(self._timer, self._tick)
        self._keeper.session_closed(self)
