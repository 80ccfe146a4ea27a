"""A policy's text judged as a whole: read, names of the tenant checked, its own tests run. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from app.model import Device, User
from app.policy.document import Policy
from app.policy.people import Directory
from app.policy.reader import read
from app.policy.ssh import foreign_domain
from app.policy.testing import run_tests


def accept(text: str, users: Iterable[User], devices: Iterable[Device], *, tests: bool = True) -> Policy:
    """The policy of a text, if it may be used for these users and devices. Raises PolicyError.

    `tests`: its own must pass too.
    """
    policy = read(text)
    judge(policy, users, devices, tests=tests)
    return policy


def judge(policy: Policy, users: Iterable[User], devices: Iterable[Device], *, tests: bool = True) -> None:
    """Raises PolicyError when a policy that could be read may not be used for these users and devices."""
    users = list(users)
    directory = Directory(users, policy.groups)
    foreign = foreign_domain(policy, directory)
    if foreign is not None:
        rule, domain = foreign
        raise rule.place.error(
            f"[ssh] {domain} is not associated with this Tailnet"
            " and cannot be used in user:*@<domain> expressions"
        )
    if tests:
        run_tests(policy, users, list(devices))
