"""Steady churn: as in headscale's issue #3417, and in many small tenants."""

from __future__ import annotations

from typing import Any

from app.simulation.scenario import KINDS, Kind, fleet
from bench.fleets import Load, bytes_of
from bench.report import Table
from bench.system import Foreign, Lab, Server, rss_bytes

REGISTERED, POLLING = 617, 115
#: Each polling client reports endpoints every 23 s (its STUN round is 20 to 26 s).
REPORT_S = 23.0
SMALL = 50
CHANGES_PER_S = 50.0


def _lived(
    server: Server | Foreign, load: Load, kinds: tuple[Kind, ...], rate: float, seconds: float, among: int
) -> dict[str, Any]:
    load("fresh")
    cpu, elapsed = load.measured("live", kinds, rate, seconds, among)
    report = load.clean("churn")
    rss = rss_bytes(server.pid)
    load("settle")
    load.clean("after the churn")
    delta = report["frames"]["delta"]
    sent = report["propagation"]["sent"]
    return {
        "cpu_ms": cpu * 1000 / elapsed,
        "change_ms": cpu * 1000 / sent,
        "frames": delta["count"] / sent,
        "bytes": bytes_of(report) / elapsed / 1000,
        "p50": report["propagation"]["p50_ms"],
        "p99": report["propagation"]["p99_ms"],
        "rss": rss / 1e6,
        "lag": report["own"]["lag"]["p99_ms"],
    }


LINES = (
    ("cpu_ms", "CPU of the server", "ms/s"),
    ("change_ms", "CPU per change, all in", "ms"),
    ("p50", "change sent to frame at others, p50", "ms wall"),
    ("p99", "change sent to frame at others, p99", "ms wall"),
    ("frames", "frames per change", ""),
    ("bytes", "map messages", "KB/s"),
    ("rss", "memory", "MB"),
    ("lag", "  the load process itself is late by, p99", "ms wall"),
)


def _issue(server: Server | Foreign, registered: int, polling: int, seconds: float) -> dict[str, Any]:
    with Load(server, fleet(server.target.url, server.auth_keys(1), registered)) as load:
        load("join", None)
        load("only", polling)
        return _lived(server, load, ("endpoints",), polling / REPORT_S, seconds, polling)


def run_issue(lab: Lab) -> Table:
    """Registered and polling as in headscale's issue #3417."""
    registered, polling, seconds = (120, 30, 5) if lab.quick else (REGISTERED, POLLING, 60)
    table = Table("issue3417", f"{registered} devices registered, {polling} polling, their usual reports")
    with lab.server("issue3417") as server:
        ours = _issue(server, registered, polling, seconds)
    with lab.other("issue3417") as server:
        theirs = _issue(server, registered, polling, seconds)
    for key, what, unit in LINES:
        table.add(what, unit, [ours[key]], naive=[theirs[key]])
    table.notes.append(
        f"One tenant. Each polling device reports other endpoints once in {REPORT_S:g} s, for {seconds:g} s; "
        "each report is heard by all others. headscale at the issue's commit logged 5,721 whole-node updates "
        "in 90 s of such a fleet (HEADSCALE.md)."
    )
    table.beside(lab.other_label)
    return table


def _tenants(server: Server | Foreign, tenants: int, seconds: float) -> dict[str, Any]:
    keys = server.auth_keys(tenants)
    devices = len(keys) * SMALL
    with Load(server, fleet(server.target.url, keys, devices)) as load:
        before = rss_bytes(server.pid)
        cpu, elapsed = load.measured("join", None)
        report = load.clean("joining")
        joined = {
            "join_cpu": cpu * 1000 / devices,
            "join_rate": devices / elapsed,
            "join_p50": report["join"]["p50_ms"],
            "join_p99": report["join"]["p99_ms"],
            "per_device": (rss_bytes(server.pid) - before) / devices / 1000,
        }
        kinds = tuple(kind for kind in KINDS if kind == "endpoints")
        return joined | _lived(server, load, kinds, CHANGES_PER_S, seconds, devices)


def run_tenants(lab: Lab) -> Table:
    """Many small tenants in one process."""
    sizes, seconds = ([4], 3) if lab.quick else ([40, 200], 20)
    table = Table("tenants", f"many tenants of {SMALL} devices, all connected")
    for tenants in sizes:
        with lab.server(f"tenants{tenants}") as server:
            ours = _tenants(server, tenants, seconds)
        theirs = None
        if tenants == sizes[0]:
            with lab.other(f"tenants{tenants}") as server:
                theirs = _tenants(server, tenants, seconds)
        for key, what, unit in (
            ("join_cpu", "CPU per join", "ms"),
            ("join_rate", "joins per second, 64 at a time", "1/s"),
            ("join_p50", "dialling to first map, p50", "ms wall"),
            ("join_p99", "dialling to first map, p99", "ms wall"),
            ("per_device", "memory per joined device", "KB"),
            *LINES,
        ):
            naive = [theirs[key]] if theirs else None
            table.add(f"{tenants} x {SMALL}: {what}", unit, [ours[key]], naive=naive)
    table.notes.append(
        f"After the joins {CHANGES_PER_S:g} endpoint changes per second, each heard by {SMALL - 1} others. "
        "The load process, PostgreSQL and the server share the cores; joins of one tenant commit one after "
        "the other."
    )
    table.beside(lab.other_label)
    return table
