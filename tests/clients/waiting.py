"""Waiting for a condition, always with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Pause between two looks at something that cannot tell of its own change, seconds.
LOOK_EVERY_S = 0.02


def eventually(look: Callable[[], T], deadline_s: float, what: str) -> T:
    """The first true result of `look`. Raises AssertionError with the last one after the deadline."""
    ends = time.monotonic() + deadline_s
    pause = threading.Event()
    while True:
        result = look()
        if result:
            return result
        if time.monotonic() >= ends:
            raise AssertionError(f"not within {deadline_s} s: {what}; last seen: {result!r}")
        pause.wait(LOOK_EVERY_S)
