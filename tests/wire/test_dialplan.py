"""The dial plan: the owner first, standbys later and behind it, nothing for one address."""

from __future__ import annotations

import pytest

from app.wire.dialplan import MAX_CANDIDATES, STANDBY_DIAL_S, dial_plan


def test_the_owner_is_first_and_preferred() -> None:
    assert dial_plan(["192.0.2.1", "2001:db8::2", "192.0.2.3"]) == {
        "Candidates": [
            {"IP": "192.0.2.1", "Priority": 3, "DialTimeoutSec": 2},
            {"IP": "2001:db8::2", "Priority": 2, "DialStartDelaySec": 0.2, "DialTimeoutSec": 10},
            {"IP": "192.0.2.3", "Priority": 1, "DialStartDelaySec": 0.4, "DialTimeoutSec": 10},
        ]
    }


@pytest.mark.parametrize("addresses", [[], ["192.0.2.1"], ["192.0.2.1", "192.0.2.1"]])
def test_one_address_is_no_plan(addresses: list[str]) -> None:
    assert dial_plan(addresses) == {"Candidates": []}


def test_candidates_are_bounded_and_wait_long_enough() -> None:
    many = dial_plan([f"192.0.2.{number}" for number in range(20)])["Candidates"]
    assert len(many) == MAX_CANDIDATES == 4
    # PARK_S of an entry that becomes the owner.
    assert STANDBY_DIAL_S > 8
