"""The console on a real database: what it reads, how soon, and what it survives."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from app.db.connect import connect
from app.db.fleet import COUNTED_LINES, Fleet
from app.db.requests import RequestDesk
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import HsError, Refused
from app.fleet import View
from app.fleet_lists import LISTS
from app.keys import MachineKey, NodeKey
from app.model import Registration, TenantId
from app.sql import QUERIES
from console import cli, query
from console.store import Ask, PgStore, where_text
from tests.console.support import running, shown, text, toasts, until

DEVICES = 12


async def add_device(scoped: Scoped, auth_key: str, number: int, name: str) -> None:
    await scoped.register(
        Registration(
            machine_key=MachineKey(number.to_bytes(32, "big")),
            node_key=NodeKey((number + 10_000).to_bytes(32, "big")),
            old_node_key=None,
            auth_key=auth_key,
            hostname=name,
            label=name.lower(),
            hostinfo=json.dumps(
                {"OS": "linux" if number % 2 else "android", "IPNVersion": "1.98.1"}
            ).encode(),
            capver=131,
            ephemeral=False,
        )
    )


@pytest.fixture
async def fleet(database: str) -> AsyncIterator[tuple[str, Scoped, str]]:
    """A database with clusters `a` and `b`; devices web-0..11 in `a`; the shell of `a`; a reusable key."""
    prepared = await Database.prepare(database)
    for name in ("a", "b"):
        await prepared.ensure_cluster(name)
    scoped = await Scoped.open(database, cluster_id="a", role="hs_admin", pool_size=2)
    tenant = await scoped.tenant()
    owner = await scoped.create_user(tenant.id, "alice")
    _, auth_key = await scoped.create_auth_key(tenant.id, owner.id, reusable=True)
    _, tagged = await scoped.create_auth_key(tenant.id, None, reusable=True, tags=["tag:ci"])
    for number in range(DEVICES):
        await add_device(scoped, tagged if number == 3 else auth_key, number, f"web-{number}")
    conn = await connect(database, "hs_owner")
    await conn.execute(
        "UPDATE node_state SET online = node_id % 2 = 0, last_seen = now() - node_id * interval '1 hour'"
    )
    await conn.execute("UPDATE nodes SET expiry = now() - interval '1 day' WHERE given_name = 'web-5'")
    await conn.close()
    yield database, scoped, auth_key
    await scoped.close()


FILTERS = {
    "": set(range(12)),
    "web-1": {1, 10, 11},
    "name=web-1": {1},
    "name:web-1*": {1, 10, 11},
    "!name:web-1*": set(range(12)) - {1, 10, 11},
    "os:linux": {1, 3, 5, 7, 9, 11},
    "os:linux|android": set(range(12)),
    "tag:ci": {3},
    "!tag:ci user:alice": set(range(12)) - {3},
    "ci": {3},
    "state:expired": {5},
    "state:online|expired web-5": {5},
    "expires<0s": {5},
    "expires>1d": set(range(12)) - {5},
    "ip:100.64.0.4": {3},
    "100.64.0.4": {3},
    "@a": set(range(12)),
    "@b": set(),
    "tenant=a": set(range(12)),
    "version:1.98": set(range(12)),
    "key=1": set(range(12)) - {3},
    "name:%": set(),
    "name:_": set(),
    "'; DROP TABLE nodes; --": set(),
}


async def test_filters_mean_what_they_say(fleet: tuple[str, Scoped, str]) -> None:
    dsn, _, _ = fleet
    reader = await Fleet.open(dsn)
    for line, numbers in FILTERS.items():
        terms = query.terms(query.parse(line, query.DEVICE_FIELDS), query.DEVICE_FIELDS)
        page = await reader.devices(View(terms=terms))
        assert {row.name for row in page.rows} == {f"web-{number}" for number in numbers}, line
        assert page.total == len(numbers)
    reader.terminate()


NAMES: dict[tuple[str, str | None, str | None], list[tuple[str, str]]] = {
    ("web-1", None, None): [("device", "web-1"), ("device", "web-10"), ("device", "web-11")],
    ("WEB-11", None, None): [("device", "web-11")],
    ("A", None, None): [("cluster", "a"), ("tenant", "a"), ("user", "alice")],
    ("A", "b", None): [],
    ("al", "a", "a"): [("user", "alice")],
    ("al", None, "b"): [],
    ("we%", None, None): [],
    ("we_", None, None): [],
    ("'; --", None, None): [],
}


async def test_names_are_found_by_their_beginning_and_by_index(fleet: tuple[str, Scoped, str]) -> None:
    dsn, _, _ = fleet
    reader = await Fleet.open(dsn)
    for (word, cluster, tenant), expected in NAMES.items():
        found = await reader.names(word, cluster, tenant)
        assert [(named.kind, named.name) for named in found] == expected, word
    conn = await connect(dsn, "hs_console")
    await conn.execute("SET enable_seqscan = off")
    plan = await conn.fetch("EXPLAIN " + re.sub(r"\$\d", lambda at: NAMED[at[0]], QUERIES["fleet_names"]))
    await conn.close()
    text = " ".join(row[0] for row in plan)
    for index, column in (("users_name", "name"), ("nodes_given_name", "given_name")):
        assert re.search(rf"using {index} on [^(]*\([^)]*\)\s+Index Cond: [^\n]*\({column} >= ", text), text
    reader.terminate()


#: Parameters as constants, for a plan of them.
NAMED = {"$1": "NULL", "$2": "ARRAY['we']", "$3": "10", "$4": "NULL"}


#: Lists of which this fleet has nothing.
EMPTY = {"rebalance", "moves", "routes", "policy", "processes", "jobs", "logins", "alarms"}


@pytest.mark.parametrize("resource", ["devices", *LISTS])
async def test_windows_in_every_order_are_complete_and_without_doubles(
    fleet: tuple[str, Scoped, str], resource: str
) -> None:
    dsn, scoped, _ = fleet
    tenant = await scoped.tenant()
    for name in ("bob", "Carol", "ümit"):
        user = await scoped.create_user(tenant.id, name)
        await scoped.create_auth_key(tenant.id, user.id)
    reader = await Fleet.open(dsn)
    read: Any = reader.devices if resource == "devices" else partial(reader.listing, resource)
    whole = {row.id for row in (await read(View())).rows}
    assert whole or resource in EMPTY
    for sort in ("name", "user", "tenant", "cluster", "os", "version", "state", "id", "ip", "seen", "expires",
                 "created", "uses", "devices", "online", "prefix", "at", "owner"):  # fmt: skip
        orders = []
        for descending in (False, True):
            seen: list[int] = []
            after = None
            while True:
                page = await read(
                    View(sort=sort, descending=descending, after=after, limit=2, skipped=len(seen))
                )
                assert page.before == len(seen)
                assert page.total == len(whole)
                if not page.rows:
                    break
                seen += [row.id for row in page.rows]
                after = page.anchors[-1]
            assert sorted(seen) == sorted(whole)
            orders.append(seen)
        assert orders[0] == orders[1][::-1], sort
    reader.terminate()


async def test_scope_and_read_only(fleet: tuple[str, Scoped, str]) -> None:
    dsn, _, _ = fleet
    reader = await Fleet.open(dsn, read_only=True)
    assert (await reader.devices(View(cluster_id="b"))).rows == ()
    assert [row.cluster_id for row in (await reader.overview("a")).clusters] == ["a"]
    with pytest.raises(HsError):
        await reader._fetch("INSERT INTO audit_log (actor, action, object) VALUES ('x', 'x', 'x')")
    reader.terminate()
    store = PgStore(dsn, read_only=True)
    with pytest.raises(Refused, match="read-only"):
        await store.submit(
            Ask("a", TenantId(1), "device_delete", {"device_id": 1}, "device:1", "delete"), "t"
        )
    store.close()


async def test_a_commit_is_on_the_screen_within_a_poll(fleet: tuple[str, Scoped, str]) -> None:
    dsn, scoped, auth_key = fleet
    async with running(PgStore(dsn), "devices") as (app, pilot):
        base = await shown(app, pilot)
        assert base.table.row_count == DEVICES
        held = base.table.cursor_key
        await add_device(scoped, auth_key, 99, "aaa-first")
        await until(pilot, lambda: "aaa-first" in text(app))
        assert base.table.cursor_key == held


async def test_killed_connections_are_made_anew(fleet: tuple[str, Scoped, str]) -> None:
    dsn, scoped, auth_key = fleet
    conn = await asyncpg.connect(dsn)
    async with running(PgStore(dsn), "devices") as (app, pilot):
        base = await shown(app, pilot)
        await pilot.press("down", "down")
        held = base.table.cursor_key
        for _ in range(3):
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE '%hs_console%'"
            )
            await pilot.pause(0.05)
        await add_device(scoped, auth_key, 98, "zzz-last")
        await until(pilot, lambda: "zzz-last" in text(app))
        assert base.table.cursor_key == held
        assert app.link.is_up
    await conn.close()


async def test_an_unprepared_database_is_said_in_words(database: str) -> None:
    async with running(PgStore(database), "devices") as (app, pilot):
        await until(pilot, lambda: app.link.kind == "refused")
        await until(pilot, lambda: "the database refuses this" in text(app))


async def test_an_action_becomes_request_and_audit_and_is_followed(fleet: tuple[str, Scoped, str]) -> None:
    dsn, _, _ = fleet
    async with running(PgStore(dsn), "devices") as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("x")
        await pilot.pause()
        await pilot.press("y")
        await until(pilot, lambda: app.feed_pending == 1)
        desk = await RequestDesk.open(dsn, pool_size=1)
        request = await desk.get(next(iter(app.followed)))
        await desk.close()
        assert (request.kind, request.state, request.requested_by) == (
            "device_expire",
            "queued",
            "console:ops",
        )
        conn = await connect(dsn, "hs_owner")
        await conn.execute(
            "UPDATE requests SET state = 'failed', error = 'no such device', claimed_epoch = 1,"
            " finished_at = now()"
        )
        audit = await conn.fetch("SELECT actor, action FROM audit_log WHERE action LIKE 'request%'")
        await conn.close()
        await until(pilot, lambda: not app.feed_pending)
        assert toasts(app)[-1] == "expire web-0: no such device"
        assert [tuple(row) for row in audit] == [("console:ops", "request_device_expire")]


async def test_show_and_shot_without_a_terminal(
    fleet: tuple[str, Scoped, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_DSN", fleet[0])
    monkeypatch.setenv("HS_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    async def call(*arguments: str) -> Any:
        result = await asyncio.to_thread(CliRunner().invoke, cli.cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    rows = json.loads(await call("show", "devices", "-o", "json", "--filter", "tag:ci"))
    assert [row["name"] for row in rows] == ["web-3"]
    for screen in query.SCREENS:
        column = {"rebalance": "PURPOSE", "moves": "SOURCE", "jobs": "EVERY S"}.get(screen, "CLUSTER")
        assert column in await call("show", screen)
    picture = tmp_path / "devices.svg"
    await call("shot", "devices", "-o", str(picture), "--size", "80x24")
    assert picture.read_text().startswith("<svg")
    assert "web-11" in await call("shot", "devices", "--filter", "os:linux")


def test_the_bar_never_shows_a_password() -> None:
    assert where_text("postgres://ops:geheim@db-a:5432/hs") == "pg ops@db-a/hs"
    assert where_text("postgresql:///hs?host=/run/pg&password=geheim") == "pg local/hs"


async def test_the_audit_log_is_read_to_its_end_however_long(fleet: tuple[str, Scoped, str]) -> None:
    """More lines than are counted; the window stays what it is."""
    dsn, _, _ = fleet
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute("DELETE FROM hs.audit_log")
        await conn.execute(
            "INSERT INTO hs.audit_log (cluster_id, actor, action, object)"
            " SELECT 'c', 'a' || n % 3, 'x', 'o:' || n FROM generate_series(1, $1::int) n",
            COUNTED_LINES + 700,
        )
    finally:
        await conn.close()
    reader = await Fleet.open(dsn)
    for newest_first in (True, False):
        view, numbers = View(sort="id", descending=newest_first, limit=500), []
        while True:
            page = await reader.listing("audit", dataclasses.replace(view, skipped=len(numbers)))
            numbers += [row.id for row in page.rows]
            assert page.total == (COUNTED_LINES if not page.counted else COUNTED_LINES + 700)
            if not page.more:
                break
            view = dataclasses.replace(view, after=page.anchors[-1])
        assert len(set(numbers)) == len(numbers) == COUNTED_LINES + 700
        assert numbers == sorted(numbers, reverse=newest_first)
    for line, expected in {
        "actor:a1": len(range(1, COUNTED_LINES + 701, 3)),
        "object=o:17 !actor:a1": 1,
        "age<1h object=o:1": 1,
        "age>1h": 0,
        "69 object=o:69 actor=a0": 1,
    }.items():
        terms = query.terms(query.parse(line, query.AUDIT_FIELDS), query.AUDIT_FIELDS)
        page = await reader.listing("audit", View(terms=terms, sort="id"))
        assert (page.total, page.counted) == (expected, True), line
    reader.terminate()
    async with running(PgStore(dsn), "audit") as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: "rows 1-500 of over 10,000" in text(app))
        base.table.move_cursor(row=470)
        held = base.table.cursor_key
        await until(pilot, lambda: "rows 251-750 of over 10,000" in text(app))
        assert base.table.cursor_key == held
        await pilot.press("G")
        await until(pilot, lambda: "rows 1-500 from the end" in text(app))
        assert base.current is not None
        assert base.current.object == "o:1"
