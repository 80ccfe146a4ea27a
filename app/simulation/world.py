"""What the devices of one simulation share, and what is counted when one of them receives something."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client.connection import ControlConnection
from app.client.requests import CAPVER
from app.client.serverkey import fetch_server_key
from app.errors import HsError, Refused, RemoteProtocolError
from app.keys import NodeKey
from app.simulation import markers
from app.simulation.mapcheck import Digest, Digester, Ids, MapCheck
from app.simulation.markers import Ledger
from app.simulation.scenario import Spec
from app.simulation.stats import Tally

#: Devices that connect or come back at the same time; the others wait for their turn.
CONNECTING_AT_ONCE: Final = 256
#: Deadlines of single waits. Longer than a client's: what a server under load does shall be measured.
OPEN_DEADLINE_S: Final = 30.0
ANSWER_DEADLINE_S: Final = 60.0
FIRST_MAP_DEADLINE_S: Final = 60.0

now_s = time.monotonic


class World:
    """Counters, clock and limits of one run; used by one event loop."""

    #: What tunnels are made of; benchmarks listen without opening what they receive.
    connection_class: type[ControlConnection] = ControlConnection

    def __init__(self, devices: int, spawn: Callable[[Coroutine[Any, Any, None], str], None]) -> None:
        self.tally = Tally()
        self.ledger = Ledger(devices)
        self.digest = Digester()
        self.ids = Ids()
        self.spawn = spawn
        self.connecting = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self.here: Counter[int] = Counter()
        self._marker = int.from_bytes(os.urandom(6), "big") % markers.MARKERS
        self._server_keys: dict[str, bytes] = {}

    @property
    def storms(self) -> int:
        """How many times all connections were cut on this side."""
        return self.tally.actions["storm"]

    async def server_key(self, url: str) -> bytes:
        """The server's Noise key, asked for once. Raises Unavailable."""
        if url not in self._server_keys:
            self._server_keys[url] = await fetch_server_key(url, CAPVER, deadline_s=OPEN_DEADLINE_S)
        return self._server_keys[url]

    async def connection(self, url: str, machine_private: X25519PrivateKey) -> ControlConnection:
        """A new tunnel. Raises Unavailable or RemoteProtocolError."""
        return await self.connection_class.open(
            url,
            machine_private=machine_private,
            capver=CAPVER,
            server_key=await self.server_key(url),
            deadline_s=OPEN_DEADLINE_S,
        )

    def next_marker(self) -> int:
        """A number that no other change of this run has; others of other processes are far away."""
        self._marker = (self._marker + 1) % markers.MARKERS
        return self._marker

    def take(
        self, device: Device, check: MapCheck, message: Digest, size_bytes: int, at_s: float
    ) -> list[str]:
        """Count a message and look at it; what is wrong with it. Raises as MapCheck.apply."""
        if message.keepalive:
            kind = "keepalive"
        elif not check.messages:
            kind = "first"
        else:
            kind = "full" if message.peers else "delta"
        self.tally.frame(kind, size_bytes)
        notes = check.apply(message)
        if kind == "delta":
            for number in message.markers:
                if (elapsed_s := self.ledger.receive(number, device.index, at_s)) is not None:
                    self.tally.propagation.add(elapsed_s)
        return notes


