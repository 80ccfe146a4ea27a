"""For tests of streams and faults: servers inside the test, recording devices, a database one can cut off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import orjson

from app.client.connection import ControlConnection
from app.client.device import SimulatedDevice
from app.client.mapblob import decode_blob
from app.client.netmap import ClientNetmap
from app.client.serverkey import fetch_server_key
from app.client.streams import ResponseStream
from app.db.setup import Database
from app.runtime import Daemon
from app.settings import load
from app.wire import mapstream
from node.serve import Serving
from node.vitals import metrics_text
from tests.node.support import DEADLINE_S, Administration, admin, eventually, free_port

Row = dict[str, Any]


class Recorder(SimulatedDevice):
    """A device that keeps every map message. While `reads` is cleared it consumes nothing."""

    def __init__(self, url: str, key: str | None, **options: Any) -> None:
        options.setdefault("hostname", f"device-{secrets.token_hex(4)}")
        super().__init__(url, auth_key=key, **options)
        self.blobs: list[bytes] = []
        self.seen: list[Row] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def _take(self, netmap: ClientNetmap, blob: bytes) -> None:
        await self.reads.wait()
        self.blobs.append(blob)
        self.seen.append(decode_blob(blob, zstd=self._zstd))
        await super()._take(netmap, blob)

    @property
    def id(self) -> int:
        assert self.netmap.self_node is not None
        device_id: int = self.netmap.self_node["ID"]
        return device_id

    @property
    def transport(self) -> asyncio.Transport:
        assert self._connection is not None
        assert self._connection._transport is not None
        return self._connection._transport

    async def request(self, path: str, body: Row | bytes) -> tuple[int, bytes]:
        """Any request inside this device's tunnel."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return await (await self._connected()).request(path, data)

    def map_request(self, **members: Any) -> Row:
        """The MapRequest of a poll, with members replaced."""
        return self._map_request(stream=True) | members

    async def sees(self, peer: int | None = None, **members: Any) -> ClientNetmap:
        """Waits until a peer's row has these members; None: until so many `peers` are known."""

        def matches(netmap: ClientNetmap) -> bool:
            if peer is None:
                return bool(len(netmap.peers) == members["peers"])
            row = netmap.peers.get(peer)
            return row is not None and all(row.get(name) == value for name, value in members.items())

        return await self.wait_for(matches, DEADLINE_S)

    async def lost(self, peer: int) -> None:
        """Waits until a device is no peer any more."""
        await self.wait_for(lambda netmap: peer not in netmap.peers, DEADLINE_S)

    def news_of(self, peer: int) -> list[Row]:
        """What was said about a peer, in order, by messages of all polls."""
        found: list[Row] = []
        for message in self.seen:
            for name in ("Peers", "PeersChanged"):
                found += [row for row in message.get(name) or [] if row["ID"] == peer]
            found += [p for p in message.get("PeersChangedPatch") or [] if p["NodeID"] == peer]
            found += [{"Removed": i} for i in message.get("PeersRemoved") or [] if i == peer]
        return found


class RawPoll:
    """One map poll over a connection of its own, that nothing repeats."""

    def __init__(self, connection: ControlConnection, stream: ResponseStream) -> None:
        self.connection = connection
        self.stream = stream
        self._chunks = aiter(stream)
        self._reader = mapstream.Reader()
        self._blobs: list[bytes] = []

    @classmethod
    async def open(cls, device: Recorder, **members: Any) -> Self:
        connection = await ControlConnection.open(
            device.url,
            machine_private=device.machine_private,
            capver=device.capver,
            server_key=device.server_key or await fetch_server_key(device.url, device.capver),
        )
        body = orjson.dumps(device.map_request(Compress="", **members))
        return cls(connection, connection.stream("/machine/map", body))

    async def message(self) -> Row | None:
        """The next message that is no keep-alive; None at the regular end of the stream."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                while not self._blobs:
                    try:
                        self._blobs += self._reader.feed(await anext(self._chunks))
                    except StopAsyncIteration:
                        return None
                message: Row = orjson.loads(self._blobs.pop(0))
                if not message.get("KeepAlive"):
                    return message

    async def close(self) -> None:
        await self.connection.close()


async def joined(device: Recorder) -> Recorder:
    """Registered, polling, first map received."""
    answer = await device.register()
    assert not answer.get("Error"), answer
    await device.poll()
    await device.wait_for(lambda netmap: netmap.messages > 0, DEADLINE_S)
    return device


@asynccontextmanager
async def fleet(url: str, key: str, size: int, **options: Any) -> AsyncIterator[list[Recorder]]:
    """So many joined devices that know each other."""
    async with contextlib.AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(Recorder(url, key, **options)) for _ in range(size)]
        for device in devices:
            await joined(device)
        for device in devices:
            await device.sees(peers=size - 1)
        yield devices


@asynccontextmanager
async def own_tenant(dsn: str, cluster: str = "default") -> AsyncIterator[Administration]:
    """A tenant for one test of a shared server."""
    name = f"t-{secrets.token_hex(5)}"
    await Database(dsn).create_tenant(cluster, name)
    async with admin(dsn, cluster, name) as tenant:
        yield tenant


def settings_of(dsn: str, state_dir: Path, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a server that listens on free ports."""
    return {
        "PG_DSN": dsn,
        "HS_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
        "HS_METRICS_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
        "HS_STATE_DIR": str(state_dir),
        "HS_DERP__SERVER__LISTEN_ADDR": "127.0.0.1:0",
        "HS_DERP__SERVER__STUN_LISTEN_ADDR": "127.0.0.1:0",
        **(settings or {}),
    }


