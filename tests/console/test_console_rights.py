"""What the database itself refuses, on a real one: writes, rights taken and given, another schema."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.db.setup import Database
from app.errors import HsError
from app.sql import migrations
from console import store as store_module
from console.store import PgStore
from tests.console.support import running, shown, text, toasts, until

NEWEST = len(migrations())


@pytest.fixture
async def prepared(database: str) -> str:
    await (await Database.prepare(database)).ensure_cluster("a")
    return database


@pytest.fixture
async def dba(prepared: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Who grants and revokes."""
    conn = await asyncpg.connect(prepared, server_settings={"search_path": "hs"})
    yield conn
    await conn.close()


async def test_read_only_by_the_database_and_a_schema_that_does_not_fit(
    prepared: str, dba: asyncpg.Connection[asyncpg.Record]
) -> None:
    store = PgStore(prepared, read_only=True)
    async with running(store, "overview") as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up and "| RO |" in text(app))
        assert base.check_action("command", ("cluster.drain",)) is None
        await base.action_command("cluster.drain")
        assert toasts(app) == ["drain: this console is read-only"]
        assert store._fleet is not None
        for write in ("CREATE TEMPORARY TABLE t ()", "INSERT INTO audit_log (actor) VALUES ('x')"):
            with pytest.raises(HsError, match="read-only transaction"):
                await store._fleet._fetch(write)
    await dba.execute("ALTER TABLE audit_log RENAME TO audit_log_gone")
    async with running(PgStore(prepared), "audit") as (app, pilot):
        await until(pilot, lambda: "schema is not this version's" in text(app))
        assert "✖ refused" in text(app)
        assert "audit_log" in text(app)


async def test_a_role_that_may_only_read_and_gets_its_rights_back(
    prepared: str, dba: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    await dba.execute("REVOKE INSERT ON requests, audit_log FROM hs_console")
    async with running(PgStore(prepared), "overview") as (app, pilot):
        base = await shown(app, pilot)
        lacks = "this console is read-only: role hs_console lacks INSERT on requests, INSERT on audit_log"
        await until(pilot, lambda: app.link.is_up and "| RO |" in text(app))
        assert toasts(app) == [lacks]
        assert base.check_action("command", ("cluster.drain",)) is None
        await base.action_command("cluster.drain")
        assert toasts(app)[-1] == f"drain: {lacks}"
        await dba.execute("GRANT INSERT ON requests, audit_log TO hs_console")
        monkeypatch.setattr(store_module, "RIGHTS_EVERY_S", 0.0)
        await until(pilot, lambda: "| RW |" in text(app))
        assert "is there again" in toasts(app)[-1]
        assert base.check_action("command", ("cluster.drain",))
        # Taken while it runs: the database refuses the request, and what it takes is told from then on.
        monkeypatch.setattr(store_module, "RIGHTS_EVERY_S", 3600.0)
        await dba.execute("REVOKE INSERT ON requests FROM hs_console")
        await pilot.press("w")
        await until(pilot, lambda: app.screen is not base)
        await pilot.press("a", "enter")
        await until(
            pilot, lambda: any("permission denied for table requests" in said for said in toasts(app))
        )
        await until(pilot, lambda: "| RO |" in text(app))


async def test_a_login_whose_sessions_only_read(
    prepared: str, dba: asyncpg.Connection[asyncpg.Record]
) -> None:
    """As administrators make logins for those who only look."""
    name = await dba.fetchval("SELECT current_database()")
    await dba.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with running(PgStore(prepared), "overview") as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up and "| RO |" in text(app))
        assert toasts(app) == [
            "this console is read-only: the database takes no writes from this login, or is a standby"
        ]


@pytest.mark.parametrize(
    ("version", "told"), [(NEWEST - 1, "hs-node migrates it"), (NEWEST + 1, "install the newer console")]
)
async def test_a_schema_of_another_version_is_told_by_its_number(
    prepared: str,
    dba: asyncpg.Connection[asyncpg.Record],
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    told: str,
) -> None:
    monkeypatch.setattr(store_module, "RIGHTS_EVERY_S", 0.0)
    async with running(PgStore(prepared), "overview", (130, 36)) as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        if version < NEWEST:
            last = await dba.fetchrow("DELETE FROM schema_migrations WHERE version > $1 RETURNING *", version)
        else:
            await dba.execute("INSERT INTO schema_migrations VALUES ($1, 'next', 'x')", version)
        sentence = f"the database has schema version {version}, this console needs {NEWEST}: {told}"
        # Rows that are here stay, with the sentence above them.
        await until(pilot, lambda: "✖ refused" in text(app) and sentence in text(app).replace("\n", ""))
        assert "► a " in text(app)
        if version < NEWEST:
            await dba.execute("INSERT INTO schema_migrations VALUES ($1, $2, $3, $4)", *last)
            app.feed_kick()
            await until(pilot, lambda: app.link.is_up and sentence not in text(app).partition("CLUSTER")[0])
