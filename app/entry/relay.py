"""One connection that another process serves: offered to the owner of the cluster, relayed, or parked.

A relay passes raw bytes both ways and couples back-pressure: who writes to a slow side is not read from.
Nothing is held but what one read brought and the client's first bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from app import log
from app.entry import sockets
from app.entry.hop import VERDICT_SIZE, Verdict
from app.entry.limits import Place
from app.entry.routing import Here, Park, Relay
from app.model import ClusterOwner
from app.settings_values import split_host_port

if TYPE_CHECKING:
    from app.entry.relays import Relays

_log = log.get("relay")

#: A connection that nobody can take is held so long.
PARK_S = 8.0
#: From dialling an owner to its verdict.
HOP_DEADLINE_S = 2.0
#: What a client may send before somebody has taken it; a Go client sends nothing.
MAX_EARLY_BYTES = 16 * 1024
#: Unsent bytes of a side whose other side is gone: then they are dropped.
CLOSE_DEADLINE_S = 10.0


class Client(Protocol):
    """A client's connection as its relay needs it (app.entry.listener.EntryProtocol)."""

    def settled(self) -> None:
        """Somebody cares for the connection: it does not count as unfinished any more."""
        ...

    def serve_here(self, early: bytes) -> None:
        """This process serves it, with what the client has sent meanwhile."""
        ...


class RelayedClient:
    """One client's connection on its way to the owner: offered, relayed, or parked."""

    __slots__ = (
        "_client",
        "_closing",
        "_early",
        "_first",
        "_gives_up",
        "_on_let_go",
        "_paused",
        "_place",
        "_port",
        "_relays",
        "_remote",
        "_task",
        "_transport",
        "_upstream",
        "owner",
    )

    def __init__(
        self,
        relays: Relays,
        client: Client,
        transport: asyncio.Transport,
        first: bytes,
        remote: str,
        port: int,
        on_let_go: Callable[[], None],
    ) -> None:
        """`on_let_go`: the owner has ended the connection."""
        self.owner: ClusterOwner | None = None
        self._relays = relays
        self._client = client
        self._transport = transport
        self._first = first
        self._remote = remote
        self._port = port
        self._on_let_go = on_let_go
        self._early = bytearray()
        self._upstream: _Upstream | None = None
        self._task: asyncio.Task[None] | None = None
        self._gives_up: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._place: Place | None = None
        #: The client reads slowly.
        self._paused = False

    @property
    def heard(self) -> bool:
        """The owner counts whom it has heard; here `settled` is said when it takes the connection."""
        return self.owner is not None

    # -- where to -------------------------------------------------------------------------------

    def go(self) -> None:
        """Do what the route of now says."""
        if self._task is not None or self.owner is not None or self._transport.is_closing():
            return
        match self._relays.route():
            case Here():
                self._serve_here()
            case Relay(owner):
                self._task = asyncio.get_running_loop().create_task(self._offer(owner), name="offer")
            case Park():
                self._park()

    def _serve_here(self) -> None:
        self._unpark()
        if len(self._early) >= MAX_EARLY_BYTES:
            self._transport.resume_reading()
        early, self._early = bytes(self._early), bytearray()
        self._client.serve_here(early)

    async def _offer(self, owner: ClusterOwner) -> None:
        """Offer the connection to the owner; one that refuses it as deposed has the database asked once."""
        for last in (False, True):
            upstream = _Upstream(self, self._relays.header(owner, self._remote, self._port) + self._first)
            verdict = await self._verdict(owner, upstream)
            if verdict is Verdict.ACCEPTED and not self._transport.is_closing():
                self._task = None
                self._flow(owner, upstream)
                return
            upstream.close()
            if verdict is not Verdict.NOT_OWNER or last:
                break
            await self._relays.look()
            route = self._relays.route()
            if not isinstance(route, Relay) or route.owner == owner:
                break
            owner = route.owner
        self._task = None
        if not isinstance(self._relays.route(), Here):
            self._park()
        else:
            self._serve_here()

    async def _verdict(self, owner: ClusterOwner, upstream: _Upstream) -> Verdict | None:
        async with self._relays.pool.dialling:
            if self._relays.is_unreachable(owner):
                return None
            try:
                host, port = split_host_port(owner.addr)
                async with asyncio.timeout(HOP_DEADLINE_S):
                    await asyncio.get_running_loop().create_connection(lambda: upstream, host, port)
                    verdict = await upstream.verdict
            except (OSError, TimeoutError, ValueError) as error:
                self._relays.failed(owner, str(error) or "no answer")
                return None
            if verdict is None:
                self._relays.failed(owner, "it has ended, or something else listens there")
            elif verdict in (Verdict.REFUSED, Verdict.BUSY):
                self._relays.failed(owner, f"it answers {verdict.name.lower()}")
            return verdict

    def _park(self) -> None:
        if self._transport.is_closing() or self._place is not None:
            return
        self._place = self._relays.pool.parking.admit(self._remote, self.close)
        if self._place is None:
            self.close()
            return
        self._client.settled()
        self._relays.was_parked(self)
        if self._gives_up is None:
            self._gives_up = asyncio.get_running_loop().call_later(PARK_S, self._give_up)

    def _unpark(self) -> None:
        self._relays.forget(self)
        if self._place is not None:
            self._relays.pool.parking.closed(self._place)
            self._place = None
        if self._gives_up is not None:
            self._gives_up.cancel()
            self._gives_up = None

    def _give_up(self) -> None:
        self._relays.pool.given_up += 1
        _log.info("parked_too_long", remote=self._remote, parked_s=PARK_S)
        self.close()

    def _flow(self, owner: ClusterOwner, upstream: _Upstream) -> None:
        self._unpark()
        if self._relays.pool.is_full:
            _log.warning("too_many_relays", relayed=self._relays.pool.flowing, remote=self._remote)
            upstream.close()
            self.close()
            return
        self.owner, self._upstream = owner, upstream
        self._relays.was_taken(self)
        self._client.settled()
        if len(self._early) >= MAX_EARLY_BYTES:
            self._transport.resume_reading()
        early, self._early, self._first = bytes(self._early), bytearray(), b""
        if early:
            upstream.write(early)
        upstream.flow(self._paused)

    # -- the client's side (app.entry.listener.Tunnel) ------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._upstream is not None:
            self._relays.pool.relayed_bytes += len(data)
            self._upstream.write(data)
            return
        was_full = len(self._early) >= MAX_EARLY_BYTES
        self._early += data
        if not was_full and len(self._early) >= MAX_EARLY_BYTES:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unpark()
        if self._closing is not None:
            self._closing.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._upstream is not None:
            self._upstream.close()

    def pause_writing(self) -> None:
        self._paused = True
        if self._upstream is not None:
            self._upstream.set_reading(False)

    def resume_writing(self) -> None:
        self._paused = False
        if self._upstream is not None:
            self._upstream.set_reading(True)

    def close(self) -> None:
        """End it with what is written already."""
        if not self._transport.is_closing():
            self._closing = asyncio.get_running_loop().call_later(CLOSE_DEADLINE_S, self._transport.abort)
            self._transport.close()

    # -- the owner's side -----------------------------------------------------------------------

    def let_go(self) -> None:
        """The owner is through with it."""
        if not self._transport.is_closing():
            self._on_let_go()
        self.close()

    def write(self, data: bytes) -> None:
        self._relays.pool.relayed_bytes += len(data)
        if not self._transport.is_closing():
            self._transport.write(data)

    def set_reading(self, goes_on: bool) -> None:
        """Read from the client, or stop: the owner reads slowly."""
        if self._transport.is_closing():
            return
        if goes_on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()


