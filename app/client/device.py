"""One simulated Tailscale device: registers, polls, reports, rotates, logs out.

It behaves as a Go client towards the server (order of calls, watchdog, back-off), keeps no
WireGuard and no DERP, and costs one connection and one task while it polls.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import ssl as tls
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import orjson
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client import requests
from app.client.connection import OPEN_DEADLINE_S, REQUEST_DEADLINE_S, ControlConnection
from app.client.mapblob import decode_blob, decode_object
from app.client.netmap import MAX_VIOLATIONS, ClientNetmap
from app.client.serverkey import fetch_server_key
from app.client.streams import ResponseStream
from app.errors import HsError, LocalProtocolError, RemoteProtocolError, Unavailable
from app.keys import DiscoKey, MachineKey, NodeKey, node_key_text
from app.wire import mapstream

#: A Go client cancels a poll that is silent this long (controlclient/direct.go watchdogTimeout).
WATCHDOG_S: Final = 120.0
#: Back-off between attempts: n squared times the step, halved to one and a half times, capped.
BACKOFF_STEP_S: Final = 0.01
MAX_BACKOFF_S: Final = 30.0
#: Messages and failures remembered per device; older ones are forgotten.
MAX_RECORDED_MESSAGES: Final = 4096
MAX_RECORDED_FAILURES: Final = 64


@dataclass(frozen=True, slots=True)
class Message:
    """One received map message: size on the wire, arrival by time.monotonic, and what it was."""

    kind: str  # full, delta or keepalive
    size_bytes: int
    arrived_s: float


class Watcher(Protocol):
    """Who wants to know what a device's polls meet."""

    def on_message(self, message: Message, blob: bytes) -> None:
        """It was applied to the netmap, or failed to."""

    def on_poll_end(self, error: HsError | None) -> None:
        """The poll ended, for this reason; another follows."""


