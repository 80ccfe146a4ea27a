"""Handshakes stand in line: when a whole fleet comes back, whoever is connected is served in between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from app import log

_log = log.get("line")

#: Handshakes are answered for so long before the event loop gets a turn; one takes about half a millisecond.
SLICE_S = 0.003


class Line:
    """First come, first served. As long as there are unfinished connections, which are limited."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Callable[[], None]) -> None:
        """Has it called soon."""
        self._waiting.append(work)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        until = self._loop.time() + SLICE_S
        while self._waiting:
            work = self._waiting[0]
            try:
                work()
            except Exception:  # noqa: BLE001 - a defect in one must not keep the others waiting for ever
                _log.exception("handshake_failed")
            self._waiting.popleft()
            if self._loop.time() >= until:
                break
        if self._waiting:
            self._loop.call_soon(self._serve)
