"""Devices without a poll: each counts as online for a grace, within which it may come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from app.model import DeviceId


class Departures:
    """One timer for each device that is expected to come back."""

    def __init__(self, grace_s: float, depart: Callable[[DeviceId], None]) -> None:
        """`depart` hears of a device that did not come back."""
        self._grace_s = grace_s
        self._depart = depart
        self._loop = asyncio.get_running_loop()
        self._timers: dict[DeviceId, asyncio.TimerHandle] = {}

    def __contains__(self, device_id: DeviceId) -> bool:
        return device_id in self._timers

    def __iter__(self) -> Iterator[DeviceId]:
        return iter(self._timers)

    def __len__(self) -> int:
        return len(self._timers)

    def expect(self, device_id: DeviceId) -> None:
        """The device departs unless it is back within the grace, counted from now."""
        self.is_back(device_id)
        self._timers[device_id] = self._loop.call_later(self._grace_s, self._gone, device_id)

    def is_back(self, device_id: DeviceId) -> None:
        """Or deleted: nothing is expected of it."""
        timer = self._timers.pop(device_id, None)
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        """Nobody departs any more."""
        for timer in self._timers.values():
            timer.cancel()

    def _gone(self, device_id: DeviceId) -> None:
        del self._timers[device_id]
        self._depart(device_id)
