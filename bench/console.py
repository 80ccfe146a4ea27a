"""The console on a large fleet, as an operator meets it: a real process on a terminal, keys in, paint out."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
import psutil  # type: ignore[import-untyped]

from app.db.connect import connect
from app.db.scoped import Scoped
from bench.console_changes import INSTANCE, own
from bench.fleet_rows import seed
from bench.report import ROOT, Table, percentile
from bench.system import Lab, cpu_s, rss_bytes
from console import query

DEVICES = 100_000
QUICK_DEVICES = 5_000
SIZE = (120, 36)
#: With the hundred users of each tenant: 5,000.
CLUSTERS = 50
STARTS, KEYS, PAGES, FILTERS, NOTIFIED = 5, 60, 20, 15, 40
NAIVE_KEYS, NAIVE_CPU_S = 15, 20.0
#: CPU of the process is measured so long, quiet and with so many changes a second.
CPU_S, CHANGES_PER_S = 60.0, 200
DEADLINE_S = 120.0
FIRST_SCREEN_S, KEY_MS, FILTER_MS, IDLE_CPU_PERCENT, MEMORY_MB = 1.0, 100.0, 300.0, 3.0, 150.0
#: The first row of the list by name is a device of this name.
FIRST_NAME = "build-runner-000001"
_FIRST = """
SELECT n.cluster_id, n.tenant_id, n.id, l.epoch
  FROM nodes n JOIN leases l ON l.name = 'cluster:' || n.cluster_id WHERE n.given_name = $1
"""
#: What the fleet of bench/fleet_rows.py answers to these filters.
FILTER_LINES = ("os:linux", "kiosk-0", "user:user5 seen<1d", "tag:rack3", "!tag:server state:online")

_ESCAPES = re.compile(rb"\x1b\[[0-9;?<>=]*[ -/]*[@-~]|\x1b[()][0-9A-B]|\x1b[=>78]")


class Terminal:
    """A console process on a pseudo-terminal of its own. Times are from the key to the bytes that show it."""

    def __init__(self, dsn: str, state_dir: Path, module: str, *arguments: str) -> None:
        self.started = time.monotonic()
        pid, self._fd = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith("HS_")},
                **{"PG_DSN": dsn, "HS_STATE_DIR": str(state_dir), "TERM": "xterm-256color"},
                **{"COLORTERM": "truecolor", "LANG": "C.UTF-8"},
            }
            os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment)
        self.pid = pid
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
        self._seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)

    def press(self, keys: str) -> float:
        """Sends keys; what was painted before is forgotten. Returns the time."""
        self._drain()
        self._seen = b""
        os.write(self._fd, keys.encode())
        return time.monotonic()

    def painted(self, pattern: str) -> float:
        """The time at which this is on its way to the terminal, escape sequences apart."""
        wanted = re.compile(pattern.encode())
        deadline = time.monotonic() + DEADLINE_S
        while not wanted.search(_ESCAPES.sub(b"", self._seen)):
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{pattern!r} is not painted:\n{_ESCAPES.sub(b'', self._seen)[-2000:]!r}")
            self._seen += os.read(self._fd, 1 << 16)
        return time.monotonic()

    def _drain(self) -> None:
        """What comes by itself: the clock, ages, the poll."""
        while select.select([self._fd], [], [], 0.0)[0]:
            os.read(self._fd, 1 << 16)

    def idle(self, seconds: float) -> None:
        """Reads on, so that the process never waits for its terminal."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0]:
                os.read(self._fd, 1 << 16)


def _first_screen(dsn: str, place: Path, module: str, rounds: int, pattern: str) -> tuple[list[float], float]:
    """Seconds from the start of the process to its rows, and its memory then in MB."""
    times, memory = [], 0.0
    for _ in range(rounds):
        with Terminal(dsn, place, module, "--screen", "devices") as terminal:
            times.append(terminal.painted(pattern) - terminal.started)
            terminal.idle(1.0)
            memory = rss_bytes(terminal.pid) / 1e6
    return times, memory


def _keys(terminal: Terminal, count: int) -> list[float]:
    """Milliseconds from a cursor key to the pointer on its new row, at any moment of the poll."""
    times = []
    for number in range(count):
        terminal.idle(0.07 + 0.013 * (number % 9))
        pressed = terminal.press("\x1b[B" if number % 20 < 10 else "\x1b[A")
        times.append((terminal.painted("►") - pressed) * 1000)
    return times


