"""Lists of JSON objects cut into blocks that are encoded once and shared by every viewer.

A message is the concatenation of its pieces, so a block exists in two forms: as the first of a
list, and as a later one with a comma before it. The viewer's own object is left out by encoding
its one block again (PERFORMANCE.md 3: 64 rows cost 90 us and 5 % of compression).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from app.model import DeviceId
from app.netmap.variant import Compress, Variant, encode

BLOCK_ROWS = 64
#: A block is split when insertions in its middle let it grow to this many rows.
BLOCK_SPLIT_ROWS = 2 * BLOCK_ROWS

JsonOf = Callable[[DeviceId], bytes]


@dataclass(slots=True)
class BlockCounts:
    """Blocks asked for in full maps: how many were known, how many had to be encoded."""

    known: int = 0
    made: int = 0


class Block:
    """Up to BLOCK_SPLIT_ROWS ids in ascending order, and their encoded forms."""

    __slots__ = ("_forms", "ids")

    def __init__(self, ids: list[DeviceId]) -> None:
        self.ids = ids
        self._forms: dict[tuple[bool, Variant], bytes] = {}

    def touch(self) -> None:
        self._forms.clear()

    def encoded(
        self,
        json_of: JsonOf,
        variant: Variant,
        compress: Compress,
        *,
        first: bool,
        without: DeviceId | None,
        counts: BlockCounts | None = None,
    ) -> bytes:
        """The block's part of a list; empty when nothing is left of it."""
        form = self._forms.get((first, variant)) if without is None else None
        if counts is not None:
            counts.known += form is not None
            counts.made += form is None
        if form is None:
            joined = b",".join([json_of(i) for i in self.ids if i != without])
            if not joined:
                return b""
            form = encode(joined if first else b"," + joined, variant, compress)
            if without is None:
                self._forms[first, variant] = form
        return form

    def is_encoded(self, variant: Variant, *, first: bool) -> bool:
        """Whether its shared form is known."""
        return (first, variant) in self._forms

    def holds(self, device_id: DeviceId) -> bool:
        at = bisect_left(self.ids, device_id)
        return at < len(self.ids) and self.ids[at] == device_id


class BlockList:
    """Ascending ids in blocks; changing one id spoils the encoding of one block only."""

    __slots__ = ("_blocks", "_lows")

    def __init__(self, ids: Iterable[DeviceId] = ()) -> None:
        ordered = sorted(ids)
        self._blocks = [Block(ordered[i : i + BLOCK_ROWS]) for i in range(0, len(ordered), BLOCK_ROWS)]
        self._lows = [block.ids[0] for block in self._blocks]

    def __len__(self) -> int:
        return sum(len(block.ids) for block in self._blocks)

    def __iter__(self) -> Iterator[DeviceId]:
        for block in self._blocks:
            yield from block.ids

    @property
    def blocks(self) -> list[Block]:
        return self._blocks

    def _at(self, device_id: DeviceId) -> int:
        return max(0, bisect_left(self._lows, device_id + 1) - 1)

    def add(self, device_id: DeviceId) -> None:
        if not self._blocks:
            self._blocks, self._lows = [Block([device_id])], [device_id]
            return
        at = self._at(device_id)
        block = self._blocks[at]
        if at == len(self._blocks) - 1 and len(block.ids) >= BLOCK_ROWS and device_id > block.ids[-1]:
            self._blocks.append(Block([device_id]))
            self._lows.append(device_id)
            return
        if block.holds(device_id):
            block.touch()
            return
        insort(block.ids, device_id)
        block.touch()
        if len(block.ids) > BLOCK_SPLIT_ROWS:
            upper = Block(block.ids[BLOCK_ROWS:])
            block.ids = block.ids[:BLOCK_ROWS]
            self._blocks.insert(at + 1, upper)
            self._lows.insert(at + 1, upper.ids[0])
        self._lows[at] = block.ids[0]

    def touch(self, device_id: DeviceId) -> None:
        """The row of this id has changed; its block must be encoded again."""
        if self._blocks:
            self._blocks[self._at(device_id)].touch()

    def discard(self, device_id: DeviceId) -> None:
        if not self._blocks:
            return
        at = self._at(device_id)
        block = self._blocks[at]
        if not block.holds(device_id):
            return
        block.ids.remove(device_id)
        block.touch()
        if block.ids:
            self._lows[at] = block.ids[0]
        else:
            del self._blocks[at], self._lows[at]


def encode_lists(
    lists: Iterable[tuple[BlockList, JsonOf]],
    variant: Variant,
    compress: Compress,
    without: DeviceId | None,
    counts: BlockCounts | None = None,
) -> list[bytes]:
    """The pieces of one JSON list made of several block lists, without the brackets."""
    pieces: list[bytes] = []
    for blocks, json_of in lists:
        for block in blocks.blocks:
            own = without if without is not None and block.holds(without) else None
            part = block.encoded(json_of, variant, compress, first=not pieces, without=own, counts=counts)
            if part:
                pieces.append(part)
    return pieces
