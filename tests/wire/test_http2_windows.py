"""Flow control: any interleaving delivers the bytes in order and never exceeds a window."""

from __future__ import annotations

from collections import defaultdict

import pytest
from http2_kit import GET, frames, headers, server
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wire import h2frames as h2
from app.wire.http2 import Drained, ServerConnection, StreamClosed

STREAMS = (1, 3, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(STREAMS), st.integers(0, 40_000)),
        st.tuples(st.just("hot"), st.sampled_from(STREAMS), st.integers(0, 40_000)),
        st.tuples(st.just("window"), st.sampled_from((0, *STREAMS)), st.integers(1, 30_000)),
        st.tuples(st.just("initial"), st.just(0), st.integers(0, 100_000)),
        st.tuples(st.just("frame"), st.just(0), st.integers(16_384, 100_000)),
        st.tuples(st.just("drop"), st.sampled_from(STREAMS), st.just(0)),
    ),
    max_size=40,
)


class Reader:
    """The other end's books: windows as granted, bytes as they came."""

    def __init__(self) -> None:
        self.connection = h2.DEFAULT_WINDOW_BYTES
        self.initial = h2.DEFAULT_WINDOW_BYTES
        self.windows = dict.fromkeys(STREAMS, self.initial)
        self.got: dict[int, bytearray] = defaultdict(bytearray)
        self.ended: set[int] = set()

    def read(self, wire: bytes) -> None:
        for kind, flags, stream_id, payload in frames(wire):
            if kind != h2.DATA:
                continue
            assert stream_id not in self.ended
            self.connection -= len(payload)
            self.windows[stream_id] -= len(payload)
            assert self.connection >= 0
            assert self.windows[stream_id] >= 0 or not payload
            self.got[stream_id] += payload
            if flags & h2.FLAG_END_STREAM:
                self.ended.add(stream_id)


def answering() -> ServerConnection:
    """A server with three streams whose answers have begun."""
    connection = server()
    for stream_id in STREAMS:
        connection.receive(headers(stream_id, base=GET))
        connection.respond(stream_id, 200)
    connection.take_output()
    return connection


@settings(max_examples=150)
@given(STEPS, st.booleans())
def test_any_interleaving(steps: list[tuple[str, int, int]], take_late: bool) -> None:
    connection, reader = answering(), Reader()
    sent: dict[int, bytearray] = {stream_id: bytearray() for stream_id in STREAMS}
    dropped: set[int] = set()
    counter = 0
    for what, stream_id, size in steps:
        if what in ("send", "hot") and stream_id not in dropped:
            counter += 1
            body = bytes((counter % 251,)) * size
            wire = connection.data_frame(stream_id, body) if what == "hot" else None
            if wire is None:
                connection.send(stream_id, body)
            else:
                reader.read(wire)
            sent[stream_id] += body
        elif what == "window":
            # granted first, so that the books never lag behind what may come
            if stream_id:
                reader.windows[stream_id] += size
            else:
                reader.connection += size
            connection.receive(h2.window_update(stream_id, size))
        elif what == "initial":
            if not take_late:
                reader.read(connection.take_output())
            else:
                continue  # a smaller window would count bytes still under way
            for one in STREAMS:
                reader.windows[one] += size - reader.initial
            reader.initial = size
            connection.receive(h2.settings(((4, size),)))
        elif what == "frame":
            connection.receive(h2.settings(((5, size),)))
        elif what == "drop" and stream_id not in dropped:
            size = connection.drop_queued(stream_id)
            if size:
                dropped.add(stream_id)
                del sent[stream_id][len(sent[stream_id]) - size :]
        connection.check_invariants()
        if not take_late:
            reader.read(connection.take_output())
    for stream_id in STREAMS:
        connection.end(stream_id)
        reader.windows[stream_id] += 2_000_000
        reader.connection += 2_000_000
        connection.receive(h2.window_update(stream_id, 2_000_000) + h2.window_update(0, 2_000_000))
    reader.read(connection.take_output())
    assert reader.ended == set(STREAMS)
    for stream_id in STREAMS:
        assert reader.got[stream_id] == sent[stream_id]
    assert connection.open_streams == 0