class Device(ABC):
    """What both kinds of devices have in common: who they are, and whether they are here."""

    __slots__ = (
        "_telling",
        "busy",
        "dropped",
        "here",
        "index",
        "lost_s",
        "marker",
        "reported",
        "spec",
        "wanted",
        "world",
    )

    def __init__(self, world: World, spec: Spec, index: int) -> None:
        self.world = world
        self.spec = spec
        self.index = index
        #: Shall it be connected, apart from what goes wrong?
        self.wanted = False
        #: Has it received the first map of its present poll?
        self.here = False
        self.busy = False
        #: The connection was cut on this side.
        self.dropped = False
        self.lost_s = 0.0
        #: Its newest endpoints, and those that the server acknowledged.
        self.marker = world.next_marker()
        self.reported = self.marker
        self._telling = False

    @property
    @abstractmethod
    def node_key(self) -> NodeKey:
        """By which others know it."""

    @abstractmethod
    async def enter(self) -> None:
        """Register, poll, and wait for the first map.

        Raises Refused for a sentence of the server, Unavailable, RemoteProtocolError. May be repeated.
        """

    @abstractmethod
    async def send_endpoints(self, number: int) -> None:
        """Tell the server endpoints with this marker. Raises Unavailable."""

    @abstractmethod
    async def come_back(self) -> None:
        """Poll again after `go_away`, with the keys it has. Raises as `enter`."""

    @abstractmethod
    async def go_away(self) -> None:
        """Close the connection; nothing is said to the server."""

    @abstractmethod
    async def leave(self) -> None:
        """Log out and close. Raises Unavailable."""

    @abstractmethod
    def drop(self) -> None:
        """Lose the connection; the device comes back by itself."""

    async def report(self) -> None:
        """New endpoints, measured: until the server says so, and until others hear of it."""
        number = self.world.next_marker()
        viewers = self.world.here[self.spec.tenant] - 1
        before, self.marker = self.marker, number
        storms = self.world.storms
        started_s = now_s()
        self.world.ledger.send(number, viewers, started_s, before)
        try:
            await self.send_endpoints(number)
        except HsError as error:
            self.world.ledger.withdraw(number, viewers)
            self.failed("endpoints not taken", error, storms)
            self._catch_up()
            return
        self.reported = number
        self.world.tally.updates.add(now_s() - started_s)

    def arrived(self) -> None:
        """The first map of a poll is here."""
        if not self.here:
            self.here = True
            self.world.here[self.spec.tenant] += 1
            self._catch_up()
        if self.lost_s:
            self.world.tally.returns.add(now_s() - self.lost_s)
            self.lost_s = 0.0

    def _catch_up(self) -> None:
        """Say again what an update did not bring through: of a poll a server need not take endpoints."""
        if self.here and self.reported != self.marker and not self._telling:
            self._telling = True
            self.world.spawn(self._tell_again(), f"endpoints again[{self.spec.hostname}]")

    async def _tell_again(self) -> None:
        number, storms = self.marker, self.world.storms
        try:
            await self.send_endpoints(number)
            self.reported = number
        except HsError as error:
            self.failed("endpoints not taken", error, storms)
        finally:
            self._telling = False

    def gone(self, reason: HsError | None, *, lost: bool) -> None:
        """The poll is over; `lost` when nobody wanted that."""
        if self.here:
            self.here = False
            self.world.here[self.spec.tenant] -= 1
        if lost:
            self.world.tally.lost += 1
            self.lost_s = self.lost_s or now_s()
            if not self.dropped:
                text = "the server ended the poll" if reason is None else reason.message
                self.world.tally.errors.add(f"connection lost: {text}")
        self.dropped = False

    def violated(self, text: str) -> None:
        """The server broke a rule towards this device."""
        self.world.tally.violation(self.spec.hostname, text)

    def failed(self, what: str, error: HsError, storms: int | None = None) -> None:
        """Something did not work; a broken protocol is the server's violation.

        `storms` when it began: a connection that a storm cut in between is nobody's fault.
        """
        if storms in (None, self.world.storms):
            self.world.tally.errors.add(f"{what}: {error.message}")
        if isinstance(error, RemoteProtocolError):
            self.violated(error.message)


def check_answer(answer: dict[str, Any]) -> None:
    """Raises Refused unless a registration was accepted."""
    if answer.get("Error"):
        raise Refused(str(answer["Error"]))
    if answer.get("AuthURL"):
        raise Refused("it wants a login in a browser instead of the auth key", code="login_wanted")
    if answer.get("NodeKeyExpired"):
        raise Refused("it says that the node key has expired")


def key_of(spec: Spec, what: str) -> bytes:
    """32 bytes of a private key: the same in every run for a device with a seed."""
    return hashlib.sha256(f"{what}/{spec.seed}".encode()).digest() if spec.seed else os.urandom(32)
