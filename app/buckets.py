"""Token buckets, bounded in number: how often somebody may do something. Time is an argument. Pure."""

from __future__ import annotations

from collections import OrderedDict

#: Buckets kept; whose has not been used for longest is forgotten, that is full again.
MAX_BUCKETS = 50_000


class Buckets:
    """For each key a bucket of so many calls a minute as its caller says, which fills evenly."""

    def __init__(self, max_buckets: int = MAX_BUCKETS) -> None:
        self._max = max_buckets
        self._levels: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def wait_s(self, key: object, per_minute: int, now: float) -> float:
        """Seconds until another call may be taken; 0 for now."""
        level = self._level(key, per_minute, now)
        return 0.0 if level >= 1.0 else (1.0 - level) * 60.0 / per_minute

    def take(self, key: object, per_minute: int, now: float) -> None:
        level = self._level(key, per_minute, now)
        self._levels[key] = (max(0.0, level - 1.0), now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._max:
            self._levels.popitem(last=False)

    def try_take(self, key: object, per_minute: int, now: float) -> float:
        """Takes a call if it may be taken now; else the seconds until it may."""
        wait_s = self.wait_s(key, per_minute, now)
        if wait_s == 0.0:
            self.take(key, per_minute, now)
        return wait_s

    def _level(self, key: object, per_minute: int, now: float) -> float:
        level, at = self._levels.get(key, (float(per_minute), now))
        return min(float(per_minute), level + (now - at) * per_minute / 60.0)
