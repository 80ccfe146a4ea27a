"""Floods of unfinished connections meet a bound, the oldest give way, and every count returns to zero."""

from __future__ import annotations

import asyncio

import pytest

from app.entry import line
from app.entry.limits import ConnectionLimits, Place
from tests.node.kit import until


class Connections:
    """Connections by number, in order of arrival; `dropped` are those that had to give way."""

    def __init__(self, **limits: int) -> None:
        self.limits = ConnectionLimits(**limits)
        self.dropped: list[int] = []
        self._count = 0

    def arrive(self, address: str) -> Place | None:
        number, self._count = self._count, self._count + 1
        return self.limits.admit(address, lambda: self.dropped.append(number))


def test_one_address_takes_its_own_places_only():
    some = Connections(half_open=10, half_open_per_address=4, per_address=100)
    assert some.arrive("b") is not None
    for _ in range(6):
        assert some.arrive("a") is not None
    assert some.dropped == [1, 2]
    assert some.limits.half_open == 5


def test_when_all_places_are_taken_the_oldest_gives_way():
    some = Connections(half_open=3, half_open_per_address=3, per_address=100)
    for number in range(5):
        assert some.arrive(str(number)) is not None
    assert some.dropped == [0, 1]
    assert some.limits.half_open == 3
    assert some.limits.displaced == 2


def test_a_finished_handshake_is_safe_from_those_that_come_later():
    some = Connections(half_open=2, half_open_per_address=2, per_address=100)
    done = some.arrive("a")
    assert done is not None
    some.limits.established(done)
    for _ in range(5):
        some.arrive("a")
    assert some.dropped == [1, 2, 3]


def test_a_finished_handshake_frees_its_place_but_still_counts_for_its_address():
    some = Connections(half_open=1, half_open_per_address=1, per_address=2)
    first, second = some.arrive("a"), some.arrive("a")
    assert first is not None
    assert second is not None
    assert some.dropped == [0]
    assert some.arrive("a") is None
    assert some.limits.refused == 1
    some.limits.closed(first)
    assert some.arrive("a") is not None


def test_counts_return_to_zero():
    some = Connections(half_open=5, half_open_per_address=2)
    places = [some.arrive(address) for address in "abcaab"]
    assert some.dropped == [0]
    for place in places:
        assert place is not None
    some.limits.established(places[1])
    some.limits.established(places[1])
    for place in places:
        some.limits.closed(place)
    assert some.limits.half_open == 0
    assert not some.limits._open
    assert not some.limits._half_open_of


async def test_handshakes_leave_the_loop_its_turn_and_one_that_fails_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line, "SLICE_S", 0.0)
    waiting = line.Line()
    order: list[object] = []

    def served(number: int) -> None:
        asyncio.get_running_loop().call_soon(order.append, "loop")
        order.append(number)
        if number == 1:
            raise ValueError("a defect")

    for number in range(4):
        waiting.add(lambda number=number: served(number))
    await until(lambda: not len(waiting) and order[-1] == "loop", "all have had their turn")
    assert [step for step in order if step != "loop"] == [0, 1, 2, 3]
    assert order[:2] == [0, "loop"]
    assert order.count("loop") == 4
