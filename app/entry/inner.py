"""The address for other entries: connections they relay to here, each behind a signed header.

Only the owner takes them, and says so before it takes a byte of the client's. What it took is served like
a client's own connection, under the client's address; it is never relayed again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from app import log
from app.entry import sockets
from app.entry.hop import NonceBook, Verdict, judge, open_hop, split_hop
from app.entry.limits import ConnectionLimits, Place
from app.entry.listener import Entry, EntryProtocol
from app.errors import RemoteProtocolError

_log = log.get("inner")

#: From the connection to the end of the entry's header.
HOP_HEADER_DEADLINE_S = 5.0
#: Connections that have not got so far; the oldest gives way.
MAX_PENDING_HOPS = 4096


@dataclass(slots=True)
class InnerDoor:
    """What all connections of the entries' address share."""

    entry: Entry
    key: bytes
    cluster_id: str
    #: The epoch under which this process serves the cluster, None while it does not.
    epoch: Callable[[], int | None]
    clock: Callable[[], float] = time.time
    nonces: NonceBook = field(default_factory=NonceBook)
    pending: ConnectionLimits = field(
        default_factory=lambda: ConnectionLimits(
            half_open=MAX_PENDING_HOPS,
            half_open_per_address=MAX_PENDING_HOPS,
            per_address=2 * MAX_PENDING_HOPS,
        )
    )
    #: By what became of them: the names of verdicts, and `forged`.
    hops: dict[str, int] = field(default_factory=dict)

    def protocol(self) -> HopProtocol:
        return HopProtocol(self)

    def count(self, outcome: str) -> None:
        self.hops[outcome] = self.hops.get(outcome, 0) + 1


class HopProtocol(asyncio.Protocol):
    """Reads an entry's header and gives the connection to the tunnel's protocol, or refuses it."""

    __slots__ = ("_buffer", "_deadline", "_door", "_place", "_transport")

    def __init__(self, door: InnerDoor) -> None:
        self._door = door
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._place: Place | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._place = self._door.pending.admit(str(peer[0]) if peer else "?", stream.abort)
        if self._place is None:
            stream.abort()
            return
        self._transport = stream
        sockets.set_up(stream)
        self._deadline = asyncio.get_running_loop().call_later(HOP_HEADER_DEADLINE_S, stream.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def _leave(self) -> asyncio.Transport | None:
        """This protocol's part is over."""
        transport, self._transport = self._transport, None
        if self._deadline is not None:
            self._deadline.cancel()
        if self._place is not None:
            self._door.pending.closed(self._place)
            self._place = None
        return transport

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._buffer += data
        try:
            parts = split_hop(self._buffer)
            if parts is None:
                return
            hop = open_hop(parts[0], self._door.key)
        except RemoteProtocolError as error:
            # Not one of ours: not a word.
            self._door.count("forged")
            _log.warning("hop_forged", peer=self._peer(), reason=error.message)
            self._transport.close()
            self._leave()
            return
        verdict, reason = judge(
            hop,
            cluster_id=self._door.cluster_id,
            epoch=self._door.epoch(),
            now=self._door.clock(),
            nonces=self._door.nonces,
        )
        self._door.count(verdict.name.lower())
        transport = self._leave()
        assert transport is not None
        transport.write(verdict.value)
        if verdict is not Verdict.ACCEPTED:
            level = _log.warning if verdict is Verdict.REFUSED else _log.info
            level("hop_refused", entry=hop.entry, verdict=verdict.name.lower(), reason=reason)
            transport.close()
            return
        tunnel = EntryProtocol(self._door.entry, (hop.client or "?", hop.client_port))
        transport.set_protocol(tunnel)
        tunnel.connection_made(transport)
        if parts[1]:
            tunnel.data_received(parts[1])

    def _peer(self) -> str:
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else "?"
