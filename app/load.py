"""What a process does and needs, counted in memory and written by the minute."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from app import log
from app.errors import HsError

_log = log.get("load")

WRITE_EVERY_S = 60.0
#: The first sample comes soon: who looks at a process that has just started wants to see it.
FIRST_WRITE_S = 2.0
#: How often it is looked how many database connections are in use.
LOOK_EVERY_S = 1.0
#: Rates are never made of less than this.
MIN_SPAN_S = 0.001
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class LoadSample:
    """One row of `load_samples`. `clock` is the process's, in epoch seconds; None is not measured."""

    span_s: float
    connected: int | None
    registered: int | None
    changes: int | None
    frames: int | None
    bytes: int | None
    cpu_s: float
    rss: int | None
    loop_lag_s: float
    pool_used: int
    pool_size: int
    clock: float


class LoadMeter:
    """Counts, and writes what has come together. What could not be written counts for the next sample."""

    def __init__(
        self,
        write: Callable[[LoadSample], Awaitable[None]],
        pool_use: Callable[[], tuple[int, int]],
        devices: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        """`pool_use`: database connections in use, and how many there may be.

        `devices`: connected and registered ones; without it none of the netmap's counts are measured.
        """
        self._write = write
        self._pool_use = pool_use
        self._devices = devices
        self._since = time.monotonic()
        self._cpu_s = time.process_time()
        self._changes = self._frames = self._bytes = self._pool_used = 0
        self._loop_lag_s = 0.0

    def sent(self, changes: int, frames: int, size: int) -> None:
        """Devices whose netmap row changed, and the frames and bytes that told of it."""
        self._changes += changes
        self._frames += frames
        self._bytes += size

    def stalled(self, seconds: float) -> None:
        """How late the event loop was."""
        self._loop_lag_s = max(self._loop_lag_s, seconds)

    async def run(self) -> None:
        """Until cancelled."""
        pause_s = FIRST_WRITE_S
        while True:
            end = time.monotonic() + pause_s
            while (left_s := end - time.monotonic()) > 0:
                self._pool_used = max(self._pool_used, self._pool_use()[0])
                await asyncio.sleep(min(LOOK_EVERY_S, left_s))
            pause_s = WRITE_EVERY_S
            await self.flush()

    async def flush(self) -> None:
        """Write a sample; kept when it cannot be written now."""
        now, cpu_s = time.monotonic(), time.process_time()
        used, size = self._pool_use()
        counts = self._changes, self._frames, self._bytes
        lag_s, self._loop_lag_s = self._loop_lag_s, 0.0
        devices = self._devices() if self._devices is not None else None
        sample = LoadSample(
            span_s=max(now - self._since, MIN_SPAN_S),
            connected=None if devices is None else devices[0],
            registered=None if devices is None else devices[1],
            changes=None if devices is None else counts[0],
            frames=None if devices is None else counts[1],
            bytes=None if devices is None else counts[2],
            cpu_s=cpu_s - self._cpu_s,
            rss=resident_bytes(),
            loop_lag_s=lag_s,
            pool_used=max(used, self._pool_used),
            pool_size=size,
            clock=time.time(),
        )
        try:
            await self._write(sample)
        except HsError as error:
            _log.warning("load_not_written", reason=error.message)
            self.stalled(lag_s)
            return
        self._since, self._cpu_s, self._pool_used = now, cpu_s, 0
        self._changes -= counts[0]
        self._frames -= counts[1]
        self._bytes -= counts[2]


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
