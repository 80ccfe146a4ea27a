"""Slices of work take turns: one between two looks of the event loop at its sockets.

However many tenants have something to do, a request that arrives waits for one slice. What tells connected
devices of changes goes before whole maps; one turn in MAP_SHARE is a map's all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque

#: Of so many turns one belongs to whole maps, should both wait.
MAP_SHARE = 4
#: A slice ends with the piece of work during which it has lasted so long.
SLICE_S = 0.004


class Turns:
    """Who is next. Waiting slices are as many as tasks, one for each tenant at most."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changes: deque[asyncio.Future[None]] = deque()
        self._maps: deque[asyncio.Future[None]] = deque()
        self._turn = 0
        self._is_due = False

    @property
    def waiting(self) -> tuple[int, int]:
        """Slices that wait: of changes, of whole maps."""
        return len(self._changes), len(self._maps)

    async def take(self, *, for_map: bool = False) -> float:
        """Returns when it is the caller's turn: until when, by the loop's clock, its slice may last."""
        turn = self._loop.create_future()
        (self._maps if for_map else self._changes).append(turn)
        self._plan()
        await turn
        return self._loop.time() + SLICE_S

    def _plan(self) -> None:
        if not self._is_due and (self._changes or self._maps):
            self._is_due = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._is_due = False
        self._turn += 1
        maps_first = self._turn % MAP_SHARE == 0
        for queue in (self._maps, self._changes) if maps_first else (self._changes, self._maps):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    self._plan()
                    return
