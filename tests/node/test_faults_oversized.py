"""Oversized everything, over the wire: what each gets, and that only its own connection or request ends.

Bodies and Hostinfo are in test_registration_bad.py, request heads in test_entry_listener.py, every rule of
HTTP/2 by itself in tests/wire/test_http2_limits.py, the relay's frames in tests/derp.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hpack import Decoder

from app.client.serverkey import fetch_server_key
from app.wire import h2frames as h2
from app.wire import noise
from app.wire.h2core import MAX_CONTINUATION_FRAMES
from app.wire.h2frames import ErrorCode
from app.wire.http2 import MAX_CONCURRENT_STREAMS, MAX_HEADERS
from app.wire.records import EarlyPayloadReader, Opener, Sealer
from app.wire.websocket import MAX_FRAME_BYTES
from node.web import MAX_VERIFY_BYTES
from tests.node.kit import InProcess, Recorder, in_process, joined, own_tenant, until
from tests.node.support import DEADLINE_S, fresh_database
from tests.node.test_entry_listener import VERSION, Raw, dsn_of, initiator, text, upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")

Frame = tuple[int, int, bytes]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(pg_server: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InProcess]:
    async with fresh_database(pg_server) as dsn, in_process(dsn, tmp_path_factory.mktemp("serve")) as inside:
        yield inside


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def bystanders(server: InProcess) -> AsyncIterator[None]:
    """Two devices that must not notice anything."""
    async with own_tenant(dsn_of(server)) as home:
        key = await home.auth_key()
    async with Recorder(server.url, key) as viewer, Recorder(server.url, key) as talker:
        await joined(viewer)
        await joined(talker)
        await viewer.sees(talker.id, Online=True)
        yield
        await until(lambda: server.metrics()["hs_tunnels"] == 2, "the bad connection is gone")
        await talker.update(endpoints=["192.0.2.9:9"])
        await viewer.sees(talker.id, Endpoints=["192.0.2.9:9"])
        assert (viewer.polls, talker.polls) == (1, 1)
    await until(lambda: server.metrics()["hs_tunnels"] == 0, "all have left")


class Bare:
    """A finished handshake; frames in and out as they are."""

    def __init__(self, raw: Raw, keys: noise.Keys) -> None:
        self.raw = raw
        self._sealer, self._opener, self._early = Sealer(keys.tx), Opener(keys.rx), EarlyPayloadReader()
        self._plain: bytes | None = None
        self.send(h2.PREFACE + h2.settings(()))

    @classmethod
    async def dial(cls, server: InProcess) -> Bare:
        raw, start = await Raw.dial(server.url), await initiator(server)
        raw.writer.write(upgrade(text(start.message)))
        await raw.head()
        async with asyncio.timeout(DEADLINE_S):
            return cls(raw, start.finish(await raw.reader.readexactly(noise.RESPONSE_SIZE)))

    def send(self, wire: bytes) -> None:
        self.raw.writer.write(self._sealer.seal(wire))

    async def frames(self) -> AsyncIterator[Frame]:
        """Kind, stream and payload of each frame until the server closes."""
        while True:
            async with asyncio.timeout(DEADLINE_S):
                data = await self.raw.reader.read(65536)
            if not data:
                return
            plain = self._opener.feed(data)
            if self._plain is None:
                begun = self._early.feed(plain)
                if begun is None:
                    continue
                self._plain, plain = b"", begun[1]
            self._plain += plain
            while len(self._plain) >= h2.FRAME_HEADER_BYTES:
                word, _, stream_id = h2.unpack_head(self._plain, 0)
                stop = h2.FRAME_HEADER_BYTES + (word >> 8)
                if len(self._plain) < stop:
                    break
                frame = word & 0xFF, stream_id, self._plain[h2.FRAME_HEADER_BYTES : stop]
                self._plain = self._plain[stop:]
                yield frame

    async def first(self, kind: int, stream_id: int) -> bytes:
        """The payload of the first such frame."""
        async for found, stream, payload in self.frames():
            if (found, stream) == (kind, stream_id):
                return payload
        raise AssertionError("the server closed without such a frame")

    async def closed(self) -> None:
        async for _ in self.frames():
            pass
        self.raw.close()


def request(stream_id: int, *extra: tuple[str, str], end: bool = True) -> bytes:
    fields = ((":method", "POST"), (":scheme", "https"), (":path", "/machine/whoami"), (":authority", "c"))
    block = h2.encode_headers((*fields, *extra))
    return h2.header_frames(stream_id, block, h2.MAX_FRAME_BYTES, end_stream=end)


def endless_block() -> bytes:
    """A header block in more frames than there may be."""
    rest = h2.frame(h2.CONTINUATION, 0, 1, b"\x00\x01a\x01b") * (MAX_CONTINUATION_FRAMES + 1)
    return h2.frame(h2.HEADERS, 0, 1) + rest


FRAMES: dict[str, tuple[Callable[[], bytes], ErrorCode]] = {
    "a frame over the limit": (
        lambda: h2.frame(h2.DATA, 0, 1, bytes(h2.MAX_FRAME_BYTES + 1)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "the head of the largest frame there is": (lambda: b"\xff" * 3 + bytes(5) + b"\x01", ErrorCode(6)),
    "a header block without end": (endless_block, ErrorCode.ENHANCE_YOUR_CALM),
    "a header block over the limit": (
        lambda: request(1, ("x", "y" * 70_000)),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize("what", FRAMES)
async def test_an_oversized_frame_ends_its_connection_and_says_why(server: InProcess, what: str) -> None:
    make, code = FRAMES[what]
    bare = await Bare.dial(server)
    bare.send(make())
    goaway = await bare.first(h2.GOAWAY, 0)
    assert int.from_bytes(goaway[4:8], "big") == code
    await bare.closed()


async def test_one_stream_too_many_is_refused_alone(server: InProcess) -> None:
    bare = await Bare.dial(server)
    streams = range(1, 2 * MAX_CONCURRENT_STREAMS + 2, 2)
    for stream_id in streams:
        bare.send(request(stream_id, end=False))
    refusal = await bare.first(h2.RST_STREAM, streams[-1])
    assert int.from_bytes(refusal, "big") == ErrorCode.REFUSED_STREAM
    bare.send(h2.frame(h2.DATA, h2.FLAG_END_STREAM, 1))
    assert (":status", "200") in Decoder().decode(await bare.first(h2.HEADERS, 1))
    bare.raw.close()


async def test_too_many_header_fields_are_refused_alone(server: InProcess) -> None:
    bare = await Bare.dial(server)
    bare.send(request(1, *[("x", "y")] * (MAX_HEADERS + 1)))
    assert (":status", "431") in Decoder().decode(await bare.first(h2.HEADERS, 1))
    bare.send(request(3))
    assert (":status", "200") in Decoder().decode(await bare.first(h2.HEADERS, 3))
    bare.raw.close()


async def test_an_oversized_websocket_frame_is_closed_with_its_code(server: InProcess) -> None:
    start = noise.Initiator(
        VERSION,
        X25519PrivateKey.generate(),
        await fetch_server_key(server.url, VERSION),
        X25519PrivateKey.generate(),
    )
    handshake = base64.b64encode(start.message).decode().replace("+", "%2B").replace("/", "%2F")
    raw = await Raw.dial(server.url)
    raw.writer.write(
        f"GET /ts2021?X-Tailscale-Handshake={handshake} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Protocol: tailscale-control-protocol\r\n\r\n".encode()
    )
    assert b" 101 " in await raw.head()
    raw.writer.write(b"\x82\xff" + (MAX_FRAME_BYTES + 1).to_bytes(8, "big") + bytes(4))
    assert (await raw.rest())[-4:-2] == b"\x88\x02", "a close frame with a code is the last that is said"


@pytest.mark.parametrize("size", [MAX_VERIFY_BYTES + 1, 10_000_000])
async def test_an_oversized_page_request_is_refused(server: InProcess, size: int) -> None:
    raw = await Raw.dial(server.url)
    raw.writer.write(b"POST /verify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    raw.writer.write(bytes(size))
    assert b" 400 " in (await raw.head()).split(b"\r\n")[0]
    raw.close()
