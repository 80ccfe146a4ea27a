"""Devices as the server sees them, without what only a device needs.

A SimulatedDevice keeps a netmap; 2,000 of them with 2,000 peers each need 10 GB. A Member speaks the same
protocol over the same codecs, but forgets what it receives. With `listen_only` it does not even
open records, so that on few cores the load does not take the CPU that the server is measured on.
A few strict SimulatedDevices run beside (`witnesses`) and check that what arrives is right.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client.connection import ControlConnection
from app.client.device import SimulatedDevice
from app.client.mapblob import decode_blob, decode_object
from app.compression import compress
from app.errors import RemoteProtocolError
from app.keys import ZERO_KEY, DiscoKey, NodeKey, disco_key_text, node_key_text
from app.wire import mapstream
from bench.system import Target

CAPVER = 130
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


class Member:
    """One device of a fleet."""

    def __init__(self, target: Target, name: str) -> None:
        self._target = target
        self._machine = X25519PrivateKey.generate()
        self._node_key = NodeKey(os.urandom(32))
        self._disco_key = DiscoKey(os.urandom(32))
        self._hostinfo = {
            "IPNVersion": "1.90.9-t0123456789",
            "BackendLogID": "0" * 64,
            "OS": "linux",
            "OSVersion": "6.1.0-18-amd64",
            "Hostname": name,
            "GoArch": "amd64",
            "Services": [{"Proto": "peerapi4", "Port": 41234}, {"Proto": "peerapi6", "Port": 41234}],
            "NetInfo": {"PreferredDERP": 900, "WorkingUDP": True},
        }
        self.connection: FleetConnection | None = None

    async def connect(self) -> FleetConnection:
        opened = await FleetConnection.open(
            self._target.url,
            machine_private=self._machine,
            capver=CAPVER,
            server_key=self._target.server_key,
            deadline_s=DEADLINE_S,
        )
        assert isinstance(opened, FleetConnection)
        self.connection = opened
        return opened

    async def register(self) -> None:
        """Raises RemoteProtocolError on a refusal."""
        body = {
            "Version": CAPVER,
            "NodeKey": node_key_text(self._node_key),
            "OldNodeKey": node_key_text(ZERO_KEY),
            "Auth": {"AuthKey": self._target.auth_key},
            "Hostinfo": self._hostinfo,
        }
        connection = self.connection or await self.connect()
        status, answer = await connection.request(
            "/machine/register", orjson.dumps(body), deadline_s=DEADLINE_S
        )
        if status != 200 or decode_object(answer, "the answer")["Error"]:
            raise RemoteProtocolError(f"registration is answered with {status} {answer!r}")

    async def poll(self) -> bytes:
        """Start the map stream; returns the first message as it came, compressed."""
        body = {
            "Version": CAPVER,
            "KeepAlive": True,
            "Compress": "zstd",
            "NodeKey": node_key_text(self._node_key),
            "DiscoKey": disco_key_text(self._disco_key),
            "Stream": True,
            "Hostinfo": self._hostinfo,
            "Endpoints": endpoints(0),
            "EndpointTypes": [1] * len(endpoints(0)),
        }
        connection = self.connection or await self.connect()
        stream = connection.stream("/machine/map", orjson.dumps(body))
        reader = mapstream.Reader()
        async with asyncio.timeout(DEADLINE_S):
            if (status := await stream.status()) != 200:
                raise RemoteProtocolError(f"the poll is answered with {status}")
            async for chunk in stream:
                if messages := reader.feed(chunk):
                    return messages[0]
        raise RemoteProtocolError("the poll ended before its first message")

    def listen_only(self, sink: Sink) -> None:
        assert self.connection is not None
        self.connection.sink = sink

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.abort()
            self.connection = None


def endpoints(salt: int) -> list[str]:
    """Eight endpoints as a typical client has them; another salt gives others."""
    port = 10_000 + salt % 50_000
    v4 = [f"192.168.{number}.17:{port}" for number in range(5)]
    return [*v4, f"[2001:db8:1:2::17]:{port}", f"[2001:db8:1:3::17]:{port}", f"203.0.113.9:{port}"]


def peers_of(message: bytes) -> int:
    return len(decode_blob(message, zstd=True).get("Peers") or ())


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
        member.drop()

    await each(members, register)
    return members


async def connected(members: Sequence[Member], sink: Sink) -> None:
    """Start every member's poll; from its first map on it only counts chunks."""

    async def join(member: Member) -> None:
        await member.poll()
        member.listen_only(sink)

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
