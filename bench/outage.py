"""A server is restarted under its devices: how long until all are back, and what it costs."""

from __future__ import annotations

import time
from typing import Any

from app.simulation.scenario import fleet
from bench.fleets import Load, bytes_of
from bench.report import Table
from bench.system import Foreign, Lab, Server, cpu_s, rss_bytes

#: Devices of one tenant at most.
TENANT = 300


def _restart(server: Server | Foreign, devices: int) -> dict[str, Any]:
    keys = server.auth_keys(-(-devices // TENANT))
    with Load(server, fleet(server.target.url, keys, devices)) as load:
        load("join", None)
        load("settle")
        load("fresh")
        started = time.monotonic()
        stop_s = server.restart()
        down_s = time.monotonic() - started
        load("all_back")
        all_s = time.monotonic() - started
        cpu = cpu_s(server.pid)
        report = load.clean(f"restart under {devices}")
        load("settle")
        load.clean(f"after a restart under {devices}")
    return {
        "stop_s": stop_s,
        "start_s": down_s - stop_s,
        "all_s": all_s,
        "cpu_s": cpu,
        "rss": rss_bytes(server.pid),
        "p50": report["reconnect"]["p50_ms"] / 1000,
        "p99": report["reconnect"]["p99_ms"] / 1000,
        "bytes": bytes_of(report),
        "lost": report["reconnect"]["lost"],
    }


def run(lab: Lab) -> Table:
    table = Table("outage", "the server is stopped and started again under connected devices")
    sizes = [60] if lab.quick else [300, 1_000, 3_000]
    for size in sizes:
        with lab.server(f"outage{size}") as server:
            ours = _restart(server, size)
        theirs = None
        if size <= 1_000:
            with lab.other(f"outage{size}") as server:
                theirs = _restart(server, size)
        for key, what, unit, factor in (
            ("stop_s", "told to stop, to its end", "s wall", 1),
            ("start_s", "from there until the new one answers", "s wall", 1),
            ("p50", "a device is without a map, p50", "s wall", 1),
            ("p99", "a device is without a map, p99", "s wall", 1),
            ("all_s", "stop to the last device's map", "s wall", 1),
            ("cpu_s", "CPU of the new process, its start included", "s", 1),
            ("rss", "its memory then", "MB", 1e-6),
            ("bytes", "map messages", "MB", 1e-6),
        ):
            table.add(
                f"{size:,} devices: {what}",
                unit,
                [ours[key] * factor],
                naive=[theirs[key] * factor] if theirs else None,
            )
    table.notes.append(
        f"Tenants of at most {TENANT} devices; one in fifty, at least 20, is a full device that checks "
        "everything, the last check included; the others check order and ids. Devices try again as Go "
        "clients do behind TLS: after 10 ms, 40 ms, 90 ms ... on the same cores."
    )
    table.beside(lab.other_label)
    return table
