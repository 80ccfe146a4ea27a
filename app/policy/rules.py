"""A policy's `grants` and `acls` in the order in which the official service compiles them. Pure.

One rule is one line of sources, protocols and destinations; a rule with capabilities is apart.
Order (policy-corpus, "Rule order"): grants first, then ACLs; an ACL is one rule for each of its
destinations, `autogroup:self` last unless all of them are autogroups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.policy import aliases as a
from app.policy.aliases import ANY, Alias, Kind, PortRange
from app.policy.document import Access, Policy
from app.policy.hujson import Place

#: Capabilities that bring a second one in the opposite direction (headscale
#: hscontrol/policy/v2/filter.go companionCapGrantRules; PROTOCOL.md 6.3).
COMPANIONS = {
    "tailscale.com/cap/drive": "tailscale.com/cap/drive-sharer",
    "tailscale.com/cap/relay": "tailscale.com/cap/relay-target",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """`targets` with ports (packet filter) or without (capabilities).

    `self_only`: sources and targets are both cut down to the devices of the same user.
    `is_silent`: takes part in visibility, but nothing of it is sent.
    """

    place: Place | None
    sources: tuple[Alias, ...]
    targets: tuple[tuple[Alias, tuple[PortRange, ...]], ...]
    protos: tuple[int, ...] = ()
    caps: dict[str, Any] | None = None
    via: tuple[str, ...] = ()
    self_only: bool = False
    is_silent: bool = False


#: No policy at all: one rule from everywhere to everything (policy-corpus, "No acls and no grants").
ALLOW_ALL = Rule(None, (ANY,), ((ANY, (a.ALL_PORTS,)),))


def rules_of(policy: Policy) -> tuple[Rule, ...]:
    if policy.access is None:
        return (ALLOW_ALL,)
    out: list[Rule] = []
    for access in policy.access:
        out.extend(_of_acl(access) if access.kind == "acl" else _of_grant(access))
    return tuple(out)


def _of_acl(access: Access) -> Iterator[Rule]:
    entries = list(access.entries)
    if any(target.kind is not Kind.AUTOGROUP for target, _ in entries):
        entries.sort(key=lambda entry: entry[0].name == a.SELF)
    for target, ports in entries:
        yield Rule(
            access.place,
            access.sources,
            ((target, ports),),
            protos=access.protos,
            self_only=target.name == a.SELF,
        )


def _of_grant(access: Access) -> Iterator[Rule]:
    targets = [target for target, _ in access.entries]
    split = [
        (False, [t for t in targets if t.name != a.SELF]),
        (True, [t for t in targets if t.name == a.SELF]),
    ]
    for self_only, some in split:
        if not some:
            continue
        for protos, ports in access.ip:
            yield Rule(
                access.place,
                access.sources,
                tuple((target, ports) for target in some),
                protos=protos,
                via=access.via,
                self_only=self_only,
            )
        if access.app:
            yield from _capabilities(access, tuple(some), self_only)


def _capabilities(access: Access, targets: tuple[Alias, ...], self_only: bool) -> Iterator[Rule]:
    caps = access.app or {}
    silent = bool(access.via)
    yield Rule(
        access.place,
        access.sources,
        tuple((target, ()) for target in targets),
        caps=caps,
        via=access.via,
        self_only=self_only,
        is_silent=silent,
    )
    if silent:
        return
    for name in sorted(COMPANIONS.keys() & caps.keys()):
        yield Rule(
            access.place,
            targets,
            tuple((source, ()) for source in access.sources),
            caps={COMPANIONS[name]: None},
            self_only=self_only,
        )