def test_data_frame_is_exact_or_changes_nothing() -> None:
    connection = answering()
    assert connection.data_frame(1, b"abc") == bytes.fromhex("000003 00 00 00000001 616263")
    large = connection.data_frame(1, b"x" * 20_000)
    assert large is not None
    assert [len(payload) for *_, payload in frames(large)] == [16_384, 3_616]
    assert connection.data_frame(7, b"x") is None
    left = 65_535 - 20_003
    assert connection.data_frame(3, b"x" * (left + 1)) is None
    assert connection.data_frame(3, b"x" * left) is not None
    assert connection.data_frame(5, b"x") is None
    connection.receive(h2.window_update(0, 10))
    connection.ping(b"12345678")
    assert connection.data_frame(5, b"x") is None  # would overtake the ping
    connection.take_output()
    assert connection.data_frame(5, b"x") is not None
    connection.send(5, b"y" * 10)
    assert connection.queued_bytes(5) == 1
    connection.take_output()
    assert connection.data_frame(5, b"") is None  # would overtake the waiting byte
    assert connection.data_frame(9, b"") is None


def test_data_frame_before_the_head_and_after_the_end() -> None:
    connection = server()
    connection.receive(headers(1))
    assert connection.data_frame(1, b"x") is None
    connection.respond(1, 200)
    connection.take_output()
    assert connection.data_frame(1, b"x") is not None
    connection.end(1)
    connection.take_output()
    assert connection.data_frame(1, b"x") is None


def test_drained_is_told_once_per_backlog() -> None:
    connection = answering()
    connection.send(1, b"x" * 65_536)
    connection.send(1, b"y" * 4)
    assert connection.queued_bytes(1) == 5
    assert connection.receive(h2.window_update(1, 100)) == []  # the connection's window is used up
    assert connection.receive(h2.window_update(0, 4)) == []
    assert connection.receive(h2.window_update(0, 1)) == [Drained(1)]
    assert connection.receive(h2.window_update(0, 1)) == []


def test_small_connection_windows_are_shared_fairly() -> None:
    connection = answering()
    connection.send(1, b"." * 65_535)
    for stream_id in STREAMS:
        connection.send(stream_id, b"x" * 100)
        connection.receive(h2.window_update(stream_id, 1_000))
    connection.take_output()
    order = []
    for _ in range(9):
        connection.receive(h2.window_update(0, 10))
        order += [stream_id for _, _, stream_id, _ in frames(connection.take_output())]
    assert order == [1, 3, 5] * 3


def test_a_wide_window_serves_streams_in_turn() -> None:
    connection = answering()
    connection.send(1, b"." * 65_535)
    for stream_id in STREAMS:
        connection.receive(h2.window_update(stream_id, 100_000))
        connection.send(stream_id, b"x" * 40_000)
    connection.take_output()
    events = connection.receive(h2.window_update(0, 1_000_000))
    assert sorted(event.stream_id for event in events if isinstance(event, Drained)) == [1, 3, 5]
    assert [stream_id for _, _, stream_id, _ in frames(connection.take_output())] == [1, 3, 5] * 3


def test_end_needs_no_window_but_waits_its_turn() -> None:
    connection = answering()
    connection.send(1, b"x" * 65_535)
    connection.end(3)
    connection.send(1, b"x", end_stream=True)
    assert not connection.is_open(1)
    connection.take_output()
    assert not connection.is_open(3)
    assert connection.receive(h2.window_update(0, 1) + h2.window_update(1, 1)) == [Drained(1)]
    assert connection.take_output() == h2.frame(h2.DATA, 1, 1, b"x")
    assert connection.open_streams == 1


def test_drop_queued_takes_a_waiting_end_back() -> None:
    connection = answering()
    connection.send(1, b"x" * 70_000, end_stream=True)
    assert connection.drop_queued(1) == 70_000 - 65_535
    assert connection.drop_queued(1) == 0
    assert connection.drop_queued(9) == 0
    assert connection.is_open(1)
    connection.reset(1)
    assert connection.open_streams == 2


@pytest.mark.parametrize("how", ["ours", "theirs"])
def test_a_reset_drops_what_waits(how: str) -> None:
    connection = answering()
    connection.send(1, b"x" * 70_000)
    connection.take_output()
    if how == "ours":
        connection.reset(1)
        assert connection.take_output() == h2.rst_stream(1, 8)
    else:
        assert connection.receive(h2.rst_stream(1, 5)) == [StreamClosed(1, True, 5)]
    connection.receive(h2.window_update(0, 100_000))
    assert connection.take_output() == b""
    connection.check_invariants()
