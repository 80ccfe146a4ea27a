"""One raw protocol per accepted connection: `/ts2021` is ours, everything else is aiohttp's.

aiohttp never sees an upgrade: its parser would eat bytes sent behind the head, and a hijacked
connection costs five times the memory (CLIENTS.md 7 recipe C, PERFORMANCE.md 5).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Protocol, cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app import log
from app.entry import sockets
from app.entry.exchange import Exchange
from app.entry.head import UPGRADE_PROTOCOL, Head, client_address, parse_head, split_head
from app.entry.limits import HANDSHAKE_DEADLINE_S, ConnectionLimits, Place
from app.entry.line import Line
from app.entry.relays import Relays
from app.entry.routing import Here
from app.errors import BadRequest, RemoteProtocolError
from app.wire import noise, websocket

_log = log.get("entry")

_PROXY_HINT = (
    "this address speaks the Tailscale control protocol: the request must carry "
    "'Upgrade: tailscale-control-protocol' (does a proxy in between strip it?)"
)


class Tunnel(Protocol):
    """What a finished handshake becomes (node.tunnel)."""

    @property
    def heard(self) -> bool:
        """Whether a record of the client's has opened: it proves the keys, an initiation may be a replay."""
        ...

    def data_received(self, data: bytes) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Outlet(Protocol):
    """The client's side of a tunnel: bytes out, and how full the way is."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def get_write_buffer_size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Handshake:
    """A finished Noise handshake, for the tunnel that takes over."""

    responder: noise.Responder
    keys: noise.Keys
    remote: str
    is_websocket: bool


#: (handshake, outlet, the answer that must be written first) -> the tunnel
TunnelFactory = Callable[[Handshake, Outlet, bytes], Tunnel]


@dataclass(slots=True)
class Entry:
    """What all connections of a listener share."""

    private_key: X25519PrivateKey
    public_key: bytes
    make_tunnel: TunnelFactory
    make_web: Callable[[], asyncio.Protocol]
    limits: ConnectionLimits
    #: Decides where tunnels go, and takes those that are not served here.
    exchange: Exchange
    #: Peers that may say for whom they ask.
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = ()
    handshakes: Line = field(default_factory=Line)

    def protocol(self) -> EntryProtocol:
        return EntryProtocol(self)


@dataclass(frozen=True, slots=True)
class _Upgrade:
    """A request for a tunnel that can be granted: the answer to it, and what stood behind its head."""

    responder: noise.Responder
    answer: bytes
    is_websocket: bool
    rest: bytes


class EntryProtocol(asyncio.Protocol):
    """Reads the head of a fresh connection and hands the connection to whom it belongs."""

    __slots__ = (
        "_asking",
        "_buffer",
        "_deadline",
        "_entry",
        "_established",
        "_place",
        "_port",
        "_relayed",
        "_remote",
        "_transport",
        "_tunnel",
        "_upgrade",
    )

    def __init__(self, entry: Entry, relayed: tuple[str, int] | None = None) -> None:
        """`relayed`: the client's address and port, when another entry has relayed the connection to here."""
        self._entry = entry
        self._relayed = relayed
        self._upgrade: _Upgrade | None = None
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._tunnel: Tunnel | None = None
        #: What limits count: by who is at the other end of the TCP connection.
        self._place: Place | None = None
        #: Whose request it is.
        self._remote = ""
        self._port = 0
        self._established = False
        self._deadline: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = self._relayed or transport.get_extra_info("peername")
        self._remote, self._port = (str(peer[0]), int(peer[1])) if peer else ("?", 0)
        stream = cast(asyncio.Transport, transport)
        self._place = self._entry.limits.admit(self._remote, stream.abort)
        if self._place is None:
            stream.abort()
            return
        self._transport = stream
        sockets.set_up(stream)
        self._set_deadline(stream)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None or self._place is None:
            return
        self._cancel_deadline()
        if self._asking is not None:
            self._asking.cancel()
        self._entry.limits.closed(self._place)
        if self._tunnel is not None:
            self._tunnel.connection_lost(exc)
        self._transport = self._tunnel = None

    def pause_writing(self) -> None:
        if self._tunnel is not None:
            self._tunnel.pause_writing()

    def resume_writing(self) -> None:
        if self._tunnel is not None:
            self._tunnel.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._feed(self._tunnel, data)
            return
        if self._transport is None or self._place is None:
            return
        self._buffer += data
        try:
            parts = split_head(self._buffer)
            if parts is None:
                return
            head = parse_head(parts[0])
            if self._relayed is None:
                self._remote = client_address(head, self._place.address, self._entry.trusted_proxies)
            if head.is_upgrade_path:
                # Nothing more is read until it is its turn, so this is done once.
                self._transport.pause_reading()
                self._entry.handshakes.add(lambda: self._open_handshake(head, parts[1]))
            elif self._relayed is None:
                self._hand_to_web()
            else:
                raise RemoteProtocolError("entries relay tunnels only", code="no_tunnel")
        except (BadRequest, RemoteProtocolError) as error:
            self._refuse(400, error.message)

    def _open_handshake(self, head: Head, rest: bytes) -> None:
        """It is this connection's turn; it may be gone meanwhile."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.resume_reading()
        try:
            self._upgrade = self._read_upgrade(head, rest)
            self._take_in()
        except (BadRequest, RemoteProtocolError) as error:
            self._refuse(400, error.message)

    def _feed(self, tunnel: Tunnel, data: bytes) -> None:
        tunnel.data_received(data)
        if not self._established and tunnel.heard:
            self._finish_handshake()

    def _set_deadline(self, stream: asyncio.Transport) -> None:
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_DEADLINE_S, stream.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _finish_handshake(self) -> None:
        self._cancel_deadline()
        self._established = True
        assert self._place is not None
        self._entry.limits.established(self._place)

    def _hand_to_web(self) -> None:
        """aiohttp takes the connection, with its own deadlines for heads and idle connections."""
        assert self._transport is not None
        assert self._place is not None
        transport, place = self._transport, self._place
        self._finish_handshake()
        web = self._entry.make_web()
        counted = _CountedProtocol(web, lambda: self._entry.limits.closed(place))
        self._transport = None
        transport.set_protocol(counted)
        counted.connection_made(transport)
        counted.data_received(bytes(self._buffer))
        self._buffer = bytearray()

    def _read_upgrade(self, head: Head, rest: bytes) -> _Upgrade:
        """What a request for a tunnel asks. Raises BadRequest, RemoteProtocolError."""
        is_websocket = head.method != "POST"
        if not is_websocket:
            if head.headers.get("upgrade", "").lower() != UPGRADE_PROTOCOL:
                raise RemoteProtocolError(_PROXY_HINT, code="no_upgrade")
            text = head.headers.get("x-tailscale-handshake", "")
            answer = (
                b"HTTP/1.1 101 Switching Protocols\r\n"
                b"Upgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n"
            )
        else:
            answer = websocket.upgrade_response(head.headers)
            text = (head.query("X-Tailscale-Handshake") or "").replace(" ", "+")
        try:
            initiation = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RemoteProtocolError("X-Tailscale-Handshake is not base64", code="bad_handshake") from error
        responder = noise.open_initiation(initiation, self._entry.private_key, self._entry.public_key)
        return _Upgrade(responder, answer, is_websocket, rest)

    def _take_in(self) -> None:
        """The client has shown a machine key: serve it, or hand it to who does."""
        assert self._transport is not None
        assert self._upgrade is not None
        exchange = self._entry.exchange
        if self._relayed is not None:
            if exchange.serves:
                self._buffer = bytearray()
                self._serve(b"")
            else:
                # Deposed since it was accepted: the entry asks again. Never relayed a second time.
                self._transport.close()
            return
        machine_key = self._upgrade.responder.machine_key
        relays = exchange.now(machine_key)
        if relays is not None:
            self._hand_to(relays, machine_key)
            return
        self._transport.pause_reading()
        self._asking = asyncio.get_running_loop().create_task(self._find(machine_key), name="find cluster")

    async def _find(self, machine_key: bytes) -> None:
        """Ask where the machine belongs. The deadline of the handshake goes on meanwhile."""
        relays = await self._entry.exchange.find(machine_key)
        self._asking = None
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.resume_reading()
        if relays is None:
            self._refuse(503, "there is no cluster that could serve this device yet")
        else:
            self._hand_to(relays, machine_key)

    def _hand_to(self, relays: Relays, machine_key: bytes) -> None:
        assert self._transport is not None
        first, self._buffer = bytes(self._buffer), bytearray()
        if isinstance(relays.route(), Here):
            self._serve(b"")
            return
        # Why the owner ends it, no entry can read: it may have sent the machine elsewhere.
        doubt = partial(self._entry.exchange.machines.doubt, machine_key)
        relayed = relays.take(self, self._transport, first, self._remote, self._port, doubt)
        if self._upgrade is not None:
            self._tunnel = relayed

    def _serve(self, early: bytes) -> None:
        """The server's half of the handshake; the tunnel takes over, with what came meanwhile."""
        assert self._transport is not None
        assert self._upgrade is not None
        upgrade, self._upgrade = self._upgrade, None
        response, keys = upgrade.responder.respond(X25519PrivateKey.generate())
        handshake = Handshake(upgrade.responder, keys, self._remote, upgrade.is_websocket)
        if upgrade.is_websocket:
            pipe = _WebSocketPipe(self._transport)
            self._transport.write(upgrade.answer)
            pipe.tunnel = self._entry.make_tunnel(handshake, pipe, response)
            self._tunnel = pipe
        else:
            self._tunnel = self._entry.make_tunnel(handshake, self._transport, upgrade.answer + response)
        if upgrade.rest + early:
            self._feed(self._tunnel, upgrade.rest + early)

    # -- app.entry.relay.Client -----------------------------------------------------------------

    def settled(self) -> None:
        self._finish_handshake()

    def serve_here(self, early: bytes) -> None:
        if self._transport is None:
            return
        # It proves itself only now.
        self._established = False
        self._set_deadline(self._transport)
        self._serve(early)

    def _refuse(self, status: int, text: str) -> None:
        if self._transport is None:
            return
        _log.info("entry_refused", remote=self._remote, reason=text)
        body = (text + "\n").encode()
        self._transport.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (status, HTTPStatus(status).phrase.encode(), len(body), body)
        )
        self._transport.close()


