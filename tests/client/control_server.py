"""A control server as small as can be, from our own codecs, for the tests of app/client."""

from __future__ import annotations

import asyncio
import base64
import ssl as tls
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import orjson
import zstandard
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.keys import machine_key_text
from app.wire import http2, mapstream, noise, records, websocket

KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
CHALLENGE = bytes(range(32, 64))


class Tunnel(asyncio.Protocol):
    """The server's end of one connection."""

    def __init__(self, server: ControlServer) -> None:
        self.server = server
        self.head = b""
        self.opener: records.Opener | None = None
        self.codec: websocket.WebSocketCodec | None = None
        self.h2 = http2.ServerConnection()
        self.machine_key = b""
        self.open_streams: dict[int, http2.Request] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.server.tunnels.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.tunnels.remove(self)

    def data_received(self, data: bytes) -> None:
        if self.opener is None:
            self.head += data
            if b"\r\n\r\n" in self.head:
                self.upgrade(*self.head.split(b"\r\n\r\n", 1))
            return
        if self.codec is not None:
            data = self.codec.receive(data)
            self.transport.write(self.codec.take_output())
        plain = self.opener.feed(data)
        if not plain:
            return
        for event in self.h2.receive(plain):
            if isinstance(event, http2.Request):
                self.open_streams[event.stream_id] = event
                self.server.requests.append(event)
                self.server.handlers[event.path](self, event)
            elif isinstance(event, http2.StreamClosed):
                self.open_streams.pop(event.stream_id, None)
                self.server.resets += 1
        self.flush()

    def upgrade(self, head: bytes, rest: bytes) -> None:
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, target, _ = first.split(" ")
        self.server.heads.append((method, target, headers))
        if target.startswith("/key"):
            self.transport.write(self.server.key_answer())
            self.transport.close()
            return
        if self.server.upgrade_answer is not None:
            self.transport.write(self.server.upgrade_answer)
            return
        if method == "GET":
            handshake = parse_qs(urlsplit(target).query)["X-Tailscale-Handshake"][0]
            self.transport.write(websocket.upgrade_response(headers))
            self.codec = websocket.WebSocketCodec()
        else:
            handshake = headers["x-tailscale-handshake"]
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\n"
                b"Connection: upgrade\r\n\r\n"
            )
        responder = noise.open_initiation(base64.b64decode(handshake), KEY, PUBLIC)
        self.machine_key = responder.machine_key
        response, keys = responder.respond(X25519PrivateKey.generate())
        self.sealer, self.opener = records.Sealer(keys.tx), records.Opener(keys.rx)
        self.h2.start()
        early = records.early_payload(CHALLENGE) if self.server.early else b""
        self.write(response + self.sealer.seal(early + self.h2.take_output()))
        if rest:
            self.data_received(rest)

    def write(self, data: bytes) -> None:
        if data:
            self.transport.write(data if self.codec is None else self.codec.encode(data))

    def flush(self) -> None:
        self.write(self.sealer.seal(self.h2.take_output()))

    def answer(self, request: http2.Request, body: bytes, status: int = 200) -> None:
        self.open_streams.pop(request.stream_id, None)
        self.h2.respond(request.stream_id, status)
        self.h2.send(request.stream_id, body, end_stream=True)
        self.flush()


class ControlServer:
    """Listens on loopback; `handlers` say what each path does, `send` speaks to all polls."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[Tunnel, http2.Request], None]] = {
            "/machine/register": lambda tunnel, request: tunnel.answer(
                request, b'{"MachineAuthorized":true}'
            ),
            "/machine/map": self.map,
        }
        self.tunnels: list[Tunnel] = []
        self.requests: list[http2.Request] = []
        self.heads: list[tuple[str, str, dict[str, str]]] = []
        self.polls: list[tuple[Tunnel, int, bool]] = []
        self.lite: list[dict[str, object]] = []
        self.resets = 0
        self.early = True
        self.upgrade_answer: bytes | None = None
        self.first: list[dict[str, object]] = [{"Node": {"ID": 1, "Name": "self."}}]

    def key_answer(self) -> bytes:
        key = machine_key_text(PUBLIC)
        body = orjson.dumps({"legacyPublicKey": "mkey:" + "0" * 64, "publicKey": key})
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def start(self, context: tls.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.listener = await loop.create_server(lambda: Tunnel(self), "127.0.0.1", 0, ssl=context)
        port = self.listener.sockets[0].getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{port}"

    async def stop(self) -> None:
        self.listener.close()
        for tunnel in self.tunnels:
            tunnel.transport.abort()
        await self.listener.wait_closed()

    def map(self, tunnel: Tunnel, request: http2.Request) -> None:
        body = orjson.loads(request.body)
        if not body["Stream"]:
            self.lite.append(body)
            tunnel.answer(request, b"")
            return
        tunnel.h2.respond(request.stream_id, 200)
        poll = (tunnel, request.stream_id, body.get("Compress") == "zstd")
        self.polls.append(poll)
        for message in self.first:
            self.send_to(poll, message)

    def send(self, message: dict[str, object]) -> None:
        for poll in self.polls:
            self.send_to(poll, message)

    def send_to(self, poll: tuple[Tunnel, int, bool], message: dict[str, object]) -> None:
        tunnel, stream_id, zstd = poll
        blob = orjson.dumps(message)
        if zstd:  # two frames, cut in the middle of a token
            compress, half = zstandard.ZstdCompressor(level=1).compress, len(blob) // 2
            blob = compress(blob[:half]) + compress(blob[half:])
        tunnel.h2.send(stream_id, mapstream.frame(blob))
        tunnel.flush()
