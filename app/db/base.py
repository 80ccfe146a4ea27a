"""What all parts of the data-access object share: the pool, the scope, transactions on one tenant."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias, TypeVar

import asyncpg
import orjson

from app.db.connect import COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S
from app.db.errors import translated
from app.errors import BadRequest, Conflict, HsError, Refused, Unavailable, WrongCluster
from app.model import TenantId
from app.sql import QUERIES

PoolConnection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

T = TypeVar("T")

#: How long a caller waits for a free connection of the pool.
ACQUIRE_TIMEOUT_S = 10.0
ATTEMPTS = 4
MAX_HOSTINFO_BYTES = 64 * 1024
#: Values the database chooses itself: taken by somebody else meanwhile, another choice will do.
CHOSEN_HERE = frozenset({"nodes_given_name", "nodes_ipv4", "nodes_ipv6"})
RETRY_S = 0.02


class PoolBase:
    """Runs named statements. Nothing else may touch the pool."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    def pool_use(self) -> tuple[int, int]:
        """Connections that are in use now, and how many there may be."""
        return self._pool.get_size() - self._pool.get_idle_size(), self._pool.get_max_size()

    async def close(self) -> None:
        """Waits shortly for statements under way, then closes all connections."""
        with translated():
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._pool.close()
            except TimeoutError:
                self._pool.terminate()

    def terminate(self) -> None:
        """Drops all connections without waiting for a server that may not answer."""
        self._pool.terminate()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[PoolConnection]:
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as conn:
                yield conn

    async def _fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        async with self._connection() as conn:
            return await conn.fetch(sql, *args, timeout=COMMAND_TIMEOUT_S)

    async def _fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        async with self._connection() as conn:
            return await conn.fetchrow(sql, *args, timeout=COMMAND_TIMEOUT_S)

    async def _fetchval(self, sql: str, *args: Any) -> Any:
        async with self._connection() as conn:
            return await conn.fetchval(sql, *args, timeout=COMMAND_TIMEOUT_S)

    async def _execute(self, sql: str, *args: Any) -> int:
        """Rows touched."""
        async with self._connection() as conn:
            return rows_touched(await conn.execute(sql, *args, timeout=COMMAND_TIMEOUT_S))


class ScopedBase(PoolBase):
    """Runs named statements of one cluster."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], cluster_id: str) -> None:
        super().__init__(pool)
        self.cluster_id = cluster_id

    @asynccontextmanager
    async def _tenant_tx(self, tenant_id: TenantId) -> AsyncIterator[PoolConnection]:
        """A transaction on one tenant, which cannot move meanwhile. Raises WrongCluster."""
        async with self._connection() as conn, conn.transaction():
            status = await conn.fetchval(QUERIES["lock_tenant"], self.cluster_id, tenant_id)
            if status is None or status == "elsewhere":
                raise WrongCluster(f"tenant {tenant_id} does not live in cluster {self.cluster_id}")
            yield conn

    async def _lock_counters(self, conn: PoolConnection, tenant_id: TenantId) -> Sequence[int | None]:
        """Serialises what counts or is chosen per tenant: users, their limit, keys, their limit."""
        row = await conn.fetchrow(QUERIES["lock_counters"], self.cluster_id, tenant_id)
        assert row is not None
        return tuple(row)

    async def _check_quota(
        self, conn: PoolConnection, tenant_id: TenantId, *, users: int = 0, keys: int = 0
    ) -> None:
        has_users, max_users, has_keys, max_keys = await self._lock_counters(conn, tenant_id)
        assert has_users is not None
        assert has_keys is not None
        if users and max_users is not None and has_users + users > max_users:
            raise Refused(f"this tenant may have at most {max_users} users", code="quota_users")
        if keys and max_keys is not None and has_keys + keys > max_keys:
            raise Refused(f"this tenant may have at most {max_keys} auth keys", code="quota_keys")

    async def _audit(
        self,
        conn: PoolConnection,
        tenant_id: TenantId | None,
        actor: str,
        action: str,
        what: str,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
    ) -> None:
        await write_audit(conn, self.cluster_id, tenant_id, actor, action, what, before, after)


async def write_audit(
    conn: PoolConnection,
    cluster_id: str,
    tenant_id: TenantId | None,
    actor: str,
    action: str,
    what: str,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    """One line of the audit log, in the transaction of the change itself."""
    texts = [None if facts is None else orjson.dumps(facts).decode() for facts in (before, after)]
    await conn.execute(QUERIES["write_audit"], cluster_id, tenant_id, actor, action, what, *texts)


def check_seen(what: str, seen: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raises Conflict, with each difference, unless what the asker saw is what the locked row holds.

    Only what is in `seen` is compared. Whoever has what was asked for already needs no such check.
    """
    changed = {name: [was, now.get(name)] for name, was in (seen or {}).items() if was != now.get(name)}
    if changed:
        raise Conflict(f"{what} was changed meanwhile: read it again", code="version", changed=changed)


@contextmanager
def worded(sentences: dict[str, HsError]) -> Iterator[None]:
    """A better error for a conflict with one of these constraints."""
    try:
        yield
    except Conflict as error:
        better = sentences.get(error.facts.get("constraint", ""))
        if better is None:
            raise
        raise better from error


def hostinfo_text(hostinfo: bytes) -> str:
    """Hostinfo as the text a json column takes. Raises BadRequest."""
    if len(hostinfo) > MAX_HOSTINFO_BYTES:
        raise BadRequest(f"Hostinfo is larger than {MAX_HOSTINFO_BYTES} bytes", code="hostinfo_too_large")
    try:
        return hostinfo.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("Hostinfo is not UTF-8", code="bad_hostinfo") from error


def rows_touched(tag: str) -> int:
    """The count in a command tag such as `UPDATE 3`."""
    return int(tag.rsplit(" ", 1)[-1])


async def again_when_busy(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeats one transaction that lost against a concurrent one, a few times with jitter."""
    for number in range(1, ATTEMPTS):
        try:
            return await attempt()
        except (Unavailable, Conflict) as error:
            if error.code != "busy" and error.facts.get("constraint") not in CHOSEN_HERE:
                raise
        await asyncio.sleep(RETRY_S * number * (0.5 + random.random()))  # noqa: S311
    return await attempt()
