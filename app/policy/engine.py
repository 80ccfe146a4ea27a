"""The policy of one tenant at work: classes of devices, who sees whom, what each class is sent. Pure.

A device that joins, leaves or changes costs its class: the source sets it is in, and the templates
that write them. Nothing is a loop over pairs of devices. Order of use: `put`/`remove` any number of
times, then ask; `take_touched` says what the answers of may have changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from app.model import Device, DeviceId, User, UserId
from app.policy.addresses import address, overlap, prefix, written
from app.policy.attributes import SUGGEST_EXIT_NODE, Attributes
from app.policy.classes import ClassShape, DeviceClass, Facts, may_hold_devices, spans_of, split_routes
from app.policy.document import Policy
from app.policy.filters import Line, Template, grant_entry, port_entries, template
from app.policy.people import Directory
from app.policy.routes import Primaries
from app.policy.rules import rules_of
from app.policy.selectors import Selectors
from app.policy.shown import ShownRoutes
from app.policy.sources import AddressBook, AddressSet, wildcard_texts
from app.policy.ssh import Member, SshCompiler
from app.policy.states import RuleState, SourceSet, Target, selectors_aliases, states_of

#: What is remembered of kinds of devices is bounded: kinds that were may never come again.
MAX_REMEMBERED = 4096
_DANGER_JSON = b'["*"]'
_EXIT_CAPS = orjson.dumps({SUGGEST_EXIT_NODE: None})


_MergeKey = tuple[bytes, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Where rules stand once those with equal sources and protocols are one: the first place of each
    pair, and the place of every rule (-1: left out)."""

    first: dict[_MergeKey, int]
    of: list[int]


