"""A server that starts with a large fleet in its cluster: how long, how much CPU and memory (`startup`)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bench.fleet_rows import seed
from bench.report import ROOT, Table
from bench.system import Lab, cpu_s, free_port, rss_bytes

SIZES = (10_000, 100_000)
QUICK_SIZES = (1_000,)
DEADLINE_S = 300.0


@dataclass(frozen=True, slots=True)
class Start:
    """One start, from exec until the health page answers 200."""

    wall_s: float
    cpu_s: float
    rss_bytes: int


def _start(dsn: str, place: Path) -> Start:
    listen = f"127.0.0.1:{free_port()}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HS_")},
        "PG_DSN": dsn,
        "CLUSTER_ID": "c0",
        "HS_LISTEN_ADDR": listen,
        "HS_METRICS_LISTEN_ADDR": "",
        "HS_STATE_DIR": str(place),
        "HS_DERP__SERVER__LISTEN_ADDR": "127.0.0.1:0",
        "HS_DERP__SERVER__STUN_LISTEN_ADDR": "127.0.0.1:0",
    }
    began = time.monotonic()
    with (place / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "node.cli", "serve"],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://{listen}/health", timeout=5):
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if time.monotonic() - began > DEADLINE_S or process.poll() is not None:
                    raise RuntimeError(
                        f"the server did not start:\n{(place / 'log').read_text()[-3000:]}"
                    ) from None
                time.sleep(0.02)
        return Start(time.monotonic() - began, cpu_s(process.pid), rss_bytes(process.pid))
    finally:
        process.terminate()
        process.wait(60)


def run(lab: Lab) -> Table:
    table = Table("startup", "hs-node serve starts: so many registered devices, none connected")
    for devices in QUICK_SIZES if lab.quick else SIZES:
        dsn = lab.postgres.new_database("bench_startup")
        place = lab.directory / f"startup{devices}"
        place.mkdir()
        try:
            asyncio.run(seed(dsn, devices, clusters=1))
            starts = [_start(dsn, place) for _ in range(3)]
        finally:
            lab.postgres.drop_database("bench_startup")
        table.add(f"{devices:,} devices: exec to serving", "s wall", [s.wall_s for s in starts])
        table.add(f"{devices:,} devices: CPU", "s", [s.cpu_s for s in starts])
        table.add(f"{devices:,} devices: memory", "MB", [s.rss_bytes / 1e6 for s in starts])
        per_device = [s.rss_bytes / 1e3 / devices for s in starts]
        table.add(f"{devices:,} devices: memory per device", "KB", per_device)
    table.notes.append(
        "One tenant, 100 users, every seventh device tagged, no policy. The relay process is not counted."
    )
    return table
