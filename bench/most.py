"""As many connected devices as this machine holds."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import psutil  # type: ignore[import-untyped]

from app.simulation.scenario import fleet
from bench.fleets import Load
from bench.report import Table
from bench.system import Foreign, Lab, Server, rss_bytes

STEP = 3_000
TENANT = 50
JOIN_RATE = 30.0
#: Stop rules. Slow once may be a neighbour's doing; twice in a row is ours.
MAX_JOIN_P99_MS = 2_000.0
MIN_FREE = 0.1
MAX_STEPS = 20
#: Files that a server has open beside its connections.
SPARE_FILES = 200


def _climb(server: Server | Foreign, step: int, steps: int) -> tuple[list[dict[str, Any]], str]:
    """What was measured at each number of devices, and why it ended."""
    keys = server.auth_keys(steps * step // TENANT)
    limit = psutil.Process(server.pid).rlimit(psutil.RLIMIT_NOFILE)[0]
    found: list[dict[str, Any]] = []
    empty = rss_bytes(server.pid)
    with ExitStack() as stack:
        for number in range(steps):
            there = (number + 1) * step
            if 0 < limit < there + SPARE_FILES:
                return found, f"the server may have {limit:,} open files"
            share = keys[number * len(keys) // steps : (number + 1) * len(keys) // steps] or keys
            specs = fleet(server.target.url, share, step, prefix=f"most{number}")
            load = stack.enter_context(Load(server, specs))
            cpu, _ = load.measured("join", JOIN_RATE)
            report = load.clean(f"{there} devices")
            memory = psutil.virtual_memory()
            rss = rss_bytes(server.pid)
            found.append(
                {
                    "devices": there,
                    "p50": report["join"]["p50_ms"],
                    "p99": report["join"]["p99_ms"],
                    "cpu": cpu * 1000 / step,
                    "rss": rss,
                    "per_device": (rss - empty) / there,
                    "load_rss": report["own"]["peak_rss_bytes"],
                    "failed": report["devices"]["failed"],
                }
            )
            print(f"  {there:,} connected, join p99 {report['join']['p99_ms']:,.0f} ms", flush=True)
            if report["devices"]["failed"]:
                return found, f"{report['devices']['failed']} devices could not join"
            if all(line["p99"] > MAX_JOIN_P99_MS for line in found[-2:]) and len(found) > 1:
                return found, f"joins took longer than {MAX_JOIN_P99_MS / 1000:g} s (p99) twice in a row"
            if memory.available < memory.total * MIN_FREE:
                return found, "memory was used up"
    return found, "this was the last step"


def run(lab: Lab) -> Table:
    """Steps of new devices until a stop rule holds."""
    step, steps = (100, 2) if lab.quick else (STEP, MAX_STEPS)
    table = Table("most", f"as many connected devices as this machine holds, tenants of {TENANT}")
    if lab.foreign is None:
        with lab.server("most") as server:
            found, why = _climb(server, step, steps)
    else:
        found, why = _climb(lab.foreign, step, steps)
    last = found[-1]
    table.add("devices connected at the end", "", [last["devices"]])
    for one in dict.fromkeys(found[at]["devices"] for at in (0, len(found) // 2, len(found) - 1)):
        facts = next(line for line in found if line["devices"] == one)
        before = one - step
        table.add(f"{before:,} there, {step:,} more join: to first map, p50", "ms wall", [facts["p50"]])
        table.add(f"{before:,} there, {step:,} more join: to first map, p99", "ms wall", [facts["p99"]])
        table.add(f"{before:,} there, {step:,} more join: CPU each", "ms", [facts["cpu"]])
    table.add("memory of the server at the end", "MB", [last["rss"] / 1e6])
    table.add("memory per connected device, its registration included", "KB", [last["per_device"] / 1e3])
    table.add(f"memory of a load process of {step:,} devices", "MB", [last["load_rss"] / 1e6])
    table.notes.append(
        f"It ended because {why}. Joins arrive at {JOIN_RATE:g} per second, each measured from the moment it "
        "was due. All devices stay connected and check what they receive; load, PostgreSQL and server share "
        "the machine."
    )
    return table
