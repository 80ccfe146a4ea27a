"""How often one token or one address may call: token buckets, bounded in number. Time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from app.errors import RateLimited

#: Wrong tokens of one address in a minute; then no token of that address is looked at for a while.
GUESSES_PER_MINUTE = 20
#: Calls of one address without a token.
ANONYMOUS_PER_MINUTE = 120
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


class RateLimits:
    """What the edge asks before it does anything."""

    def __init__(self, *, per_token: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = Buckets(per_token)
        self._addresses = Buckets(ANONYMOUS_PER_MINUTE)
        self._guesses = Buckets(GUESSES_PER_MINUTE)

    def check_token(self, token_id: int) -> None:
        """Counts a call of a token. Raises RateLimited."""
        self._count(self._tokens, token_id, "this token has made too many calls")

    def check_address(self, address: str) -> None:
        """Counts a call without a token. Raises RateLimited."""
        self._count(self._addresses, address, "too many calls without a token from this address")

    def check_guesses(self, address: str) -> None:
        """Raises RateLimited after too many wrong tokens."""
        wait_s = self._guesses.wait_s(address, self._clock())
        if wait_s > 0:
            raise RateLimited("too many wrong tokens from this address", retry_after_s=wait_s)

    def guessed(self, address: str) -> None:
        """A token of this address was wrong."""
        self._guesses.take(address, self._clock())

    def _count(self, buckets: Buckets, key: object, sentence: str) -> None:
        now = self._clock()
        wait_s = buckets.wait_s(key, now)
        if wait_s > 0:
            raise RateLimited(f"{sentence}: try again in {wait_s:.1f} s", retry_after_s=wait_s)
        buckets.take(key, now)
