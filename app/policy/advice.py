"""What in a policy is allowed but looks wrong, given the users and devices there are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from app.model import Device, User
from app.policy.addresses import INTERNET, address, covers, overlap, prefix
from app.policy.aliases import Alias, Kind
from app.policy.document import Policy
from app.policy.engine import PolicyEngine
from app.policy.hujson import Place


@dataclass(frozen=True, slots=True)
class Advice:
    """One sentence, and the line it is about where there is one."""

    text: str
    line: int | None = None

    def __str__(self) -> str:
        return self.text if self.line is None else f"line {self.line}: {self.text}"


def warnings_of(policy: Policy, users: Iterable[User], devices: Iterable[Device]) -> tuple[Advice, ...]:
    """Warnings in the order of their lines, those without one last."""
    devices = list(devices)
    engine = PolicyEngine(policy, users)
    for device in devices:
        engine.put(device)
    found = [*_unknown_users(policy, engine), *_pools(policy)]
    if devices:  # nothing can be said of a tenant that only begins
        found += [*_idle_tags(policy, devices), *_empty_hosts(policy, devices), *_idle_rules(engine)]
    ordered = sorted(found, key=lambda one: one.line or 1 << 30)
    return tuple(dict.fromkeys(ordered))


def _mentions(policy: Policy) -> Iterator[tuple[Alias, Place | None]]:
    """Every alias of a policy, with the place of its rule."""
    for access in policy.access or ():
        for alias in (*access.sources, *(target for target, _ in access.entries)):
            yield alias, access.place
        for tag in access.via:
            yield Alias(Kind.TAG, tag), access.place
    for rule in policy.ssh:
        for alias in (*rule.sources, *rule.targets):
            yield alias, rule.place
    for attr in policy.node_attrs:
        for alias in attr.targets:
            yield alias, attr.place
    for owners in (*policy.tag_owners.values(), policy.exit_approvers):
        for alias in owners:
            yield alias, None
    for approver in policy.route_approvers:
        for alias in approver.approvers:
            yield alias, None


def _unknown_users(policy: Policy, engine: PolicyEngine) -> Iterator[Advice]:
    for group, names in policy.groups.items():
        for name in engine.directory.unknown(names):
            yield Advice(f"user {name} in {group} does not exist")
    for alias, place in _mentions(policy):
        if alias.kind is Kind.USER and engine.directory.unknown([alias.name]):
            yield Advice(f"user {alias.name} does not exist", None if place is None else place.line)


def _idle_tags(policy: Policy, devices: Iterable[Device]) -> Iterator[Advice]:
    """Tags that rules speak of; one that is only declared waits for its first device and is no mistake."""
    there = {tag for device in devices for tag in device.tags}
    for alias, place in _mentions(policy):
        if alias.kind is Kind.TAG and alias.name not in there and place is not None:
            yield Advice(f"no device has {alias.name}", place.line)


def _empty_hosts(policy: Policy, devices: Iterable[Device]) -> Iterator[Advice]:
    devices = list(devices)
    own = [address(text) for device in devices for text in (device.ipv4, device.ipv6)]
    routes = [prefix(route) for device in devices for route in device.active_routes]
    has_exit = any(high - low >= (1 << 32) - 1 for low, high in routes if high < 1 << 32)
    routes = [span for span in routes if span[1] - span[0] + 1 not in (1 << 32, 1 << 128)]
    for name, (text, span) in policy.hosts.items():
        if any(span[0] <= at <= span[1] for at in own) or any(overlap(span, route) for route in routes):
            continue
        if has_exit and covers(INTERNET, span):
            continue
        yield Advice(f"host {name} ({text}) is no device's address, and no approved route leads there")


def _pools(policy: Policy) -> Iterator[Advice]:
    for attr in policy.node_attrs:
        if attr.ip_pools:
            yield Advice(
                "ipPool is accepted but not used: addresses come from the tenant's own range", attr.place.line
            )


def _idle_rules(engine: PolicyEngine) -> Iterator[Advice]:
    """Rules no part of which concerns any device."""
    idle: dict[Place, set[str]] = {}
    active: set[Place] = set()
    for state in engine.states:
        place = state.rule.place
        if place is None:
            continue
        if state.source_bits and state.target_bits:
            active.add(place)
            continue
        missing = idle.setdefault(place, set())
        missing |= {
            side for side, bits in (("source", state.source_bits), ("target", state.target_bits)) if not bits
        }
    for place, missing in idle.items():
        if place not in active:
            sides = " or ".join(sorted(missing))
            yield Advice(f"this rule matches nothing now: no device is a {sides} of it", place.line)
