"""Framing of map messages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import RemoteProtocolError
from app.wire import mapstream
from app.wire.mapstream import Reader, frame


def test_frame_is_little_endian() -> None:
    assert frame(b"x" * 258) == b"\x02\x01\x00\x00" + b"x" * 258


def test_keepalive_is_exactly_eighteen_bytes() -> None:
    assert mapstream.KEEPALIVE == b'{"KeepAlive":true}'
    assert len(mapstream.KEEPALIVE) == 18


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_any_cut_gives_the_same_messages(blobs: list[bytes], cut: int) -> None:
    stream = b"".join(frame(blob) for blob in blobs)
    reader = Reader()
    got = [blob for start in range(0, len(stream), cut) for blob in reader.feed(stream[start : start + cut])]
    assert got == blobs
    assert reader.pending_bytes == 0


def test_every_proper_prefix_waits_for_more() -> None:
    stream = frame(b"hello")
    for size in range(len(stream)):
        reader = Reader()
        assert reader.feed(stream[:size]) == []
        assert reader.pending_bytes == size
        assert reader.feed(stream[size:]) == [b"hello"]


@pytest.mark.parametrize(("size", "limit"), [(0, 10), (11, 10), (mapstream.MAX_MESSAGE_BYTES + 1, None)])
def test_empty_and_oversized_messages_are_refused_at_the_header(size: int, limit: int | None) -> None:
    reader = Reader() if limit is None else Reader(limit)
    with pytest.raises(RemoteProtocolError, match=f"{size} bytes"):
        reader.feed(size.to_bytes(4, "little"))
    assert reader.pending_bytes == 0


def test_a_message_of_exactly_the_limit_passes() -> None:
    assert Reader(10).feed(frame(b"x" * 10)) == [b"x" * 10]