class SimulatedDevice:
    """A device of its own keys. Made and used in one event loop; `close` it."""

    def __init__(
        self,
        url: str,
        *,
        hostname: str,
        auth_key: str | None = None,
        machine_private: X25519PrivateKey | None = None,
        node_private: X25519PrivateKey | None = None,
        disco: bytes | None = None,
        compress: str = "zstd",
        capver: int = requests.CAPVER,
        ephemeral: bool = False,
        os: str = "linux",
        server_key: bytes | None = None,
        websocket: bool = False,
        host_header: str | None = None,
        ssl: tls.SSLContext | None = None,
        strict: bool = True,
        watchdog_s: float = WATCHDOG_S,
        open_deadline_s: float = OPEN_DEADLINE_S,
        watcher: Watcher | None = None,
    ) -> None:
        """`disco` is the public key. With `strict=False` map rows are not checked (load)."""
        self.url = url
        self.hostname = hostname
        self.auth_key = auth_key
        self.machine_private = machine_private or X25519PrivateKey.generate()
        self.node_private = node_private or X25519PrivateKey.generate()
        self.node_key = _public_node(self.node_private)
        self.disco_key = DiscoKey(disco or X25519PrivateKey.generate().public_key().public_bytes_raw())
        self.capver = capver
        self.ephemeral = ephemeral
        self.server_key = server_key
        self.endpoints: tuple[str, ...] = ()
        self.hostinfo: dict[str, Any] = requests.hostinfo(hostname, os)
        self.netmap = ClientNetmap(strict=strict)
        self.messages: deque[Message] = deque(maxlen=MAX_RECORDED_MESSAGES)
        self.failures: deque[HsError] = deque(maxlen=MAX_RECORDED_FAILURES)
        self.polls = 0
        self.login_urls: list[str] = []
        self._old_violations: list[str] = []
        self._zstd = compress == "zstd"
        self._websocket = websocket
        self._host_header = host_header
        self._ssl = ssl
        self._strict = strict
        self._watchdog_s = watchdog_s
        self._open_deadline_s = open_deadline_s
        self._watcher = watcher
        self._connection: ControlConnection | None = None
        self._connecting = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._poll_task: asyncio.Task[None] | None = None
        self._last_ping_url = ""
        self._received = 0

    @property
    def machine_key(self) -> MachineKey:
        return MachineKey(self.machine_private.public_key().public_bytes_raw())

    @property
    def violations(self) -> list[str]:
        """What the server did wrong in all polls so far."""
        return [*self._old_violations, *self.netmap.violations]

    @property
    def is_polling(self) -> bool:
        return self._poll_task is not None and not self._poll_task.done()

    # ----------------------------------------------------------------------------------- calls

    async def register(self, **overrides: Any) -> dict[str, Any]:
        """POST /machine/register; `overrides` replace members of the RegisterRequest.

        Repeats on a fresh connection when the server hangs up without answering, as it does to
        route the device elsewhere. Raises Unavailable when REQUEST_DEADLINE_S passes or the
        status is not 200. Refusals are in the returned `Error`, `AuthURL`, `NodeKeyExpired`.
        """
        return await self._register(overrides, REQUEST_DEADLINE_S)

    async def _register(self, overrides: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        body = requests.register(
            self.node_key,
            self.hostinfo,
            auth_key=self.auth_key,
            ephemeral=self.ephemeral,
            capver=self.capver,
        )
        answer = await self._call(requests.REGISTER_PATH, body | overrides, deadline_s)
        return decode_object(answer, requests.REGISTER_PATH)

    async def login(self, deadline_s: float, *, fresh_key: bool = False) -> dict[str, Any]:
        """Log in without a key: take each URL shown into `login_urls`, wait there for the decision.

        `fresh_key` logs in anew with another node key; poll and old key go on until that is let in
        (controlclient/auto.go authRoutine). Returns the answer without URL, and polls again with
        the new key if polling before. Raises like `register`, for `deadline_s` in all.
        """
        end_s = time.monotonic() + deadline_s
        private = X25519PrivateKey.generate() if fresh_key else self.node_private
        keys: dict[str, Any] = {"NodeKey": node_key_text(_public_node(private))}
        if fresh_key:
            keys["OldNodeKey"] = node_key_text(self.node_key)
        answer = await self.register(**keys)
        for attempt in itertools.count(1):
            url = answer.get("AuthURL")
            if not url:
                break
            if attempt > 1 and self.login_urls[-1] == url:
                await asyncio.sleep(backoff_s(attempt))
            else:
                self.login_urls.append(url)
                await self._notify()
            try:
                left_s = max(0.0, end_s - time.monotonic())
                answer = await self._register({**keys, "Followup": url}, left_s)
            except Unavailable as error:
                if time.monotonic() + backoff_s(attempt) >= end_s:
                    raise
                self.failures.append(error)
        if fresh_key and not (answer.get("Error") or answer.get("NodeKeyExpired")):
            await self._adopt(private)
        return answer

    async def update(
        self,
        *,
        endpoints: Sequence[str] | None = None,
        home_derp: int | None = None,
        hostinfo: dict[str, Any] | None = None,
        disco: bytes | None = None,
    ) -> None:
        """Lite update: tell the server what changed here. Raises like `register`."""
        if endpoints is not None:
            self.endpoints = tuple(endpoints)
        if hostinfo is not None:
            self.hostinfo = {**self.hostinfo, **hostinfo}
        if home_derp is not None:
            net_info = {**self.hostinfo.get("NetInfo", {}), "PreferredDERP": home_derp}
            self.hostinfo = {**self.hostinfo, "NetInfo": net_info}
        if disco is not None:
            self.disco_key = DiscoKey(disco)
        await self._call(requests.MAP_PATH, self._map_request(stream=False))

    async def logout(self) -> dict[str, Any]:
        """Give the node key up; the poll ends. Raises like `register`."""
        await self._stop_poll()
        return await self.register(Expiry=requests.LOGOUT_EXPIRY)

    async def rotate(self) -> dict[str, Any]:
        """Register a new node key in place of the old one, then poll with it if polling before."""
        old = self.node_key
        private = X25519PrivateKey.generate()
        answer = await self.register(
            NodeKey=node_key_text(_public_node(private)), OldNodeKey=node_key_text(old)
        )
        if not (answer.get("Error") or answer.get("AuthURL") or answer.get("NodeKeyExpired")):
            await self._adopt(private)
        return answer

    async def _adopt(self, private: X25519PrivateKey) -> None:
        """Go on with another node key."""
        was_polling = self.is_polling
        await self._stop_poll()
        self.node_private, self.node_key = private, _public_node(private)
        if was_polling:
            await self.poll()

    async def close(self) -> None:
        """End the poll and the connection."""
        await self._stop_poll()
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def drop(self) -> None:
        """Lose the connection as if the cable were pulled; a poll goes on over a new one."""
        if self._connection is not None:
            self._connection.abort()

    async def __aenter__(self) -> SimulatedDevice:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------ poll

    async def poll(self) -> None:
        """Start the map stream; it is kept up until `logout` or `close`. Use `wait_for` next."""
        if self.is_polling:
            raise LocalProtocolError(f"{self.hostname} polls already")
        self._poll_task = asyncio.create_task(self._keep_polling(), name=f"poll[{self.hostname}]")

    async def wait_for(self, predicate: Callable[[ClientNetmap], bool], deadline_s: float) -> ClientNetmap:
        """The netmap as soon as it satisfies `predicate`, looked at after every message and failure.

        Raises Unavailable when the deadline passes, with what the poll met last.
        """
        try:
            async with asyncio.timeout(deadline_s), self._changed:
                while not predicate(self.netmap):
                    if self._poll_task is not None and self._poll_task.done():
                        self._poll_task.result()
                    await self._changed.wait()
        except TimeoutError as error:
            last = f"; last failure: {self.failures[-1].message}" if self.failures else ""
            raise Unavailable(
                f"{self.hostname}: the netmap is not as expected after {deadline_s:g} s and "
                f"{len(self.messages)} messages in {self.polls} polls{last}",
                code="deadline",
            ) from error
        return self.netmap

    async def _keep_polling(self) -> None:
        attempt = 0
        try:
            while True:
                before = self._received
                reason: HsError | None = None
                try:
                    await self._poll_once()
                except HsError as error:
                    reason = error
                    self.failures.append(error)
                    await self._notify()
                if self._watcher is not None:
                    self._watcher.on_poll_end(reason)
                attempt = 1 if self._received > before else attempt + 1
                await asyncio.sleep(backoff_s(attempt))
        finally:
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _poll_once(self) -> None:
        connection = await self._connected()
        stream = connection.stream(requests.MAP_PATH, orjson.dumps(self._map_request(stream=True)))
        try:
            async with asyncio.timeout(self._watchdog_s) as watchdog:
                status = await stream.status()
                if status != 200:
                    raise Unavailable(f"the map poll is answered with {status}", code="poll_refused")
                await self._read_poll(stream, watchdog)
        except TimeoutError as error:
            raise Unavailable(f"the map poll was silent for {self._watchdog_s:g} s") from error
        finally:
            stream.cancel()

    async def _read_poll(self, stream: ResponseStream, watchdog: asyncio.Timeout) -> None:
        self._old_violations = self.violations[:MAX_VIOLATIONS]
        self.netmap = netmap = ClientNetmap(strict=self._strict)
        self.polls += 1
        reader = mapstream.Reader()
        async for chunk in stream:
            for blob in reader.feed(chunk):
                watchdog.reschedule(asyncio.get_running_loop().time() + self._watchdog_s)
                await self._take(netmap, blob)
        if reader.pending_bytes:
            raise RemoteProtocolError("the map poll ended inside a message")

    async def _take(self, netmap: ClientNetmap, blob: bytes) -> None:
        arrived_s = time.monotonic()
        message = decode_blob(blob, zstd=self._zstd)
        kind = "keepalive" if message.get("KeepAlive") else "delta" if netmap.messages else "full"
        noted = Message(kind, mapstream.HEAD_SIZE + len(blob), arrived_s)
        self.messages.append(noted)
        async with self._changed:
            try:
                netmap.apply(message, now=time.time())
            finally:
                if self._watcher is not None:
                    self._watcher.on_message(noted, blob)
            self._received += 1
            self._changed.notify_all()
        ping = message.get("PingRequest")
        if ping and ping.get("URL") not in ("", None, self._last_ping_url):
            self._last_ping_url = ping["URL"]
            await self._answer_ping(ping)

    async def _answer_ping(self, ping: dict[str, Any]) -> None:
        """Answers c2n /echo through the tunnel; anything else is unknown here (PROTOCOL 9)."""
        if ping.get("Types") != "c2n":
            return
        head, _, body = base64.b64decode(ping.get("Payload") or b"").partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        if len(words) > 1 and words[1].partition(b"?")[0] == b"/echo":
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        else:
            answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\nunknown c2n path"
        parts = urlsplit(ping["URL"])
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        try:
            await (await self._connected()).request(path, answer)
        except HsError as error:  # the server asked, the poll does not depend on it
            self.failures.append(error)

    async def _stop_poll(self) -> None:
        task, self._poll_task = self._poll_task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    # ---------------------------------------------------------------------------------- tunnel

    def _map_request(self, *, stream: bool) -> dict[str, Any]:
        return requests.map_poll(
            self.node_key,
            self.disco_key,
            self.hostinfo,
            stream=stream,
            endpoints=self.endpoints,
            zstd=self._zstd,
            capver=self.capver,
        )

    async def _call(self, path: str, body: dict[str, Any], deadline_s: float = REQUEST_DEADLINE_S) -> bytes:
        data = orjson.dumps(body)
        end_s = time.monotonic() + deadline_s
        for attempt in itertools.count(1):
            try:
                connection = await self._connected()
                status, answer = await connection.request(
                    path, data, deadline_s=max(0.0, end_s - time.monotonic())
                )
            except Unavailable as error:
                pause_s = backoff_s(attempt)
                if error.code != "connection_lost" or time.monotonic() + pause_s >= end_s:
                    raise
                self.failures.append(error)
                await asyncio.sleep(pause_s)
                continue
            if status != 200:
                text = answer[:200].decode("utf-8", "replace")
                raise Unavailable(f"{path} is answered with {status}: {text}", code="status", status=status)
            return answer
        raise AssertionError("count never ends")

    async def _connected(self) -> ControlConnection:
        """The connection for new requests; an older one that is going away keeps its streams."""
        async with self._connecting:
            if self._connection is None or not self._connection.is_usable:
                if self.server_key is None:
                    self.server_key = await fetch_server_key(
                        self.url,
                        self.capver,
                        ssl=self._ssl,
                        host_header=self._host_header,
                        deadline_s=self._open_deadline_s,
                    )
                self._connection = await ControlConnection.open(
                    self.url,
                    machine_private=self.machine_private,
                    capver=self.capver,
                    server_key=self.server_key,
                    websocket=self._websocket,
                    host_header=self._host_header,
                    ssl=self._ssl,
                    deadline_s=self._open_deadline_s,
                )
            return self._connection

    def __repr__(self) -> str:
        return f"<SimulatedDevice {self.hostname}, {self.polls} polls, {len(self.netmap.peers)} peers>"


def _public_node(private: X25519PrivateKey) -> NodeKey:
    return NodeKey(private.public_key().public_bytes_raw())


def backoff_s(attempt: int) -> float:
    """Seconds, Go's growing pause (util/backoff): attempt squared times the step, jittered, capped."""
    return min(MAX_BACKOFF_S, attempt * attempt * BACKOFF_STEP_S) * random.uniform(0.5, 1.5)  # noqa: S311