def _filters(terminal: Terminal, rounds: int, devices: int) -> list[float]:
    """Milliseconds from Enter to the rows of the filter."""
    times = []
    for number in range(rounds):
        line = FILTER_LINES[number % len(FILTER_LINES)]
        terminal.press("/")
        terminal.idle(0.3)
        terminal.press(line)
        terminal.idle(0.5)
        pressed = terminal.press("\r")
        times.append((terminal.painted(rf"of (?!{devices:,})[0-9,]+ |[0-9] devices ") - pressed) * 1000)
        terminal.idle(0.7)
        terminal.press("\x1b")
        terminal.idle(2.0)
    return times


def _imports_ms(rounds: int) -> list[float]:
    """Of the first screen: the interpreter and the libraries alone."""
    times = []
    for _ in range(rounds):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import console.cli"], cwd=ROOT, check=True, timeout=60)
        times.append(time.monotonic() - began)
    return times


def _pages(terminal: Terminal, count: int) -> list[float]:
    """Milliseconds from page down to the pointer on the next screenful of rows."""
    times = []
    for _ in range(count):
        terminal.idle(0.4)
        pressed = terminal.press("\x1b[6~")
        times.append((terminal.painted("►") - pressed) * 1000)
    return times


def _cpu_percent(terminal: Terminal, seconds: float) -> float:
    """CPU of the console's process in percent of one core, while nobody touches a key."""
    before, began = cpu_s(terminal.pid), time.monotonic()
    terminal.idle(seconds)
    return 100 * (cpu_s(terminal.pid) - before) / (time.monotonic() - began)


async def _announce(dsn: str, text: str) -> float:
    """Gives the first device of the list this version, tells consoles of it; the time of the telling."""
    connection = await connect(dsn, "hs_owner")
    row = await connection.fetchrow(_FIRST, FIRST_NAME)
    await connection.close(timeout=10)
    assert row is not None
    scoped = await Scoped.open(dsn, cluster_id=row[0], instance=INSTANCE, epoch=row[3], pool_size=1)
    try:
        await scoped.update_device(row[1], row[2], hostinfo=orjson.dumps({"OS": "linux", "IPNVersion": text}))
        told = time.monotonic()
        await scoped.notify_fleet()
    finally:
        await scoped.close()
    return told


def _notified(terminal: Terminal, dsn: str, rounds: int, series: int) -> list[float]:
    """Milliseconds from the notification of an owner to the changed cell on the terminal."""
    times = []
    for number in range(rounds):
        terminal.idle(0.3 + 0.037 * (number % 11))
        told = asyncio.run(_announce(dsn, f"{series}.{number + 100}.1"))
        times.append((terminal.painted(rf"{series}\.{number + 100}\.1") - told) * 1000)
    return times


def _memory_after_all_screens(terminal: Terminal) -> float:
    """Megabytes, once every screen has been open and its rows walked through."""
    for screen in query.SCREENS:
        terminal.press(":")
        terminal.idle(0.5)
        terminal.press(screen)
        terminal.idle(1.0)
        terminal.press("\r")
        terminal.idle(1.5)
        for _ in range(6):
            terminal.press("\x1b[6~")
            terminal.idle(0.15)
        terminal.press("G")
        terminal.idle(1.0)
    return rss_bytes(terminal.pid) / 1e6


@contextmanager
def _changes(dsn: str, place: Path) -> Iterator[list[int]]:
    """Owners that write; the list has their changes of each second, once they are stopped."""
    log = place / "changes.log"
    counts: list[int] = []
    with log.open("w") as out:
        command = [sys.executable, "-m", "bench.console_changes", dsn, str(CHANGES_PER_S)]
        writer = subprocess.Popen(command, cwd=ROOT, stdout=out)
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not log.read_text():
                if writer.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the writer of changes does not write")
                time.sleep(0.1)
            yield counts
        finally:
            writer.kill()
            writer.wait()
    counts += [int(line) for line in log.read_text().split("\n")[:-1]]


def _machine() -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"load average {load} on {os.cpu_count()} cores, {psutil.cpu_percent(1.0):.0f} % of them busy"


def _add_both(
    table: Table, what: str, times: list[float], budget: float | None, naive: list[float] | None = None
) -> None:
    """A line for the median, one for the worst of a hundred."""
    table.add(what, "ms wall", times, budget=budget, naive=naive)
    slow = None if naive is None else [percentile(naive, 0.99)]
    table.add("  p99", "ms wall", [percentile(times, 0.99)], budget=budget, naive=slow)


