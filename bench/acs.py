"""hs-acs: joins per second over its API, devices that come in by it, and a tenant that moves (`acs`)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from app.api.client import AcsClient
from app.api.records import JoinAsked, MoveAsked, TenantAsked
from app.simulation.fleet import Fleet
from app.simulation.scenario import fleet
from bench.load import Member, each
from bench.report import ROOT, Table, percentile
from bench.system import Lab, Server, Target, cpu_s, free_port, in_load_process

CALLERS = 16
READY_DEADLINE_S = 30.0
MOVES = 6
#: Devices that talk at the same time, and how often each does.
SPEAKERS = 8
FRAMES = 1000
CONTROL_BUDGET_S = 2.0
#: Between two looks at who has a map.
LOOK_S = 0.01


class Acs:
    """`hs-acs serve` beside a server of the lab."""

    def __init__(self, server: Server) -> None:
        self._dir = tempfile.mkdtemp(prefix="acs-", dir=server._state_dir)
        listen = f"127.0.0.1:{free_port()}"
        self.url = f"http://{listen}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HS_")},
            "PG_DSN": server.admin_dsn,
            "HS_STATE_DIR": self._dir,
            "HS_SECRET_KEY_FILE": str(server._environment["HS_SECRET_KEY_FILE"]),
            "HS_ACS__LISTEN_ADDR": listen,
            "HS_ACS__METRICS_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
            "HS_ACS__LOGIN_SERVER": self.url,
            "HS_ACS__REQUESTS_PER_MINUTE": "1000000",
        }
        with (Path(self._dir) / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "acs.cli", "serve"],
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid
        deadline = time.monotonic() + READY_DEADLINE_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/v1/service", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def token(self) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "acs.cli", "tokens", "create", "--scope", "admin", "bench"],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


@contextmanager
def _entries(server: Server, count: int) -> Iterator[list[Acs]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(Acs(server))
            stack.callback(made[-1].stop)
        yield made


async def _joins(urls: list[str], token: str, pids: list[int], count: int, fresh: bool) -> dict[str, float]:
    """`count` joins by CALLERS at a time; of one tenant, or each of a new one."""
    clients = [AcsClient(url, token) for url in urls]
    seconds: list[float] = []
    numbers = iter(range(count))
    try:
        await clients[0].place(TenantAsked(name="known"))

        async def caller(number: int) -> None:
            for at in numbers:
                name = f"new {len(urls)} {at}" if fresh else "known"
                began = time.monotonic()
                await clients[number % len(clients)].join(JoinAsked(tenant=name, user="alice"))
                seconds.append(time.monotonic() - began)

        cpu, began = sum(map(cpu_s, pids)), time.monotonic()
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        elapsed = time.monotonic() - began
        return {
            "per_s": count / elapsed,
            "cpu_ms": (sum(map(cpu_s, pids)) - cpu) * 1000 / count,
            "p99_ms": percentile(seconds, 0.99) * 1000,
        }
    finally:
        for client in clients:
            await client.__aexit__(None, None, None)


async def _arrivals(target: Target, urls: list[str], pids: list[int], count: int) -> dict[str, float]:
    """Known devices that come back, by one way or another."""
    members = [Member(target, f"way{number}") for number in range(count)]
    await each(members, lambda member: member.register(), CALLERS)
    found: dict[str, float] = {}
    for name, ways in (("direct", [target.url]), ("one", urls[:1]), ("two", urls)):
        moved = [m.at(replace(target, url=ways[n % len(ways)])) for n, m in enumerate(members)]
        entries, owner = sum(map(cpu_s, pids)), cpu_s(target.pid)
        began = time.monotonic()
        await each(moved, lambda member: member.connect(), CALLERS)
        found[f"{name}_s"] = (time.monotonic() - began) * 1000 / count
        found[f"{name}_entry"] = (sum(map(cpu_s, pids)) - entries) * 1000 / count
        found[f"{name}_owner"] = (cpu_s(target.pid) - owner) * 1000 / count
        await _frames(moved[:SPEAKERS], name, pids, target.pid, found)
        members = moved
    for member in members:
        member.abort()
    return found


async def _frames(
    members: list[Member], name: str, pids: list[int], owner_pid: int, found: dict[str, float]
) -> None:
    """Requests that only need an answer: one frame there and one back each."""
    times: list[float] = []

    async def speak(member: Member) -> None:
        connection = await member.connect()
        for _ in range(FRAMES):
            began = time.monotonic()
            await connection.request("/machine/update-health", b"{}", deadline_s=READY_DEADLINE_S)
            times.append(time.monotonic() - began)

    entries, owner = sum(map(cpu_s, pids)), cpu_s(owner_pid)
    await each(members, speak, len(members))
    found[f"{name}_frame_ms"] = percentile(times, 0.5) * 1000
    found[f"{name}_frame_entry"] = (sum(map(cpu_s, pids)) - entries) * 1e6 / len(times)
    found[f"{name}_frame_owner"] = (cpu_s(owner_pid) - owner) * 1e6 / len(times)


def _maps(metrics_url: str) -> float:
    """Full maps a server has sent."""
    with urllib.request.urlopen(metrics_url, timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("hs_full_maps_total"))


async def _move(
    url: str, token: str, metrics: dict[str, str], pids: list[int], size: int
) -> list[tuple[float, float, float]]:
    """A tenant of connected devices moves to and fro: (s until the answer, s until all have a map of their
    new owner, CPU ms of all servers per device) of each move. `metrics`: pages of the two clusters."""
    name = f"mover {size}"
    async with AcsClient(url, token) as client:
        joining = await client.join(JoinAsked(tenant=name, user="alice", reusable=True))
        results = []
        async with Fleet(fleet(url, [joining.auth_key], size, prefix="m")) as devices:
            await devices.join()
            for _ in range(MOVES):
                here = (await client.tenant(name)).cluster
                (target,) = metrics.keys() - {here}
                maps = await asyncio.to_thread(_maps, metrics[target])
                cpu, began = sum(map(cpu_s, pids)), time.monotonic()
                await client.move(MoveAsked(tenant=name, to=target))
                told = time.monotonic() - began
                while await asyncio.to_thread(_maps, metrics[target]) < maps + size:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)
                took = time.monotonic() - began
                results.append((told, took, (sum(map(cpu_s, pids)) - cpu) * 1000 / size))
            violations = devices.world.tally.violations.total
    if violations:
        raise RuntimeError(f"{violations} violations while the tenant moved")
    return results


def run(lab: Lab) -> Table:
    table = Table("acs", "hs-acs: joins over its API, devices that come in by it, a tenant that moves")
    joins, devices = (40, 40) if lab.quick else (600, 500)
    with lab.clusters("acs", 2) as servers, _entries(servers[0], 2) as entries:
        token = entries[0].token()
        urls, pids = [entry.url for entry in entries], [entry.pid for entry in entries]
        for what, fresh in (("of a tenant that is known", False), ("each of a new tenant, placed", True)):
            for count in (1, 2):
                found = in_load_process(
                    _joins, urls[:count], token, pids[:count], joins, fresh, deadline_s=300
                )
                label = f"joins {what}, {count} hs-acs"
                table.add(f"{label}: rate, {CALLERS} callers", "1/s", [found["per_s"]])
                table.add(f"{label}: CPU of hs-acs", "ms", [found["cpu_ms"]])
                table.add(f"{label}: p99", "ms wall", [found["p99_ms"]])
        found = in_load_process(_arrivals, servers[0].target, urls, pids, devices, deadline_s=300)
        for name, what in (("direct", "directly"), ("one", "by one hs-acs"), ("two", "by two")):
            table.add(f"a known device connects {what}: CPU of the entries", "ms", [found[f"{name}_entry"]])
            table.add("  CPU of the owner", "ms", [found[f"{name}_owner"]])
            table.add(f"  wall time each, {CALLERS} at a time", "ms wall", [found[f"{name}_s"]])
        for name, what in (
            ("direct", "with a dial plan: to the owner"),
            ("one", "one hs-acs"),
            ("two", "two"),
        ):
            label = f"a frame there and back, {what}"
            table.add(f"{label}: CPU of the entries", "us", [found[f"{name}_frame_entry"]])
            table.add("  CPU of the owner", "us", [found[f"{name}_frame_owner"]])
            table.add(f"  round trip, {SPEAKERS} at a time, median", "ms wall", [found[f"{name}_frame_ms"]])
        for size in (50,) if lab.quick else (50, 500):
            moves = in_load_process(
                _move,
                urls[0],
                token,
                {server.cluster: server.metrics_url for server in servers},
                [*pids, *(server.pid for server in servers)],
                size,
                deadline_s=300,
            )
            label = f"a tenant of {size} connected devices moves"
            table.add(f"{label}: until the API answers", "ms wall", [move[0] * 1000 for move in moves])
            table.add(
                f"{label}: until all poll their new owner",
                "s wall",
                [move[1] for move in moves],
                budget=CONTROL_BUDGET_S,
            )
            table.add(f"{label}: CPU of all servers per device", "ms", [move[2] for move in moves])
    table.notes.append(
        "With a dial plan a client speaks to the owner from its second connection on, so its frames cost an"
        " entry nothing; without one, or where the owner's address is not reachable, each passes an entry."
    )
    table.notes.append("All processes, PostgreSQL and the load share the machine.")
    return table
