"""When keys of devices end, soonest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from app.model import Device, DeviceId


class Expiries:
    """Times stay in line when a device gets another one; what came of it is looked up when they are due."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, DeviceId]] = []

    def expect(self, device: Device, known: Device | None) -> None:
        """The key of a device ends some day, if it does; `known`: as it was before."""
        if device.expiry is not None and (known is None or known.expiry != device.expiry):
            heapq.heappush(self._heap, (device.expiry, device.id))

    def due(self, now: float) -> Iterator[tuple[float, DeviceId]]:
        """(time, device) of those whose time has come, each once."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)
