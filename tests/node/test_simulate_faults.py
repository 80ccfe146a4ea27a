"""A simulated fleet under churn, while parts die: whoever checks finds nothing wrong in what it was told."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.simulation.fleet import Fleet
from app.simulation.scenario import Churn, fleet
from tests.node.kit import SOME_DERP_MAP, DatabaseGate
from tests.node.support import ServeProcess, eventually, run_sql
from tests.node.support import admin as administration
from tests.node.test_takeover import standby_of

DEVICES = 40
CHURN_S = 6.0


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "derp.yaml"
    path.write_text(SOME_DERP_MAP)
    return {
        "HS_DERP__SERVER__ENABLED": "false",
        "HS_DERP__PATHS": str(path),
        "HS_TIMING__LEASE_TTL": "2s",
    }


@contextlib.asynccontextmanager
async def churning(url: str, key: str) -> AsyncIterator[Fleet]:
    """A joined fleet to which something happens all the time; at the end all are back and checked."""
    async with Fleet(fleet(url, [key], DEVICES, full=DEVICES)) as devices:
        await devices.join()
        churn = Churn(DEVICES, ("endpoints", "online"), 15, 9, random.Random(7).random)
        living = asyncio.create_task(devices.live(churn, CHURN_S))
        yield devices
        await living

        async def all_back() -> bool:
            return devices.here >= devices.wanted

        await eventually(all_back, "all are back", 30)
        await devices.settle()
        report = devices.report()
    assert report["violations"] == {"count": 0, "texts": []}
    assert report["devices"]["failed"] == 0


async def key_of(dsn: str) -> str:
    async with administration(dsn) as place:
        return await place.auth_key()


async def test_the_owner_is_killed_and_its_standby_takes_over(
    database: str, settings: dict[str, str]
) -> None:
    async with (
        ServeProcess(database, settings=settings) as owner,
        standby_of(owner, settings) as standby,
        churning(standby.url, await key_of(database)) as devices,
    ):
        await owner.kill()

        async def taken_over() -> bool:
            return (await standby.metrics())["hs_sessions"] > DEVICES / 2

        await eventually(taken_over, "the standby serves")
        assert devices.report()["reconnect"]["lost"] > 0


@pytest.mark.chaos
async def test_the_database_loses_all_connections_hangs_and_refuses(
    database: str, settings: dict[str, str]
) -> None:
    async with DatabaseGate(database) as gate, ServeProcess(gate.dsn, settings=settings) as serve:
        async with churning(serve.url, await key_of(database)) as devices:
            await run_sql(
                database,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            gate.hang()
            await asyncio.wait_for(_heard_more(devices), 20)
            await gate.refuse()
            await asyncio.wait_for(_heard_more(devices), 20)
            await gate.open()
        assert devices.report()["reconnect"]["lost"] == 0, "no poll ends because the database is away"


async def _heard_more(devices: Fleet) -> None:
    """Polls go on: endpoints travel from device to device while the database does not answer."""
    start = devices.world.tally.propagation.count
    while devices.world.tally.propagation.count < start + 20:  # noqa: ASYNC110 - no event of all
        await asyncio.sleep(0.02)


@pytest.mark.chaos
async def test_the_wire_is_cut_and_then_silent(database: str, settings: dict[str, str]) -> None:
    """All connections of the clients break at once; then no byte passes for a while."""
    async with ServeProcess(database, settings=settings) as serve:
        wire = DatabaseGate(serve.url)
        async with wire, churning(wire.dsn, await key_of(database)) as devices:
            lost = devices.report()["reconnect"]["lost"]
            await wire.refuse()
            await wire.open()

            async def back() -> bool:
                report = devices.report()["reconnect"]
                return bool(report["lost"] > lost and report["count"] >= DEVICES / 2)

            await eventually(back, "most are back", 20)
            wire.hang()
            sent = (await serve.metrics())["hs_delta_frames_total"]
            await run_sql(database, "UPDATE nodes SET given_name = 'unheard' WHERE hostname = 'sim-0'")

            async def unheard() -> bool:
                return (await serve.metrics())["hs_delta_frames_total"] > sent

            await eventually(unheard, "the server says something that nobody hears")
            await wire.open()
