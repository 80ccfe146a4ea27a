"""Input cut anywhere gives the same events and the same output; random input breaks nothing."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest
from http2_kit import GET, HELLO, client, data, headers, server
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import RemoteProtocolError
from app.wire import h2frames as h2
from app.wire.http2 import MAX_HELD_BYTES, ClientConnection, Event, ServerConnection

PING = h2.frame(h2.PING, 0, 0, b"12345678")
LONG = h2.header_frames(9, h2.encode_headers((*GET, ("x-long", "v" * 300))), 50, end_stream=True)
TO_SERVER = {
    "greeting": HELLO + h2.SETTINGS_ACK,
    "requests": HELLO
    + headers(1, ("ts-lb", "nodekey:aa"), end=False)
    + data(1, b"{}" * 40, end=True)
    + h2.window_update(0, 1_000)
    + headers(3, base=GET)
    + h2.rst_stream(3, 8)
    + PING
    + headers(5, end=False)
    + h2.frame(h2.DATA, h2.FLAG_PADDED | h2.FLAG_END_STREAM, 5, b"\3abc\0\0\0")
    + LONG
    + h2.settings(((4, 10), (1, 0)))
    + h2.goaway(0, 0, b"bye"),
    "too large a body": HELLO + headers(1, end=False) + data(1, b"x" * 150, end=True) + headers(3),
    "refused": HELLO + b"".join(headers(i, end=False) for i in (1, 3, 5, 7)) + data(7, b"late", end=True),
    "broken frame": HELLO + headers(1) + data(0),
    "broken block": HELLO + headers(1) + h2.frame(h2.HEADERS, 5, 3, b"\xff\xff\xff"),
    "broken preface": b"PRI * HTTP/2.0\r\n\r\nXX",
    "oversized": HELLO + b"\x00\x40\x01\x00\x00\x00\x00\x00\x01",
}
TO_CLIENT = {
    "answer": h2.settings(((3, 9),))
    + h2.SETTINGS_ACK
    + h2.header_frames(1, b"\x88" + h2.encode_headers((("content-type", "x"),)), 5, end_stream=False)
    + data(1, b"a" * 60)
    + PING
    + data(1, b"b", end=True)
    + h2.header_frames(3, b"\x88", 99, end_stream=False)
    + h2.rst_stream(3, 2)
    + h2.goaway(3, 0),
    "broken": h2.settings(()) + h2.header_frames(1, b"\x88", 99, end_stream=True) + data(1),
}
Outcome = tuple[list[Event], bytes, str]


def run(connection: ServerConnection | ClientConnection, pieces: list[bytes]) -> Outcome:
    """Events up to a failure, all output, and the failure."""
    events: list[Event] = []
    try:
        for piece in pieces:
            events += connection.receive(piece)
            connection.check_invariants()
    except RemoteProtocolError as error:
        return events, connection.take_output(), str(error)
    return events, connection.take_output(), ""


def fresh(to_server: bool) -> ServerConnection | ClientConnection:
    if to_server:
        connection = ServerConnection(max_body_bytes=100, max_concurrent_streams=3)
        connection.start()
        return connection
    device = ClientConnection()
    device.start()
    device.request("GET", "/")
    device.request("GET", "/")
    return device


CASES = [(True, name) for name in TO_SERVER] + [(False, name) for name in TO_CLIENT]


def cut(wire: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(at), len(wire)]
    return [wire[a:b] for a, b in pairwise(places)]


def same(whole: Outcome, parts: Outcome) -> None:
    """A failure drops the events of its own call, so a whole input that fails has none."""
    assert parts[1:] == whole[1:]
    assert whole[0] == ([] if whole[2] else parts[0])


@pytest.mark.parametrize(("to_server", "name"), CASES)
def test_two_pieces_and_single_bytes(to_server: bool, name: str) -> None:
    wire = (TO_SERVER if to_server else TO_CLIENT)[name]
    whole = run(fresh(to_server), [wire])
    single = run(fresh(to_server), [wire[i : i + 1] for i in range(len(wire))])
    same(whole, single)
    for at in range(len(wire) + 1):
        same(whole, run(fresh(to_server), cut(wire, [at])))
    assert single[0] or name in ("greeting", "too large a body", "refused", "broken preface", "oversized")


@settings(max_examples=100)
@given(st.sampled_from(CASES), st.lists(st.integers(0, 800), max_size=12))
def test_random_pieces(case: tuple[bool, str], at: list[int]) -> None:
    to_server, name = case
    wire = (TO_SERVER if to_server else TO_CLIENT)[name]
    at = [place for place in at if place <= len(wire)]
    same(run(fresh(to_server), [wire]), run(fresh(to_server), cut(wire, at)))


@pytest.mark.parametrize(("to_server", "name"), CASES)
def test_every_proper_prefix_waits_or_fails(to_server: bool, name: str) -> None:
    wire = (TO_SERVER if to_server else TO_CLIENT)[name]
    events, _, _ = run(fresh(to_server), [wire[i : i + 1] for i in range(len(wire))])
    for at in range(len(wire)):
        seen, _, failure = run(fresh(to_server), [wire[:at]])
        assert failure or seen == events[: len(seen)]


KINDS = st.integers(0, 11)
RANDOM_FRAMES = st.lists(
    st.tuples(KINDS, st.integers(0, 255), st.integers(0, 9), st.binary(max_size=60)), max_size=40
).map(lambda parts: b"".join(h2.frame(*part) for part in parts))


def fuzz(connection: ServerConnection | ClientConnection, wire: bytes) -> None:
    try:
        connection.receive(wire)
    except RemoteProtocolError:
        assert connection.open_streams == 0
    connection.check_invariants()
    connection.take_output()


@settings(max_examples=200)
@given(RANDOM_FRAMES | st.binary(max_size=400))
def test_random_input_only_ever_raises_remote_errors(wire: bytes) -> None:
    fuzz(server(), wire)
    connection = server()
    connection.receive(headers(1) + headers(3, end=False) + headers(5))
    connection.respond(1, 200)
    connection.send(1, b"x" * 80_000)
    connection.respond(5, 200, end_stream=True)
    fuzz(connection, wire)
    device = client()
    device.request("GET", "/")
    device.request("POST", "/", body=b"x" * 80_000)
    fuzz(device, wire)


@settings(max_examples=200)
@given(st.sampled_from(CASES), st.data())
def test_mutated_input_only_ever_raises_remote_errors(case: tuple[bool, str], draw: st.DataObject) -> None:
    to_server, name = case
    wire = bytearray((TO_SERVER if to_server else TO_CLIENT)[name])
    for at, value in draw.draw(
        st.lists(st.tuples(st.integers(0, len(wire) - 1), st.integers(0, 255)), max_size=6)
    ):
        wire[at] = value
    fuzz(fresh(to_server), bytes(wire))


def test_memory_stays_bounded_under_endless_input() -> None:
    """A stranger who opens streams for ever and ends none keeps less than twice MAX_HELD_BYTES here."""
    chance = random.Random(7)
    connection = server()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    stream_id = 1
    broken = 0
    for _ in range(600):
        wire = headers(stream_id, ("x", "v" * chance.randrange(9_000)), end=False)
        wire += data(stream_id, b"d" * chance.randrange(16_384))
        stream_id += 2
        try:
            connection.receive(wire)
            connection.take_output()
            connection.check_invariants()
        except RemoteProtocolError:
            broken += 1
            connection, stream_id = server(), 1
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert broken  # refused streams add up
    assert grown < 2 * MAX_HELD_BYTES
