"""A plan in words: no number that nothing measured, and what an operator weighs before approving it."""

from __future__ import annotations

from typing import Any

import pytest

from console.cells import Pen
from console.plan_text import load_parts, progress_words, safety_lines
from tests.console.support import NOW, plan

PEN = Pen(ascii=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"done": 0, "first": None, "last": None}, "0 of 8 tenants moved"),
        ({"done": 1, "state": "applying"}, "1 of 8 tenants moved"),
        # Three in 20 s, the last 10 s ago: two pauses took 30 s, and five are left.
        ({"done": 3, "state": "applying"}, "3 of 8 tenants moved in 20 s, about 1 m to go"),
        ({"done": 3, "state": "paused"}, "3 of 8 tenants moved in 20 s"),
        (
            {"done": 6, "left_out": 1, "failed": 1, "state": "applying"},
            "6 of 7 tenants moved, 1 left out, 1 not, in 20 s",
        ),
        ({"steps": 1, "done": 1, "state": "done"}, "1 of 1 tenant moved"),
    ],
)
def test_how_far_it_is(changes: dict[str, Any], words: str) -> None:
    assert progress_words(plan(4, **changes), NOW) == words


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {"room": {"eu-1": 1000, "us-2": 700}},
            [
                "+ the fullest target is us-2 with 87 % of its room, below 90 %",
                "fullest less emptiest 570 > 30 devices",
            ],
        ),
        (
            {"room": {"us-2": 620}, "online": 1},
            [
                "! the fullest target is us-2 with 98 % of its room",
                "fullest less emptiest 570 > 30 devices",
                "1 device online now will reconnect",
            ],
        ),
        ({"before": {"eu-1": 910}, "after": {"eu-1": 910}}, []),
    ],
)
def test_what_is_safe_about_it(changes: dict[str, Any], lines: list[str]) -> None:
    assert safety_lines(PEN, plan(4, **({"online": None} | changes))) == lines


def test_loads_before_now_and_after() -> None:
    row = plan(4, before={"eu-1": 910, "us-2": 340, "ap-1": 7}, after={"eu-1": 640, "us-2": 610, "ap-1": 7})
    assert [part.plain for part in load_parts(PEN, row)] == [
        "eu-1 910 > 820 now > 640 of 1,000, 64 %",
        "us-2 340 > 430 now > 610",
    ]
