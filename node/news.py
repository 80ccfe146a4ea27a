"""Tells consoles and standbys that something of this cluster was committed: NOTIFY `hs_fleet`.

A transaction that notifies shares its flush with no other of the server (DESIGN section 7), so it is
one of its own, at most one per EVERY_S however much happens. It only wakes: whoever hears it reads again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app import log
from app.errors import HsError

_log = log.get("news")

EVERY_S = 0.5


class FleetNews:
    """`touch()` whenever something was committed."""

    def __init__(self, notify: Callable[[], Awaitable[None]], may_write: Callable[[], bool]) -> None:
        """`notify` sends one notification. `may_write`: not while the lease is in doubt."""
        self._notify = notify
        self._may_write = may_write
        self._touched = asyncio.Event()

    def touch(self) -> None:
        self._touched.set()

    async def run(self) -> None:
        """For ever. What cannot be sent is told after the next pause; consoles poll beside it."""
        while True:
            await self._touched.wait()
            if self._may_write():
                self._touched.clear()
                try:
                    await self._notify()
                except HsError as error:
                    self._touched.set()
                    _log.info("news_delayed", reason=error.message)
            await asyncio.sleep(EVERY_S)
