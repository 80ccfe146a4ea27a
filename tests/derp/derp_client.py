"""A DERP client over real TLS, and a relay on the loopback, for the tests of this folder."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from nacl.public import PrivateKey
from nacl.utils import random as random_bytes

from app.wire import derp
from node.derp.certificate import load_or_create_certificate, server_context
from node.derp.server import Relay, RelayOptions

DEADLINE_S = 10.0
HOST = "127.0.0.1"
UPGRADE = b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"


def client_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class DerpClient:
    """One connection. `pin` is what the certificate presented would have as CertName."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: PrivateKey | None = None
    ) -> None:
        self.reader, self.writer = reader, writer
        self.private = key or PrivateKey.generate()
        self.key = bytes(self.private.public_key)
        self.server_key = b""
        self.decoder = derp.FrameDecoder(derp.SERVER_LIMITS)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.pin = "sha256-raw:" + hashlib.sha256(der).hexdigest()

    @classmethod
    async def dial(cls, port: int, key: PrivateKey | None = None, receive_buffer: int = 0) -> DerpClient:
        """TCP and TLS only."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
            reader, writer = await asyncio.open_connection(sock=sock, ssl=client_tls(), server_hostname="")
        return cls(reader, writer, key)

    @classmethod
    async def connect(
        cls, port: int, key: PrivateKey | None = None, *, fast: bool = False, receive_buffer: int = 0
    ) -> DerpClient:
        """The whole handshake."""
        client = await cls.dial(port, key, receive_buffer)
        await client.handshake(fast=fast)
        return client

    async def handshake(self, *, fast: bool = False) -> None:
        await self.hello(fast=fast)
        self.send_client_info()
        frame = await self.expect(derp.FrameType.SERVER_INFO)
        info = derp.parse_server_info(frame.payload, bytes(self.private), self.server_key)
        assert info.version == derp.PROTOCOL_VERSION

    async def hello(self, *, fast: bool = False) -> str:
        """Upgrade, up to the server key; the answer's head."""
        self.writer.write(UPGRADE + (b"Derp-Fast-Start: 1\r\n" if fast else b"") + b"\r\n")
        head = ""
        if not fast:
            async with asyncio.timeout(DEADLINE_S):
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("HTTP/1.1 101 "), head
        frame = await self.expect(derp.FrameType.SERVER_KEY)
        self.server_key = derp.parse_server_key(frame.payload)
        return head

    def send_client_info(self) -> None:
        info = derp.ClientInfo(version=derp.PROTOCOL_VERSION, can_ack_pings=True)
        nonce = random_bytes(derp.NONCE_SIZE)
        self.writer.write(derp.encode_client_info(info, bytes(self.private), self.server_key, nonce))

    def send(self, destination: bytes, packet: bytes) -> None:
        self.writer.write(derp.encode_send_packet(destination, packet))

    async def frame(self) -> derp.Frame | None:
        """The next frame; None when the relay has closed."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                frame = self.decoder.next_frame()
                if frame is not None:
                    return frame
                try:
                    data = await self.reader.read(65536)
                except (ConnectionError, ssl.SSLError):
                    return None
                if not data:
                    return None
                self.decoder.feed(data)

    async def expect(self, kind: derp.FrameType) -> derp.Frame:
        """The next frame that is no keep-alive must be of this type."""
        frame = await self.frame()
        assert frame is not None, f"closed instead of {kind.name}"
        assert frame.type == kind, f"{derp.FrameType(frame.type).name} instead of {kind.name}"
        return frame

    async def packet(self) -> tuple[bytes, bytes]:
        """(source key, packet)."""
        payload = (await self.expect(derp.FrameType.RECV_PACKET)).payload
        return payload[:32], payload[32:]

    async def sync(self) -> list[derp.Frame]:
        """Frames that came before the answer to a ping sent now; all earlier sends are handled then."""
        token = random_bytes(derp.PING_SIZE)
        self.writer.write(derp.encode_frame(derp.FrameType.PING, token))
        frames: list[derp.Frame] = []
        while (frame := await self.frame()) is not None:
            if frame.type == derp.FrameType.PONG and frame.payload == token:
                return frames
            frames.append(frame)
        raise AssertionError("closed instead of PONG")

    async def closed(self) -> list[derp.Frame]:
        """All frames until the relay closes."""
        frames = []
        while (frame := await self.frame()) is not None:
            frames.append(frame)
        return frames

    async def close(self) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


async def allow(node_key: bytes, source_ip: str) -> bool:
    return True


Verify = Callable[[bytes, str], Awaitable[bool]]


@contextlib.asynccontextmanager
async def running_relay(
    directory: Path, verify: Verify = allow, options: RelayOptions | None = None
) -> AsyncIterator[tuple[Relay, int]]:
    """(relay, port), stopped at the end."""
    now = datetime.datetime.now(datetime.UTC)
    certificate = load_or_create_certificate(directory, [HOST], now)
    relay = Relay(bytes(PrivateKey.generate()), verify, options)
    port = await relay.start(HOST, 0, server_context(certificate))
    try:
        yield relay, port
    finally:
        await relay.stop()


async def until(condition: Callable[[], object]) -> None:
    """Gives the loop its turn until the condition holds; fails at the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - plain state, nothing sets an event
            await asyncio.sleep(0.005)
