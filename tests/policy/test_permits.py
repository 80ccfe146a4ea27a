"""Who may take tags and routes, told beforehand: the same as asked of the policy for each user and tag."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model import Permit, TenantId, User, UserId
from app.policy.people import Directory
from app.policy.permits import permits
from app.policy.reader import read
from app.policy.routes import auto_approved

USERS = [
    User(UserId(1), TenantId(1), "ann", email="ann@example.com", role="owner"),
    User(UserId(2), TenantId(1), "bob", role="admin"),
    User(UserId(3), TenantId(1), "cat", email="cat@example.com"),
]
POLICY = read("""{
    "groups": {"group:ops": ["cat@example.com", "nobody@example.com"]},
    "tagOwners": {
        "tag:free": ["autogroup:member"],
        "tag:ops": ["group:ops", "bob@"],
        "tag:admin": ["autogroup:admin"],
        "tag:by-tag": ["tag:ci", "ann@example.com"],
        "tag:ci": [],
    },
    "autoApprovers": {
        "routes": {
            "10.0.0.0/8": ["group:ops", "tag:ci"],
            "10.1.0.0/16": ["autogroup:member"],
            "0.0.0.0/0": ["tag:by-tag"],
            "fd00::/8": ["autogroup:owner"],
        },
        "exitNode": ["tag:ops", "bob@"],
    },
}""")
DIRECTORY = Directory(USERS, POLICY.groups)
ROUTES = (
    *("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "0.0.0.0/0", "::/0"),
    *("192.0.2.0/24", "fd00:1::/32", "2001:db8::/32", "8.0.0.0/6"),
)
TAGS = ("tag:free", "tag:ops", "tag:admin", "tag:by-tag", "tag:ci", "tag:none")


def ids(*numbers: int) -> frozenset[UserId]:
    return frozenset(map(UserId, numbers))


@pytest.mark.parametrize(
    ("tag", "permit"),
    [
        ("tag:free", Permit(anyone=True)),
        ("tag:ops", Permit(users=ids(2, 3))),
        ("tag:admin", Permit(users=ids(1, 2))),
        ("tag:by-tag", Permit(users=ids(1), tags=frozenset({"tag:ci"}))),
        ("tag:ci", None),
        ("tag:none", None),
        ("nonsense", None),
    ],
)
def test_tags(tag: str, permit: Permit | None) -> None:
    assert permits(POLICY, DIRECTORY, [tag], []).get(tag) == permit


@given(
    user=st.sampled_from([1, 2, 3, 4]).map(UserId),
    tags=st.sets(st.sampled_from(TAGS)).map(sorted).map(tuple),
    announced=st.sets(st.sampled_from(ROUTES)),
)
def test_routes_are_approved_as_the_policy_itself_says(
    user: UserId, tags: tuple[str, ...], announced: set[str]
) -> None:
    # A user that the directory does not know is approved by `autogroup:member` here only: it is on its way.
    expected = auto_approved(POLICY, Directory([*USERS, User(UserId(4), TenantId(1), "new")], POLICY.groups),
                             None if tags else user, tags, announced)  # fmt: skip
    may = permits(POLICY, DIRECTORY, [], announced)
    found = tuple(
        sorted(
            route
            for route, permit in may.items()
            if (not tags and (permit.anyone or user in permit.users)) or permit.tags.intersection(tags)
        )
    )
    assert found == expected
