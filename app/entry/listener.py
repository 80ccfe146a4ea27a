"""One raw protocol per accepted connection: `/ts2021` is ours, everything else is aiohttp's.

aiohttp never sees an upgrade: its parser would eat bytes sent behind the head, and a hijacked
connection costs five times the memory (CLIENTS.md 7 recipe C, PERFORMANCE.md 5).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Protocol, cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app import log
from app.entry.head import UPGRADE_PROTOCOL, Head, client_address, parse_head, split_head
from app.entry.limits import HANDSHAKE_DEADLINE_S, ConnectionLimits, Place
from app.errors import BadRequest, RemoteProtocolError
from app.wire import noise, websocket

_log = log.get("entry")

#: A silent peer is probed after this, so often, and unacknowledged bytes may wait so long.
PEER_IDLE_S = 60
PEER_PROBE_S = 15
PEER_PROBES = 4
PEER_UNACKED_S = 60
#: Unsent bytes at which a connection asks its writers to pause, and to go on, also under TLS.
PAUSE_WRITING_BYTES = 64 * 1024
RESUME_WRITING_BYTES = 16 * 1024

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
    #: Peers that may say for whom they ask.
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = ()

    def protocol(self) -> EntryProtocol:
        return EntryProtocol(self)


class EntryProtocol(asyncio.Protocol):
    """Reads the head of a fresh connection and hands the connection to whom it belongs."""

    __slots__ = (
        "_buffer",
        "_deadline",
        "_entry",
        "_established",
        "_place",
        "_remote",
        "_transport",
        "_tunnel",
    )

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._tunnel: Tunnel | None = None
        #: What limits count: by who is at the other end of the TCP connection.
        self._place: Place | None = None
        #: Whose request it is.
        self._remote = ""
        self._established = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._remote = str(peer[0]) if peer else "?"
        stream = cast(asyncio.Transport, transport)
        self._place = self._entry.limits.admit(self._remote, stream.abort)
        if self._place is None:
            stream.abort()
            return
        self._transport = stream
        stream.set_write_buffer_limits(PAUSE_WRITING_BYTES, RESUME_WRITING_BYTES)
        notice_dead_peers(transport.get_extra_info("socket"))
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_DEADLINE_S, stream.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None or self._place is None:
            return
        self._cancel_deadline()
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
            self._remote = client_address(head, self._place.address, self._entry.trusted_proxies)
            if head.is_upgrade_path:
                self._upgrade(head, parts[1])
            else:
                self._hand_to_web()
        except (BadRequest, RemoteProtocolError) as error:
            self._refuse(400, error.message)

    def _feed(self, tunnel: Tunnel, data: bytes) -> None:
        tunnel.data_received(data)
        if not self._established and tunnel.heard:
            self._finish_handshake()

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

    def _upgrade(self, head: Head, rest: bytes) -> None:
        assert self._transport is not None
        if head.method == "POST":
            if head.headers.get("upgrade", "").lower() != UPGRADE_PROTOCOL:
                raise RemoteProtocolError(_PROXY_HINT, code="no_upgrade")
            text = head.headers.get("x-tailscale-handshake", "")
            answer = (
                b"HTTP/1.1 101 Switching Protocols\r\n"
                b"Upgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n"
            )
            outlet: Outlet = self._transport
            pipe: _WebSocketPipe | None = None
        else:
            answer = websocket.upgrade_response(head.headers)
            text = (head.query("X-Tailscale-Handshake") or "").replace(" ", "+")
            pipe = _WebSocketPipe(self._transport)
            outlet = pipe
        try:
            initiation = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RemoteProtocolError("X-Tailscale-Handshake is not base64", code="bad_handshake") from error
        responder = noise.open_initiation(initiation, self._entry.private_key, self._entry.public_key)
        response, keys = responder.respond(X25519PrivateKey.generate())
        self._buffer = bytearray()
        handshake = Handshake(responder, keys, self._remote, pipe is not None)
        if pipe is not None:
            self._transport.write(answer)
            tunnel = self._entry.make_tunnel(handshake, outlet, response)
            pipe.tunnel = tunnel
            self._tunnel = pipe
        else:
            self._tunnel = self._entry.make_tunnel(handshake, outlet, answer + response)
        if rest and self._tunnel is not None:
            self._feed(self._tunnel, rest)

    def _refuse(self, status: int, text: str) -> None:
        if self._transport is None:
            return
        _log.info("entry_refused", remote=self._remote, reason=text)
        body = (text + "\n").encode()
        self._transport.write(
            b"HTTP/1.1 %d Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body)
        )
        self._transport.close()


def notice_dead_peers(connection: socket.socket | None) -> None:
    """Clients that sleep or lose their network vanish without a FIN: let the kernel find out."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PEER_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PEER_PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PEER_PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_UNACKED_S * 1000)


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
