"""Where a connection goes: the whole table."""

from __future__ import annotations

import pytest

from app.entry.routing import Here, Park, Relay, Route, decide
from app.model import ClusterOwner

OTHER = ClusterOwner("east", "other", 3, "127.0.0.1:1")
ITSELF = ClusterOwner("east", "me", 4, "127.0.0.1:2")
LATER = ClusterOwner("east", "other", 5, "127.0.0.1:1")


@pytest.mark.parametrize(
    ("what", "serves", "owner", "unreachable", "route"),
    [
        ("the owner", True, ITSELF, None, Here()),
        ("an owner that has not asked the database yet", True, None, None, Here()),
        ("an owner, whatever was known before", True, OTHER, OTHER, Here()),
        ("a standby", False, OTHER, None, Relay(OTHER)),
        ("a standby while there is no owner", False, None, None, Park()),
        ("a standby that takes over", False, ITSELF, None, Park()),
        ("a standby whose owner does not answer", False, OTHER, OTHER, Park()),
        ("a standby whose former owner did not answer", False, LATER, OTHER, Relay(LATER)),
    ],
)
def test_decisions(
    what: str, serves: bool, owner: ClusterOwner | None, unreachable: ClusterOwner | None, route: Route
) -> None:
    assert decide(serves=serves, instance="me", owner=owner, unreachable=unreachable) == route, what
