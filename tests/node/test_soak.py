"""Ten minutes of everything at once: the server's memory, polls, tunnels and tasks must not grow."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import psutil
import pytest
import uvloop

from app.errors import Unavailable
from app.runtime import require_open_files
from app.simulation.fleet import Fleet
from app.simulation.scenario import Churn, Kind, Step, fleet
from tests.node.support import Administration, ServeProcess, eventually, fresh_database, new_tenant

MINUTES = 10
#: Memory is compared with that after this minute: until then caches fill and the allocator finds its size.
FIRST_MINUTE = 3
MAX_GROWTH = 1.05
DEVICES, TENANTS = 2000, 4
JOIN_RATE = 100.0
#: Events per second, in all tenants together.
RATES: dict[Kind, float] = {"endpoints": 8.0, "online": 2.0, "join-leave": 1.0}
#: No minute ends within the seconds in which everybody is coming back.
STORM_EVERY_S = 65.0
POLICY_EVERY_S, RENAME_EVERY_S = 7.0, 1.0
SAMPLE_S = 1.0
#: Who was cut off while it logged out is forgotten before everybody must be back.
SETTINGS = {"HS_NODE__EPHEMERAL__INACTIVITY_TIMEOUT": "70s"}
BACK_DEADLINE_S = 120.0
#: Tasks and tunnels that come and go with single requests.
SPARE = 20
POLICIES = (
    '{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}',
    '{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:22,443"]}]}',
    '{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["alice@:*"]}], "ssh": [{"action": "accept",'
    ' "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["autogroup:nonroot"]}]}',
)
COLUMNS = (
    "minute",
    "low_mb",
    "high_mb",
    "end_mb",
    "sessions",
    "tunnels",
    "tasks",
    "files",
    "devices",
    "frames",
    "full_maps",
    "resyncs",
    "lost",
    "errors",
    "violations",
)
Row = dict[str, Any]


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 300)
def test_ten_minutes_of_mixed_churn_leave_the_server_as_it_was(pg_server: str) -> None:
    require_open_files(2 * DEVICES)
    rows, settled = uvloop.run(_soak(pg_server))
    first, last = rows[FIRST_MINUTE - 1], rows[-1]
    growth = last["end_mb"] / first["end_mb"]
    print(
        f"memory after minute {MINUTES} is {growth:.3f} of that after minute {FIRST_MINUTE}, "
        f"the lowest of these minutes {last['low_mb'] / first['low_mb']:.3f}"
    )
    assert growth <= MAX_GROWTH
    for row in rows:
        assert row["violations"] == 0
        assert row["sessions"] <= DEVICES + SPARE
        assert row["tunnels"] <= DEVICES + SPARE
    assert settled["devices"] == settled["sessions"] == DEVICES
    assert settled["violations"] == 0
    assert settled["tunnels"] <= DEVICES + SPARE
    assert settled["tasks"] <= rows[0]["tasks"] + SPARE
    assert settled["files"] <= rows[0]["files"] + DEVICES * 0.2 + SPARE


async def _soak(pg_server: str) -> tuple[list[Row], Row]:
    """What stood at the end of each minute, and once everybody is back and all is quiet."""
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(fresh_database(pg_server))
        serve = await stack.enter_async_context(ServeProcess(dsn, settings=SETTINGS))
        places = [await stack.enter_async_context(new_tenant(serve)) for _ in range(TENANTS)]
        # A device that was replaced is forgotten: the fleet stays as large as it is.
        keys = [await place.auth_key(ephemeral=True) for place in places]
        devices = await stack.enter_async_context(
            Fleet(fleet(serve.url, keys, DEVICES, tenants=TENANTS, ephemeral=True))
        )
        await devices.join(JOIN_RATE)
        print(f"{devices.joined} joined in {devices.joining_s:.1f} s")
        print(*(f"{name:>10}" for name in COLUMNS))
        chance = random.Random(5).random
        seconds = float(MINUTES * 60)
        async with asyncio.TaskGroup() as group:
            for kind, rate in RATES.items():
                churn = Churn(DEVICES, (kind,), rate, STORM_EVERY_S, chance)
                group.create_task(devices.live(churn, seconds))
            group.create_task(devices.live(Churn(DEVICES, ("storm",), 1, STORM_EVERY_S, chance), seconds))
            edits, names = itertools.count(), itertools.count()
            group.create_task(_every(POLICY_EVERY_S, seconds, lambda: _edit_policy(places, edits)))
            group.create_task(_every(RENAME_EVERY_S, seconds, lambda: _rename(places, names)))
            group.create_task(_watch(serve, devices, rows))
        for at in list(devices.devices):
            if not at.wanted:
                await devices.act(Step(seconds, "back", at.index))

        async def all_here() -> bool:
            return devices.here == DEVICES and (await serve.metrics())["hs_devices"] == DEVICES

        await eventually(all_here, "everybody is back", BACK_DEADLINE_S)
        await devices.settle()
        settled = await _look(serve, devices, [psutil.Process(serve.pid).memory_info().rss])
        _show("settled", settled)
        report = devices.report()
        print("actions", report["actions"])
        for name in ("propagation", "update", "reconnect"):
            print(name, report[name])
        print("errors", report["errors"])
        print("violations", report["violations"])
        assert not [line for line in serve.log().splitlines() if line.split()[1:2] == ["ERROR"]]
    return rows, settled


async def _every(pause_s: float, seconds: float, do: Callable[[], Awaitable[None]]) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        try:
            await do()
        except Unavailable as error:  # what an operator would try again
            print(f"not done: {error.message}")
        await asyncio.sleep(pause_s)


async def _edit_policy(places: list[Administration], numbers: Iterator[int]) -> None:
    number = next(numbers)
    place = places[number % len(places)]
    text = POLICIES[number // len(places) % len(POLICIES)]
    await place.scoped.set_policy(place.tenant.id, text, author="soak")


async def _rename(places: list[Administration], numbers: Iterator[int]) -> None:
    number = next(numbers)
    place = places[number % len(places)]
    known = await place.devices()
    if known:
        chosen = known[number * 31 % len(known)]
        await place.scoped.rename_device(place.tenant.id, chosen.id, f"soak-{number}", actor="soak")


async def _watch(serve: ServeProcess, devices: Fleet, rows: list[Row]) -> None:
    process = psutil.Process(serve.pid)
    start_s = time.monotonic()
    for minute in range(1, MINUTES + 1):
        samples: list[int] = []
        while (left_s := start_s + minute * 60 - time.monotonic()) > 0:
            samples.append(process.memory_info().rss)
            await asyncio.sleep(min(left_s, SAMPLE_S))
        rows.append(await _look(serve, devices, samples))
        _show(minute, rows[-1])


async def _look(serve: ServeProcess, devices: Fleet, rss_bytes: list[int]) -> Row:
    series = await serve.metrics()
    tally = devices.world.tally
    return {
        "low_mb": round(min(rss_bytes) / 1e6, 1),
        "high_mb": round(max(rss_bytes) / 1e6, 1),
        "end_mb": round(rss_bytes[-1] / 1e6, 1),
        "sessions": int(series["hs_sessions"]),
        "tunnels": int(series["hs_tunnels"]),
        "tasks": int(series["hs_tasks"]),
        "files": psutil.Process(serve.pid).num_fds(),
        "devices": int(series["hs_devices"]),
        "frames": int(series["hs_delta_frames_total"]),
        "full_maps": int(series["hs_full_maps_total"]),
        "resyncs": int(series["hs_resyncs_total"]),
        "lost": tally.lost,
        "errors": tally.errors.total,
        "violations": tally.violations.total,
    }


def _show(minute: object, row: Row) -> None:
    shown = [str(minute), *(str(row[name]) for name in COLUMNS[1:])]
    print(*(f"{text:>10}" for text in shown), flush=True)
