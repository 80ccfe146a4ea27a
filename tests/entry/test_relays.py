"""Entries and owners in one loop, with tunnels that only pass bytes: relays, parking, limits, refusals."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp.web
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.entry import inner as inner_module
from app.entry import listener as listener_module
from app.entry import relay as relay_module
from app.entry import relays as relays_module
from app.entry.exchange import Exchange, OwnCluster
from app.entry.hop import NONCE_SIZE, VERDICT_SIZE, Hop, Verdict, hop_key, seal_hop
from app.entry.inner import MAX_PENDING_HOPS, InnerDoor
from app.entry.limits import ConnectionLimits
from app.entry.listener import Entry, Handshake, Outlet
from app.entry.machines import Machines
from app.entry.relays import Relays
from app.errors import Unavailable
from app.model import ClusterOwner
from app.wire import noise
from node.derp.certificate import load_or_create_certificate, server_context
from tests.node.kit import until

DEADLINE_S = 10.0
VERSION = 130
DEPLOYMENT = X25519PrivateKey.generate()
PUBLIC = DEPLOYMENT.public_key().public_bytes_raw()
KEY = hop_key(DEPLOYMENT.private_bytes_raw())


class Pipe:
    """A tunnel that sends back what it gets, and whatever a test writes."""

    def __init__(self, handshake: Handshake, outlet: Outlet, preface: bytes) -> None:
        self.remote = handshake.remote
        self.outlet = outlet
        self.heard = False
        self.paused = False
        self.lost = False
        self.got = 0
        outlet.write(preface)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self.got += len(data)
        self.outlet.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False


@dataclass
class Facts:
    """What the database says."""

    ask: Callable[[], Awaitable[ClusterOwner | None]]

    async def cluster_owner(self, cluster_id: str) -> ClusterOwner | None:
        return await self.ask()

    async def cluster_ids(self) -> list[str]:
        return ["east"]


async def nobody_known(machine_keys: Sequence[bytes]) -> dict[bytes, str]:
    return {}


@dataclass
class Node:
    """One instance: its clients' address, its address for entries, and what it believes."""

    name: str
    serves: bool = False
    epoch: int = 1
    #: What the database answers; an exception is raised.
    says: ClusterOwner | Exception | None = None
    asked: int = 0
    pipes: list[Pipe] = field(default_factory=list)
    _servers: list[asyncio.Server] = field(default_factory=list)
    exchange: Exchange = None  # type: ignore[assignment]
    relays: Relays = None  # type: ignore[assignment]
    entry: Entry = None  # type: ignore[assignment]
    door: InnerDoor = None  # type: ignore[assignment]

    async def open(self, tls: ssl.SSLContext | None = None) -> Node:
        async def ask() -> ClusterOwner | None:
            self.asked += 1
            if isinstance(self.says, Exception):
                raise self.says
            return self.says

        def tunnel(handshake: Handshake, outlet: Outlet, preface: bytes) -> Pipe:
            pipe = Pipe(handshake, outlet, preface)
            self.pipes.append(pipe)
            return pipe

        self.exchange = Exchange(
            instance=self.name,
            key=KEY,
            facts=lambda: Facts(ask),
            machines=Machines(nobody_known),
            own=OwnCluster("east", lambda: self.serves, lambda _: True),
        )
        assert self.exchange.own is not None
        self.relays = self.exchange.own
        web = aiohttp.web.Server(self._page)
        self.entry = Entry(DEPLOYMENT, PUBLIC, tunnel, lambda: web(), ConnectionLimits(), self.exchange)
        self.door = InnerDoor(self.entry, KEY, "east", lambda: self.epoch if self.serves else None)
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(self.entry.protocol, "127.0.0.1", 0, ssl=tls))
        self._servers.append(await loop.create_server(self.door.protocol, "127.0.0.1", 0))
        return self

    async def _page(self, _: aiohttp.web.BaseRequest) -> aiohttp.web.Response:
        return aiohttp.web.Response(text=self.name)

    @property
    def port(self) -> int:
        return int(self._servers[0].sockets[0].getsockname()[1])

    @property
    def inner_port(self) -> int:
        return int(self._servers[1].sockets[0].getsockname()[1])

    @property
    def as_owner(self) -> ClusterOwner:
        return ClusterOwner("east", self.name, self.epoch, f"127.0.0.1:{self.inner_port}")

    def stop_listening(self) -> None:
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        self.stop_listening()
        await self.exchange.close()
        for pipe in self.pipes:
            pipe.outlet.abort()


