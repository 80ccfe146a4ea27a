"""Python's cyclic collector: how long it holds the process, and what it need not look at again.

Rows, netmaps and closed connections are freed by counting references (tests/node/test_collector.py). A
collection of the oldest generation walks all of them, holds the event loop for 140 ms with 3,000 connected
devices (measured) and finds nothing: it runs once a day, for what libraries may leave.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

#: Objects allocated between two collections of the youngest generation, of those between two of the middle
#: one (10,000 objects are 3 ms), and of those between two of the oldest: never by itself.
THRESHOLDS = (2_000, 5, 1_000_000_000)
#: Between two full collections.
COLLECT_EVERY_S = 86_400.0


class Collector:
    """Watches the collector while it is entered."""

    def __init__(self, on_pause: Callable[[int, float], None]) -> None:
        """`on_pause` hears of each collection: its generation, and for how many seconds it lasted."""
        self._on_pause = on_pause
        self._began = 0.0
        self._before = gc.get_threshold()

    def __enter__(self) -> Collector:
        gc.set_threshold(*THRESHOLDS)
        gc.callbacks.append(self._noted)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._noted)
        gc.set_threshold(*self._before)

    def _noted(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._on_pause(info["generation"], time.perf_counter() - self._began)


async def collect() -> None:
    """A full collection; a job calls it."""
    gc.collect()
