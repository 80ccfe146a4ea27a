"""Every figure of a control server moves when what it counts happens, and stands in docs/METRICS.md."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from app.entry.limits import ConnectionLimits
from app.simulation.fleet import Fleet
from app.simulation.scenario import Churn, fleet
from node.derp.metrics import NAMES as RELAY_FIGURES
from node.metrics import Metrics
from tests.node.kit import Recorder, in_process, joined, until
from tests.node.support import DEADLINE_S, QUICK, Administration, ServeProcess, fresh_database

LISTING = Path(__file__).resolve().parents[2] / "docs" / "METRICS.md"
#: More rows than a block of a full map has, so that one block is without the viewer and shared.
DEVICES = 150
#: What the life below must move. Transient ones are looked for until they are seen.
SERIES = (
    # frames by kind, bytes, how well changes share encodings
    "hs_messages_total{kind=patch}",
    "hs_messages_total{kind=peers}",
    "hs_messages_total{kind=access}",
    "hs_delta_frames_total",
    "hs_delta_bytes_total",
    "hs_full_maps_total",
    "hs_full_map_bytes_total",
    "hs_delta_encodings_total",
    "hs_netmap_puts_total",
    "hs_changed_devices_total",
    "hs_round_seconds_count",
    # cache hits
    "hs_map_blocks_total{from=cache}",
    "hs_map_blocks_total{from=encoder}",
    # queues
    "hs_state_waiting",
    "hs_sessions_waiting",
    "hs_sessions_lagging",
    "hs_unsent_bytes",
    "hs_half_open_connections",
    # the event loop
    "hs_loop_stall_seconds_count",
    "hs_loop_stall_seconds_sum",
    "hs_tasks",
    "hs_loop_stall_longest_seconds",
    "hs_gc_pause_seconds_count{generation=0}",
    # rebuilds and other requests of operators
    "hs_rebuild_seconds_count{scope=device}",
    "hs_rebuild_seconds_count{scope=tenant}",
    "hs_rebuild_seconds_sum{scope=cluster}",
    "hs_operator_requests_total{kind=netmap_rebuild,outcome=done}",
    "hs_operator_requests_total{kind=netmap_rebuild,outcome=failed}",
    # who is here
    "hs_sessions",
    "hs_tunnels",
    "hs_devices",
    "hs_tenants",
    "hs_registrations_total{outcome=created}",
    "hs_map_requests_total{kind=poll}",
    "hs_map_requests_total{kind=lite}",
    "hs_resyncs_total",
    # changes by others
    "hs_foreign_changes_total",
    "hs_change_lag_seconds_count",
    "hs_change_lag_seconds_sum",
)
#: By which file of tests each of the others is driven.
ELSEWHERE = {
    "hs_displaced_connections": "test_faults_clients",
    "hs_parked_connections": "test_takeover",
    "hs_relayed_connections": "test_takeover",
    "hs_relayed_bytes": "test_takeover",
    "hs_hops": "test_takeover",
    "hs_policy_invalid": "test_policy_life",
    "hs_late_announcements_total": "test_map_stream",
}
POLICY = """{
  "tagOwners": {"tag:alone": ["alice@"]},
  "acls": [
    {"action": "accept", "src": ["alice@"], "dst": ["alice@:*"]},
    {"action": "accept", "src": ["tag:alone"], "dst": ["alice@:443"]},
  ],
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve(pg_server: str) -> AsyncIterator[ServeProcess]:
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn, settings=QUICK) as process:
        yield process


async def test_every_figure_moves(
    serve: ServeProcess, place: Administration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.client.connection.STREAM_WINDOW_BYTES", 16 * 1024)
    highest: dict[str, float] = {}
    key = await place.auth_key()
    await place.scoped.set_policy(place.tenant.id, POLICY, author="test")
    address = urlsplit(serve.url)
    async with AsyncExitStack() as stack:
        devices = await stack.enter_async_context(Fleet(fleet(serve.url, [key], DEVICES, full=2)))
        slow = await stack.enter_async_context(Recorder(serve.url, key, compress="", hostname="slow"))
        _, half_open = await asyncio.open_connection(address.hostname, address.port)
        stack.callback(half_open.close)
        await devices.join()
        await joined(slow)
        slow.reads.clear()
        tenant = ("--tenant", place.tenant.name)
        for words in (("device", "sim-1"), ("tenant",), ("cluster",), ("tag", "nobody")):
            await serve.shell("rebuild", *words, *tenant)
        chosen = await place.device("sim-2")
        await place.scoped.rename_device(place.tenant.id, chosen.id, "renamed")
        await place.scoped.set_device_tags(place.tenant.id, chosen.id, ["tag:alone"])

        missing: list[str] = []
        busy = asyncio.create_task(_busy(devices, place))
        try:
            async with asyncio.timeout(4 * DEADLINE_S):
                while True:
                    for name, value in (await serve.metrics()).items():
                        highest[name] = max(value, highest.get(name, 0.0))
                    missing = [name for name in SERIES if not highest.get(name)]
                    if not missing:
                        break
        except TimeoutError:
            raise AssertionError(f"never above zero: {missing}") from None
        finally:
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
    assert highest["hs_changed_devices_total"] <= highest["hs_netmap_puts_total"]
    assert highest["hs_delta_encodings_total"] < highest["hs_delta_frames_total"]
    assert highest["hs_sessions"] <= highest["hs_tunnels"]


async def _busy(devices: Fleet, place: Administration) -> None:
    """Devices report, connections are lost, policies are edited, for ever."""
    for number in itertools.count():
        churn = Churn(DEVICES, ("endpoints",), 200, 1.0, random.Random(number).random)
        await devices.live(churn, 2.0)
        await devices.storm()
        await place.scoped.set_policy(place.tenant.id, POLICY.replace("443", str(number + 1)), author="test")


async def test_more_connections_of_one_address_than_allowed_are_counted(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ConnectionLimits.__init__.__kwdefaults__, "per_address", 2)
    async with in_process(database, tmp_path) as server, AsyncExitStack() as stack:
        address = urlsplit(server.url)
        for _ in range(4):
            _, one = await asyncio.open_connection(address.hostname, address.port)
            stack.callback(one.close)
        await until(lambda: server.metrics()["hs_refused_connections"] == 2, "two are refused")


def _names(text: str) -> set[str]:
    return set(re.findall(r"^\| `(hs_\w+)", text, re.MULTILINE))


def _exposed() -> set[str]:
    """As they are scraped: counters with `_total`."""
    series = set()
    for family in Metrics("a").registry.collect():
        series.add(family.name + ("_total" if family.type == "counter" else ""))
    return series


def test_the_listing_has_every_series_and_no_other() -> None:
    relay = {"hs_relay_up", "hs_relay_restarts_total"}
    listed = _names(LISTING.read_text(encoding="utf-8").partition("## hs-acs")[0])
    assert {name for name in listed if not name.startswith("hs_relay_")} == _exposed()
    assert relay <= listed
    assert {f"hs_relay_{name}" for name in RELAY_FIGURES} == {
        name.removesuffix("_total") for name in listed - relay if name.startswith("hs_relay_")
    }


def test_every_series_is_driven_by_a_test() -> None:
    driven = {re.sub(r"(_count|_sum)$", "", name.partition("{")[0]) for name in SERIES}
    assert _exposed() - driven - {"hs_refused_connections"} == set(ELSEWHERE)
    for name, module in ELSEWHERE.items():
        assert name in Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
