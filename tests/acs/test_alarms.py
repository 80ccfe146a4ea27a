"""A node dies: the alarm is seen at the console, acknowledged, and over when the node is back."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from acs.health import JUDGE_EVERY_S, Judge
from app.db.admission import Admission
from app.db.fleet import Fleet
from app.db.setup import Database
from app.errors import Conflict
from app.fleet import View
from app.fleet_lists import AlarmRow
from app.health import RULES, Alarm
from console.screens.overview import OverviewScreen
from console.store import PgStore
from tests.acs.support import AcsProcess
from tests.console.support import running, shown, text, toasts, until
from tests.node.support import (
    ServeProcess,
    clean_environment,
    eventually,
    fresh_database,
    run_sql,
)
from tests.programs import run_shell

LEASE_S = 2.0
#: A busy machine's share of the time until an alarm is seen.
SLACK_S = 4.0
SETTINGS = {"HS_TIMING__LEASE_TTL": f"{LEASE_S:g}s"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parts(pg_server: str) -> AsyncIterator[tuple[str, ServeProcess, AcsProcess]]:
    async with (
        fresh_database(pg_server) as dsn,
        ServeProcess(dsn, "east", settings=SETTINGS) as node,
        AcsProcess(dsn, secret_key_file=node.secret_key_file) as acs,
    ):
        yield dsn, node, acs


@pytest.mark.chaos
async def test_a_node_dies_and_comes_back(
    parts: tuple[str, ServeProcess, AcsProcess], tmp_path: Path
) -> None:
    dsn, node, acs = parts
    await acs.leads()
    async with running(PgStore(dsn), "overview", size=(160, 40), clock=time.time) as (app, pilot):
        base = await shown(app, pilot)
        assert isinstance(base, OverviewScreen)
        await until(pilot, lambda: app.link.is_up and base.picture and base.picture.leader, "a judge")
        await node.kill()
        died = time.monotonic()
        await until(pilot, lambda: "cluster east has no owner" in text(app), "the alarm")
        waited_s = time.monotonic() - died
        assert waited_s < LEASE_S + RULES["no_owner"].hold_s + 2 * JUDGE_EVERY_S + SLACK_S
        assert "1 critical" in text(app)

        await pilot.press("!")
        await until(pilot, lambda: app.base is not None and app.base.NAME == "alarms", "the alarms")
        alarms = await shown(app, pilot)
        (row,) = [row for row in alarms.rows.values() if row.rule == "no_owner"]
        alarms.table.move_to(alarms.key_of(row))
        await pilot.press("a")
        await until(pilot, lambda: "Cancel" in text(app), "the dialog")
        await pilot.press("y")
        await until(pilot, lambda: f"acknowledge alarm {row.id}: done" in toasts(app), "the answer")
        await until(pilot, lambda: state_of(alarms, row) == "known", "its row")
        await pilot.press("1")
        await until(pilot, lambda: "1 acknowledged" in text(app), "the overview")
        assert re.search(r"critical +east .* console:ops \d\d:\d\d:\d\d", text(app)), text(app)
        assert "1 critical" not in text(app)

        await node.start()
        await until(pilot, lambda: "has no owner" not in text(app), "its end")
        # Without hs-acs nobody keeps alarms: the console judges the same facts, and says so.
        await acs.kill()
        await until(pilot, lambda: "no hs-acs leads" in text(app), "its own alarm")
        assert "judged by this console" in text(app)
        await acs.start()
        await until(pilot, lambda: base.picture and base.picture.leader, "a judge again")
    audited = await run_sql(
        dsn, "SELECT actor, object FROM audit_log WHERE action = 'request_alarm_acknowledge'"
    )
    assert [tuple(row) for row in audited] == [("console:ops", f"alarm:{row.id}")]
    # What is over cannot be acknowledged; the sentence is the script's answer.
    environment = clean_environment({"PG_DSN": dsn, "HS_STATE_DIR": str(tmp_path)})
    words = ("do", "alarm.acknowledge", f"alarm={row.id}", "--yes", "-o", "json")
    result = await run_shell(environment, *words, program="console.cli")
    assert result.code != 0
    assert f"alarm {row.id} is over" in result.out + result.err


def state_of(alarms: Any, row: AlarmRow) -> str:
    found = alarms.rows.get(alarms.key_of(row))
    return found.state if found is not None else ""


async def test_processes_are_measured(parts: tuple[str, ServeProcess, AcsProcess]) -> None:
    dsn, _, _ = parts

    async def measured() -> bool:
        rows = await run_sql(
            dsn,
            "SELECT s.cluster_id, s.connected, s.rss, s.pool_size, s.loop_lag_s, s.clock_skew_s"
            "  FROM load_samples s JOIN instances i USING (instance_id)"
            " WHERE i.heartbeat_at > now() - interval '20 s'",
        )
        found = {row["cluster_id"]: row for row in rows}
        if set(found) != {"", "east"}:
            return False
        assert found["east"]["connected"] == 0
        assert found[""]["connected"] is None, "an hs-acs measures no netmaps"
        for row in rows:
            assert row["rss"] > 10_000_000
            assert row["pool_size"] > 1
            assert abs(row["clock_skew_s"]) < 5
        return True

    await eventually(measured, "both have written a sample")


async def test_a_leader_goes_on_and_a_new_alarm_is_a_new_one(pg_server: str) -> None:
    async with fresh_database(pg_server) as dsn:
        await Database.prepare(dsn)
        store = await Admission.open(dsn, pool_size=1)
        try:
            alarm = Alarm("loop_lag", "east", "process:x", "warning", "late")
            await store.keep_alarms([alarm])
            (first,) = await run_sql(dsn, "SELECT id FROM alarms")
            await store.acknowledge_alarm(first["id"], actor="ops")
            # A new leader finds it open, reads nothing of it, and keeps it until it has been quiet.
            judge = Judge(store)
            await judge.run()
            assert await store.open_alarms() == [alarm]
            await store.keep_alarms([])
            await store.keep_alarms([alarm])
            rows = await run_sql(dsn, "SELECT id, cleared_at, acknowledged_by FROM alarms ORDER BY id")
            assert [(row["cleared_at"] is None, row["acknowledged_by"]) for row in rows] == [
                (False, "ops"),
                (True, None),
            ]
            # What nobody knows of comes first, the worst on top; what is over comes last.
            worse = Alarm("no_owner", "east", "cluster:east", "critical", "no owner")
            await store.keep_alarms([alarm, worse])
            fleet = await Fleet.open(dsn)
            page = await fleet.listing("alarms", View(sort="urgency"))
            fleet.terminate()
            assert [(row.severity, row.state) for row in page.rows] == [
                ("critical", "open"),
                ("warning", "open"),
                ("warning", "over"),
            ]
            with pytest.raises(Conflict, match="is over"):
                await store.acknowledge_alarm(first["id"], actor="ops")
        finally:
            await store.close()
