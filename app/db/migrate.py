"""Numbered migrations: each once, in order, in a transaction of its own, under one advisory lock."""

from __future__ import annotations

import asyncio
import hashlib

import asyncpg

from app.db.errors import translated
from app.errors import ConfigError
from app.sql import Migration, migrations

LOCK_KEY = 7400
LOCK_WAIT_S = 60.0
MIGRATION_TIMEOUT_S = 600.0

ROLES = ("hs_owner", "hs_node", "hs_acs", "hs_console", "hs_admin")

STATS_GRANT = "GRANT pg_read_all_stats TO hs_owner;"

_LEDGER = """
CREATE TABLE IF NOT EXISTS hs.schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


def digest(step: Migration) -> str:
    return hashlib.sha256(step.text.encode()).hexdigest()


async def applied(conn: asyncpg.Connection[asyncpg.Record]) -> dict[int, str]:
    """Version -> hash of what this database has, empty for none."""
    if await conn.fetchval("SELECT to_regclass('hs.schema_migrations')") is None:
        return {}
    rows = await conn.fetch("SELECT version, sha256 FROM hs.schema_migrations ORDER BY version")
    return {row["version"]: row["sha256"] for row in rows}


def pending(done: dict[int, str], known: tuple[Migration, ...]) -> tuple[Migration, ...]:
    """Steps still to do. Raises ConfigError for a newer or another schema."""
    newest = max(done, default=0)
    if newest > len(known):
        raise ConfigError(
            f"the database has schema version {newest}, this program knows {len(known)}:"
            " install the newer program",
            code="schema_newer",
        )
    for step in known:
        if step.version in done and done[step.version] != digest(step):
            raise ConfigError(
                f"schema step {step.version} ({step.name}) of the database differs from this program's:"
                " it was made by another build",
                code="schema_differs",
            )
    return tuple(step for step in known if step.version not in done)


async def migrate(
    conn: asyncpg.Connection[asyncpg.Record], known: tuple[Migration, ...] | None = None
) -> list[int]:
    """Brings the schema up to date on a connection that acts as hs_owner; answers the versions it applied."""
    known = migrations() if known is None else known
    with translated():
        await conn.execute("SELECT set_config('lock_timeout', $1, false)", f"{LOCK_WAIT_S:.0f}s")
        await conn.fetchval("SELECT pg_advisory_lock($1)", LOCK_KEY, timeout=LOCK_WAIT_S + 5)
        try:
            await conn.execute(_LEDGER)
            versions = []
            for step in pending(await applied(conn), known):
                async with asyncio.timeout(MIGRATION_TIMEOUT_S), conn.transaction():
                    await conn.execute("SET LOCAL statement_timeout = 0")
                    await conn.execute("SET LOCAL search_path = hs, pg_temp")
                    await conn.execute(step.text, timeout=MIGRATION_TIMEOUT_S)
                    await conn.execute(
                        "INSERT INTO hs.schema_migrations (version, name, sha256) VALUES ($1, $2, $3)",
                        step.version,
                        step.name,
                        digest(step),
                    )
                versions.append(step.version)
            return versions
        finally:
            await conn.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)


def create_roles_sql() -> str:
    """Statements that make the roles."""
    return "\n".join(
        f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation"
        " THEN NULL; END $$;"
        for role in ROLES
    )


def grants_sql(login: str) -> str:
    """Statement that lets a login take the roles; `login` is a quoted SQL name. Superusers need none."""
    return f"GRANT {', '.join(ROLES)} TO {login};"


def schema_sql() -> str:
    return "CREATE SCHEMA IF NOT EXISTS hs AUTHORIZATION hs_owner;"


def print_sql(login: str = "<login of PG_DSN>") -> str:
    """Everything a DBA must run once as an administrator, followed by all migrations."""
    known = migrations()
    parts = [
        "-- Run in the database of PG_DSN, as a role that may create roles and schemas.",
        create_roles_sql(),
        grants_sql(login),
        schema_sql(),
        "-- Lets a standby take over within seconds after a crash instead of after the lease's TTL.",
        STATS_GRANT,
        "-- From here on the program can go on by itself; or run it all:",
        "SET ROLE hs_owner;",
        "SET search_path = hs, pg_temp;",
        _LEDGER.strip() + ";",
    ]
    for step in known:
        parts.append(f"BEGIN;\n-- {step.version:04d} {step.name}\n{step.text.strip()}")
        entry = f"({step.version}, '{step.name}', '{digest(step)}')"
        parts.append(f"INSERT INTO hs.schema_migrations (version, name, sha256) VALUES {entry};\nCOMMIT;")  # noqa: S608
    parts.append("RESET ROLE;")
    return "\n\n".join(parts) + "\n"
