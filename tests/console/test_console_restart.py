"""The console while its database is stopped, restarted or cut off for real: the picture stays."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.scoped import Scoped
from app.db.setup import Database
from app.pg import EmbeddedPostgres
from console.dialogs import LostDialog
from console.forms import FormDialog
from console.store import PgStore
from tests.console.support import running, shown, text, toasts, until
from tests.console.test_console_live import add_device
from tests.node.kit import DatabaseGate

DEVICES = 30
#: How long the database is away, in the console's own words.
AWAY = ("(4 s ago)", "(5 s ago)", "(6 s ago)")


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that this test may stop: nobody else's."""
    place = Path(tempfile.mkdtemp(prefix="hs-restart-"))
    place.chmod(0o711)
    server = EmbeddedPostgres(place / "pg", durable=False)
    yield server
    server.release()
    shutil.rmtree(place)


async def prepare(dsn: str) -> str:
    """A cluster with devices; answers the auth key they joined with."""
    await (await Database.prepare(dsn)).ensure_cluster("a")
    scoped = await Scoped.open(dsn, cluster_id="a", role="hs_admin", pool_size=1)
    tenant = await scoped.tenant()
    owner = await scoped.create_user(tenant.id, "alice")
    _, key = await scoped.create_auth_key(tenant.id, owner.id, reusable=True)
    for number in range(DEVICES):
        await add_device(scoped, key, number, f"web-{number:02}")
    await scoped.close()
    return key


async def one_more(dsn: str, key: str, number: int, name: str) -> None:
    scoped = await Scoped.open(dsn, cluster_id="a", role="hs_admin", pool_size=1)
    await add_device(scoped, key, number, name)
    await scoped.close()


async def test_a_stop_of_seconds_and_a_restart(own_server: EmbeddedPostgres) -> None:
    dsn = await asyncio.to_thread(own_server.acquire)
    key = await prepare(dsn)
    async with running(PgStore(dsn), "devices", clock=time.time) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        await pilot.press(*["down"] * 7, "space", "up")
        held, marks = base.table.cursor_key, set(base.marks.rows)
        assert len(marks) == 1

        await asyncio.to_thread(own_server.release)
        await until(pilot, lambda: app.link.kind == "down", "the loss is seen")
        await until(pilot, lambda: isinstance(app.screen, LostDialog), "the dialog")
        await until(pilot, lambda: any(age in text(app) for age in AWAY), "the age of the picture")
        picture = text(app)
        assert "○ no database, retry in" in picture
        assert "data as of" in picture
        assert "RW→RO" in picture
        assert "web-00" in picture
        assert "Connection to pg" in picture
        assert app.link.attempt > 1
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is base, "hidden")
        assert base.check_action("command", ("device.expire",)) is None
        await base.action_command("device.expire")
        assert "not connected" in toasts(app)[-1]
        assert (base.table.row_count, base.table.cursor_key, set(base.marks.rows)) == (DEVICES, held, marks)

        await asyncio.to_thread(own_server.acquire)
        await until(pilot, lambda: app.link.is_up, "it is back without a key")
        assert app.screen is base
        assert any(toast.startswith("back after") and "changed" in toast for toast in toasts(app))
        await one_more(dsn, key, 500, "aaa-after")
        await until(pilot, lambda: "31 devices" in text(app), "live again")
        assert (base.table.cursor_key, set(base.marks.rows)) == (held, marks)


async def test_what_is_typed_survives_the_loss_and_is_sent_after_it(own_server: EmbeddedPostgres) -> None:
    dsn = await asyncio.to_thread(own_server.acquire)
    await prepare(dsn)
    async with running(PgStore(dsn), "devices", clock=time.time) as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, FormDialog), "the form")
        app.screen.query_one("#name").value = "typed-before"  # type: ignore[attr-defined]
        await asyncio.to_thread(own_server.release)
        await until(pilot, lambda: app.link.kind == "down", "the loss is seen")
        await pilot.click("#submit")
        await until(pilot, lambda: "this stays until it is back" in text(app), "it is told")
        assert isinstance(app.screen, FormDialog)
        assert app.screen.query_one("#name").value == "typed-before"  # type: ignore[attr-defined]
        await asyncio.to_thread(own_server.acquire)
        await until(pilot, lambda: app.link.is_up, "back")
        await pilot.click("#submit")
        await until(pilot, lambda: app.feed_pending == 1, "asked")


async def test_a_cut_cable(own_server: EmbeddedPostgres) -> None:
    """No byte comes, no error either: the bar says stale, then down, and a healed cable is enough."""
    dsn = await asyncio.to_thread(own_server.acquire)
    key = await prepare(dsn)
    async with (
        DatabaseGate(dsn) as gate,
        running(PgStore(gate.dsn), "devices", clock=time.time) as (app, pilot),
    ):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        await pilot.press("down", "down")
        held = base.table.cursor_key
        gate.hang()
        await until(pilot, lambda: "stale" in text(app), "stale")
        await until(pilot, lambda: app.link.kind == "down", "down")
        assert base.table.row_count == DEVICES
        await gate.open()
        await one_more(dsn, key, 501, "aaa-healed")
        await until(pilot, lambda: "31 devices" in text(app), "live again")
        assert base.table.cursor_key == held