def run(lab: Lab) -> Table:
    devices = QUICK_DEVICES if lab.quick else DEVICES
    few = 8 if lab.quick else 1
    title = f"hs-console on a terminal of {SIZE[0]}x{SIZE[1]}, {devices:,} devices, {CLUSTERS} clusters"
    table = Table("console", title)
    dsn = lab.postgres.new_database("bench_console")
    place = lab.directory / "console"
    place.mkdir()
    try:
        asyncio.run(seed(dsn, devices, CLUSTERS))
        asyncio.run(own(dsn, [f"c{number}" for number in range(CLUSTERS)]))
        table.notes.append(f"Machine before: {_machine()}.")
        _measure(table, dsn, place, devices, few)
        table.notes.append(f"Machine after: {_machine()}.")
    finally:
        lab.postgres.drop_database("bench_console")
    return table


def _measure(table: Table, dsn: str, place: Path, devices: int, few: int) -> None:
    """`few` divides all counts and times."""
    ours, naive = "console.cli", "bench.console_naive"
    pattern, naive_pattern = f"of {devices:,}", f"{devices:,} devices"
    starts, _ = _first_screen(dsn, place, ours, max(2, STARTS // few), pattern)
    naive_starts, naive_memory = _first_screen(dsn, place, naive, 1, naive_pattern)
    with Terminal(dsn, place, ours, "--screen", "devices") as terminal:
        terminal.painted(pattern)
        terminal.idle(2.0)
        keys = _keys(terminal, KEYS // few)
        terminal.press("g")
        quiet = _cpu_percent(terminal, CPU_S / few)
        told = _notified(terminal, dsn, NOTIFIED // few, 7)
        filters = _filters(terminal, max(2, FILTERS // few), devices)
        pages = _pages(terminal, PAGES // few)
        terminal.press("g")
        with _changes(dsn, place) as counts:
            terminal.idle(2.0)
            busy = _cpu_percent(terminal, CPU_S / few)
            busy_told = _notified(terminal, dsn, NOTIFIED // few, 8)
            busy_keys = _keys(terminal, KEYS // few)
        memory = _memory_after_all_screens(terminal)
    with Terminal(dsn, place, "console.cli") as terminal:
        terminal.painted(f"{CLUSTERS} clusters")
        overview_quiet = _cpu_percent(terminal, CPU_S / few / 2)
        with _changes(dsn, place):
            overview_busy = _cpu_percent(terminal, CPU_S / few / 2)
    with Terminal(dsn, place, naive, "--screen", "devices") as terminal:
        terminal.painted(naive_pattern)
        naive_keys = _keys(terminal, NAIVE_KEYS // few)
        naive_quiet = _cpu_percent(terminal, NAIVE_CPU_S / few)
        with _changes(dsn, place):
            naive_busy = _cpu_percent(terminal, NAIVE_CPU_S / few)
    table.add("first screen, from the start of the process", "s wall", starts, budget=FIRST_SCREEN_S,
              naive=naive_starts)  # fmt: skip
    table.add("  of it: Python and its libraries", "s wall", _imports_ms(3))
    _add_both(table, "cursor key to paint", keys, KEY_MS, naive_keys)
    _add_both(table, "  with changes", busy_keys, KEY_MS)
    _add_both(table, "page down to paint", pages, KEY_MS)
    _add_both(table, "filter, Enter to its rows", filters, FILTER_MS)
    _add_both(table, "notification to cell", told, None)
    _add_both(table, "  with changes", busy_told, None)
    share = "% of a core"
    table.add("CPU, quiet, devices", share, [quiet], budget=IDLE_CPU_PERCENT, naive=[naive_quiet])
    table.add("  with changes", share, [busy], naive=[naive_busy])
    table.add("CPU, quiet, overview", share, [overview_quiet], budget=IDLE_CPU_PERCENT)
    table.add("  with changes", share, [overview_busy])
    table.add("memory after all screens", "MB", [memory], budget=MEMORY_MB, naive=[naive_memory])
    rate = sum(counts) / max(1, len(counts))
    table.notes.append(
        f"With changes: {rate:.0f} a second were committed (wanted: {CHANGES_PER_S}), half of them presence,"
        " half hostnames, each cluster tells hs_fleet as its owner does. Naive: the same console that reads"
        " all rows instead of a window; its memory is that of one screen."
    )