class _Upstream(asyncio.Protocol):
    """The connection to the owner: verdict first, then the server's bytes."""

    def __init__(self, relayed: RelayedClient, first: bytes) -> None:
        self.verdict: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        self._relayed = relayed
        self._first = first
        self._held = bytearray()
        self._flows = False
        self._transport: asyncio.Transport | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sockets.set_up(self._transport)
        self._transport.write(self._first)
        self._first = b""

    def data_received(self, data: bytes) -> None:
        if self._flows:
            self._relayed.write(data)
            return
        self._held += data
        if len(self._held) >= VERDICT_SIZE and not self.verdict.done():
            try:
                verdict = Verdict(bytes(self._held[:VERDICT_SIZE]))
            except ValueError:
                # Somebody else listens there.
                verdict = None
            del self._held[:VERDICT_SIZE]
            self.verdict.set_result(verdict)

    def flow(self, paused: bool) -> None:
        """From now on everything goes to the client."""
        self._flows = True
        if self._held:
            self._relayed.write(bytes(self._held))
            self._held.clear()
        if self._lost:
            self._relayed.let_go()
        elif paused:
            self.set_reading(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._closing is not None:
            self._closing.cancel()
        if not self.verdict.done():
            self.verdict.set_result(None)
        if self._flows:
            self._relayed.let_go()

    def pause_writing(self) -> None:
        self._relayed.set_reading(False)

    def resume_writing(self) -> None:
        self._relayed.set_reading(True)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def set_reading(self, goes_on: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if goes_on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._closing = asyncio.get_running_loop().call_later(CLOSE_DEADLINE_S, self._transport.abort)
            self._transport.close()
