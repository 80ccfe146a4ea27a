"""A policy's rules at work: what their sources and targets are as bits, and whom they concern. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import orjson

from app.policy import aliases as a
from app.policy.addresses import INTERNET, TAILNET, Range, overlap, overlaps_any
from app.policy.aliases import Alias, Kind, PortRange
from app.policy.classes import DeviceClass
from app.policy.document import Policy
from app.policy.filters import destinations
from app.policy.rules import Rule
from app.policy.selectors import Selectors
from app.policy.sources import AddressSet

_SELF = Alias(Kind.AUTOGROUP, a.SELF)


@dataclass(eq=False, slots=True)
class SourceSet:
    """What the sources of some rules stand for, and the classes whose filters write it."""

    mask: int
    has_any: bool
    has_danger: bool
    absorbs: bool
    addresses: AddressSet
    users: set[DeviceClass] = field(default_factory=set)
    rendered: bytes | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One target of a rule: its ports, and its bit if it means devices, or if it is a range."""

    alias: Alias
    ports: tuple[PortRange, ...]
    mask: int
    literal: int


@dataclass(eq=False, slots=True)
class RuleState:
    """A rule at work: `source_bits` and `target_bits` have the bit of every class it concerns."""

    rule: Rule
    sources: SourceSet
    source_mask: int
    source_spans: tuple[Range, ...]
    source_literals: int
    from_all: bool
    via_mask: int
    caps_json: bytes
    targets: tuple[Target, ...]
    target_mask: int
    #: Targets that are more than the devices they name.
    wide_targets: tuple[Target, ...]
    source_bits: int = 0
    target_bits: int = 0

    def is_source(self, cls: DeviceClass) -> bool:
        """Whether devices of a class, or the subnets behind them, are among the sources."""
        shape = cls.shape
        if self.rule.self_only and shape.user is None:
            return False
        if self.from_all or shape.identity & self.source_mask or shape.literals & self.source_literals:
            return True
        if not (self.source_spans and cls.spans):
            return False
        return any(overlap(span, route) for span in self.source_spans for route in cls.spans)

    def is_target(self, cls: DeviceClass) -> bool:
        """Whether devices of a class, or what is behind them, are among the targets."""
        if self.rule.via or self.rule.self_only:
            return any(self.destinations(cls, target) for target in self.targets)
        if cls.shape.identity & self.target_mask:
            return True
        return any(self.destinations(cls, target) for target in self.wide_targets)

    def destinations(self, cls: DeviceClass, target: Target, others: Sequence[bytes] = ()) -> list[bytes]:
        """How a target is written in the filter of a class; nothing if it does not concern it."""
        shape, is_member = cls.shape, bool(cls.shape.identity & target.mask)
        if self.rule.via and not shape.identity & self.via_mask:
            return []
        if self.rule.self_only:
            # Both sides are devices of one user; whose, the class says.
            is_in = is_member or target.alias.name == a.SELF or target.alias.kind is Kind.ANY
            if shape.user is None or not is_in:
                return []
            return destinations(cls, _SELF, is_member=True, holds_own=False, has_via=False, others=())
        return destinations(
            cls,
            target.alias,
            is_member=is_member,
            holds_own=bool(shape.literals & target.literal),
            has_via=bool(self.rule.via),
            others=others,
        )

    def leads_to(self, span: Range) -> bool:
        """Whether a subnet route is among the targets."""
        return not self.rule.self_only and any(
            target.alias.kind is Kind.ANY
            or (target.alias.span is not None and overlap(target.alias.span, span))
            or (target.alias.name == a.INTERNET and overlaps_any(INTERNET, span))
            for target in self.targets
        )

    def comes_from(self, span: Range) -> bool:
        """Whether a subnet route is among the sources."""
        return not self.rule.self_only and (
            self.from_all or any(overlap(source, span) for source in self.source_spans)
        )


def selectors_aliases(policy: Policy, rules: Iterable[Rule]) -> Iterable[Alias]:
    """Every alias that says something of devices."""
    for rule in rules:
        yield from _sources_without_self(rule)
        yield from (target for target, _ in rule.targets)
        yield from _via(rule)
    for ssh in policy.ssh:
        yield from ssh.sources
        yield from ssh.targets
    for attr in policy.node_attrs:
        yield from attr.targets


def states_of(rules: Iterable[Rule], selectors: Selectors) -> tuple[list[RuleState], list[SourceSet]]:
    """The rules in their order, and the sets that their sources are."""
    sets: dict[tuple[object, ...], SourceSet] = {}
    return [_state(rule, selectors, sets) for rule in rules], list(sets.values())


def _state(rule: Rule, selectors: Selectors, sets: dict[tuple[object, ...], SourceSet]) -> RuleState:
    danger = any(s.name == a.DANGER_ALL for s in rule.sources)
    from_any = any(s.kind is Kind.ANY for s in rule.sources)
    sources = _sources_without_self(rule)
    mask, spans = selectors.mask(sources), selectors.spans(sources)
    key = (mask, tuple(sorted(spans)), from_any, danger, bool(rule.via))
    known = sets.get(key)
    if known is None:
        fixed = [*spans, *(TAILNET if from_any and rule.via else ())]
        known = sets[key] = SourceSet(mask, from_any, danger, bool(rule.via), AddressSet(fixed))
    targets = tuple(
        Target(
            alias,
            ports,
            selectors.mask((alias,)),
            0 if alias.span is None else selectors.literal_mask((alias.span,)),
        )
        for alias, ports in rule.targets
    )
    return RuleState(
        rule=rule,
        sources=known,
        source_mask=mask,
        source_spans=spans,
        source_literals=selectors.literal_mask(spans),
        from_all=from_any or danger,
        via_mask=selectors.mask(_via(rule)),
        caps_json=orjson.dumps(rule.caps or {}),
        targets=targets,
        target_mask=selectors.mask(alias for alias, _ in rule.targets),
        wide_targets=tuple(target for target in targets if not target.alias.is_devices),
    )


def _via(rule: Rule) -> Iterable[Alias]:
    return (Alias(Kind.TAG, tag) for tag in rule.via)


def _sources_without_self(rule: Rule) -> tuple[Alias, ...]:
    """Sources; `autogroup:self` among them (the companion of a capability) means members."""
    if not rule.self_only:
        return rule.sources
    return tuple(Alias(Kind.AUTOGROUP, a.MEMBER) if s.name == a.SELF else s for s in rule.sources)