@dataclass
class Caller:
    """A client up to the end of the Noise handshake's bytes; after that anything goes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> bytes:
        """The server's half of the handshake."""
        async with asyncio.timeout(DEADLINE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            return await self.reader.readexactly(51)

    async def echo(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            assert await self.reader.readexactly(len(data)) == data

    async def ended(self) -> bytes:
        """What is left, once the connection is over."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def close(self) -> None:
        self.writer.transport.abort()


def upgrade(*headers: str) -> bytes:
    initiator = noise.Initiator(VERSION, X25519PrivateKey.generate(), PUBLIC, X25519PrivateKey.generate())
    handshake = base64.b64encode(initiator.message).decode()
    lines = [
        "POST /ts2021 HTTP/1.1",
        "Host: x",
        "Upgrade: tailscale-control-protocol",
        f"X-Tailscale-Handshake: {handshake}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


#: Turns of the loop that the other ends of connections need to close.
CLOSING_TURNS = 20
#: Closed after every test, whatever became of them.
_callers: list[Caller] = []


async def dial(port: int, data: bytes | None = None, tls: ssl.SSLContext | None = None) -> Caller:
    caller = Caller(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))
    _callers.append(caller)
    caller.writer.write(upgrade() if data is None else data)
    return caller


@pytest.fixture(autouse=True)
async def nobody_left() -> AsyncIterator[None]:
    """Closes what a test dialled. uvloop on older Pythons refuses to end with connections half closed."""
    yield
    while _callers:
        caller = _callers.pop()
        caller.close()
        with contextlib.suppress(OSError):
            async with asyncio.timeout(DEADLINE_S):
                await caller.writer.wait_closed()
    for _ in range(CLOSING_TURNS):
        await asyncio.sleep(0)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Node, Node]]:
    """An owner, and an entry that knows it."""
    owner, entry = await Node("owner", serves=True).open(), await Node("entry").open()
    entry.says = owner.as_owner
    await entry.relays.look()
    yield entry, owner
    for node in (entry, owner):
        await node.close()


async def relayed(entry: Node, owner: Node) -> tuple[Caller, Pipe]:
    caller = await dial(entry.port)
    await caller.answer()
    await until(lambda: entry.relays.flowing == 1, "it is relayed")
    return caller, owner.pipes[-1]


async def test_bytes_pass_both_ways_under_the_clients_address(pair: tuple[Node, Node]) -> None:
    entry, owner = pair
    caller, pipe = await relayed(entry, owner)
    await caller.echo(b"x" * 300_000)
    assert pipe.remote == "127.0.0.1"
    assert not entry.pipes
    assert entry.relays.pool.relayed_bytes >= 600_000
    assert entry.entry.limits.half_open == 0
    assert owner.door.hops == {"accepted": 1}
    caller.close()
    await until(lambda: pipe.lost and not entry.relays.flowing, "the owner sees the end")
    await until(lambda: not owner.entry.limits._open, "nothing is counted any more")


async def test_the_owner_counts_the_client_behind_proxy_and_entry(pair: tuple[Node, Node]) -> None:
    """The address the entry has found out is the one the owner logs and counts."""
    entry, owner = pair
    entry.entry.trusted_proxies = [ip_network("127.0.0.0/8")]
    caller = await dial(entry.port, upgrade("X-Forwarded-For: 203.0.113.9"))
    await caller.answer()
    assert owner.pipes[-1].remote == "203.0.113.9"
    assert owner.entry.limits._open == {"203.0.113.9": 1}
    # An owner does not look at such lines in what is relayed: the entry has.
    owner.entry.trusted_proxies = [ip_network("0.0.0.0/0")]
    caller.close()
    entry.entry.trusted_proxies = []
    caller = await dial(entry.port, upgrade("X-Forwarded-For: 203.0.113.9"))
    await caller.answer()
    assert owner.pipes[-1].remote == "127.0.0.1"
    caller.close()


async def test_the_end_of_either_side_ends_the_other(pair: tuple[Node, Node]) -> None:
    entry, owner = pair
    caller, pipe = await relayed(entry, owner)
    pipe.outlet.write(b"last words")
    pipe.outlet.close()
    assert await caller.ended() == b"last words"
    await until(lambda: not entry.relays.flowing, "nothing is left")


async def test_pages_are_answered_by_any_entry(pair: tuple[Node, Node]) -> None:
    entry, _ = pair
    caller = await dial(entry.port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"entry" in await caller.ended()


async def test_back_pressure_towards_a_client_that_does_not_read(pair: tuple[Node, Node]) -> None:
    """What the owner writes stays with the owner: entry and kernel hold a bounded part."""
    entry, owner = pair
    caller, pipe = await relayed(entry, owner)
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    chunk, written = b"y" * 65536, 0
    while not pipe.paused or written < 32 * 2**20:
        pipe.outlet.write(chunk)
        written += len(chunk)
        await asyncio.sleep(0)
        if written >= 64 * 2**20:
            break
    assert pipe.paused
    held = written - pipe.outlet.get_write_buffer_size()
    assert held < 24 * 2**20  # kernel buffers of two connections, and 64 KB in the entry
    (flow,) = entry.relays._flowing
    assert flow._transport.get_write_buffer_size() <= 2 * 256 * 1024
    caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(DEADLINE_S):
        assert len(await caller.reader.readexactly(written)) == written
    await until(lambda: not pipe.paused, "the owner writes again")
    caller.close()


async def test_back_pressure_towards_an_owner_that_does_not_read(pair: tuple[Node, Node]) -> None:
    entry, owner = pair
    caller, pipe = await relayed(entry, owner)
    pipe.outlet.pause_reading()  # type: ignore[attr-defined]
    written, chunk = 0, b"z" * 65536
    transport = caller.writer.transport
    while written < 64 * 2**20 and transport.get_write_buffer_size() < 16 * 2**20:
        transport.write(chunk)
        written += len(chunk)
        await asyncio.sleep(0)
    (flow,) = entry.relays._flowing
    assert flow._upstream is not None
    assert flow._upstream._transport is not None
    assert flow._upstream._transport.get_write_buffer_size() <= 2 * 256 * 1024
    assert pipe.got == 0
    pipe.outlet.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(DEADLINE_S):
        assert len(await caller.reader.readexactly(written)) == written
    caller.close()


async def test_back_pressure_under_tls(tmp_path: Path) -> None:
    """An entry ends TLS; the hop behind it is plain, and both sides slow each other down all the same."""
    made = load_or_create_certificate(tmp_path, ["127.0.0.1"], datetime.now(UTC))
    client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_tls.check_hostname = False
    client_tls.verify_mode = ssl.CERT_NONE
    owner, entry = await Node("owner", serves=True).open(), await Node("entry").open(server_context(made))
    entry.says = owner.as_owner
    await entry.relays.look()
    caller = await dial(entry.port, tls=client_tls)
    await caller.answer()
    await caller.echo(b"x" * 300_000)
    pipe = owner.pipes[-1]
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    chunk, written = b"y" * 65536, 0
    while written < 32 * 2**20:
        pipe.outlet.write(chunk)
        written += len(chunk)
        await asyncio.sleep(0)
    assert pipe.paused
    (flow,) = entry.relays._flowing
    assert flow._transport.get_write_buffer_size() <= 4 * 256 * 1024
    caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(DEADLINE_S):
        assert len(await caller.reader.readexactly(written)) == written
    caller.close()
    for node in (entry, owner):
        await node.close()


async def test_a_connection_waits_for_an_owner_that_starts_late() -> None:
    entry, owner = await Node("entry").open(), await Node("owner").open()
    caller = await dial(entry.port, upgrade() + b"early")
    await until(lambda: entry.relays.parked == 1, "it is parked")
    assert entry.entry.limits.half_open == 0  # parking has places of its own
    assert entry.relays.pool.parking.half_open == 1
    owner.serves = True
    entry.says = owner.as_owner
    entry.relays.heard("owner", 1)
    await caller.answer()
    async with asyncio.timeout(DEADLINE_S):
        assert await caller.reader.readexactly(5) == b"early"
    assert (entry.relays.parked, entry.relays.flowing) == (0, 1)
    assert entry.relays.pool.parking.half_open == 0
    caller.close()
    for node in (entry, owner):
        await node.close()


async def test_a_connection_waits_for_this_process_to_own() -> None:
    """What was parked is served here, with all it has sent, and has to prove itself in time."""
    node = await Node("entry").open()
    callers = [await dial(node.port, upgrade() + b"early") for _ in range(3)]
    await until(lambda: node.relays.parked == 3, "they are parked")
    callers[0].writer.write(b"+more")
    await asyncio.sleep(0)
    node.serves = True
    node.relays.changed()
    for caller in callers:
        await caller.answer()
    async with asyncio.timeout(DEADLINE_S):
        assert await callers[0].reader.readexactly(10) == b"early+more"
        assert await callers[1].reader.readexactly(5) == b"early"
    await callers[1].echo(b"and on")
    assert [pipe.remote for pipe in node.pipes] == ["127.0.0.1"] * 3
    for caller in callers:
        caller.close()
    await until(lambda: not node.entry.limits._open, "nothing is counted any more")
    await node.close()


async def test_what_was_parked_and_stays_silent_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    node = await Node("entry").open()
    caller = await dial(node.port)
    await until(lambda: node.relays.parked == 1, "it is parked")
    monkeypatch.setattr(listener_module, "HANDSHAKE_DEADLINE_S", 0.1)
    node.serves = True
    node.relays.changed()
    await caller.answer()
    assert await caller.ended() == b""
    assert node.pipes[0].lost
    await node.close()


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert relay_module.PARK_S == 8.0
    monkeypatch.setattr(relay_module, "PARK_S", 0.1)
    node = await Node("entry").open()
    caller = await dial(node.port)
    assert await caller.ended() == b""  # no refusal, only an end
    assert (node.relays.parked, node.relays.pool.given_up, node.relays.pool.parking.half_open) == (0, 1, 0)
    await node.close()


async def test_parking_has_places_and_the_oldest_gives_way() -> None:
    assert (relays_module.MAX_PARKED, relays_module.MAX_PARKED_PER_ADDRESS) == (16_384, 8_192)
    node = await Node("entry").open()
    node.relays.pool.parking = ConnectionLimits(half_open=3, half_open_per_address=2, per_address=10)
    first, second, third = [await dial(node.port) for _ in range(3)]
    assert await first.ended() == b""
    await until(lambda: node.relays.parked == 2, "two are parked")
    assert node.relays.pool.parking.displaced == 1
    for caller in (second, third):
        caller.close()
    await until(lambda: node.relays.parked == 0, "who leaves is forgotten")
    assert node.relays.pool.parking.half_open == 0
    await node.close()


async def test_early_bytes_are_bounded() -> None:
    node = await Node("entry").open()
    caller = await dial(node.port)
    await until(lambda: node.relays.parked == 1, "it is parked")
    (waiting,) = node.relays._parked
    sent = b"e" * (4 * 2**20)
    caller.writer.write(sent)
    await until(lambda: len(waiting._early) >= relay_module.MAX_EARLY_BYTES, "it is not read any more")
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(waiting._early) <= relay_module.MAX_EARLY_BYTES + 256 * 1024
    node.serves = True
    node.relays.changed()
    await caller.answer()
    async with asyncio.timeout(DEADLINE_S):
        assert await caller.reader.readexactly(len(sent)) == sent
    caller.close()
    await node.close()


async def test_a_deposed_owner_says_so_and_the_database_is_asked_once(pair: tuple[Node, Node]) -> None:
    entry, owner = pair
    successor = await Node("successor", serves=True, epoch=2).open()
    owner.serves = False
    entry.says = successor.as_owner
    asked = entry.asked
    caller = await dial(entry.port)
    await caller.answer()
    await caller.echo(b"at the right place")
    assert len(successor.pipes) == 1
    assert entry.asked == asked + 1
    assert owner.door.hops == {"not_owner": 1}
    caller.close()
    await successor.close()


async def test_relays_to_a_former_owner_end(pair: tuple[Node, Node]) -> None:
    """A frozen or hung owner would keep its clients for ever."""
    entry, owner = pair
    caller, pipe = await relayed(entry, owner)
    # No owner at all says nothing about the one that was: it may be handing back.
    entry.says = None
    entry.relays.heard("", 0)
    await until(lambda: entry.relays.owner is None, "the entry knows")
    await caller.echo(b"still served")
    successor = await Node("successor", serves=True, epoch=2).open()
    entry.says = successor.as_owner
    entry.relays.heard("successor", 2)
    assert await caller.ended() == b""
    await until(lambda: pipe.lost, "the former owner sees it leave")
    caller = await dial(entry.port)
    await caller.answer()
    assert len(successor.pipes) == 1
    # And when the entry itself takes over.
    entry.serves = True
    entry.relays.changed()
    assert await caller.ended() == b""
    caller = await dial(entry.port)
    await caller.answer()
    assert len(entry.pipes) == 1
    caller.close()
    await successor.close()


async def test_the_database_is_away_and_the_last_route_holds(pair: tuple[Node, Node]) -> None:
    entry, owner = pair
    entry.says = Unavailable("the cable is cut")
    await entry.relays.look()
    caller, _ = await relayed(entry, owner)
    await caller.echo(b"as before")
    caller.close()


async def test_a_database_that_hangs_is_not_waited_for(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, owner = pair
    monkeypatch.setattr(relays_module, "ASK_DEADLINE_S", 0.05)

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(entry.relays, "_ask", never)
    await entry.relays.look()
    assert entry.relays.owner == owner.as_owner


async def test_an_owner_that_is_gone_is_spared_and_found_again(pair: tuple[Node, Node]) -> None:
    entry, owner = pair
    owner.stop_listening()
    callers = [await dial(entry.port) for _ in range(4)]
    await until(lambda: entry.relays.parked == 4, "they wait")
    again = await Node("owner", serves=True).open()
    entry.says = again.as_owner
    for caller in callers:
        await caller.answer()
    assert len(again.pipes) == 4
    for caller in callers:
        caller.close()
    await again.close()


@pytest.mark.parametrize("answers", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"HSV!", b"HSV~"])
async def test_whatever_else_listens_there_takes_no_client(answers: bytes) -> None:
    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(answers)
        writer.close()

    server = await asyncio.start_server(stranger, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    entry = await Node("entry").open()
    entry.says = ClusterOwner("east", "stranger", 1, f"127.0.0.1:{port}")
    await entry.relays.look()
    caller = await dial(entry.port)
    await until(lambda: entry.relays.parked == 1, "it is parked")
    owner = await Node("owner", serves=True, epoch=2).open()
    entry.says = owner.as_owner
    entry.relays.heard("owner", 2)
    await caller.answer()
    caller.close()
    server.close()
    for node in (entry, owner):
        await node.close()


async def test_an_owner_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process still accepts: its kernel does."""
    assert relay_module.HOP_DEADLINE_S == 2.0
    monkeypatch.setattr(relay_module, "HOP_DEADLINE_S", 0.05)
    silent: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: silent.append(writer), "127.0.0.1", 0)
    entry = await Node("entry").open()
    entry.says = ClusterOwner("east", "hung", 1, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await entry.relays.look()
    caller = await dial(entry.port)
    await until(lambda: entry.relays.parked == 1, "it is parked")
    caller.close()
    await until(lambda: entry.relays.parked == 0, "it has left")
    server.close()
    for writer in silent:
        writer.transport.abort()
    await entry.close()


async def test_relays_are_bounded(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    assert relays_module.MAX_RELAYED == 30_000
    assert relays_module.MAX_DIALS == 256
    entry, owner = pair
    monkeypatch.setattr(relays_module, "MAX_RELAYED", 1)
    kept, _ = await relayed(entry, owner)
    over = await dial(entry.port)
    assert await over.ended() == b""
    await kept.echo(b"untouched")
    assert entry.relays.flowing == 1
    kept.close()


# -- the address for entries --------------------------------------------------------------------


def header(owner: Node, **changes: Any) -> bytes:
    facts: dict[str, Any] = {
        "client": "203.0.113.9",
        "client_port": 4711,
        "entry": "entry",
        "cluster_id": "east",
        "epoch": owner.epoch,
        "sent_at": time.time(),
        "nonce": b"n" * NONCE_SIZE,
    }
    return seal_hop(Hop(**(facts | changes)), KEY)


async def verdict_of(owner: Node, data: bytes) -> tuple[bytes, bytes]:
    caller = await dial(owner.inner_port, data)
    answer = await caller.ended()
    return answer[:VERDICT_SIZE], answer[VERDICT_SIZE:]


REFUSALS = {
    "forged": (lambda o: header(o)[:-1] + b"?", b"", "forged"),
    "another address": (lambda o: header(o).replace(b"\xcb\x00\x71\x09", b"\xcb\x00\x71\x0a"), b"", "forged"),
    "no header at all": (lambda o: upgrade(), b"", "forged"),
    "PROXY v2 of a load balancer": (
        lambda o: b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12),
        b"",
        "forged",
    ),
    "old": (lambda o: header(o, sent_at=time.time() - 31), Verdict.REFUSED.value, "refused"),
    "dated ahead": (lambda o: header(o, sent_at=time.time() + 31), Verdict.REFUSED.value, "refused"),
    "of another cluster": (lambda o: header(o, cluster_id="west"), Verdict.REFUSED.value, "refused"),
    "of another epoch": (lambda o: header(o, epoch=9), Verdict.NOT_OWNER.value, "not_owner"),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_headers_that_are_refused(pair: tuple[Node, Node], what: str) -> None:
    """Refused before a byte of the client's is read: no tunnel begins."""
    _, owner = pair
    make, answer, outcome = REFUSALS[what]
    assert await verdict_of(owner, make(owner) + upgrade()) == (answer, b"")
    assert owner.door.hops == {outcome: 1}
    assert not owner.pipes
    assert owner.door.pending.half_open == 0


async def test_a_header_serves_once(pair: tuple[Node, Node]) -> None:
    _, owner = pair
    data = header(owner) + upgrade()
    caller = await dial(owner.inner_port, data)
    async with asyncio.timeout(DEADLINE_S):
        assert await caller.reader.readexactly(VERDICT_SIZE) == Verdict.ACCEPTED.value
    await caller.answer()
    assert owner.pipes[-1].remote == "203.0.113.9"
    assert await verdict_of(owner, data) == (Verdict.REFUSED.value, b"")
    assert len(owner.pipes) == 1
    caller.close()


async def test_a_relayed_connection_is_never_relayed_again(pair: tuple[Node, Node]) -> None:
    """An entry's own door refuses, though it knows the owner; so two that point at each other end it."""
    entry, owner = pair
    assert await verdict_of(entry, header(entry) + upgrade()) == (Verdict.NOT_OWNER.value, b"")
    assert not owner.pipes
    # Deposed between the verdict and the client's first bytes: closed, not passed on.
    caller = await dial(owner.inner_port, header(owner))
    async with asyncio.timeout(DEADLINE_S):
        assert await caller.reader.readexactly(VERDICT_SIZE) == Verdict.ACCEPTED.value
    owner.serves = False
    owner.relays.owner = ClusterOwner("east", "third", 2, f"127.0.0.1:{entry.inner_port}")
    caller.writer.write(upgrade())
    assert await caller.ended() == b""
    assert (owner.relays.flowing, owner.relays.parked) == (0, 0)


async def test_only_tunnels_are_taken_from_entries(pair: tuple[Node, Node]) -> None:
    _, owner = pair
    answer, rest = await verdict_of(owner, header(owner) + b"GET /key HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer == Verdict.ACCEPTED.value
    assert b"entries relay tunnels only" in rest


async def test_an_unfinished_header_is_cut(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    assert (inner_module.HOP_HEADER_DEADLINE_S, MAX_PENDING_HOPS) == (5.0, 4096)
    monkeypatch.setattr(inner_module, "HOP_HEADER_DEADLINE_S", 0.1)
    _, owner = pair
    assert await verdict_of(owner, header(owner)[:40]) == (b"", b"")
    assert owner.door.pending.half_open == 0


async def test_a_flood_at_the_entries_address_displaces_itself(pair: tuple[Node, Node]) -> None:
    entry, owner = pair
    owner.door.pending = ConnectionLimits(half_open=4, half_open_per_address=4, per_address=8)
    flood = [await dial(owner.inner_port, b"\r\n") for _ in range(6)]
    await until(lambda: owner.door.pending.displaced == 2, "the oldest give way")
    caller, _ = await relayed(entry, owner)
    await caller.echo(b"in spite of it")
    for one in (*flood, caller):
        one.close()


async def test_a_whole_fleet_waits_and_comes_in() -> None:
    """Many parked at once are released in slices, each once."""
    node = await Node("entry").open()
    async with contextlib.AsyncExitStack() as stack:
        callers = [await dial(node.port) for _ in range(150)]
        for caller in callers:
            stack.callback(caller.close)
        await until(lambda: node.relays.parked == 150, "all wait")
        node.serves = True
        node.relays.changed()
        for caller in callers:
            await caller.answer()
        assert len(node.pipes) == 150
        assert node.relays.parked == 0
    await node.close()