class InProcess:
    """A serving owner in the test's own loop: its hub can be looked at and constants patched."""

    def __init__(self, serving: Serving, url: str) -> None:
        self.serving = serving
        self.url = url

    @property
    def owner(self) -> Any:
        assert self.serving.owner is not None
        return self.serving.owner

    def session(self, device: Recorder) -> Any:
        """The server's side of a device's poll."""
        session = self.owner.hub.session(device.id)
        assert session is not None
        return session

    def metrics(self) -> Counter[str]:
        """Series by name, summed over their labels."""
        metrics_text(self.serving, self.owner.metrics)
        found: Counter[str] = Counter()
        for family in self.owner.metrics.registry.collect():
            for sample in family.samples:
                found[sample.name] += sample.value
        return found


@asynccontextmanager
async def in_process(
    dsn: str, state_dir: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[InProcess]:
    """A server of its own in this loop, ready; stopped gracefully at the end."""
    env = settings_of(dsn, state_dir, {"HS_DERP__SERVER__ENABLED": "false", **(settings or {})})
    if env["HS_DERP__SERVER__ENABLED"] == "false":
        path = state_dir / "derp.yaml"
        path.write_text(SOME_DERP_MAP)
        env.setdefault("HS_DERP__PATHS", str(path))
    loaded = load(None, env, state_dir).settings
    ready = asyncio.Event()
    daemon = Daemon()
    serving = Serving(
        daemon, loaded, True, lambda text: ready.set() if "To let a device in" in text else None
    )

    async def main(_: Daemon) -> None:
        await serving.run()

    running = asyncio.create_task(daemon.run(main, 20.0), name="serve")
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    if running.done():
        waiting.cancel()
        running.result()
        raise AssertionError("serve has ended at once")
    try:
        yield InProcess(serving, loaded.server_url)
    finally:
        daemon.stopping.set()
        async with asyncio.timeout(30):
            await running


SOME_DERP_MAP = """
regions:
  17:
    regionid: 17
    regioncode: test
    regionname: nobody listens
    nodes:
      - name: 17a
        regionid: 17
        hostname: 127.0.0.1
        ipv4: 127.0.0.1
        derpport: 9
"""


class DatabaseGate:
    """A TCP way to a database that a test can shut: `refuse` as if it were stopped, `hang` as if the
    cable were cut. `dsn` leads through it."""

    def __init__(self, dsn: str) -> None:
        self._target = dsn
        self._mode = "open"
        self._server: asyncio.Server | None = None
        self._port = free_port()
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        parts = urlsplit(dsn)
        query = [(k, v) for k, v in parse_qsl(parts.query) if k not in ("host", "port")]
        login = parts.netloc.rpartition("@")[0]
        self.dsn = urlunsplit(
            parts._replace(
                netloc=f"{login}@127.0.0.1:{self._port}" if login else f"127.0.0.1:{self._port}",
                query=urlencode(query),
            )
        )

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()

    async def refuse(self) -> None:
        """All connections break, new ones are refused."""
        self._flows.set()
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        for pipe in list(self._pipes):
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def lead_to(self, dsn: str) -> None:
        """New connections go to another server."""
        self._target = dsn

    async def open(self) -> None:
        self._flows.set()
        if self._server is None:
            await self._listen()

    def hang(self) -> None:
        """Connections stay, new ones are accepted, no byte passes."""
        self._flows.clear()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        self._writers.add(writer)
        try:
            await self._flows.wait()
            up_reader, up_writer = await self._connect()
            self._writers.add(up_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pipe(reader, up_writer))
                group.create_task(self._pipe(up_reader, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            return
        finally:
            self._pipes.discard(task)
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._target)
        query = dict(parse_qsl(parts.query))
        host = query.get("host") or parts.hostname or "127.0.0.1"
        port = int(query.get("port") or parts.port or 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


async def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """`eventually` for a condition that needs no waiting itself."""

    async def ask() -> object:
        return condition()

    return await eventually(ask, what, deadline_s)


def shrink_buffers(*sockets: Any) -> None:
    """Make the kernel hold little, so that a reader that stops is noticed soon."""
    for one in sockets:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            one.setsockopt(socket.SOL_SOCKET, option, 4096)


@contextlib.contextmanager
def opened_files_shown() -> Iterator[Callable[[], int]]:
    """How many descriptors this process has open."""
    yield lambda: len(os.listdir("/proc/self/fd"))
