"""The same fleet on 1, 2 and 4 clusters of one database: what a device and a change cost (`clusters`)."""

from __future__ import annotations

import time
from typing import Any

from app.simulation.scenario import Spec, fleet
from bench.fleets import Load
from bench.report import Table
from bench.system import Lab, Server, cpu_s

TENANT = 50
DEVICES = 1_600
CHANGES_PER_S = 80.0
LIVE_S = 20.0
#: Of the figure of one cluster.
BUDGET = 1.2


def _cpu(servers: list[Server]) -> float:
    return sum(cpu_s(server.pid) for server in servers)


def _measured(lab: Lab, count: int, devices: int, seconds: float) -> dict[str, float]:
    with lab.clusters(f"clusters{count}", count) as servers:
        specs: list[Spec] = []
        for server in servers:
            share = devices // count
            keys = server.auth_keys(share // TENANT)
            specs += fleet(server.target.url, keys, share, prefix=server.cluster)
        with Load(servers[0], specs) as load:
            cpu, pg, began = _cpu(servers), lab.postgres.cpu_s(), time.monotonic()
            load("join", None)
            joined = {
                "join_ms": (_cpu(servers) - cpu) * 1000 / devices,
                "join_pg_ms": (lab.postgres.cpu_s() - pg) * 1000 / devices,
                "joins_per_s": devices / (time.monotonic() - began),
            }
            load.clean("joining")
            load("fresh")
            cpu, pg = _cpu(servers), lab.postgres.cpu_s()
            load("live", ("endpoints",), CHANGES_PER_S, seconds, devices)
            spent, pg_spent = _cpu(servers) - cpu, lab.postgres.cpu_s() - pg
            report: dict[str, Any] = load.clean("churn")
            sent = report["propagation"]["sent"]
            return joined | {
                "change_ms": spent * 1000 / sent,
                "change_pg_ms": pg_spent * 1000 / sent,
                "p99": report["propagation"]["p99_ms"],
            }


def run(lab: Lab) -> Table:
    """CPU of all servers together, against that of one cluster."""
    counts, devices, seconds = ((1, 2), 200, 3.0) if lab.quick else ((1, 2, 4), DEVICES, LIVE_S)
    table = Table(
        "clusters", f"{devices:,} devices in tenants of {TENANT}, on so many clusters of one database"
    )
    found = {count: _measured(lab, count, devices, seconds) for count in counts}
    for count, facts in found.items():
        for key, what, unit in (
            ("join_ms", "CPU of the servers per device that joins", "ms"),
            ("join_pg_ms", "  PostgreSQL beside it", "ms"),
            ("joins_per_s", "joins per second, 64 at a time", "1/s"),
            ("change_ms", "CPU of the servers per change", "ms"),
            ("change_pg_ms", "  PostgreSQL beside it", "ms"),
            ("p99", "change sent to frame at others, p99", "ms wall"),
        ):
            table.add(f"{count} clusters: {what}", unit, [facts[key]])
    for key, what in (("join_ms", "per device that joins"), ("change_ms", "per change")):
        for count in counts[1:]:
            ratio = found[count][key] / found[counts[0]][key]
            table.add(f"{count} clusters against 1: CPU {what}", "x", [ratio], budget=BUDGET)
    table.notes.append(
        f"{CHANGES_PER_S:g} endpoint changes per second, each heard by {TENANT - 1} others. All servers, "
        "PostgreSQL and the load share two cores: more clusters cannot be faster here, only not dearer."
    )
    return table
