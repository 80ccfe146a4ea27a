"""The relay: who is connected, which packet goes to whom, limits, start and stop.

Source: tailscale derp/derpserver/derpserver.go (registerClient, handleFrameSendPacket,
notePeerGoneFromRegionLocked, clientSet). One region, no mesh.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nacl.public import PrivateKey

from app import log
from app.keys import KEY_SIZE, short
from app.wire import derp
from app.wire.stun import unmapped
from node.derp.session import Session
from node.derp.stats import RelayStats

#: Clients that may be connected at once.
MAX_CLIENTS = 20_000
#: Connections that are not yet admitted clients: in all, and from one address.
MAX_HALF_OPEN = 1024
MAX_HALF_OPEN_PER_ADDRESS = 64
#: Connections with one node key; the oldest goes when one more comes.
MAX_CONNECTIONS_PER_KEY = 4
#: Receivers remembered per sender, to be told when the sender leaves; the oldest is forgotten.
MAX_REMEMBERED_RECEIVERS = 1024
#: Least burst of the rate limit: one packet of full size must fit.
MIN_RATE_BURST_BYTES = derp.MAX_PACKET_BYTES + KEY_SIZE + derp.HEADER_SIZE
LISTEN_BACKLOG = 1024
#: After accept failed.
ACCEPT_PAUSE_S = 0.2
#: What a stopping relay tells its clients: come back after 0 to this, try for that long.
RESTART_RECONNECT_MAX_MS = 1000
RESTART_TRY_FOR_MS = 60_000
#: Time for clients to take their last frames when the relay stops.
STOP_DEADLINE_S = 2.0

DUPLICATE_TEXT = "another connection uses the same node key; is this machine's state a copy?"

#: (node key, source address) -> may it use the relay. Must have its own deadline.
Verify = Callable[[bytes, str], Awaitable[bool]]

_log = log.get("relay")


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Limits of one relay. `rate_bytes_per_s` is per client and counts received bytes; 0 = no limit."""

    max_clients: int = MAX_CLIENTS
    max_half_open: int = MAX_HALF_OPEN
    max_half_open_per_address: int = MAX_HALF_OPEN_PER_ADDRESS
    rate_bytes_per_s: int = 0
    rate_burst_bytes: int = MIN_RATE_BURST_BYTES
    bootstrap_dns: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Station:
    """One node key with its connections, oldest first; `active` is the one that gets packets.

    `receivers` maps the key of whoever got packets from here to that connection's number.
    """

    __slots__ = ("active", "key", "receivers", "sessions")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.sessions: list[Session] = []
        self.active: Session | None = None
        self.receivers: dict[bytes, int] = {}


