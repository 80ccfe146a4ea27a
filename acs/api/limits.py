"""How often one token or one address may call: what the edge asks before it does anything."""

from __future__ import annotations

from collections.abc import Callable

from app.buckets import Buckets
from app.errors import RateLimited

#: Wrong tokens of one address in a minute; then no token of that address is looked at for a while.
GUESSES_PER_MINUTE = 20
#: Calls of one address without a token.
ANONYMOUS_PER_MINUTE = 120


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
