"""Database: what is done to a deployment as a whole, on short connections of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from app.db import migrate
from app.db.connect import COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S, connect
from app.db.errors import translated
from app.errors import ConfigError
from app.model import ClusterFacts, DatabaseFacts, TenantId
from app.names import check_cluster_id, label_of
from app.sql import QUERIES, migrations

MIN_SERVER_VERSION = 130000


class Database:
    """A prepared database: roles and schema are in place."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    @classmethod
    async def prepare(cls, dsn: str) -> Database:
        """Makes roles and schema, or checks that they are there. Raises ConfigError, Unavailable."""
        with translated():
            conn = await asyncpg.connect(
                dsn,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=COMMAND_TIMEOUT_S,
                target_session_attrs=SessionAttribute.read_write,
            )
            try:
                await _prepare(conn)
            finally:
                await conn.close(timeout=CONNECT_TIMEOUT_S)
        return cls(dsn)

    @classmethod
    async def inspect(cls, dsn: str) -> DatabaseFacts:
        """What is there; changes nothing. Raises ConfigError for what cannot be used, Unavailable."""
        with translated():
            conn = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S)
            try:
                return await _inspect(conn)
            finally:
                await conn.close(timeout=CONNECT_TIMEOUT_S)

    async def clusters(self, cluster_id: str | None = None) -> list[ClusterFacts]:
        """All clusters of the deployment, or the one of this id, by id."""
        async with self._session(role="hs_console") as conn:
            found = await conn.fetch(QUERIES["list_clusters"], cluster_id)
            return [ClusterFacts(*row) for row in found]

    async def instances(self, cluster_id: str) -> list[tuple[str, str, float]]:
        """Processes of a cluster: name, version, seconds since each was heard."""
        async with self._session(role="hs_console") as conn:
            found = await conn.fetch(QUERIES["list_instances"], cluster_id)
            return [(row[0], row[1], row[2]) for row in found]

    async def ensure_cluster(self, cluster_id: str, region: str | None = None) -> str | None:
        """Creates a cluster and its home tenant; its state, None when it exists already.

        Where an hs-acs is in charge it is `joining`, else `active`. Raises BadRequest, Conflict.
        """
        check_cluster_id(cluster_id)
        async with self._session(cluster_id) as conn:
            state: str | None = await conn.fetchval(
                QUERIES["ensure_cluster"], cluster_id, region, label_of(cluster_id)
            )
            return state

    async def cluster_exists(self, cluster_id: str) -> bool:
        """Whether a cluster has been created. Raises BadRequest for an id that cannot exist."""
        check_cluster_id(cluster_id)
        async with self._session(cluster_id) as conn:
            exists: bool = await conn.fetchval(QUERIES["cluster_exists"], cluster_id)
            return exists

    async def create_tenant(
        self,
        cluster_id: str,
        name: str,
        *,
        max_devices: int | None = None,
        max_users: int | None = None,
        max_keys: int | None = None,
    ) -> TenantId:
        """A further tenant in a cluster, its DNS label made from its name. Raises Conflict."""
        check_cluster_id(cluster_id)
        async with self._session(cluster_id) as conn:
            tenant_id: int = await conn.fetchval(
                QUERIES["create_tenant"], cluster_id, name, label_of(name), max_devices, max_users, max_keys
            )
            return TenantId(tenant_id)

    async def deployment_secret(self, name: str) -> bytes | None:
        """A sealed secret of the deployment."""
        async with self._session() as conn:
            return await _read_secret(conn, name)

    async def put_deployment_secret_once(self, name: str, value: bytes) -> bytes:
        """Stores a secret unless there is one; answers the one in force."""
        async with self._session() as conn:
            await conn.execute(QUERIES["put_secret"], name, value)
            kept = await _read_secret(conn, name)
            assert kept is not None
            return kept

    @asynccontextmanager
    async def _session(
        self, cluster_id: str = "", *, role: str = "hs_admin"
    ) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        conn = await connect(self.dsn, role, cluster_id=cluster_id)
        with translated():
            try:
                yield conn
            finally:
                await conn.close(timeout=CONNECT_TIMEOUT_S)


async def _read_secret(conn: asyncpg.Connection[asyncpg.Record], name: str) -> bytes | None:
    value: bytes | None = await conn.fetchval(QUERIES["read_secret"], name)
    return value


async def _check_version(conn: asyncpg.Connection[asyncpg.Record]) -> None:
    version = int(await conn.fetchval("SELECT current_setting('server_version_num')"))
    if version < MIN_SERVER_VERSION:
        raise ConfigError(
            f"PostgreSQL {version // 10000} is too old: 13 or newer is needed", code="database_old"
        )


async def _inspect(conn: asyncpg.Connection[asyncpg.Record]) -> DatabaseFacts:
    await _check_version(conn)
    version, login, read_only = await conn.fetchrow(
        "SELECT current_setting('server_version'), session_user::text, pg_is_in_recovery()"
    ) or ("", "", False)
    if read_only:
        raise ConfigError("this PostgreSQL is a read-only standby: name the primary", code="database_standby")
    if not await _ready(conn):
        return DatabaseFacts(version, login, 0, ("roles and schema",))
    await conn.execute("SET ROLE hs_owner")
    done = await migrate.applied(conn)
    steps = migrate.pending(done, migrations())
    todo = tuple(f"schema step {step.version:04d} ({step.name})" for step in steps)
    return DatabaseFacts(version, login, max(done, default=0), todo)


async def _prepare(conn: asyncpg.Connection[asyncpg.Record]) -> None:
    await _check_version(conn)
    await _ensure_roles(conn)
    await conn.execute("SET ROLE hs_owner")
    # Somebody who may not create in the database, with nothing left to do, is welcome.
    if migrate.pending(await migrate.applied(conn), migrations()):
        await migrate.migrate(conn)


async def _ensure_roles(conn: asyncpg.Connection[asyncpg.Record]) -> None:
    """Roles, membership and schema; asks for nothing that is in place already."""
    login = await conn.fetchval("SELECT quote_ident(session_user)")
    try:
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1)", migrate.LOCK_KEY)
            if not await _ready(conn):
                await conn.execute(migrate.create_roles_sql())
                if not await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = session_user"):
                    await conn.execute(migrate.grants_sql(login))
                await conn.execute(migrate.schema_sql())
    except asyncpg.InsufficientPrivilegeError as error:
        needed = [
            migrate.create_roles_sql(),
            migrate.grants_sql(login),
            migrate.schema_sql(),
            migrate.STATS_GRANT,
        ]
        raise ConfigError(
            f"the login {login} of PG_DSN may not create what is missing ({error});"
            " let an administrator of the database run:\n" + "\n".join(needed),
            code="database_roles",
        ) from error
    if not await conn.fetchval("SELECT pg_has_role('hs_owner', 'pg_read_all_stats', 'usage')"):
        try:
            async with conn.transaction():
                await conn.execute(migrate.STATS_GRANT)
        except asyncpg.InsufficientPrivilegeError:
            # Not needed for safety: without it a takeover may have to wait for the end of the lease's TTL.
            return


async def _ready(conn: asyncpg.Connection[asyncpg.Record]) -> bool:
    missing = await conn.fetchval(
        "SELECT count(*) FROM unnest($1::text[]) AS r"
        " WHERE NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = r AND pg_has_role(oid, 'member'))",
        list(migrate.ROLES),
    )
    schema = await conn.fetchval("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = 'hs')")
    return missing == 0 and bool(schema)
