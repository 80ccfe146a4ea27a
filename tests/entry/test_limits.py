"""Floods of unfinished connections meet a bound, and every count returns to zero."""

from __future__ import annotations

from app.entry.limits import ConnectionLimits


def test_one_address_cannot_take_all_places():
    limits = ConnectionLimits(half_open=10, half_open_per_address=4, per_address=100)
    assert [limits.admit("a") for _ in range(6)] == [True] * 4 + [False] * 2
    assert limits.admit("b")
    assert limits.refused == 2


def test_all_places_taken_by_many_addresses():
    limits = ConnectionLimits(half_open=3, half_open_per_address=3, per_address=100)
    assert [limits.admit(str(i)) for i in range(5)] == [True, True, True, False, False]


def test_a_finished_handshake_frees_its_place_but_still_counts_for_its_address():
    limits = ConnectionLimits(half_open=1, half_open_per_address=1, per_address=2)
    assert limits.admit("a")
    limits.established("a")
    assert limits.admit("a")
    limits.established("a")
    assert not limits.admit("a")
    limits.closed("a", established=True)
    assert limits.admit("a")


def test_counts_return_to_zero():
    limits = ConnectionLimits()
    for address in "abcab":
        assert limits.admit(address)
    limits.established("a")
    limits.closed("a", established=True)
    for address in "bcab":
        limits.closed(address, established=False)
    assert limits.half_open == 0
    assert not limits._open
    assert not limits._half_open
