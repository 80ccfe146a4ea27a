"""Who may take a tag, and announce a route without approval: told without knowing who asks. Pure.

A registration's user is known to the database only, so the node hands it this along.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.model import Permit, UserId
from app.policy import aliases as a
from app.policy.addresses import EXIT_ROUTES, prefix
from app.policy.aliases import Alias, Kind
from app.policy.document import Policy
from app.policy.people import Directory


def permits(
    policy: Policy, directory: Directory, tags: Iterable[str], routes: Iterable[str]
) -> dict[str, Permit]:
    """Who may have which of these tags and routes; what nobody may is left out.

    A tag is for the people in its `tagOwners`, and for devices that have a tag named there. Of routes it
    says the same as app.policy.routes.auto_approved.
    """
    found = {tag: _permit(directory, policy.tag_owners.get(tag, ())) for tag in tags}
    for route in routes:
        found[route] = _permit(directory, _approvers(policy, route))
    return {thing: permit for thing, permit in found.items() if permit != Permit()}


def _approvers(policy: Policy, route: str) -> list[Alias]:
    if route in EXIT_ROUTES:
        return list(policy.exit_approvers)
    low, high = prefix(route)
    return [
        alias
        for rule in policy.route_approvers
        if rule.span[0] <= low and high <= rule.span[1]
        for alias in rule.approvers
    ]


def _permit(directory: Directory, aliases: Iterable[Alias]) -> Permit:
    users: set[UserId] = set()
    tags: set[str] = set()
    anyone = False
    for alias in aliases:
        if alias.kind is Kind.TAG:
            tags.add(alias.name)
        elif alias.name == a.MEMBER:
            # Also those that joined the tenant a moment ago.
            anyone = True
        else:
            users |= directory.users_of(alias) or frozenset()
    return Permit(frozenset(users), frozenset(tags), anyone)
