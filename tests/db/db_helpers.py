"""Small makers the database tests share."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg

from app.db.connect import connect
from app.db.scoped import Scoped
from app.keys import MachineKey, NodeKey
from app.model import Registration, RegistrationResult, Tenant, User
from app.sql import QUERIES

FOR_EVER_S = 86400.0
DEADLINE_S = 20.0


@dataclass(frozen=True)
class Home:
    """The home tenant of cluster `a` with a user and auth keys."""

    tenant: Tenant
    user: User
    reusable: str
    single: str
    tagged: str


def machine_key() -> MachineKey:
    return MachineKey(secrets.token_bytes(32))


def node_key() -> NodeKey:
    return NodeKey(secrets.token_bytes(32))


def wish(auth_key: str | None, **changes: Any) -> Registration:
    """A registration of a new device, unless told otherwise."""
    fields: dict[str, Any] = {
        "machine_key": machine_key(),
        "node_key": node_key(),
        "old_node_key": None,
        "auth_key": auth_key,
        "hostname": "Laptop",
        "label": "laptop",
        "hostinfo": b'{"OS":"linux"}',
        "capver": 120,
        "ephemeral": False,
    }
    return Registration(**(fields | changes))


async def take_lease(dsn: str, cluster_id: str, instance: str) -> int:
    """The lease of a cluster for a day, whoever holds it: the next epoch."""
    conn = await connect(dsn, "hs_owner")
    await conn.execute("UPDATE leases SET expires_at = '-infinity' WHERE name = $1", f"cluster:{cluster_id}")
    await conn.close()
    conn = await connect(dsn, "hs_node", cluster_id=cluster_id)
    try:
        epoch: int = await conn.fetchval(
            QUERIES["lease_acquire"], f"cluster:{cluster_id}", instance, FOR_EVER_S, False
        )
        return epoch
    finally:
        await conn.close()


async def join(scoped: Scoped, auth_key: str | None, **changes: Any) -> RegistrationResult:
    return await scoped.register(wish(auth_key, **changes))


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Waits for a condition, at most DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)


async def as_role(dsn: str, role: str, cluster_id: str = "") -> asyncpg.Connection:
    return await connect(dsn, role, cluster_id=cluster_id)


async def rows_of(dsn: str, cluster_id: str) -> dict[str, list[str]]:
    """Every row of a cluster in every table, as text."""
    conn = await connect(dsn, "hs_owner")
    try:
        tables = await conn.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relnamespace = 'hs'::regnamespace AND c.relkind = 'r' AND a.attname = 'cluster_id'"
        )
        return {
            table: [
                row[0]
                for row in await conn.fetch(
                    f"SELECT t::text FROM {table} t WHERE cluster_id = $1 ORDER BY 1", cluster_id
                )
            ]
            for (table,) in tables
        }
    finally:
        await conn.close()


class Proxy:
    """Loopback TCP in front of the database: `cut` breaks and refuses, `mute` stops all bytes silently."""

    def __init__(self, dsn: str) -> None:
        self._target = dsn
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.dsn = ""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(self._target)
        login = parts.netloc.rpartition("@")[0]
        netloc = f"{login}@127.0.0.1:{port}" if login else f"127.0.0.1:{port}"
        self.dsn = urlunsplit(parts._replace(netloc=netloc, query=""))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.unmute()
        self._break()
        await self._server.wait_closed()

    def cut(self) -> None:
        self._refusing = True
        self._break()

    def mend(self) -> None:
        self._refusing = False

    def mute(self) -> None:
        self._open.clear()

    def unmute(self) -> None:
        self._open.set()

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._target)
        query = parse_qs(parts.query)
        port = int(query.get("port", [str(parts.port or 5432)])[0])
        host = query.get("host", [parts.hostname or "127.0.0.1"])[0]
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        far_reader, far_writer = await self._upstream()
        self._writers |= {writer, far_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class Watch:
    """What a cluster's reader finds and its listener hears."""

    def __init__(self, scoped: Scoped, conn: asyncpg.Connection) -> None:
        self.scoped = scoped
        self.conn = conn
        self.heard: list[tuple[str, str]] = []
        self.position = ""

    async def start(self) -> None:
        for cluster_id in ("a", "b"):
            await self.conn.add_listener(f"netmap_dirty_{cluster_id}", self._hear)
        self.position = await self.scoped.current_position()

    def _hear(self, _conn: object, _pid: int, channel: str, payload: object) -> None:
        self.heard.append((channel.removeprefix("netmap_dirty_"), str(payload)))

    async def take(self) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
        """Change rows (kind, scope key, origin) and notifications since the last call."""
        # A notification of our own, after all others in the queue of the server.
        await self.conn.add_listener("test_fence", self._hear)
        await self.conn.execute("NOTIFY test_fence, 'end'")
        await until(lambda: ("test_fence", "end") in self.heard)
        await self.conn.remove_listener("test_fence", self._hear)
        heard = [item for item in self.heard if item[0] != "test_fence"]
        self.heard.clear()
        self.position, found = await self.scoped.changes(self.position)
        return [(c.kind, c.scope_key, c.origin) for c in found], heard