class _CountedProtocol(asyncio.Protocol):
    """Passes everything on to aiohttp's handler and reports the end of the connection."""

    def __init__(self, inner: asyncio.Protocol, on_lost: Callable[[], None]) -> None:
        self._inner = inner
        self._on_lost = on_lost
        self.connection_made = inner.connection_made  # type: ignore[method-assign]
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost()
        self._inner.connection_lost(exc)


class _WebSocketPipe:
    """A tunnel's byte stream carried in binary WebSocket messages (browser clients)."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._codec = websocket.WebSocketCodec()
        self.tunnel: Any = None

    @property
    def heard(self) -> bool:
        return bool(self.tunnel.heard)

    # towards the client

    def write(self, data: bytes) -> None:
        self._transport.write(self._codec.encode(data))

    def close(self) -> None:
        self._codec.close()
        self._transport.write(self._codec.take_output())
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    # from the client

    def data_received(self, data: bytes) -> None:
        try:
            payload = self._codec.receive(data)
        except RemoteProtocolError as error:
            _log.info("websocket_broken", reason=error.message)
            self._transport.write(self._codec.take_output())
            self._transport.close()
            return
        answer = self._codec.take_output()
        if answer:
            self._transport.write(answer)
        if payload:
            self.tunnel.data_received(payload)
        if self._codec.closed:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.tunnel.connection_lost(exc)

    def pause_writing(self) -> None:
        self.tunnel.pause_writing()

    def resume_writing(self) -> None:
        self.tunnel.resume_writing()
