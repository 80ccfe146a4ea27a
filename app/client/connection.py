"""One tunnel to a control server, seen from a device: /key, upgrade, Noise, HTTP/2.

Thin I/O around the sans-IO cores; one asyncio.Protocol and no task per connection, so that
thousands fit into a process. Order of events: tailscale control/ts2021, PROTOCOL 1.1.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl as tls
from typing import Final, cast
from urllib.parse import quote, urlsplit

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client.serverkey import fetch_server_key
from app.client.streams import Consumer, PushedStream, ResponseStream
from app.errors import BadRequest, HsError, RemoteProtocolError, Unavailable
from app.wire import http2, noise, websocket
from app.wire.records import EarlyPayloadReader, Opener, Sealer

#: A Go client's budget from dialling to the end of the Noise handshake (ts2021/client.go).
OPEN_DEADLINE_S: Final = 10.0
REQUEST_DEADLINE_S: Final = 30.0
CLOSE_DEADLINE_S: Final = 5.0
#: The server's head of the upgrade answer.
MAX_HEAD_BYTES: Final = 16 * 1024
#: Body of an answer read whole; polls are read piecemeal.
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
#: Window per stream, as Go announces it; what a slow reader can make us hold.
STREAM_WINDOW_BYTES: Final = 4 * 1024 * 1024
#: Window of the connection, as Go announces it; the streams' windows are what limits.
CONNECTION_WINDOW_BYTES: Final = 1024 * 1024 * 1024

UPGRADE: Final = "tailscale-control-protocol"


class ControlConnection(asyncio.Protocol):
    """An open tunnel. Made by `open`; used by one event loop."""

    def __init__(
        self, initiator: noise.Initiator, head: bytes, *, authority: str, is_websocket: bool
    ) -> None:
        self.challenge: bytes | None = None
        self.going_away = False
        self.acknowledge_bytes = STREAM_WINDOW_BYTES // 8
        self._initiator: noise.Initiator | None = initiator
        self._head = head
        self._pending = b""
        self._transport: asyncio.Transport | None = None
        self._websocket = websocket.WebSocketCodec(client_masks=_mask) if is_websocket else None
        self._in_head = True
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._early: EarlyPayloadReader | None = EarlyPayloadReader()
        self._h2 = http2.ClientConnection(
            authority=authority,
            initial_window_bytes=STREAM_WINDOW_BYTES,
            connection_window_bytes=CONNECTION_WINDOW_BYTES,
            auto_window=False,
        )
        self._streams: dict[int, ResponseStream | PushedStream] = {}
        self._error: HsError | None = None
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        machine_private: X25519PrivateKey,
        capver: int,
        server_key: bytes | None = None,
        websocket: bool = False,
        host_header: str | None = None,
        ssl: tls.SSLContext | None = None,
        deadline_s: float = OPEN_DEADLINE_S,
    ) -> ControlConnection:
        """Dial, upgrade and shake hands within `deadline_s`; fetches /key unless the key is given.

        Raises Unavailable when nobody answers or the answer is a refusal, RemoteProtocolError
        when it is not understood.
        """
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise BadRequest(f"not a control server's URL: {url!r}")
        if secure and ssl is None:
            ssl = tls.create_default_context()
        if server_key is None:
            server_key = await fetch_server_key(
                url, capver, ssl=ssl, host_header=host_header, deadline_s=deadline_s
            )
        initiator = noise.Initiator(capver, machine_private, server_key, X25519PrivateKey.generate())
        host = host_header or parts.netloc
        head = (
            _websocket_head(host, initiator.message) if websocket else _native_head(host, initiator.message)
        )
        connection = cls(initiator, head, authority=host, is_websocket=websocket)
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    parts.hostname,
                    parts.port or (443 if secure else 80),
                    ssl=ssl if secure else None,
                )
                await connection._opened
        except (OSError, TimeoutError) as error:
            connection.abort()
            raise Unavailable(f"{url} does not answer: {error!r}") from error
        except BaseException:
            connection.abort()
            raise
        return connection

    # -------------------------------------------------------------------------------- requests

    @property
    def is_usable(self) -> bool:
        """May a new request be sent here?"""
        return self._opened.done() and not self._closed.done() and self._error is None and not self.going_away

    async def request(
        self, path: str, body: bytes, method: str = "POST", *, deadline_s: float = REQUEST_DEADLINE_S
    ) -> tuple[int, bytes]:
        """One request and its whole answer: status and body.

        Raises Unavailable when the connection ends or the deadline passes first.
        """
        stream = self.stream(path, body, method)
        try:
            async with asyncio.timeout(deadline_s):
                status = await stream.status()
                answer = bytearray()
                async for chunk in stream:
                    answer += chunk
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise RemoteProtocolError(f"{path} answers more than {MAX_ANSWER_BYTES} bytes")
        except TimeoutError as error:
            raise Unavailable(f"{path} is not answered within {deadline_s:g} s") from error
        finally:
            stream.cancel()
        return status, bytes(answer)

    def stream(self, path: str, body: bytes, method: str = "POST") -> ResponseStream:
        """Send a request and return its answer as a stream. Raises Unavailable on a dead tunnel."""
        stream_id = self._request(path, body, method)
        stream = self._streams[stream_id] = ResponseStream(self, stream_id)
        self._flush()
        return stream

    def push(self, path: str, body: bytes, consumer: Consumer, method: str = "POST") -> PushedStream:
        """Send a request whose answer is pushed to `consumer`. Raises Unavailable on a dead tunnel."""
        stream_id = self._request(path, body, method)
        stream = self._streams[stream_id] = PushedStream(self, stream_id, consumer)
        self._flush()
        return stream

    def _request(self, path: str, body: bytes, method: str) -> int:
        if not self.is_usable:
            raise self._error or Unavailable("the tunnel takes no more requests", code="connection_lost")
        return self._h2.request(method, path, body=body)

    async def wait_closed(self) -> None:
        """Until the connection is gone, for whatever reason."""
        await asyncio.shield(self._closed)

    async def close(self) -> None:
        """Close and wait for it, CLOSE_DEADLINE_S at most."""
        if self._transport is None or self._closed.done():
            return
        self._end_streams(Unavailable("the tunnel was closed here", code="connection_lost"))
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self.wait_closed()
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Drop the connection without a goodbye, as a pulled cable would."""
        if self._transport is not None:
            self._transport.abort()

    # --------------------------------------------------------------------------------- wire in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._head)
        self._head = b""

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        try:
            self._receive(data)
        except HsError as error:
            self._fail(error)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        reason = "the server closed the tunnel" if exc is None else f"the tunnel broke: {exc}"
        error = self._error or Unavailable(reason, code="connection_lost")
        self._end_streams(error)
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # whoever dialled may be gone already
        if not self._closed.done():
            self._closed.set_result(None)

    def _receive(self, data: bytes) -> None:
        if self._in_head:
            rest = self._read_head(data)
            if rest is None:
                return
            data = rest
        if self._websocket is not None:
            try:
                data = self._websocket.receive(data)
            finally:
                self._write(self._websocket.take_output())
        if self._opener is None:
            rest = self._read_noise(data)
            if rest is None:
                return
            data = rest
        assert self._opener is not None  # made by _read_noise
        plain = self._opener.feed(data)
        if self._early is not None and plain:
            early = self._early.feed(plain)
            if early is None:
                return
            self.challenge, plain = early
            self._early = None
        if plain:
            self._on_events(self._h2.receive(plain))
        self._flush()
        if self._websocket is not None and self._websocket.closed:
            self._fail(Unavailable("the server closed the WebSocket", code="connection_lost"))

    def _read_head(self, data: bytes) -> bytes | None:
        self._pending += data
        head, separator, rest = self._pending.partition(b"\r\n\r\n")
        if not separator:
            if len(self._pending) > MAX_HEAD_BYTES:
                raise RemoteProtocolError("the answer to the upgrade has no end")
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1."):
            raise RemoteProtocolError("the answer to the upgrade is not HTTP")
        if words[1] != "101":
            text = rest[:200].decode("utf-8", "replace").strip()
            raise Unavailable(f"the upgrade was refused: {' '.join(words[1:])} {text}".strip())
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        expected = "websocket" if self._websocket else UPGRADE
        if headers.get("upgrade", "").lower() != expected:
            raise RemoteProtocolError("the server upgraded to something else")
        if self._websocket and headers.get("sec-websocket-protocol") != websocket.SUBPROTOCOL:
            raise RemoteProtocolError("the server chose another WebSocket subprotocol")
        self._in_head = False
        self._pending = b""
        return rest

    def _read_noise(self, data: bytes) -> bytes | None:
        self._pending += data
        size = noise.answer_size(self._pending)
        if size is None or len(self._pending) < size:
            return None
        assert self._initiator is not None  # used up here only
        answer, rest = self._pending[:size], self._pending[size:]
        keys = self._initiator.finish(answer)
        self._pending, self._initiator = b"", None
        self._sealer, self._opener = Sealer(keys.tx), Opener(keys.rx)
        self._h2.start()
        self._flush()
        if not self._opened.done():
            self._opened.set_result(None)
        return rest

    def _on_events(self, events: list[http2.Event]) -> None:
        for event in events:
            match event:
                case http2.Response(stream_id, status, headers):
                    if (stream := self._streams.get(stream_id)) is not None:
                        stream.on_head(status, tuple(headers))
                case http2.Data(stream_id, data):
                    if (stream := self._streams.get(stream_id)) is not None:
                        stream.on_data(data)
                    else:
                        self._h2.acknowledge(stream_id, len(data))
                case http2.StreamEnded(stream_id):
                    self._end_stream(stream_id, None)
                case http2.StreamClosed(stream_id):
                    reset = Unavailable(
                        f"the server reset the stream ({event.error_code})", code="stream_reset"
                    )
                    self._end_stream(stream_id, reset)
                case http2.GoAway():
                    self.going_away = True
        if self.going_away and not self._streams and self._transport is not None:
            self._transport.close()

    # -------------------------------------------------------------------------------- wire out

    def _flush(self) -> None:
        output = self._h2.take_output()
        if output and self._sealer is not None:
            sealed = self._sealer.seal(output)
            self._write(sealed if self._websocket is None else self._websocket.encode(sealed))

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Give window back for bytes that were read; for streams."""
        if self._error is None and not self._closed.done():
            self._h2.acknowledge(stream_id, size)
            self._flush()

    def cancel(self, stream_id: int) -> None:
        """Reset a stream that is still open; for streams."""
        if self._streams.pop(stream_id, None) is not None and self._error is None:
            self._h2.reset(stream_id)
            self._flush()
            if self.going_away and not self._streams and self._transport is not None:
                self._transport.close()

    # ------------------------------------------------------------------------------------ ends

    def _end_stream(self, stream_id: int, error: HsError | None) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.on_end(error)

    def _end_streams(self, error: HsError) -> None:
        self._error = self._error or error
        for stream_id in list(self._streams):
            self._end_stream(stream_id, error)

    def _fail(self, error: HsError) -> None:
        self._write(self._take_goodbye())
        self._end_streams(error)
        if self._transport is not None:
            self._transport.close()

    def _take_goodbye(self) -> bytes:
        if self._sealer is None:
            return b""
        sealed = self._sealer.seal(self._h2.take_output())
        return sealed if self._websocket is None or not sealed else self._websocket.encode(sealed)

    def __repr__(self) -> str:
        state = "closed" if self._closed.done() else "going away" if self.going_away else "open"
        return f"<ControlConnection {state}, {len(self._streams)} streams>"


def _mask() -> bytes:
    return os.urandom(4)


def _native_head(host: str, initiation: bytes) -> bytes:
    return (
        f"POST /ts2021 HTTP/1.1\r\nHost: {host}\r\nUpgrade: {UPGRADE}\r\nConnection: upgrade\r\n"
        f"X-Tailscale-Handshake: {base64.b64encode(initiation).decode()}\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def _websocket_head(host: str, initiation: bytes) -> bytes:
    handshake = quote(base64.b64encode(initiation).decode(), safe="")
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /ts2021?X-Tailscale-Handshake={handshake} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Protocol: {websocket.SUBPROTOCOL}\r\n\r\n"
    ).encode()
