"""A device that checks order and ids of what it receives and keeps none of it.

No task and no timer while it is connected: what arrives is looked at where it arrives.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client import requests
from app.client.connection import ControlConnection
from app.client.device import WATCHDOG_S, backoff_s
from app.client.mapblob import decode_object
from app.client.streams import PushedStream
from app.errors import HsError, RemoteProtocolError, Unavailable
from app.keys import DiscoKey, NodeKey
from app.simulation import markers
from app.simulation.mapcheck import MapCheck
from app.simulation.scenario import Spec
from app.simulation.world import (
    ANSWER_DEADLINE_S,
    FIRST_MAP_DEADLINE_S,
    Device,
    World,
    check_answer,
    key_of,
    now_s,
)
from app.wire import mapstream

#: Connections on which a registration is tried; a server may end one to lead the device elsewhere.
REGISTER_ATTEMPTS = 4


class _Poll:
    """One map poll; a consumer of its stream."""

    __slots__ = ("_device", "_reader", "arrived_s", "check", "first", "stream")

    def __init__(self, device: ThinDevice) -> None:
        self._device = device
        self._reader = mapstream.Reader()
        self.check = MapCheck(device.world.ids)
        self.arrived_s = now_s()
        self.first: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        self.stream: PushedStream | None = None

    def on_head(self, status: int) -> None:
        if status != 200:
            self._settle(Unavailable(f"the map poll is answered with {status}", code="poll_refused"))

    def on_data(self, data: bytes) -> None:
        device, world = self._device, self._device.world
        at_s = self.arrived_s = now_s()
        for blob in self._reader.feed(data):
            size_bytes = mapstream.HEAD_SIZE + len(blob)
            for text in world.take(device, self.check, world.digest(blob), size_bytes, at_s):
                device.violated(text)
            if self.first is not None:
                self._settle(None)

    def on_end(self, error: HsError | None) -> None:
        if error is None and self._reader.pending_bytes:
            error = RemoteProtocolError("the map poll ended inside a message")
        if self.first is not None:
            self._settle(error or Unavailable("the map poll ended before its first message"))
        else:
            self._device.poll_ended(self, error)

    def _settle(self, error: HsError | None) -> None:
        """The first map is here, or will not come."""
        first, self.first = self.first, None
        if first is None or first.done():
            return
        if error is None:
            first.set_result(None)
            self._device.arrived()
        else:
            first.set_exception(error)


class ThinDevice(Device):
    """Connected it costs one connection and a bit for each peer."""

    __slots__ = ("_connection", "_disco_key", "_machine", "_node_key", "_poll", "_registered")

    def __init__(self, world: World, spec: Spec, index: int) -> None:
        super().__init__(world, spec, index)
        self._machine = key_of(spec, "machine")
        # Nothing proves that it has the private halves of these.
        self._node_key = NodeKey(key_of(spec, "node"))
        self._disco_key = DiscoKey(key_of(spec, "disco"))
        self._connection: ControlConnection | None = None
        self._poll: _Poll | None = None
        self._registered = False

    @property
    def node_key(self) -> NodeKey:
        return self._node_key

    @property
    def peers(self) -> int:
        """How many peers the present poll has named."""
        return 0 if self._poll is None else self._poll.check.peers

    def hostinfo(self) -> dict[str, Any]:
        """What it says of itself."""
        return requests.hostinfo(self.spec.hostname, self.spec.os)

    async def enter(self) -> None:
        self.wanted = True
        if not self._registered:
            await self.register()
        await self.poll()

    async def register(self) -> None:
        """Raises as `enter`."""
        check_answer(await self._register())
        self._registered = True

    async def poll(self) -> None:
        """Start the map poll and wait for its first message. Raises as `enter`."""
        connection = await self.connect()
        poll = self._poll = _Poll(self)
        assert poll.first is not None  # until the first message
        first = poll.first
        poll.stream = connection.push(
            requests.MAP_PATH, self._map_request(stream=True, marker=self.marker), poll
        )
        try:
            async with asyncio.timeout(FIRST_MAP_DEADLINE_S):
                await first
        except TimeoutError as error:
            self._end_poll()
            raise Unavailable(f"no map within {FIRST_MAP_DEADLINE_S:g} s", code="deadline") from error
        except HsError as error:
            self._end_poll()
            if error.code == "poll_refused":
                self._registered = False
            raise

    async def come_back(self) -> None:
        self.wanted = True
        self.lost_s = now_s()
        await self.enter()

    async def send_endpoints(self, number: int) -> None:
        connection = await self.connect()
        body = self._map_request(stream=False, marker=number)
        status, _ = await connection.request(requests.MAP_PATH, body, deadline_s=ANSWER_DEADLINE_S)
        if status != 200:
            raise Unavailable(f"the update is answered with {status}", code="status")

    async def go_away(self) -> None:
        self.wanted = False
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        self._end_poll()

    async def leave(self) -> None:
        self.wanted = False
        self._end_poll()
        try:
            await self._register(Expiry=requests.LOGOUT_EXPIRY)
        finally:
            self.abort()

    def drop(self) -> None:
        self.dropped = True
        if self._connection is not None:
            self._connection.abort()

    def abort(self) -> None:
        """Drop the connection for good."""
        self.wanted = False
        self.drop()
        self._connection = None
        self._end_poll()

    def check_alive(self, at_s: float) -> None:
        """Gives a poll up that was silent for longer than a client waits."""
        if self.here and self._poll is not None and at_s - self._poll.arrived_s > WATCHDOG_S:
            self.failed("watchdog", Unavailable(f"the map poll was silent for {WATCHDOG_S:g} s"))
            self.drop()

    def poll_ended(self, poll: _Poll, error: HsError | None) -> None:
        """A poll that had its first map is over."""
        if poll is not self._poll:
            return
        self._poll = None
        if isinstance(error, RemoteProtocolError):
            self.violated(error.message)
        self.gone(error, lost=self.wanted)
        if self.wanted:
            self.keep_returning()

    def keep_returning(self) -> None:
        """Try to come back, again and again."""
        self.world.spawn(self._return(), f"return[{self.spec.hostname}]")

    async def _return(self) -> None:
        attempt = 0
        while self.wanted and not self.here:
            attempt += 1
            await asyncio.sleep(backoff_s(attempt))
            try:
                async with self.world.connecting:
                    if self.wanted and not self.here:
                        await self.enter()
            except HsError as error:
                self.failed("coming back", error)

    def _end_poll(self) -> None:
        """Whoever waits for its first map has been told."""
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.first = None
            if poll.stream is not None:
                poll.stream.cancel()
        self.gone(None, lost=False)

    async def _register(self, **overrides: Any) -> dict[str, Any]:
        body = requests.register(
            self._node_key,
            self.hostinfo(),
            auth_key=self.spec.auth_key,
            ephemeral=self.spec.ephemeral,
        )
        data = orjson.dumps(body | overrides)
        for attempt in range(1, REGISTER_ATTEMPTS + 1):
            try:
                connection = await self.connect()
                status, answer = await connection.request(
                    requests.REGISTER_PATH, data, deadline_s=ANSWER_DEADLINE_S
                )
                break
            except Unavailable as error:
                # An entry that leads a device to its cluster closes without an answer; clients come again.
                if error.code != "connection_lost" or attempt == REGISTER_ATTEMPTS:
                    raise
                await asyncio.sleep(backoff_s(attempt))
        if status != 200:
            raise Unavailable(f"the registration is answered with {status}", code="status")
        return decode_object(answer, requests.REGISTER_PATH)

    def _map_request(self, *, stream: bool, marker: int) -> bytes:
        return orjson.dumps(
            requests.map_poll(
                self._node_key,
                self._disco_key,
                self.hostinfo(),
                stream=stream,
                endpoints=markers.endpoints(marker, self.spec.usual),
            )
        )

    async def connect(self) -> ControlConnection:
        """The tunnel for new requests, opened when there is none. Raises as `enter`."""
        if self._connection is None or not self._connection.is_usable:
            # OpenSSL's objects are larger than the bytes they are made of.
            private = X25519PrivateKey.from_private_bytes(self._machine)
            self._connection = await self.world.connection(self.spec.url, private)
        return self._connection
