"""What a simulation counted: bounded in memory however long it runs. Pure; times come in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Buckets of a histogram differ by this factor: a percentile is that exact.
RESOLUTION: Final = 1.02
#: Everything faster is one bucket.
SHORTEST_S: Final = 1e-5
#: Different texts kept, and the length of one: a broken server could make any number.
MAX_TEXTS: Final = 50
MAX_TEXT: Final = 300
SHARES: Final = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))

_SCALE: Final = 1 / math.log(RESOLUTION)


class Histogram:
    """Durations in seconds, in buckets that grow by RESOLUTION."""

    __slots__ = ("_buckets", "count", "max_s")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        """One more duration."""
        bucket = 0 if seconds <= SHORTEST_S else int(math.log(seconds / SHORTEST_S) * _SCALE) + 1
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.max_s = max(self.max_s, seconds)

    def at(self, share: float) -> float | None:
        """Seconds not exceeded by this share of all (0..1), to RESOLUTION; None when there are none."""
        left = math.ceil(self.count * share)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(self.max_s, SHORTEST_S * RESOLUTION**bucket)
        return None

    def summary(self) -> dict[str, Any]:
        """`count`, and `p50_ms`, `p95_ms`, `p99_ms`, `max_ms`; null when there are none."""
        found = {f"{name}_ms": _ms(self.at(share)) for name, share in SHARES}
        return {"count": self.count, **found, "max_ms": _ms(self.max_s if self.count else None)}


class Texts:
    """Sentences and how often each was said."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.total = 0

    def add(self, text: str) -> None:
        """One more of it; the MAX_TEXTS-th and later different ones are only counted."""
        self.total += 1
        text = text[:MAX_TEXT]
        if text in self._counts or len(self._counts) < MAX_TEXTS:
            self._counts[text] += 1

    def rows(self) -> list[dict[str, Any]]:
        """The most frequent first."""
        return [{"count": count, "what": text} for text, count in self._counts.most_common()]


@dataclass(slots=True)
class Frames:
    """Map messages of one kind; bytes as they stand in the poll's body."""

    count: int = 0
    bytes: int = 0


#: first: of a poll; full: replaces the map in the middle of one.
KINDS: Final = ("first", "full", "delta", "keepalive")


@dataclass(slots=True)
class Tally:
    """Everything that is counted in one run."""

    joins: Histogram = field(default_factory=Histogram)
    returns: Histogram = field(default_factory=Histogram)
    propagation: Histogram = field(default_factory=Histogram)
    updates: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    errors: Texts = field(default_factory=Texts)
    violations: Texts = field(default_factory=Texts)
    actions: Counter[str] = field(default_factory=Counter)
    frames: dict[str, Frames] = field(default_factory=lambda: {kind: Frames() for kind in KINDS})
    lost: int = 0

    def frame(self, kind: str, size_bytes: int) -> None:
        """One more map message of a kind of KINDS."""
        frames = self.frames[kind]
        frames.count += 1
        frames.bytes += size_bytes

    def violation(self, device: str, text: str) -> None:
        """The server did to a device what no server should."""
        self.violations.add(f"{device}: {text}")


def line(facts: Mapping[str, Any]) -> str:
    """A summary of durations in a few words."""
    if not facts["count"]:
        return "none"
    words = [f"{name} {_shown(facts[f'{name}_ms'])}" for name in ("p50", "p95", "p99", "max")]
    return f"{', '.join(words)} ms ({facts['count']:,})"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
