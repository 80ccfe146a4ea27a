"""What arrives at the clients' address besides good clients, against a server in this loop."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client.connection import ControlConnection
from app.client.serverkey import fetch_server_key
from app.entry import limits as limits_module
from app.entry import listener as listener_module
from app.entry import sockets
from app.entry.head import MAX_HEAD_BYTES
from app.wire import http2, noise
from app.wire.records import EarlyPayloadReader, Opener, Sealer
from node import web as web_module
from tests.node.kit import InProcess, Recorder, in_process, joined, own_tenant, until
from tests.node.support import DEADLINE_S, fresh_database

VERSION = 130


class Raw:
    """A bare TCP connection to the clients' address."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def dial(cls, url: str) -> Raw:
        async with asyncio.timeout(DEADLINE_S):
            return cls(*await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])))

    async def ask(self, data: bytes) -> bytes:
        """Everything the server says until it closes."""
        self.writer.write(data)
        return await self.rest()

    async def rest(self) -> bytes:
        found = b""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while data := await self.reader.read(65536):
                    found += data
            except ConnectionError:
                pass
        self.writer.transport.abort()
        return found

    async def head(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    def close(self) -> None:
        self.writer.transport.abort()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(pg_server: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InProcess]:
    async with fresh_database(pg_server) as dsn, in_process(dsn, tmp_path_factory.mktemp("serve")) as inside:
        yield inside


@pytest_asyncio.fixture(loop_scope="module")
async def server(shared: InProcess) -> AsyncIterator[InProcess]:
    """The server of this file, with nothing left of the tests before."""
    limits = shared.owner.limits
    await until(lambda: not limits._open.total() and not shared.metrics()["hs_tunnels"], "all have left")
    limits.__init__()
    yield shared


def dsn_of(server: InProcess) -> str:
    dsn = server.serving.settings.pg_dsn
    assert dsn is not None
    return dsn


def upgrade(handshake: str, *headers: str, method: str = "POST") -> bytes:
    lines = [
        f"{method} /ts2021 HTTP/1.1",
        "Host: x",
        "Upgrade: tailscale-control-protocol",
        "Connection: upgrade",
        f"X-Tailscale-Handshake: {handshake}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def initiator(server: InProcess) -> noise.Initiator:
    key = await fetch_server_key(server.url, VERSION)
    return noise.Initiator(VERSION, X25519PrivateKey.generate(), key, X25519PrivateKey.generate())


def wrong_server(_: noise.Initiator) -> bytes:
    other = X25519PrivateKey.generate().public_key().public_bytes_raw()
    private = X25519PrivateKey.generate()
    return upgrade(text(noise.Initiator(VERSION, private, other, X25519PrivateKey.generate()).message))


BAD = {
    "no upgrade header": (
        lambda i: (
            b"POST /ts2021 HTTP/1.1\r\nHost: x\r\nX-Tailscale-Handshake: "
            + text(i.message).encode()
            + b"\r\n\r\n"
        ),
        "does a proxy in between strip it?",
    ),
    "another upgrade": (
        lambda i: upgrade(text(i.message)).replace(b"tailscale-control-protocol", b"websocket"),
        "Upgrade: tailscale-control-protocol",
    ),
    "no handshake": (lambda i: upgrade(""), "a Noise initiation has 101 bytes, not 0"),
    "no base64": (lambda i: upgrade("!!!!"), "X-Tailscale-Handshake is not base64"),
    "no ascii": (lambda i: upgrade("\u00e9\u00e9\u00e9\u00e9"), "X-Tailscale-Handshake is not base64"),
    "too short": (lambda i: upgrade(text(i.message[:-1])), "101 bytes, not 100"),
    "too long": (lambda i: upgrade(text(i.message + b"x")), "101 bytes, not 102"),
    "zeros": (lambda i: upgrade(text(bytes(101))), "not a Noise initiation"),
    "tampered": (
        lambda i: upgrade(text(i.message[:60] + bytes([i.message[60] ^ 1]) + i.message[61:])),
        "does not authenticate",
    ),
    "low order point": (lambda i: upgrade(text(i.message[:5] + bytes(32) + i.message[37:])), "low order"),
    "another server's key": (wrong_server, "does not authenticate"),
    "garbage": (lambda i: b"\x00\x01garbage\r\n\r\n", "not an HTTP/1.1 request"),
    "other protocol": (lambda i: b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "not an HTTP/1.1 request"),
    "http/2 preface": (lambda i: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not an HTTP/1.1 request"),
    "header without colon": (lambda i: b"GET / HTTP/1.1\r\nnonsense\r\n\r\n", "malformed header line"),
    "head too large": (
        lambda i: b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES,
        f"request head exceeds {MAX_HEAD_BYTES} bytes",
    ),
    "plain get": (lambda i: b"GET /ts2021 HTTP/1.1\r\nHost: x\r\n\r\n", "WebSocket"),
}


@pytest.mark.parametrize("what", BAD)
async def test_bad_beginnings_get_a_sentence_and_are_closed(server: InProcess, what: str) -> None:
    make, sentence = BAD[what]
    raw = await Raw.dial(server.url)
    answer = await raw.ask(make(await initiator(server)))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert sentence in body.decode()
    assert b"Content-Length: %d\r\n" % len(body) in head
    await until(lambda: server.owner.limits.half_open == 0, "nothing is left of it")
    assert server.metrics()["hs_tunnels"] == 0


async def test_tls_on_the_plain_port_is_cut(server: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ClientHello never ends like a request head: the deadline closes it, nothing else."""
    monkeypatch.setattr(listener_module, "HANDSHAKE_DEADLINE_S", 0.2)
    context = ssl.create_default_context()
    with pytest.raises((ssl.SSLError, OSError)):
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.open_connection(
                "127.0.0.1", int(server.url.rpartition(":")[2]), ssl=context, server_hostname="x"
            )
    await until(lambda: server.owner.limits.half_open == 0, "nothing is left of it")


@pytest.mark.parametrize("sent", [b"", b"P", b"POST /ts2021 HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_end_is_cut(
    server: InProcess, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(listener_module, "HANDSHAKE_DEADLINE_S", 0.1)
    raw = await Raw.dial(server.url)
    assert await raw.ask(sent) == b""
    await until(lambda: server.owner.limits.half_open == 0, "nothing is left of it")


async def test_a_head_in_single_bytes_is_a_head(server: InProcess) -> None:
    raw = await Raw.dial(server.url)
    start = await initiator(server)
    for byte in upgrade(text(start.message)):
        raw.writer.write(bytes([byte]))
        await raw.writer.drain()
        await asyncio.sleep(0)
    assert (await raw.head()).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    raw.close()


async def test_a_replayed_initiation_opens_nothing(server: InProcess) -> None:
    """It proves nothing about who is on the line: without the ephemeral key no record can be sealed."""
    start = await initiator(server)
    first, second = await Raw.dial(server.url), await Raw.dial(server.url)
    answers = []
    for raw in (first, second):
        raw.writer.write(upgrade(text(start.message)))
        await raw.head()
        async with asyncio.timeout(DEADLINE_S):
            answers.append(await raw.reader.readexactly(noise.RESPONSE_SIZE))
    assert answers[0] != answers[1]
    keys = start.finish(answers[0])
    core = http2.ClientConnection(authority="x")
    core.start()
    core.request("POST", "/machine/whoami", body=b"{}")
    # Records of the first session in the second one: the connection ends, the first goes on.
    record = Sealer(keys.tx).seal(core.take_output())
    second.writer.write(record)
    await second.rest()
    first.writer.write(record)
    opener, early = Opener(keys.rx), EarlyPayloadReader()
    begun, status = False, None
    while status is None:
        async with asyncio.timeout(DEADLINE_S):
            data = await first.reader.read(65536)
        assert data
        plain = opener.feed(data)
        if not begun and plain:
            parsed = early.feed(plain)
            if parsed is None:
                continue
            begun, plain = True, parsed[1]
        for event in core.receive(plain) if plain else ():
            if isinstance(event, http2.Response):
                status = event.status
    assert status == 200
    first.close()
    await until(lambda: server.metrics()["hs_tunnels"] == 0, "both tunnels are gone")


async def test_bytes_sent_behind_the_head_are_kept(server: InProcess) -> None:
    """A client that cannot know the keys yet sends nothing there; but what comes must not be lost."""
    raw = await Raw.dial(server.url)
    start = await initiator(server)
    raw.writer.write(upgrade(text(start.message)) + b"\x04\x00\x20" + bytes(32))
    answer = await raw.rest()
    # The record was looked at, and does not open: that ends the connection after the answer.
    assert answer.startswith(b"HTTP/1.1 101 ")
    await until(lambda: server.metrics()["hs_tunnels"] == 0, "the tunnel is gone")


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x04\x00\x05hello", b"\x04\xff\xff" + bytes(5000), b"\x00" * 64]
)
async def test_a_broken_record_ends_its_connection_only(server: InProcess, junk: bytes) -> None:
    async with own_tenant(dsn_of(server)) as home:
        key = await home.auth_key()
    async with Recorder(server.url, key) as bystander:
        await joined(bystander)
        raw = await Raw.dial(server.url)
        raw.writer.write(upgrade(text((await initiator(server)).message)))
        await raw.head()
        raw.writer.write(junk)
        await raw.rest()
        await until(lambda: server.metrics()["hs_tunnels"] == 1, "the broken one is gone")
        assert bystander.polls == 1


async def test_floods_are_bounded_and_leave_nothing(server: InProcess) -> None:
    server.owner.limits.__init__(half_open=20, half_open_per_address=8)
    starts = [await initiator(server) for _ in range(8)]
    await until(lambda: not server.owner.limits._open, "those have left")
    idle = [await Raw.dial(server.url) for _ in range(8)]
    await until(lambda: server.owner.limits.half_open == 8, "eight connections wait")
    # One more is heard, at the cost of the one that has stood longest.
    page = b"GET /robots.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert b" 200 " in await (await Raw.dial(server.url)).ask(page)
    assert await idle.pop(0).rest() == b""
    assert server.owner.limits.half_open == 7
    # An answered initiation proves nothing: it may be a replay, and counts as unfinished as before.
    answered = []
    for start in starts:
        answered.append(await Raw.dial(server.url))
        answered[-1].writer.write(upgrade(text(start.message)))
        assert (await answered[-1].head()).startswith(b"HTTP/1.1 101 ")
    assert server.owner.limits.half_open == 8
    for raw in idle:
        assert await raw.rest() == b""
    # Whoever finishes is safe.
    async with own_tenant(dsn_of(server)) as home:
        key = await home.auth_key()
    async with Recorder(server.url, key) as device:
        await joined(device)
        idle = [await Raw.dial(server.url) for _ in range(20)]
        await until(lambda: server.owner.limits.half_open == 8, "the flood has its places")
        await device.update(endpoints=["192.0.2.1:1"])
        assert device.polls == 1
    for raw in idle + answered:
        raw.close()
    await until(lambda: server.owner.limits.half_open == 0, "nothing half-open is left")
    await until(lambda: not server.owner.limits._open, "nothing is counted any more")
    await until(lambda: server.metrics()["hs_tunnels"] == 0, "no tunnel is left")


@pytest.mark.parametrize("sent", [b"", b"\x04", b"\x04\x00\x20" + bytes(31)])
async def test_a_tunnel_without_a_record_is_cut(
    server: InProcess, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """A replayed initiation holds a tunnel no longer than any other unfinished connection."""
    monkeypatch.setattr(listener_module, "HANDSHAKE_DEADLINE_S", 0.3)
    start = await initiator(server)
    raw = await Raw.dial(server.url)
    raw.writer.write(upgrade(text(start.message)) + sent)
    await raw.head()
    assert server.owner.limits.half_open == 1
    await raw.rest()
    await until(lambda: server.metrics()["hs_tunnels"] == 0, "the tunnel is gone")
    assert server.owner.limits.half_open == 0


async def test_connections_of_one_address_are_bounded_in_any_state(server: InProcess) -> None:
    server.owner.limits.__init__(per_address=2)
    held = []
    for _ in range(2):
        raw = await Raw.dial(server.url)
        raw.writer.write(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await raw.head()
        held.append(raw)
    assert await (await Raw.dial(server.url)).ask(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    held.pop().close()
    await until(lambda: server.owner.limits._open.total() == 1, "one has left")
    raw = await Raw.dial(server.url)
    raw.writer.write(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in await raw.head()
    for one in (raw, *held):
        one.close()


async def test_pages_keep_their_connection(server: InProcess) -> None:
    raw = await Raw.dial(server.url)
    for path, found in ((b"/health", b"200"), (b"/version", b"200"), (b"/nothing", b"404"), (b"/", b"200")):
        raw.writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await raw.head()
        assert head.split(b" ")[1] == found
        size = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        async with asyncio.timeout(DEADLINE_S):
            await raw.reader.readexactly(size)
    raw.close()


async def test_pipelined_page_requests_are_all_answered(server: InProcess) -> None:
    raw = await Raw.dial(server.url)
    asked = b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await raw.ask(asked * 2 + asked.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert answer.count(b"HTTP/1.1 200 OK") == 3


async def test_a_connection_upgrades_on_a_later_request_too_or_says_so(server: InProcess) -> None:
    """A tunnel begins a connection; behind a page request there is none, and nothing hangs."""
    raw = await Raw.dial(server.url)
    start = await initiator(server)
    raw.writer.write(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n" + upgrade(text(start.message)))
    first = await raw.head()
    assert b" 200 " in first.split(b"\r\n")[0]
    async with asyncio.timeout(DEADLINE_S):
        await raw.reader.readexactly(len("User-agent: *\nDisallow: /\n"))
    assert b" 404 " in (await raw.head()).split(b"\r\n")[0]
    raw.close()


async def test_a_body_that_does_not_come_is_answered(
    server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert web_module.BODY_DEADLINE_S == 10.0
    monkeypatch.setattr(web_module, "BODY_DEADLINE_S", 0.1)
    raw = await Raw.dial(server.url)
    raw.writer.write(b"POST /verify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert b" 400 " in (await raw.head()).split(b"\r\n")[0]
    raw.close()


@pytest.mark.parametrize("websocket", [False, True])
async def test_both_ways_to_open_a_tunnel_join(server: InProcess, websocket: bool) -> None:
    async with own_tenant(dsn_of(server)) as home:
        key = await home.auth_key()
    async with Recorder(server.url, key) as native, Recorder(server.url, key, websocket=websocket) as other:
        await joined(native)
        await joined(other)
        await native.sees(peers=1)
        await other.update(endpoints=["192.0.2.1:1"])
        await native.sees(other.id, Endpoints=["192.0.2.1:1"])
        await native.update(endpoints=["192.0.2.2:2"])
        await other.sees(native.id, Endpoints=["192.0.2.2:2"])
        assert other._connection is not None
        # Native tunnels begin with a challenge, WebSocket ones do not (PROTOCOL.md 1.3).
        assert (other._connection.challenge is None) is websocket
        assert not native.violations + other.violations


PATHS: dict[tuple[str, str], int] = {
    ("GET", "/machine/whoami"): 200,
    ("POST", "/machine/whoami"): 200,
    ("POST", "/machine/update-health"): 204,
    ("POST", "/machine/set-dns"): 501,
    ("POST", "/machine/id-token"): 501,
    ("POST", "/machine/feature/query"): 501,
    ("POST", "/machine/set-device-attr"): 501,
    ("POST", "/machine/audit-log"): 501,
    ("GET", "/machine/ssh/action/from/1/to/2"): 200,
    ("POST", "/machine/ssh/action/from/1/to/2"): 501,
    ("GET", "/machine/tka/bootstrap"): 501,
    ("GET", "/machine/map"): 501,
    ("GET", "/machine/register"): 501,
    ("GET", "/"): 404,
    ("POST", "/machinery"): 404,
    ("GET", "/key"): 404,
    ("POST", "/c2n/" + "0" * 32): 400,
    ("GET", "/c2n/x"): 404,
}


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_paths_inside_a_tunnel(server: InProcess, method: str, path: str) -> None:
    connection = await ControlConnection.open(
        server.url, machine_private=X25519PrivateKey.generate(), capver=VERSION
    )
    status, body = await connection.request(path, b"{}", method=method)
    assert status == PATHS[method, path], body
    if status in (404, 501):
        assert body.decode().strip() in ("not found", "not supported by this control server")
    await connection.close()


BODIES: dict[str, tuple[str, bytes, str]] = {
    "no json": ("/machine/map", b"\xff", "MapRequest"),
    "empty": ("/machine/map", b"", "MapRequest"),
    "no key": ("/machine/map", b'{"Version":130}', "NodeKey: missing"),
    "bad key": ("/machine/map", b'{"Version":130,"NodeKey":"nodekey:xyz"}', "NodeKey"),
    "too old": ("/machine/map", b'{"Version":60,"NodeKey":"nodekey:' + b"11" * 32 + b'"}', "1.80 or newer"),
    "register: no json": ("/machine/register", b"[", "RegisterRequest"),
    "register: no key": ("/machine/register", b'{"Version":130}', "NodeKey: missing"),
}


@pytest.mark.parametrize("what", BODIES)
async def test_bad_requests_inside_a_tunnel_leave_it_usable(server: InProcess, what: str) -> None:
    path, body, sentence = BODIES[what]
    connection = await ControlConnection.open(
        server.url, machine_private=X25519PrivateKey.generate(), capver=VERSION
    )
    status, answer = await connection.request(path, body)
    assert status == 400
    assert sentence in answer.decode()
    assert (await connection.request("/machine/whoami", b""))[0] == 200
    await connection.close()


async def test_limits_are_named_and_plausible() -> None:
    assert limits_module.HANDSHAKE_DEADLINE_S == 10.0
    assert (limits_module.MAX_HALF_OPEN, limits_module.MAX_HALF_OPEN_PER_ADDRESS) == (4096, 1024)
    assert limits_module.MAX_CONNECTIONS_PER_ADDRESS == 50_000
    assert MAX_HEAD_BYTES == 16 * 1024
    assert (sockets.PEER_IDLE_S, sockets.PEER_UNACKED_S) == (60, 60)
