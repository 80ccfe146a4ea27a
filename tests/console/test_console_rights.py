"""What the database itself refuses, on a real one: writes of a read-only console, another schema."""

from __future__ import annotations

import asyncpg
import pytest

from app.db.setup import Database
from app.errors import HsError
from console.store import PgStore
from tests.console.support import running, shown, text, toasts, until


async def test_read_only_by_the_database_and_a_schema_that_does_not_fit(database: str) -> None:
    prepared = await Database.prepare(database)
    await prepared.ensure_cluster("a")
    store = PgStore(database, read_only=True)
    async with running(store, "overview") as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up and "| RO |" in text(app))
        assert base.check_action("command", ("cluster.drain",)) is None
        await base.action_command("cluster.drain")
        assert toasts(app)[-1] == "drain: this console is read-only"
        assert store._fleet is not None
        for write in ("CREATE TEMPORARY TABLE t ()", "INSERT INTO audit_log (actor) VALUES ('x')"):
            with pytest.raises(HsError, match="read-only transaction"):
                await store._fleet._fetch(write)
    conn = await asyncpg.connect(database)
    try:
        await conn.execute("ALTER TABLE hs.audit_log RENAME TO audit_log_gone")
        async with running(PgStore(database), "audit") as (app, pilot):
            await until(pilot, lambda: "schema is not this version's" in text(app))
            assert "✖ refused" in text(app)
            assert "audit_log" in text(app)
    finally:
        await conn.close()
