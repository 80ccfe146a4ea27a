"""The addresses that a rule's sources stand for, kept up to date device by device. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

from app.model import DeviceId
from app.policy.addresses import TAILNET, Range, covers, merged, written

_TAILNET_TEXTS = tuple(written(span) for span in TAILNET)


class AddressSet:
    """Fixed ranges and single addresses as one merged set, and that set as sorted texts.

    Adding or removing an address costs a search and a shift, not a new sort.
    """

    __slots__ = ("_fixed", "_highs", "_lows", "_texts")

    def __init__(self, fixed: Iterable[Range] = ()) -> None:
        self._fixed = merged(fixed)
        self._lows = [low for low, _ in self._fixed]
        self._highs = [high for _, high in self._fixed]
        self._texts = sorted(map(written, self._fixed))

    @property
    def texts(self) -> list[str]:
        """Every maximal range as written in a packet filter, in order of the texts."""
        return self._texts

    @property
    def ranges(self) -> list[Range]:
        return list(zip(self._lows, self._highs, strict=True))

    def add(self, at: int) -> None:
        """An address that is not in the set yet, unless a fixed range holds it."""
        if covers(self._fixed, (at, at)):
            return
        index = bisect_left(self._lows, at)
        low = high = at
        first = last = index
        # Ranges of two families never touch: 2^32 apart at least.
        if index > 0 and self._highs[index - 1] == at - 1:
            low, first = self._lows[index - 1], index - 1
        if index < len(self._lows) and self._lows[index] == at + 1:
            high, last = self._highs[index], index + 1
        self._replace(first, last, [(low, high)])

    def discard(self, at: int) -> None:
        """Takes an address out that was added; one that a fixed range holds stays."""
        if covers(self._fixed, (at, at)):
            return
        index = bisect_right(self._lows, at) - 1
        low, high = self._lows[index], self._highs[index]
        rest = [(low, at - 1)] if low < at else []
        if at < high:
            rest.append((at + 1, high))
        self._replace(index, index + 1, rest)

    def _replace(self, first: int, last: int, spans: list[Range]) -> None:
        for index in range(first, last):
            text = written((self._lows[index], self._highs[index]))
            del self._texts[bisect_left(self._texts, text)]
        self._lows[first:last] = [low for low, _ in spans]
        self._highs[first:last] = [high for _, high in spans]
        for span in spans:
            insort(self._texts, written(span))


class AddressBook:
    """Which device has which address, in order of the addresses."""

    def __init__(self) -> None:
        self._sorted: list[int] = []
        self._owners: dict[int, DeviceId] = {}

    def add(self, at: int, device_id: DeviceId) -> None:
        """A device has an address; the last that says so has it."""
        if at not in self._owners:
            insort(self._sorted, at)
        self._owners[at] = device_id

    def remove(self, at: int, device_id: DeviceId) -> None:
        """A device has it no more; nothing if another has it by now."""
        if self._owners.get(at) == device_id:
            del self._sorted[bisect_left(self._sorted, at)], self._owners[at]

    def within(self, span: Range) -> Iterator[tuple[int, DeviceId]]:
        """All addresses inside a range."""
        for index in range(bisect_left(self._sorted, span[0]), bisect_right(self._sorted, span[1])):
            at = self._sorted[index]
            yield at, self._owners[at]


def wildcard_texts(routes: Iterable[str]) -> tuple[str, ...]:
    """`*` as a source: everything a device may have as its own, and each subnet route as it is."""
    return tuple(sorted({*_TAILNET_TEXTS, *routes}))
