"""Timers of many connections that may be a little late: those due in the same tick share one wake-up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app import log

_log = log.get("ticks")

#: Nothing is later than this. Some thousand connections make it a batch of milliseconds.
TICK_S = 0.25


class Ticks:
    """Calls back; a connection's own timer would cost a wake-up of the process, and more memory."""

    __slots__ = ("_due", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[int, dict[Callable[[], None], None]] = {}

    def later(self, delay_s: float, callback: Callable[[], None]) -> int:
        """Have it called once, `delay_s` to `delay_s + TICK_S` from now; the number is for `forget`."""
        tick = int((self._loop.time() + delay_s) / TICK_S) + 1
        waiting = self._due.get(tick)
        if waiting is None:
            waiting = self._due[tick] = {}
            self._loop.call_at(tick * TICK_S, self._run, tick)
        waiting[callback] = None
        return tick

    def forget(self, tick: int, callback: Callable[[], None]) -> None:
        """Do not call it; nothing happens if it was called."""
        self._due.get(tick, {}).pop(callback, None)

    def _run(self, tick: int) -> None:
        # It stays in place meanwhile: one callback may close another's connection.
        waiting = self._due[tick]
        while waiting:
            callback, _ = waiting.popitem()
            try:
                callback()
            except Exception:  # noqa: BLE001 - a defect in one must not keep the others waiting for ever
                _log.exception("timer_failed")
        del self._due[tick]
