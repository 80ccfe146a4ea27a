"""The console ends in order when it is told to, or when its terminal is gone."""

from __future__ import annotations

import asyncio
import select
import signal
import sys
from collections.abc import Callable

HANGUP_CHECK_S = 1.0
GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


def tend(leave: Callable[[], object]) -> None:
    """Call `leave` at a signal that ends programs, and once nobody is at the other end of the terminal.

    Without the first the terminal would stay as the console has set it up. Without the second a console
    whose terminal vanishes with no signal reads end of file in a loop, for ever.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, leave)
    poller = select.poll()
    poller.register(sys.stdin.fileno(), 0)

    def look() -> None:
        if any(events & GONE for _, events in poller.poll(0)):
            leave()
        else:
            loop.call_later(HANGUP_CHECK_S, look)

    look()
