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
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.fleet_rows import seed
from bench.report import ROOT, Table
from bench.system import Lab, rss_bytes

DEVICES = 100_000
QUICK_DEVICES = 5_000
SIZE = (120, 36)
STARTS, KEYS, FILTERS = 5, 60, 7
NAIVE_KEYS = 15
DEADLINE_S = 120.0
FIRST_SCREEN_S, KEY_MS, FILTER_MS = 1.0, 100.0, 300.0
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


def run(lab: Lab) -> Table:
    devices = QUICK_DEVICES if lab.quick else DEVICES
    table = Table("console", f"hs-console on a terminal of {SIZE[0]}x{SIZE[1]}, {devices:,} devices")
    dsn = lab.postgres.new_database("bench_console")
    place = lab.directory / "console"
    place.mkdir()
    try:
        asyncio.run(seed(dsn, devices))
        pattern = f"of {devices:,}"
        starts, memory = _first_screen(dsn, place, "console.cli", 2 if lab.quick else STARTS, pattern)
        naive_starts, naive_memory = _first_screen(
            dsn, place, "bench.console_naive", 1, f"{devices:,} devices"
        )
        with Terminal(dsn, place, "console.cli", "--screen", "devices") as terminal:
            terminal.painted(pattern)
            terminal.idle(2.0)
            keys = _keys(terminal, 10 if lab.quick else KEYS)
            filters = _filters(terminal, 2 if lab.quick else FILTERS, devices)
        with Terminal(dsn, place, "bench.console_naive", "--screen", "devices") as terminal:
            terminal.painted(f"{devices:,} devices")
            naive_keys = _keys(terminal, NAIVE_KEYS)
    finally:
        lab.postgres.drop_database("bench_console")
    table.add("first screen, from the start of the process", "s wall", starts, budget=FIRST_SCREEN_S,
              naive=naive_starts)  # fmt: skip
    table.add("  of it: Python and its libraries", "s wall", _imports_ms(3))
    table.add("cursor key to paint", "ms wall", keys, budget=KEY_MS, naive=naive_keys)
    table.add("filter, Enter to its rows", "ms wall", filters, budget=FILTER_MS)
    table.add("memory of the process", "MB", [memory], naive=[naive_memory])
    return table
