"""The policy of one tenant at work: classes of devices, who sees whom, what each class is sent. Pure.

A device that joins, leaves or changes costs its class: the source sets it is in, and the templates
that write them. Nothing is a loop over pairs of devices. Order of use: `put`/`remove` any number of
times, then ask; `take_touched` says what the answers of may have changed.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import orjson

from app.model import Device, DeviceId, User, UserId
from app.policy import aliases as a
from app.policy.addresses import INTERNET, TAILNET, address, overlap, overlaps_any, prefix, written
from app.policy.aliases import Alias, Kind
from app.policy.attributes import SUGGEST_EXIT_NODE, Attributes
from app.policy.classes import ClassShape, DeviceClass, may_hold_devices, spans_of, split_routes
from app.policy.document import Policy
from app.policy.filters import Line, Template, destinations, grant_entry, port_entries, template
from app.policy.people import Directory
from app.policy.routes import Primaries
from app.policy.rules import Rule, rules_of
from app.policy.selectors import Selectors
from app.policy.sources import AddressSet, wildcard_texts
from app.policy.ssh import Member, SshCompiler

_DANGER_JSON = b'["*"]'
_EXIT_CAPS = orjson.dumps({SUGGEST_EXIT_NODE: None})


@dataclass(frozen=True, slots=True)
class _Facts:
    """One device as the engine holds it."""

    cls: DeviceClass
    v4: int
    v6: int
    user: UserId | None
    tags: int
    subnets: tuple[str, ...]

    @property
    def addresses(self) -> tuple[int, ...]:
        return (self.v6,) if self.cls.shape.no_v4 else (self.v4, self.v6)


@dataclass(eq=False, slots=True)
class _SourceSet:
    """What the sources of some rules stand for, and the classes whose filters write it."""

    mask: int
    has_any: bool
    has_danger: bool
    absorbs: bool
    addresses: AddressSet
    users: set[DeviceClass] = field(default_factory=set)
    rendered: bytes | None = None


@dataclass(eq=False, slots=True)
class RuleState:
    """A rule at work: `source_bits` and `target_bits` have the bit of every class it concerns."""

    rule: Rule
    sources: _SourceSet
    source_mask: int
    source_spans: tuple[tuple[int, int], ...]
    source_literals: int
    from_all: bool
    via_mask: int
    caps_json: bytes
    source_bits: int = 0
    target_bits: int = 0


class PolicyEngine:
    """One policy, the users it speaks of, and the devices it is applied to."""

    def __init__(self, policy: Policy, users: Iterable[User], *, auto_update: bool = False) -> None:
        self.policy = policy
        self.directory = Directory(users, policy.groups)
        self._rules = rules_of(policy)
        self.attributes = Attributes(policy, auto_update=auto_update)
        via = {tag: Alias(Kind.TAG, tag) for rule in self._rules for tag in rule.via}
        self.selectors = Selectors(_all_aliases(policy, self._rules, via.values()), self.directory)
        self._sets: dict[tuple[object, ...], _SourceSet] = {}
        self.states = [self._state(rule, via) for rule in self._rules]
        self._self_states = [state for state in self.states if state.rule.self_only]
        self.ssh = SshCompiler(policy, self.directory, self.selectors)
        self._devices: dict[DeviceId, _Facts] = {}
        self._by_user: dict[UserId, set[DeviceId]] = {}
        self._by_address: list[int] = []
        self._owner_of: dict[int, DeviceId] = {}
        self._classes: dict[ClassShape, DeviceClass] = {}
        self._by_index: dict[int, DeviceClass] = {}
        self._user_bits: dict[UserId, int] = {}
        self._free: list[int] = []
        self._gone: list[DeviceClass] = []
        self._route_counts: dict[str, int] = {}
        self._routers: set[DeviceId] = set()
        self._overlay: set[DeviceClass] = set()
        self.primaries = Primaries()
        #: Of no device: what a record is tried in before it is taken.
        self.untold_class = DeviceClass(ClassShape(0, 0, None, (), False, False), -1)
        self._touched: set[DeviceClass] = set()
        self._touched_routers: set[DeviceId] = set()

    def _state(self, rule: Rule, via: dict[str, Alias]) -> RuleState:
        danger = any(s.name == a.DANGER_ALL for s in rule.sources)
        from_any = any(s.kind is Kind.ANY for s in rule.sources)
        sources = _sources_without_self(rule)
        mask, spans = self.selectors.mask(sources), self.selectors.spans(sources)
        key = (mask, tuple(sorted(spans)), from_any, danger, bool(rule.via))
        known = self._sets.get(key)
        if known is None:
            known = self._sets[key] = _SourceSet(
                mask,
                from_any,
                danger,
                bool(rule.via),
                AddressSet([*spans, *(TAILNET if from_any and rule.via else ())]),
            )
        return RuleState(
            rule=rule,
            sources=known,
            source_mask=mask,
            source_spans=spans,
            source_literals=self.selectors.literal_mask(spans),
            from_all=from_any or danger,
            via_mask=self.selectors.mask(via[tag] for tag in rule.via),
            caps_json=orjson.dumps(rule.caps or {}),
        )

    # -- devices --------------------------------------------------------------------------------

    def put(self, device: Device) -> DeviceClass:
        """A device is new or has changed; returns its class."""
        known = self._devices.get(device.id)
        shape = self._shape(device)
        user = None if device.tags else device.user_id
        cls = self._classes.get(shape) or self._new_class(shape)
        facts = _Facts(cls, address(device.ipv4), address(device.ipv6), user, len(device.tags), shape.subnets)
        if facts != known:
            if known is not None:
                self._take_out(device.id, known)
            self._put_in(device.id, facts)
        if self.primaries.put(device.id, shape.subnets, device.online):
            self._touch_routers()
        return cls

    def remove(self, device_id: DeviceId) -> None:
        facts = self._devices.get(device_id)
        if facts is None:
            return
        self._take_out(device_id, facts)
        if self.primaries.remove(device_id):
            self._touch_routers()

    def class_of(self, device_id: DeviceId) -> DeviceClass:
        return self._devices[device_id].cls

    # -- users ----------------------------------------------------------------------------------

    def put_user(self, user: User) -> set[DeviceId]:
        """A user is new or has changed; returns the devices that must be put again."""
        if not self.directory.put(user):
            return set()
        return self._users_changed(user.id)

    def remove_user(self, user_id: UserId) -> set[DeviceId]:
        if not self.directory.remove(user_id):
            return set()
        return self._users_changed(user_id)

    def _users_changed(self, user_id: UserId) -> set[DeviceId]:
        self.selectors.reread(self.directory)
        self.ssh.forget()
        return set(self._by_user.get(user_id, ()))

    def _shape(self, device: Device) -> ClassShape:
        """Raises ValueError when an address or a route of the record is none."""
        identity = self.selectors.identity(device.user_id, device.tags)
        v4, v6 = address(device.ipv4), address(device.ipv6)
        subnets, is_exit = split_routes(device.active_routes)
        spans_of(subnets)
        declared = self.selectors.holding((v4, v6))
        no_v4 = self.attributes.disables_v4(identity, declared, self.selectors)
        literals = self.selectors.holding((v6,)) if no_v4 else declared
        user = None if device.tags or not self._cares_for_user(identity, literals) else device.user_id
        alone = device.id if subnets and may_hold_devices(subnets) else None
        return ClassShape(identity, literals, user, subnets, is_exit, no_v4, declared, alone)

    def _cares_for_user(self, identity: int, literals: int) -> bool:
        return self.ssh.cares_for_user or any(
            state.from_all or identity & state.source_mask or literals & state.source_literals
            for state in self._self_states
        )

    def _put_in(self, device_id: DeviceId, facts: _Facts) -> None:
        cls = facts.cls
        self._devices[device_id] = facts
        cls.members.add(device_id)
        if facts.user is not None:
            self._by_user.setdefault(facts.user, set()).add(device_id)
        for at in facts.addresses:
            insort(self._by_address, at)
            self._owner_of[at] = device_id
        for sources in self._sets.values():
            if cls.shape.identity & sources.mask:
                for at in facts.addresses:
                    sources.addresses.add(at)
                self._touch_set(sources)
        self._count_routes(facts.subnets, +1)
        if facts.subnets or cls.shape.is_exit:
            self._routers.add(device_id)
            self._touched_routers.add(device_id)
        self._touch_user(facts.user)
        self.ssh.touch(cls.shape.identity)
        self._touch_overlay()

    def _take_out(self, device_id: DeviceId, facts: _Facts) -> None:
        cls = facts.cls
        del self._devices[device_id]
        cls.members.discard(device_id)
        if facts.user is not None:
            self._by_user[facts.user].discard(device_id)
        for at in facts.addresses:
            del self._by_address[bisect_left(self._by_address, at)]
            self._owner_of.pop(at, None)
        for sources in self._sets.values():
            if cls.shape.identity & sources.mask:
                for at in facts.addresses:
                    sources.addresses.discard(at)
                self._touch_set(sources)
        self._count_routes(facts.subnets, -1)
        self._routers.discard(device_id)
        self._touch_user(facts.user)
        self.ssh.touch(cls.shape.identity)
        self._touch_overlay()
        if not cls.members:
            self._gone.append(cls)

    # -- what changed ---------------------------------------------------------------------------

    def _touch_set(self, sources: _SourceSet) -> None:
        sources.rendered = None
        for cls in sources.users:
            cls.template = None
        self._touched |= sources.users

    def _touch_user(self, user: UserId | None) -> None:
        if user is None or not (self._self_states or self.ssh.cares_for_user):
            return
        for device_id in self._by_user.get(user, ()):
            cls = self._devices[device_id].cls
            cls.template = None
            self._touched.add(cls)

    def _touch_overlay(self) -> None:
        for cls in self._overlay:
            cls.template = None
        self._touched |= self._overlay

    def _touch_routers(self) -> None:
        self._touched_routers |= self._routers

    def _count_routes(self, subnets: tuple[str, ...], by: int) -> None:
        before = set(self._route_counts) if subnets else set()
        for route in subnets:
            count = self._route_counts.get(route, 0) + by
            if count:
                self._route_counts[route] = count
            else:
                del self._route_counts[route]
        if not subnets or before == self._route_counts.keys():
            return
        for sources in self._sets.values():
            if sources.has_any:
                self._touch_set(sources)

    def take_touched(self) -> tuple[set[DeviceClass], set[DeviceId]]:
        """(classes whose filter or SSH policy may have changed, routers whose routes may be shown
        differently) since the last call."""
        touched, routers = self._touched, self._touched_routers & self._routers
        if self.ssh.take_touched():
            touched = set(self._classes.values())
        self._touched, self._touched_routers = set(), set()
        return touched, routers

    def sweep(self) -> None:
        """Forget classes that have had no device since before the last answers were used."""
        for cls in self._gone:
            if cls.members or self._classes.get(cls.shape) is not cls:
                continue
            for other in self._with_bits(cls.sees):
                other.sees &= ~cls.bit
            for state in self.states:
                state.source_bits &= ~cls.bit
                state.target_bits &= ~cls.bit
            for sources in self._sets.values():
                sources.users.discard(cls)
            self._overlay.discard(cls)
            self._touched.discard(cls)
            if cls.shape.user is not None:
                self._user_bits[cls.shape.user] &= ~cls.bit
            del self._classes[cls.shape], self._by_index[cls.index]
            self._free.append(cls.index)
        self._gone = []

    # -- classes --------------------------------------------------------------------------------

    def _new_class(self, shape: ClassShape) -> DeviceClass:
        index = self._free.pop() if self._free else len(self._by_index)
        cls = DeviceClass(shape, index, spans=spans_of(shape.subnets))
        self._classes[shape] = cls
        if shape.user is not None:
            self._user_bits[shape.user] = self._user_bits.get(shape.user, 0) | cls.bit
        self._by_index[index] = cls
        self._gone.append(cls)
        if shape.alone is not None:
            self._overlay.add(cls)
        cls.peer_caps = _EXIT_CAPS if shape.is_exit else b""
        cls.self_caps = self.attributes.self_caps(shape.identity, shape.declared, self.selectors)
        for state in self.states:
            is_source, is_target = self.is_source(state, cls), self._is_target(state, cls)
            if is_source:
                state.source_bits |= cls.bit
            if is_target:
                state.target_bits |= cls.bit
                if not state.rule.is_silent:
                    state.sources.users.add(cls)
            if state.rule.self_only:
                same = self._bits_of_user(shape.user)
                cls.sees |= (state.target_bits & same if is_source else 0) | (
                    state.source_bits & same if is_target else 0
                )
            else:
                cls.sees |= (state.target_bits if is_source else 0) | (state.source_bits if is_target else 0)
        for other in self._with_bits(cls.sees):
            other.sees |= cls.bit
        return cls

    def _bits_of_user(self, user: UserId | None) -> int:
        return 0 if user is None else self._user_bits.get(user, 0)

    def _with_bits(self, bits: int) -> list[DeviceClass]:
        found = []
        while bits:
            low = bits & -bits
            found.append(self._by_index[low.bit_length() - 1])
            bits ^= low
        return found

    def is_source(self, state: RuleState, cls: DeviceClass) -> bool:
        """Whether devices of a class, or the subnets behind them, are among a rule's sources."""
        if state.rule.self_only and cls.shape.user is None:
            return False
        shape = cls.shape
        if state.from_all or shape.identity & state.source_mask or shape.literals & state.source_literals:
            return True
        return any(overlap(span, route) for span in state.source_spans for route in cls.spans)

    def _is_target(self, state: RuleState, cls: DeviceClass) -> bool:
        return any(self._destinations(state, cls, target) for target, _ in state.rule.targets)

    def _destinations(
        self, state: RuleState, cls: DeviceClass, target: Alias, others: Sequence[bytes] = ()
    ) -> list[bytes]:
        rule, shape = state.rule, cls.shape
        if rule.via and not shape.identity & state.via_mask:
            return []
        if rule.self_only:
            # Both sides are devices of one user; whose, the class says.
            if shape.user is None or not self._in_self(target, cls):
                return []
            return destinations(
                cls, Alias(Kind.AUTOGROUP, a.SELF), is_member=True, holds_own=False, has_via=False, others=()
            )
        return destinations(
            cls,
            target,
            is_member=target.is_devices and bool(shape.identity & self.selectors.mask((target,))),
            holds_own=target.span is not None
            and bool(shape.literals & self.selectors.literal_mask((target.span,))),
            has_via=bool(rule.via),
            others=others,
        )

    def reached(self, state: RuleState, cls: DeviceClass, target: Alias) -> list[bytes]:
        """How a target of a rule is written in the filter of a class; nothing if it does not concern it."""
        others = self._others(cls, target) if cls in self._overlay else ()
        return self._destinations(state, cls, target, others)

    def _in_self(self, target: Alias, cls: DeviceClass) -> bool:
        return (
            target.name == a.SELF
            or target.kind is Kind.ANY
            or bool(cls.shape.identity & self.selectors.mask((target,)))
        )

    def _others(self, cls: DeviceClass, target: Alias) -> list[bytes]:
        """Addresses of the target's devices inside the routes of a class."""
        if not target.is_devices:
            return []
        mask, found = self.selectors.mask((target,)), []
        for low, high in cls.spans:
            at = bisect_left(self._by_address, low)
            while at < len(self._by_address) and self._by_address[at] <= high:
                place = self._by_address[at]
                owner = self._devices[self._owner_of[place]].cls
                if owner is not cls and owner.shape.identity & mask:
                    found.append(written((place, place)).encode())
                at += 1
        return found

    # -- answers: who sees whom -----------------------------------------------------------------

    def sees(self, viewer: DeviceClass, member: DeviceClass) -> bool:
        """Whether devices of one class have devices of the other among their peers."""
        return bool(viewer.sees & member.bit)

    def visible(self, viewer: DeviceClass) -> list[DeviceClass]:
        return [cls for cls in self._with_bits(viewer.sees) if cls.members]

    def shown_routes(self, viewer: DeviceClass, device_id: DeviceId) -> tuple[str, ...]:
        """The subnet routes of a router that devices of this class have in its AllowedIPs.

        Those it is the primary of for this viewer, if a rule lets the viewer reach the route or the
        route reach the viewer, or the viewer announces it too (policy-corpus, "Peers" and "HA").
        """
        facts = self._devices.get(device_id)
        if facts is None:
            return ()
        return tuple(
            route
            for route in facts.subnets
            if self._shows(viewer, route) and self._primary(viewer, route) == device_id
        )

    def _shows(self, viewer: DeviceClass, route: str) -> bool:
        known = viewer.shows.get(route)
        if known is None:
            known = viewer.shows[route] = route in viewer.shape.subnets or self._concerns(viewer, route)
        return known

    def _concerns(self, viewer: DeviceClass, route: str) -> bool:
        span = prefix(route)
        for state in self.states:
            if state.rule.via:
                continue
            if state.source_bits & viewer.bit and self._reaches(state, span):
                return True
            is_way_back = state.from_all or any(overlap(source, span) for source in state.source_spans)
            if state.target_bits & viewer.bit and is_way_back and not state.rule.self_only:
                return True
        return self._steered(viewer, route) is not None

    @staticmethod
    def _reaches(state: RuleState, span: tuple[int, int]) -> bool:
        return (
            any(
                target.kind is Kind.ANY
                or (target.span is not None and overlap(target.span, span))
                or (target.name == a.INTERNET and overlaps_any(INTERNET, span))
                for target, _ in state.rule.targets
            )
            and not state.rule.self_only
        )

    def _steered(self, viewer: DeviceClass, route: str) -> tuple[str, ...] | None:
        """The via tags a viewer must use for a route; None where no via rule concerns it."""
        if route not in viewer.steered:
            span, tags = prefix(route), []
            for state in self.states:
                if state.rule.via and state.source_bits & viewer.bit and self._reaches(state, span):
                    tags += [tag for tag in state.rule.via if tag not in tags]
            viewer.steered[route] = tuple(tags) or None
        return viewer.steered[route]

    def _primary(self, viewer: DeviceClass, route: str) -> DeviceId | None:
        tags = self._steered(viewer, route)
        if tags is None or route in viewer.shape.subnets:
            return self.primaries.of(route)
        mask = self.selectors.mask(Alias(Kind.TAG, tag) for tag in tags)
        return self.primaries.among(
            route, lambda device_id: bool(self._devices[device_id].cls.shape.identity & mask)
        )

    def carried_routes(self, device_id: DeviceId) -> tuple[str, ...]:
        """The subnet routes that a device is the primary of."""
        subnets = self._devices[device_id].subnets
        return tuple(route for route in subnets if self.primaries.of(route) == device_id)

    def routes(self) -> Iterable[str]:
        """Every approved subnet route."""
        return self._route_counts.keys()

    def routers(self) -> set[DeviceId]:
        """Devices with approved routes."""
        return self._routers

    # -- answers: what a class is sent ----------------------------------------------------------

    def template(self, cls: DeviceClass) -> Template:
        """The packet filter of a class."""
        if cls.template is None:
            cls.template = template(self._lines(cls))
        return cls.template

    def _lines(self, cls: DeviceClass) -> Iterable[Line]:
        """The rules of a class, those with the sources and protocols of an earlier rule moved up to it:
        the service merges before it looks at who is concerned (policy-corpus, acl-at06)."""
        ranks: dict[tuple[bytes, tuple[int, ...]], int] = {}
        lines: list[tuple[int, Line]] = []
        for place, state in enumerate(self.states):
            rule = state.rule
            if rule.is_silent or (rule.via and not cls.shape.identity & state.via_mask):
                continue
            sources = self._self_sources(state, cls) if rule.self_only else self._rendered(state.sources)
            if sources == b"[]" and rule.caps is None:
                continue
            rank = place if rule.caps is not None else ranks.setdefault((sources, rule.protos), place)
            line = self._line(state, cls, sources)
            if line is not None:
                lines.append((rank, line))
        return [line for _, line in sorted(lines, key=lambda item: item[0])]

    def _line(self, state: RuleState, cls: DeviceClass, sources: bytes) -> Line | None:
        if not (cls in self._overlay or state.target_bits & cls.bit):
            return None
        line = Line(sources, state.rule.protos)
        for target, ports in state.rule.targets:
            dsts = self.reached(state, cls, target)
            if not dsts:
                continue
            if state.rule.caps is not None:
                if target.span is not None and not self._answers_for(cls, target.span):
                    continue
                line.grants.append(grant_entry(cls, target, dsts, state.caps_json))
            else:
                line.ports += port_entries(dsts, ports)
        return line if line.grants or line.ports else None

    def _answers_for(self, cls: DeviceClass, span: tuple[int, int]) -> bool:
        """Whether a range holds an address or touches a subnet route of the class: what is only in reach
        through an exit node has no capabilities there."""
        held = cls.shape.literals & self.selectors.literal_mask((span,))
        return bool(held) or any(overlap(span, route) for route in cls.spans)

    def _rendered(self, sources: _SourceSet) -> bytes:
        if sources.rendered is None:
            if sources.has_danger:
                json = _DANGER_JSON
            elif not sources.has_any:
                json = orjson.dumps(sources.addresses.texts)
            elif sources.absorbs:
                merged = AddressSet([*sources.addresses.ranges, *map(prefix, self._route_counts)])
                json = orjson.dumps(merged.texts)
            else:
                wild = wildcard_texts(self._route_counts)
                json = orjson.dumps(sorted({*wild, *sources.addresses.texts}))
            sources.rendered = json
        return sources.rendered

    def _self_sources(self, state: RuleState, cls: DeviceClass) -> bytes:
        """Sources cut down to the devices of the class's own user."""
        found = AddressSet()
        for device_id in sorted(self._by_user.get(cls.shape.user, ())) if cls.shape.user is not None else ():
            facts = self._devices[device_id]
            if self.is_source(state, facts.cls):
                for at in facts.addresses:
                    found.add(at)
        return orjson.dumps(found.texts)

    def ssh_rules(self, cls: DeviceClass) -> bytes:
        """The tailcfg.SSHRule list of a class, as JSON."""
        return self.ssh.rules(cls.shape, self._members_of)

    def _members_of(self, mask: int, user: UserId | None) -> list[Member]:
        """All devices with one of the bits (of one user, if given), in order of their ids."""
        devices: Iterable[DeviceId]
        if user is not None:
            devices = self._by_user.get(user, set())
        else:
            devices = {d for cls in self._classes.values() if cls.shape.identity & mask for d in cls.members}
        return [
            Member(facts.user, facts.tags, facts.cls.shape.identity, facts.addresses)
            for device_id in sorted(devices)
            if (facts := self._devices[device_id]).cls.shape.identity & mask
        ]


def _sources_without_self(rule: Rule) -> tuple[Alias, ...]:
    """Sources; `autogroup:self` among them (the companion of a capability) means members."""
    if not rule.self_only:
        return rule.sources
    return tuple(Alias(Kind.AUTOGROUP, a.MEMBER) if s.name == a.SELF else s for s in rule.sources)


def _all_aliases(policy: Policy, rules: Iterable[Rule], via: Iterable[Alias]) -> Iterable[Alias]:
    for rule in rules:
        yield from _sources_without_self(rule)
        yield from (target for target, _ in rule.targets)
    for ssh in policy.ssh:
        yield from ssh.sources
        yield from ssh.targets
    for attr in policy.node_attrs:
        yield from attr.targets
    yield from via
