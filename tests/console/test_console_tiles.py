"""Health of a cluster in words, and the tiles: each number is of something that was measured."""

from __future__ import annotations

from typing import Any

import pytest

from app.fleet import LoadHistory, Overview
from app.health import ProcessFacts
from console.cells import Pen
from console.tiles import health_of, tiles_of
from tests.console.support import cluster

NEVER: tuple[None, ...] = (None,) * 60


def history(*, ago: int, connected: float = 30.0, rate: float = 1.5) -> LoadHistory:
    """Measured once, this many minutes before the newest."""

    def at(value: float) -> tuple[float | None, ...]:
        return tuple(value if place == 59 - ago else None for place in range(60))

    return LoadHistory(at(connected), at(rate), at(4 * rate), at(2000 * rate))


@pytest.mark.parametrize(
    ("changes", "role", "word", "reason"),
    [
        ({}, "ok", "healthy", "owned by host-c, epoch 3"),
        ({"lease_left_s": None}, "off", "unserved", "no instance has ever owned"),
        ({"lease_left_s": -14.0}, "failed", "no owner", "ended 14 s ago and nobody has taken it"),
        ({"lease_left_s": float("-inf")}, "failed", "no owner", "ended some time ago"),
        ({"owner": "", "waiting": 2}, "failed", "no owner", "2 requests waiting"),
        ({"state": "draining"}, "change", "draining", "the cluster is draining"),
        ({"expired": 40}, "attention", "expired", "every device's login has expired"),
        ({"expired": 40, "devices": 0}, "ok", "healthy", "owned by"),
    ],
)
def test_health_has_a_reason(changes: dict[str, Any], role: str, word: str, reason: str) -> None:
    health = health_of(cluster("c", **changes))
    assert (health.role, health.word) == (role, word)
    assert reason in health.reason


@pytest.mark.parametrize(
    ("picture", "name", "told"),
    [
        (Overview((), (), 0.0), "devices", ["0 devices", "0 online  -", "0 expired", "not measured yet"]),
        (Overview((), (), 0.0), "capacity", ["no limits set", "0 tenants, 0 users"]),
        (
            Overview((), (), 0.0),
            "control",
            [
                "● 0/0 clusters healthy",
                "0 hs-node, 0 hs-acs",
                "no hs-acs leads",
                "loop lag unknown now",
            ],
        ),
        (
            Overview(
                (cluster("a", expiring=3), cluster("b", devices=1, online=1)),
                (),
                0.0,
                load={"a": history(ago=1)},
            ),
            "devices",
            ["41 devices", "31 online  76 %", "2 expired, 3 within a day", "█ 60 min"],
        ),
        (
            Overview((cluster("a", waiting=1),), (), 0.0, load={"a": history(ago=1), "b": history(ago=1)}),
            "netmaps",
            ["3.00 changes/s", "12.0 frames/s  6 K/s", "◆ 1 request waiting", "█ 60 min"],
        ),
        # What was measured a while ago is history, not now.
        (
            Overview((cluster("a"),), (), 0.0, load={"a": history(ago=7)}),
            "netmaps",
            ["no changes measured now", "no frames measured now", "no request waits", "█ 60 min"],
        ),
        (
            Overview((cluster("a", max_devices=50), cluster("b", state="draining")), (), 0.0),
            "capacity",
            ["80 % of 50 devices", "1 without limit", "◆ 1 draining", "2 tenants, 4 users"],
        ),
        (
            Overview((cluster("a", max_devices=40), cluster("b", max_devices=0)), (), 0.0),
            "capacity",
            ["200 % of 40 devices", "▲ 2 above 85 %", "2 tenants, 4 users"],
        ),
        (
            Overview(
                *((cluster("a"), cluster("b", lease_left_s=-1.0)), (), 0.0, (), "acs-[1]"),
                (
                    ProcessFacts("a", "n", "1", 0.25, 1, 2, 0.0),
                    ProcessFacts("", "m", "1", None, None, None, None),
                ),
            ),
            "control",
            [
                "✖ 1/2 clusters healthy",
                "1 hs-node, 1 hs-acs",
                "acs-[1] leads",
                "250 ms worst loop lag",
            ],
        ),
    ],
)
def test_a_tile_tells_what_was_measured(picture: Overview, name: str, told: list[str]) -> None:
    lines = [line.plain.strip() for line in tiles_of(Pen(), picture, 30)[name].lines]
    assert [" ".join(line.split()) if "60 min" in line else line for line in lines] == told
