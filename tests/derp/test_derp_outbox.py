"""Bounded queues and the token bucket."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from node.derp import outbox
from node.derp.outbox import DropQueue, Outbox, TokenBucket


def test_oldest_goes_when_full() -> None:
    queue = DropQueue(max_items=2)
    assert [queue.put(frame) for frame in (b"a", b"b", b"c")] == [0, 0, 1]
    assert queue.take(100) == [b"b", b"c"]


def test_bytes_are_bounded_but_one_frame_always_fits() -> None:
    queue = DropQueue(max_items=10, max_bytes=5)
    assert queue.put(b"123456789") == 0
    assert queue.put(b"123") == 1
    assert queue.put(b"12") == 0
    assert queue.size_bytes == 5
    assert queue.put(b"1") == 1


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.integers(0, 60)), max_size=60))
@settings(max_examples=150, deadline=None)
def test_queue_is_bounded_and_in_order(steps: list[bytes | int]) -> None:
    queue = DropQueue(max_items=4, max_bytes=60)
    expected: list[bytes] = []
    for step in steps:
        if isinstance(step, bytes):
            dropped = queue.put(step)
            expected = [*expected, step][dropped:]
        else:
            taken = queue.take(step)
            assert taken == expected[: len(taken)]
            assert taken or step == 0 or not expected
            expected = expected[len(taken) :]
        assert len(queue) == len(expected) <= 4
        assert queue.size_bytes == sum(map(len, expected)) <= 60


def test_control_goes_first_then_disco_then_data() -> None:
    box = Outbox()
    box.data.put(b"3")
    box.disco.put(b"2")
    box.control.put(b"1")
    assert len(box) == 3
    assert box.take(2) == b"12"
    assert box.take(100) == b"3"
    assert box.take(100) == b""


def test_queues_have_the_named_limits() -> None:
    box = Outbox()
    for _ in range(1000):
        for queue in (box.control, box.disco, box.data):
            queue.put(b"x")
    assert len(box.control) == outbox.QUEUE_CONTROL
    assert len(box.disco) == len(box.data) == outbox.QUEUE_PACKETS == 32
    box.data.put(bytes(outbox.QUEUE_BYTES))
    assert box.data.size_bytes <= outbox.QUEUE_BYTES


def test_bucket_allows_a_burst_then_its_rate() -> None:
    bucket = TokenBucket(1.0, 3.0, 0.0)
    assert [bucket.allow(1.0, 0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.allow(1.0, 0.9)
    assert bucket.allow(1.0, 1.0)
    assert [bucket.allow(1.0, 100.0) for _ in range(4)] == [True, True, True, False]


def test_bucket_charges_into_debt() -> None:
    bucket = TokenBucket(100.0, 50.0, 0.0)
    assert bucket.charge(50, 0.0) == 0.0
    assert bucket.charge(200, 0.0) == 2.0
    assert bucket.charge(0, 1.0) == 1.0
    assert bucket.charge(0, 2.0) == 0.0
