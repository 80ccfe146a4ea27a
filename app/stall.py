"""How late the event loop is, sampled: what a connected device feels when something computes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: A stall is seen if it is longer; a hundred looks a second cost a thousandth of a core.
SAMPLE_EVERY_S = 0.01


async def watch_loop(*on_stall: Callable[[float], None], every_s: float = SAMPLE_EVERY_S) -> None:
    """For ever; each `on_stall` hears how many seconds later than asked the loop came back."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every_s
        await asyncio.sleep(every_s)
        late_s = max(0.0, loop.time() - due)
        for hear in on_stall:
            hear(late_s)
