"""Token buckets, bounded in number: how often somebody may do something. Time is an argument. Pure."""

from __future__ import annotations

from collections import OrderedDict

#: Buckets kept; whose has not been used for longest is forgotten, that is full again.
MAX_BUCKETS = 50_000


class Buckets:
    """For each key a bucket of `per_minute` calls, which fills evenly."""

    def __init__(self, per_minute: int, max_buckets: int = MAX_BUCKETS) -> None:
        self._size = float(per_minute)
        self._per_s = per_minute / 60.0
        self._max = max_buckets
        self._levels: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def wait_s(self, key: object, now: float) -> float:
        """Seconds until another call may be taken; 0 for now."""
        level = self._level(key, now)
        return 0.0 if level >= 1.0 else (1.0 - level) / self._per_s

    def take(self, key: object, now: float) -> None:
        level = self._level(key, now)
        self._levels[key] = (max(0.0, level - 1.0), now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._max:
            self._levels.popitem(last=False)

    def _level(self, key: object, now: float) -> float:
        level, at = self._levels.get(key, (self._size, now))
        return min(self._size, level + (now - at) * self._per_s)
