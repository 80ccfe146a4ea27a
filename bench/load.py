"""Devices for figures of single steps: one joins, one changes, everybody hears of it.

A Member is a thin device of app.simulation, moved by hand. With `listen_only` it does not even open
records, so that on few cores the load does not take the CPU that the server is measured on.
A few strict SimulatedDevices run beside (`witnesses`) and check that what arrives is right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from app.client.connection import ControlConnection
from app.client.device import SimulatedDevice
from app.compression import compress
from app.errors import RemoteProtocolError
from app.keys import disco_key_text, node_key_text
from app.simulation.scenario import Spec
from app.simulation.thin import ThinDevice
from app.simulation.world import World
from app.wire import mapstream
from bench.system import Target

CONNECT_CALLERS = 16
DEADLINE_S = 60.0
#: Length, zstd frame, HTTP/2 head, AEAD tag, Noise head: anything up to this is no delta.
KEEPALIVE_WIRE_BYTES = len(mapstream.frame(compress(mapstream.KEEPALIVE))) + 9 + 16 + 3


class Sink:
    """Counts what arrives at a whole fleet, chunk by chunk."""

    def __init__(self) -> None:
        self.chunks = 0
        self.bytes = 0
        self._expected = 0
        self._last_s = 0.0
        self._done: asyncio.Future[float] | None = None

    def expect(self, chunks: int) -> asyncio.Future[float]:
        """Becomes the time (time.monotonic) at which that many chunks have arrived from now on."""
        self.chunks = self.bytes = 0
        self._expected = chunks
        self._done = asyncio.get_running_loop().create_future()
        return self._done

    def arrived(self, size: int) -> None:
        if size <= KEEPALIVE_WIRE_BYTES:
            return
        self.chunks += 1
        self.bytes += size
        if self.chunks == self._expected and self._done is not None and not self._done.done():
            self._done.set_result(time.monotonic())


class FleetConnection(ControlConnection):
    """A tunnel that can stop opening what it receives. It cannot send or be read after that."""

    sink: Sink | None = None

    def data_received(self, data: bytes) -> None:
        if self.sink is None:
            super().data_received(data)
        else:
            self.sink.arrived(len(data))


class FleetWorld(World):
    """Of devices that nobody leads: what they lose stays lost."""

    connection_class = FleetConnection

    def __init__(self, target: Target) -> None:
        super().__init__(1, _no_task)
        self._server_keys[target.url] = target.server_key


def _no_task(work: Coroutine[Any, Any, None], name: str) -> None:
    work.close()
    raise RuntimeError(f"{name}: members of a benchmark do not come back by themselves")


class Member(ThinDevice):
    """One thin device of a fleet, moved by hand, that says as much of itself as a client does."""

    __slots__ = ()

    def __init__(self, target: Target, name: str) -> None:
        spec = Spec(target.url, name, target.auth_key, usual=tuple(endpoints(0)[1:]))
        super().__init__(FleetWorld(target), spec, 0)

    def hostinfo(self) -> dict[str, Any]:
        return {
            **super().hostinfo(),
            "OSVersion": "6.1.0-18-amd64",
            "GoArch": "amd64",
            "Services": [{"Proto": "peerapi4", "Port": 41234}, {"Proto": "peerapi6", "Port": 41234}],
            "NetInfo": {"PreferredDERP": 900, "WorkingUDP": True},
        }

    def at(self, target: Target) -> Member:
        """The same device by another way; this one is cut."""
        self.abort()
        other = Member(target, self.spec.hostname)
        other._machine, other._node_key, other._disco_key = self._machine, self._node_key, self._disco_key
        other._registered = self._registered
        return other

    @property
    def keys(self) -> dict[str, str]:
        """What a map request names it by."""
        return {"NodeKey": node_key_text(self._node_key), "DiscoKey": disco_key_text(self._disco_key)}

    async def listen_only(self, sink: Sink) -> None:
        connection = await self.connect()
        assert isinstance(connection, FleetConnection)
        connection.sink = sink


def endpoints(salt: int) -> list[str]:
    """Eight endpoints as a typical client has them; another salt gives others."""
    port = 10_000 + salt % 50_000
    v4 = [f"192.168.{number}.17:{port}" for number in range(5)]
    return [*v4, f"[2001:db8:1:2::17]:{port}", f"[2001:db8:1:3::17]:{port}", f"203.0.113.9:{port}"]


async def each(members: Sequence[Any], work: Any, callers: int = CONNECT_CALLERS) -> None:
    """`await work(member)` for all, by so many callers at a time."""
    line = iter(members)

    async def caller() -> None:
        for member in line:
            await work(member)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())


async def registered(target: Target, count: int, prefix: str) -> list[Member]:
    """New devices, known to the server, not connected."""
    members = [Member(target, f"{prefix}{number}") for number in range(count)]

    async def register(member: Member) -> None:
        await member.register()
        member.abort()

    await each(members, register)
    return members


async def connected(members: Sequence[Member], sink: Sink) -> None:
    """Start every member's poll; from its first map on it only counts chunks."""

    async def join(member: Member) -> None:
        await member.poll()
        await member.listen_only(sink)

    await each(members, join)


async def quiet(sink: Sink, seconds: float = 1.0) -> None:
    """Until nothing has arrived anywhere for so long."""
    before = -1
    async with asyncio.timeout(DEADLINE_S):
        while before != sink.chunks:
            before = sink.chunks
            await asyncio.sleep(seconds)


@asynccontextmanager
async def witnesses(target: Target, count: int) -> AsyncIterator[list[SimulatedDevice]]:
    """Strict devices that poll. Raises RemoteProtocolError at the end when the server did anything wrong."""
    devices = [
        SimulatedDevice(
            target.url, hostname=f"witness{number}", auth_key=target.auth_key, server_key=target.server_key
        )
        for number in range(count)
    ]
    try:
        for device in devices:
            await device.register()
            await device.poll()
            await device.wait_for(lambda netmap: netmap.messages > 0, DEADLINE_S)
        yield devices
        for device in devices:
            if device.violations or device.failures:
                raise RemoteProtocolError(f"{device}: {device.violations[:3]} {list(device.failures)[:3]}")
    finally:
        for device in devices:
            await device.close()
