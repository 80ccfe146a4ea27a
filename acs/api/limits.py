"""How often one token or one address may call."""

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
        self._per_token = per_token
        self._tokens = Buckets()
        self._addresses = Buckets()
        self._guesses = Buckets()

    def check_token(self, token_id: int) -> None:
        """Counts a call of a token. Raises RateLimited."""
        wait_s = self._tokens.try_take(token_id, self._per_token, self._clock())
        _check(wait_s, "this token has made too many calls")

    def check_address(self, address: str) -> None:
        """Counts a call without a token. Raises RateLimited."""
        wait_s = self._addresses.try_take(address, ANONYMOUS_PER_MINUTE, self._clock())
        _check(wait_s, "too many calls without a token from this address")

    def check_guesses(self, address: str) -> None:
        """Raises RateLimited after too many wrong tokens."""
        wait_s = self._guesses.wait_s(address, GUESSES_PER_MINUTE, self._clock())
        if wait_s > 0:
            raise RateLimited("too many wrong tokens from this address", retry_after_s=wait_s)

    def guessed(self, address: str) -> None:
        """A token of this address was wrong."""
        self._guesses.take(address, GUESSES_PER_MINUTE, self._clock())


def _check(wait_s: float, sentence: str) -> None:
    if wait_s > 0:
        raise RateLimited(f"{sentence}: try again in {wait_s:.1f} s", retry_after_s=wait_s)
