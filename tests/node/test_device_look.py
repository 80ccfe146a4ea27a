"""How much an owner tells of a device: bounded, and what was left out is told."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.errors import Refused
from node.device_look import LOOK_ENTRIES, MAX_LOOK_BYTES, MAX_LOOK_TEXT, bounded

MOST = LOOK_ENTRIES[0]


def facts(peers: int, routes: int = 1, name: str = "peer") -> dict[str, Any]:
    rows = [{"Name": name, "AllowedIPs": ["100.64.0.1/32"] * routes} for _ in range(peers)]
    return {"would_get": {"Node": {"ID": 7}, "Peers": rows}, "session": None}


@pytest.mark.parametrize(
    ("given", "kept", "cut"),
    [
        (facts(2), 2, {}),
        (facts(MOST), MOST, {}),
        (facts(MOST + 1), MOST, {"would_get.Peers": MOST + 1}),
        (
            facts(1204, routes=300),
            50,
            {"would_get.Peers": 1204, "would_get.Peers.AllowedIPs": 300},
        ),
    ],
    ids=["all", "just all", "one too many", "too many bytes"],
)
def test_lists_are_cut_to_numbers(given: dict[str, Any], kept: int, cut: dict[str, int]) -> None:
    found = bounded(given)
    assert len(found["would_get"]["Peers"]) == kept
    assert found["would_get"]["Node"] == {"ID": 7}
    assert found["cut"] == cut
    assert len(orjson.dumps(found)) <= MAX_LOOK_BYTES


def test_long_texts_are_cut() -> None:
    found = bounded(facts(1, name="x" * 10 * MAX_LOOK_TEXT))
    assert found["would_get"]["Peers"][0]["Name"] == "x" * MAX_LOOK_TEXT


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(Refused, match="too long"):
        bounded({"would_get": {f"field{n}": "x" * 100 for n in range(2000)}})
