"""Migrations, roles and clusters."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections import Counter
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from db_helpers import as_role

from app.db import migrate
from app.db.connect import POOL_LIMIT
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import BadRequest, ConfigError, Conflict, Unavailable
from app.sql import migrations

CATALOGUE = """
SELECT 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || a.attnotnull::text || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'hs'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
UNION ALL SELECT 'constraint ' || conrelid::regclass || conname || pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = 'hs'::regnamespace
UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'hs'
UNION ALL SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = 'hs'::regnamespace AND NOT t.tgisinternal
UNION ALL SELECT 'policy ' || p::text FROM pg_policies p WHERE schemaname = 'hs'
UNION ALL SELECT 'function ' || pg_get_functiondef(oid) || proacl::text FROM pg_proc
 WHERE pronamespace = 'hs'::regnamespace
UNION ALL SELECT 'rights ' || relname || relkind::text || relrowsecurity::text || relforcerowsecurity::text
       || array(SELECT unnest(relacl)::text ORDER BY 1)::text
  FROM pg_class WHERE relnamespace = 'hs'::regnamespace AND relkind IN ('r', 'S')
ORDER BY 1
"""


async def catalogue(dsn: str) -> list[str]:
    conn = await as_role(dsn, "hs_owner")
    try:
        return [row[0] for row in await conn.fetch(CATALOGUE)]
    finally:
        await conn.close()


async def other_database(dsn: str, name: str) -> str:
    conn = await asyncpg.connect(dsn)
    await conn.execute(f"CREATE DATABASE {name}")
    await conn.close()
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


async def drop_database(dsn: str, name: str) -> None:
    conn = await asyncpg.connect(dsn)
    await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await conn.close()


async def test_from_zero_equals_step_by_step_equals_printed(database: str) -> None:
    await Database.prepare(database)
    names = [f"hs_test_{uuid4().hex[:12]}" for _ in range(2)]
    try:
        stepwise = await other_database(database, names[0])
        conn = await asyncpg.connect(stepwise)
        await conn.execute(migrate.schema_sql())
        await conn.execute("SET ROLE hs_owner")
        known = migrations()
        for count in range(1, len(known) + 1):
            assert await migrate.migrate(conn, known[:count]) == [count]
        assert await migrate.migrate(conn) == []
        await conn.close()

        printed = await other_database(database, names[1])
        conn = await asyncpg.connect(printed)
        login = await conn.fetchval("SELECT quote_ident(session_user)")
        text = migrate.print_sql(login).replace(migrate.grants_sql(login), "")
        await conn.execute(text.replace(migrate.STATS_GRANT, ""))
        await conn.close()
        await Database.prepare(printed)

        zero = await catalogue(database)
        assert len(zero) > 150
        assert await catalogue(stepwise) == zero
        assert await catalogue(printed) == zero
    finally:
        for name in names:
            await drop_database(database, name)


async def test_preparing_at_once_is_done_once(database: str) -> None:
    await asyncio.gather(*(Database.prepare(database) for _ in range(6)))
    conn = await as_role(database, "hs_owner")
    rows = await conn.fetch("SELECT version, sha256 FROM schema_migrations ORDER BY version")
    await conn.close()
    assert [(row[0], row[1]) for row in rows] == [(s.version, migrate.digest(s)) for s in migrations()]


async def test_newer_schema_is_refused(prepared: Database) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    await conn.execute("INSERT INTO schema_migrations (version, name, sha256) VALUES (9999, 'future', 'x')")
    await conn.close()
    with pytest.raises(ConfigError, match="schema version 9999"):
        await Database.prepare(prepared.dsn)


async def test_another_builds_schema_is_refused(prepared: Database) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    await conn.execute("UPDATE schema_migrations SET sha256 = 'x' WHERE version = 2")
    await conn.close()
    with pytest.raises(ConfigError, match=r"schema step 2 \(scope\)"):
        await Database.prepare(prepared.dsn)


async def test_a_failing_step_leaves_nothing(prepared: Database) -> None:
    known = migrations()
    bad = dataclasses.replace(known[-1], version=len(known) + 1, text="CREATE TABLE half (); SELECT 1/0;")
    conn = await asyncpg.connect(prepared.dsn)
    await conn.execute("SET ROLE hs_owner")
    with pytest.raises(BadRequest):
        await migrate.migrate(conn, (*known, bad))
    assert await conn.fetchval("SELECT to_regclass('hs.half')") is None
    assert await migrate.migrate(conn) == []
    await conn.close()


async def test_a_login_without_rights_gets_the_sql_it_needs(database: str) -> None:
    login = f"hs_test_{uuid4().hex[:12]}"
    boss = await asyncpg.connect(database)
    password = uuid4().hex
    await boss.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{password}'")
    parts = urlsplit(database)
    host = parts.netloc.rpartition("@")[2]
    dsn = urlunsplit(parts._replace(netloc=f"{login}:{password}@{host}"))
    try:
        with pytest.raises(ConfigError) as raised:
            await Database.prepare(dsn)
        assert raised.value.code == "database_roles"
        await boss.execute(raised.value.message.split("run:\n", 1)[1])
        db = await Database.prepare(dsn)
        assert await db.ensure_cluster("default")
        scoped = await Scoped.open(dsn, cluster_id="default", role="hs_admin", pool_size=1)
        assert (await scoped.tenant()).name == "default"
        await scoped.close()
    finally:
        await boss.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")
        await boss.close()


def test_printed_sql_is_complete() -> None:
    text = migrate.print_sql("operator")
    for role in migrate.ROLES:
        assert f"CREATE ROLE {role} NOLOGIN" in text
    assert "TO operator;" in text
    assert len(re.findall(r"INSERT INTO hs\.schema_migrations", text)) == len(migrations())


async def test_a_session_that_sees_too_much_does_not_start(prepared: Database, admin: Scoped) -> None:
    conn = await asyncpg.connect(prepared.dsn)
    await conn.execute("ALTER TABLE hs.users DISABLE ROW LEVEL SECURITY")
    await conn.close()
    with pytest.raises(ConfigError, match="users") as raised:
        await Scoped.open(prepared.dsn, cluster_id="a")
    assert raised.value.code == "scope_leak"


async def test_bad_arguments(prepared: Database) -> None:
    for size in (0, -1, POOL_LIMIT + 1):
        with pytest.raises(ConfigError, match=f"1 to {POOL_LIMIT}"):
            await Scoped.open(prepared.dsn, cluster_id="a", pool_size=size)
    for cluster_id in ("", "-a", "a b", "a" * 49, "ä", "a\n", "a;drop", "_x"):
        for call in (prepared.ensure_cluster, prepared.cluster_exists):
            with pytest.raises(BadRequest) as raised:
                await call(cluster_id)
            assert raised.value.code == "bad_cluster_id"
        with pytest.raises(BadRequest):
            await Scoped.open(prepared.dsn, cluster_id=cluster_id)


async def test_home_tenants(database: str) -> None:
    db = await Database.prepare(database)
    assert not await db.cluster_exists("Default_1")
    created = await asyncio.gather(*(db.ensure_cluster("Default_1", "eu") for _ in range(5)))
    assert Counter(created) == {None: 4, "active": 1}
    assert await db.cluster_exists("Default_1")
    assert await db.ensure_cluster("x_y")
    assert await db.ensure_cluster("X-Y")
    labels = {}
    for cluster_id in ("Default_1", "x_y", "X-Y"):
        scoped = await Scoped.open(db.dsn, cluster_id=cluster_id, role="hs_admin", pool_size=1)
        tenant = await scoped.tenant()
        assert (tenant.name, tenant.is_home, tenant.status) == (cluster_id, True, "active")
        labels[cluster_id] = tenant.dns_label
        await scoped.close()
    assert labels == {"Default_1": "", "x_y": "x-y", "X-Y": "x-y-1"}


async def test_tenant_names_are_unique(prepared: Database) -> None:
    await prepared.create_tenant("a", "acme")
    with pytest.raises(Conflict, match="tenants_name"):
        await prepared.create_tenant("b", "acme")


async def test_unreachable_and_wrong_logins(database: str) -> None:
    with pytest.raises(Unavailable):
        await Database.prepare("postgresql://nobody@127.0.0.1:1/x")
    with pytest.raises(ConfigError, match="does not exist") as raised:
        await Database.prepare(urlunsplit(urlsplit(database)._replace(path="/hs_no_such_database")))
    assert raised.value.code == "database_login"