class Relay:
    """Invariant: a station exists exactly while it has sessions, and `active` is one of them."""

    def __init__(
        self,
        private_key: bytes,
        verify: Verify,
        options: RelayOptions | None = None,
        *,
        stats: RelayStats | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.private_key = private_key
        self.public_key = bytes(PrivateKey(private_key).public_key)
        self.verify = verify
        self.options = options or RelayOptions()
        self.stats = stats or RelayStats()
        self.rng = rng or random.SystemRandom()
        self.ssl_context: ssl.SSLContext | None = None
        self._stations: dict[bytes, Station] = {}
        self._connections: set[Session] = set()
        self._half_open: dict[str, int] = {}
        self._half_open_total = 0
        self._next_number = 0
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._all_gone = asyncio.Event()
        self._stopping = False

    def __repr__(self) -> str:
        stations, connections = len(self._stations), len(self._connections)
        return f"<Relay {stations} clients, {connections} connections, {self._half_open_total} half-open>"

    # life

    async def start(self, host: str, port: int, ssl_context: ssl.SSLContext) -> int:
        """Listens; returns the port. Raises OSError when the address is taken."""
        self.ssl_context = ssl_context
        self._listener = listener = _listen(host, port)
        self._accepting = asyncio.create_task(self._accept(listener), name="derp-accept")
        return int(listener.getsockname()[1])

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listener)
            except OSError as error:
                # Out of open files, mostly: those that close make room.
                _log.error("relay_accept_failed", error=str(error))
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            Session(self, str(unmapped(peer[0]))).open(accepted)

    async def stop(self) -> None:
        """Takes no more connections, tells the clients, closes; at most STOP_DEADLINE_S."""
        self._stopping = True
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait((self._accepting,))
        if self._listener is not None:
            self._listener.close()
        for session in tuple(self._connections):
            delay_ms = self.rng.randint(0, RESTART_RECONNECT_MAX_MS)
            session.finish(derp.encode_restarting(delay_ms, RESTART_TRY_FOR_MS))
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                while self._connections:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        except TimeoutError:
            _log.info("relay_stop_cut", connections=len(self._connections))
            for session in tuple(self._connections):
                session.abort()

    # connections, called by Session

    def open_connection(self, session: Session, address: str) -> int | None:
        """Counts a new connection as half-open; its number, or None when there are too many."""
        here = self._half_open.get(address, 0)
        is_full = self._half_open_total >= self.options.max_half_open
        if self._stopping or is_full or here >= self.options.max_half_open_per_address:
            self.stats.refused_half_open += 1
            return None
        self._half_open[address] = here + 1
        self._half_open_total += 1
        self._connections.add(session)
        self.stats.connections += 1
        self._next_number += 1
        return self._next_number

    def leave_half_open(self, address: str) -> None:
        """The connection has become a client, or has got its answer, or is gone."""
        left = self._half_open[address] - 1
        self._half_open_total -= 1
        if left:
            self._half_open[address] = left
        else:
            del self._half_open[address]

    def close_connection(self, session: Session) -> None:
        """The connection is gone."""
        self._connections.discard(session)
        self.stats.connections -= 1
        if not self._connections:
            self._all_gone.set()

    @property
    def is_full(self) -> bool:
        """Whether one more client must be refused. A known key may come again at any time."""
        return self._stopping or len(self._stations) >= self.options.max_clients

    # clients

    def register(self, session: Session) -> bool:
        """An admitted client; False when the relay is full. The newest connection of a key is active."""
        station = self._stations.get(session.key)
        if station is None:
            if self.is_full:
                self.stats.refused_busy += 1
                return False
            station = self._stations[session.key] = Station(session.key)
            self.stats.clients += 1
        elif len(station.sessions) >= MAX_CONNECTIONS_PER_KEY:
            station.sessions[0].abort()
        station.sessions.append(session)
        station.active = session
        session.station = station
        self.stats.accepted += 1
        if len(station.sessions) > 1:
            self.stats.duplicates += 1
            _log.info("relay_duplicate_key", key=short(session.key), connections=len(station.sessions))
            for each in station.sessions:
                each.send_control(derp.encode_health(DUPLICATE_TEXT))
        return True

    def unregister(self, session: Session) -> None:
        """A client's connection is gone; the last one of a key is told to those it had sent to."""
        station = session.station
        if station is None:
            return
        session.station = None
        station.sessions.remove(session)
        if station.sessions:
            if station.active is session:
                station.active = station.sessions[-1]
            if len(station.sessions) == 1:
                station.sessions[0].send_control(derp.encode_health(""))
            return
        station.active = None
        del self._stations[station.key]
        self.stats.clients -= 1
        gone = derp.encode_peer_gone(station.key, derp.PeerGoneReason.DISCONNECTED)
        for key, number in station.receivers.items():
            receiver = self._stations.get(key)
            for each in receiver.sessions if receiver is not None else ():
                if each.number == number:
                    each.send_control(gone)

    def forward(self, session: Session, payload: bytes) -> None:
        """A SendPacket's payload: destination key, packet. The writer becomes its key's active connection."""
        station = session.station
        if station is None:
            return
        station.active = session
        key, packet = payload[:KEY_SIZE], payload[KEY_SIZE:]
        is_disco = derp.is_disco(packet)
        destination = self._stations.get(key)
        if destination is None or destination.active is None:
            self.stats.dropped_unknown_destination += 1
            if is_disco:
                session.note_not_here(key)
            return
        target = destination.active
        receivers = station.receivers
        if receivers.get(key) != target.number:
            receivers.pop(key, None)
            receivers[key] = target.number
            if len(receivers) > MAX_REMEMBERED_RECEIVERS:
                del receivers[next(iter(receivers))]
        target.send_packet(derp.encode_recv_packet(session.key, packet), is_disco)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; `::` takes IPv4 as well."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(LISTEN_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
