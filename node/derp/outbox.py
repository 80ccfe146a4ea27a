"""Bounded send queues of one client, and the token bucket. No I/O, no clock: time is an argument."""

from __future__ import annotations

from collections import deque

#: Packets waiting for one client, per queue (tailscale derpserver perClientSendQueueDepth).
QUEUE_PACKETS = 32
#: Bytes waiting for one client, per queue; a full-size packet always fits.
QUEUE_BYTES = 256 * 1024
#: Control frames (pong, peer gone, health, keep-alive) waiting for one client.
QUEUE_CONTROL = 64


class DropQueue:
    """First in, first out; when full the oldest goes. Bounded in items and bytes."""

    __slots__ = ("_bytes", "_items", "_max_bytes", "_max_items")

    def __init__(self, max_items: int = QUEUE_PACKETS, max_bytes: int = QUEUE_BYTES) -> None:
        self._items: deque[bytes] = deque()
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def put(self, frame: bytes) -> int:
        """Adds a frame; returns how many old ones were dropped for it."""
        dropped = 0
        self._items.append(frame)
        self._bytes += len(frame)
        while len(self._items) > self._max_items or (self._bytes > self._max_bytes and len(self._items) > 1):
            self._bytes -= len(self._items.popleft())
            dropped += 1
        return dropped

    def take(self, budget_bytes: int) -> list[bytes]:
        """Oldest frames, until the budget is used up; at least one if there is one and budget > 0."""
        taken: list[bytes] = []
        while self._items and budget_bytes > 0:
            frame = self._items.popleft()
            self._bytes -= len(frame)
            budget_bytes -= len(frame)
            taken.append(frame)
        return taken


class Outbox:
    """What waits for one client: control frames first, then disco, then data."""

    __slots__ = ("control", "data", "disco")

    def __init__(self) -> None:
        self.control = DropQueue(QUEUE_CONTROL)
        self.disco = DropQueue()
        self.data = DropQueue()

    def __len__(self) -> int:
        return len(self.control) + len(self.disco) + len(self.data)

    def take(self, budget_bytes: int) -> bytes:
        """Frames worth about `budget_bytes`, joined; empty when nothing waits."""
        taken: list[bytes] = []
        for queue in (self.control, self.disco, self.data):
            part = queue.take(budget_bytes)
            budget_bytes -= sum(map(len, part))
            taken += part
        return b"".join(taken)


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up. Times are seconds of one clock."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated = now

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now

    def allow(self, amount: float, now: float) -> bool:
        """Takes `amount` if it is there; else takes nothing and says no."""
        self._refill(now)
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def charge(self, amount: float, now: float) -> float:
        """Takes `amount` in any case; returns the seconds until the debt is paid, 0 if there is none."""
        self._refill(now)
        self._tokens -= amount
        return max(0.0, -self._tokens / self._rate)