class PolicyEngine:
    """One policy, the users it speaks of, and the devices it is applied to."""

    def __init__(self, policy: Policy, users: Iterable[User], *, auto_update: bool = False) -> None:
        self.policy = policy
        self.directory = Directory(users, policy.groups)
        rules = rules_of(policy)
        self.attributes = Attributes(policy, auto_update=auto_update)
        self.selectors = Selectors(selectors_aliases(policy, rules), self.directory)
        self.states, self._sets = states_of(rules, self.selectors)
        self._self_states = [state for state in self.states if state.rule.self_only]
        self._self_places = [place for place, state in enumerate(self.states) if state.rule.self_only]
        self._via_mask = 0
        for state in self.states:
            self._via_mask |= state.via_mask
        self._roles: dict[tuple[object, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._sets_by_identity: dict[int, list[SourceSet]] = {}
        self._ranks: dict[int, _Ranks] = {}
        self.ssh = SshCompiler(policy, self.directory, self.selectors)
        self._devices = devices = dict[DeviceId, Facts]()
        self._by_user: dict[UserId, set[DeviceId]] = {}
        self._addresses = AddressBook()
        self._classes: dict[ClassShape, DeviceClass] = {}
        self._by_index: dict[int, DeviceClass] = {}
        self._user_bits: dict[UserId, int] = {}
        self._free: list[int] = []
        self._gone: list[DeviceClass] = []
        self._route_counts: dict[str, int] = {}
        self._routers: set[DeviceId] = set()
        self._overlay: set[DeviceClass] = set()
        self.primaries = Primaries()
        # Without `self`: an engine that another one replaces is gone at once, and not when the garbage
        # collector comes by.
        self._shown = ShownRoutes(
            self.states, self.selectors, self.primaries, lambda i: devices[i].cls.shape.identity
        )
        #: Of no device: what a record is tried in before it is taken.
        self.untold_class = DeviceClass(ClassShape(0, 0, None, (), False, False), -1)
        self._touched: set[DeviceClass] = set()
        self._touched_routers: set[DeviceId] = set()

    # -- devices --------------------------------------------------------------------------------

    def put(self, device: Device) -> DeviceClass:
        """A device is new or has changed; returns its class."""
        known = self._devices.get(device.id)
        shape = self._shape(device)
        user = None if device.tags else device.user_id
        cls = self._classes.get(shape) or self._new_class(shape)
        facts = Facts(cls, address(device.ipv4), address(device.ipv6), user, len(device.tags), shape.subnets)
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

    def _put_in(self, device_id: DeviceId, facts: Facts) -> None:
        cls = facts.cls
        self._devices[device_id] = facts
        cls.members.add(device_id)
        if facts.user is not None:
            self._by_user.setdefault(facts.user, set()).add(device_id)
        for at in facts.addresses:
            self._addresses.add(at, device_id)
        for sources in self._sets_of(cls.shape.identity):
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

    def _take_out(self, device_id: DeviceId, facts: Facts) -> None:
        cls = facts.cls
        del self._devices[device_id]
        cls.members.discard(device_id)
        if facts.user is not None:
            self._by_user[facts.user].discard(device_id)
        for at in facts.addresses:
            self._addresses.remove(at, device_id)
        for sources in self._sets_of(cls.shape.identity):
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

    def _touch_set(self, sources: SourceSet) -> None:
        sources.rendered = None
        self._ranks.clear()
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
        for sources in self._sets:
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
            for sources in self._sets:
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
        source_of, cls.targets = self._roles_of(cls)
        for place in source_of:
            self.states[place].source_bits |= cls.bit
        for place in cls.targets:
            state = self.states[place]
            state.target_bits |= cls.bit
            if not (state.rule.is_silent or state.rule.self_only):
                state.sources.users.add(cls)
        same = self._bits_of_user(shape.user)
        for place in source_of:
            state = self.states[place]
            cls.sees |= state.target_bits & same if state.rule.self_only else state.target_bits
        for place in cls.targets:
            state = self.states[place]
            cls.sees |= state.source_bits & same if state.rule.self_only else state.source_bits
        for other in self._with_bits(cls.sees):
            other.sees |= cls.bit
        return cls

    def _roles_of(self, cls: DeviceClass) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The numbers of the rules that a class is a source of, and a target of. Whose devices they are
        makes no difference, only whether they are anybody's."""
        shape = cls.shape
        key = (shape.identity, shape.literals, shape.user is None, shape.subnets, shape.is_exit, shape.no_v4)
        found = self._roles.get(key)
        if found is None:
            if len(self._roles) > MAX_REMEMBERED:
                self._roles.clear()
            found = self._roles[key] = (
                tuple(place for place, state in enumerate(self.states) if state.is_source(cls)),
                tuple(place for place, state in enumerate(self.states) if state.is_target(cls)),
            )
        return found

    def _sets_of(self, identity: int) -> list[SourceSet]:
        """The source sets that a device with these bits belongs to."""
        found = self._sets_by_identity.get(identity)
        if found is None:
            if len(self._sets_by_identity) > MAX_REMEMBERED:
                self._sets_by_identity.clear()
            found = self._sets_by_identity[identity] = [s for s in self._sets if s.mask & identity]
        return found

    def _bits_of_user(self, user: UserId | None) -> int:
        return 0 if user is None else self._user_bits.get(user, 0)

    def _with_bits(self, bits: int) -> list[DeviceClass]:
        found = []
        while bits:
            low = bits & -bits
            found.append(self._by_index[low.bit_length() - 1])
            bits ^= low
        return found

    def reached(self, state: RuleState, cls: DeviceClass, target: Target) -> list[bytes]:
        """How a target of a rule is written in the filter of a class; nothing if it does not concern it."""
        others = self._others(cls, target.mask) if cls in self._overlay else ()
        return state.destinations(cls, target, others)

    def _others(self, cls: DeviceClass, mask: int) -> list[bytes]:
        """Addresses of a target's devices inside the routes of a class."""
        return [
            written((at, at)).encode()
            for span in (cls.spans if mask else ())
            for at, device_id in self._addresses.within(span)
            if (owner := self._devices[device_id].cls) is not cls and owner.shape.identity & mask
        ]

    # -- answers: who sees whom -----------------------------------------------------------------

    def sees(self, viewer: DeviceClass, member: DeviceClass) -> bool:
        """Whether devices of one class have devices of the other among their peers."""
        return bool(viewer.sees & member.bit)

    def visible(self, viewer: DeviceClass) -> list[DeviceClass]:
        return [cls for cls in self._with_bits(viewer.sees) if cls.members]

    def shown_routes(self, viewer: DeviceClass, device_id: DeviceId) -> tuple[str, ...]:
        """The subnet routes of a router that devices of this class have in its AllowedIPs."""
        facts = self._devices.get(device_id)
        return () if facts is None else self._shown.of(viewer, device_id, facts.subnets)

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
        ranks = self._ranks_of(cls.shape.identity & self._via_mask)
        own, own_sources = self._own_ranks(cls, ranks) if self._self_places else ({}, {})
        lines: list[tuple[int, Line]] = []
        for place in range(len(self.states)) if cls in self._overlay else cls.targets:
            state = self.states[place]
            is_merged = state.rule.caps is None
            if state.rule.self_only:
                sources = own_sources.get(place)
                if sources is None:
                    continue
                rank = own[sources, state.rule.protos] if is_merged else place
            else:
                rank = ranks.of[place]
                if rank < 0:
                    continue
                sources = self._rendered(state.sources)
                if own and is_merged:
                    rank = own.get((sources, state.rule.protos), rank)
            line = self._line(state, cls, sources)
            if line is not None:
                lines.append((rank, line))
        return [line for _, line in sorted(lines, key=lambda item: item[0])]

    def _ranks_of(self, via: int) -> _Ranks:
        """Where each rule stands after merging, but for those that are cut down to one user. `via`: the
        bits of the via tags that a class has."""
        known = self._ranks.get(via)
        if known is None:
            first: dict[_MergeKey, int] = {}
            of = []
            for place, state in enumerate(self.states):
                rule = state.rule
                sources = b"[]"
                if not (rule.self_only or rule.is_silent or (rule.via and not via & state.via_mask)):
                    sources = self._rendered(state.sources)
                    if rule.caps is not None:
                        of.append(place)
                        continue
                of.append(-1 if sources == b"[]" else first.setdefault((sources, rule.protos), place))
            known = self._ranks[via] = _Ranks(first, of)
        return known

    def _own_ranks(self, cls: DeviceClass, ranks: _Ranks) -> tuple[dict[_MergeKey, int], dict[int, bytes]]:
        """(where rules with such sources stand, the sources by rule) of rules cut down to one user."""
        own: dict[_MergeKey, int] = {}
        found: dict[int, bytes] = {}
        for place in self._self_places if cls.shape.user is not None else ():
            state = self.states[place]
            sources = self._self_sources(state, cls)
            if state.rule.via or (sources == b"[]" and state.rule.caps is None):
                continue
            found[place] = sources
            if state.rule.caps is None:
                key = (sources, state.rule.protos)
                own.setdefault(key, min(place, ranks.first.get(key, place)))
        return own, found

    def _line(self, state: RuleState, cls: DeviceClass, sources: bytes) -> Line | None:
        line = Line(sources, state.rule.protos)
        for target in state.targets:
            dsts = self.reached(state, cls, target)
            if not dsts:
                continue
            if state.rule.caps is not None:
                if target.literal and not self._answers_for(cls, target):
                    continue
                line.grants.append(grant_entry(cls, target.alias, dsts, state.caps_json))
            else:
                line.ports += port_entries(dsts, target.ports)
        return line if line.grants or line.ports else None

    @staticmethod
    def _answers_for(cls: DeviceClass, target: Target) -> bool:
        """Whether a range holds an address or touches a subnet route of the class: what is only in reach
        through an exit node has no capabilities there."""
        span = target.alias.span
        return bool(cls.shape.literals & target.literal) or (
            span is not None and any(overlap(span, route) for route in cls.spans)
        )

    def _rendered(self, sources: SourceSet) -> bytes:
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
            if state.is_source(facts.cls):
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
