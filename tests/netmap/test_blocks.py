"""Blocks: whatever happened before, a list is the members in order, once, without the one left out."""

from __future__ import annotations

import json

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from app.compression import compress
from app.model import DeviceId
from app.netmap.blocks import BLOCK_ROWS, BLOCK_SPLIT_ROWS, BlockList, encode_lists
from app.netmap.variant import Variant


def decode(pieces: list[bytes], variant: Variant) -> list[dict[str, int]]:
    if variant is Variant.ZSTD:
        pieces = [zstandard.ZstdDecompressor().decompress(piece) for piece in pieces]
    return json.loads(b"[" + b"".join(pieces) + b"]")


def row(device_id: DeviceId) -> bytes:
    return b'{"ID":%d}' % device_id


@settings(max_examples=100, deadline=None)
@given(
    start=st.sets(st.integers(1, 400), max_size=300),
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "discard", "touch"]), st.integers(1, 400)), max_size=120
    ),
    without=st.integers(1, 400),
    variant=st.sampled_from(list(Variant)),
)
def test_any_history_encodes_to_the_members_in_order(start, steps, without, variant):
    blocks = BlockList(DeviceId(i) for i in start)
    members = set(start)
    for verb, value in steps:
        device_id = DeviceId(value)
        if verb == "add":
            blocks.add(device_id)
            members.add(value)
        elif verb == "discard":
            blocks.discard(device_id)
            members.discard(value)
        else:
            blocks.touch(device_id)
        encode_lists([(blocks, row)], variant, compress, None)
    assert list(blocks) == sorted(members)
    assert len(blocks) == len(members)
    expected = [{"ID": i} for i in sorted(members) if i != without]
    assert decode(encode_lists([(blocks, row)], variant, compress, DeviceId(without)), variant) == expected


def test_only_the_touched_block_is_encoded_again():
    blocks = BlockList(DeviceId(i) for i in range(10 * BLOCK_ROWS))
    calls: list[int] = []

    def counting(device_id: DeviceId) -> bytes:
        calls.append(device_id)
        return row(device_id)

    encode_lists([(blocks, counting)], Variant.ZSTD, compress, None)
    assert len(calls) == 10 * BLOCK_ROWS
    calls.clear()
    encode_lists([(blocks, counting)], Variant.ZSTD, compress, None)
    assert calls == []
    blocks.touch(DeviceId(130))
    encode_lists([(blocks, counting)], Variant.ZSTD, compress, None)
    assert calls == list(range(128, 192))


def test_leaving_one_out_encodes_its_block_only_and_keeps_the_shared_form():
    blocks = BlockList(DeviceId(i) for i in range(3 * BLOCK_ROWS))
    shared = encode_lists([(blocks, row)], Variant.PLAIN, compress, None)
    calls: list[int] = []
    pieces = encode_lists(
        [(blocks, lambda i: (calls.append(i), row(i))[1])], Variant.PLAIN, compress, DeviceId(70)
    )
    assert calls == [i for i in range(64, 128) if i != 70]
    assert pieces[0] is shared[0]
    assert encode_lists([(blocks, row)], Variant.PLAIN, compress, None) == shared


def test_a_block_of_one_left_out_leaves_no_comma_behind():
    lists = [BlockList([DeviceId(1)]), BlockList([DeviceId(2)]), BlockList([DeviceId(3)])]
    for left_out in (1, 2, 3):
        pieces = encode_lists([(some, row) for some in lists], Variant.PLAIN, compress, DeviceId(left_out))
        assert decode(pieces, Variant.PLAIN) == [{"ID": i} for i in (1, 2, 3) if i != left_out]


def test_insertions_in_the_middle_split_a_block():
    blocks = BlockList(DeviceId(i) for i in (1, 1000))
    for i in range(2, 2 + BLOCK_SPLIT_ROWS):
        blocks.add(DeviceId(i))
    assert len(blocks.blocks) >= 2
    assert max(len(block.ids) for block in blocks.blocks) <= BLOCK_SPLIT_ROWS
