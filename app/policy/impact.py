"""What a new policy changes for the users and devices there are. Pure.

Devices are grouped by what either policy makes of them as sources, and as targets; groups are compared
with groups, never devices with devices. Packets between two devices of one user are looked at apart,
since `autogroup:self` means only them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.model import Device, User, UserId
from app.policy import aliases as a
from app.policy.addresses import Range, merged
from app.policy.aliases import PROTOCOLS
from app.policy.classes import DeviceClass
from app.policy.document import Policy, SshRule
from app.policy.engine import PolicyEngine
from app.policy.explain import DEFAULT_PROTOS
from app.policy.filters import OWN_V4, OWN_V6
from app.policy.routes import auto_approved
from app.policy.rules import COMPANIONS
from app.policy.states import RuleState, Target

#: Changes of one sort that are listed, and names told of each side of one.
MAX_CHANGES = 200
MAX_NAMES = 10

#: What may be done: (where; empty is the device itself, what) -> port ranges. Capabilities and logins
#: have one range that says nothing.
Contents = Mapping[tuple[str, str], tuple[Range, ...]]
_ONCE: tuple[Range, ...] = ((-1, -1),)
_Opening = frozenset[tuple[tuple[str, str], Range]]
_Opened = tuple[tuple[int, _Opening], ...]
_PROTO_NAMES = {number: name for name, number in reversed(PROTOCOLS.items())}
_DEFAULTS = tuple(_PROTO_NAMES[proto] for proto in DEFAULT_PROTOS)


@dataclass(frozen=True, slots=True)
class Change:
    """Some sources gain or lose the same at some targets: all devices counted, the first ones named.

    `own`: each source only at other devices of the same user. `what` are texts such as `tcp:22`,
    `10.33.0.0/16 tcp:*`, `app example.com/cap/x`, or for SSH the user names.
    """

    sources: tuple[str, ...]
    source_count: int
    targets: tuple[str, ...]
    target_count: int
    pairs: int
    what: tuple[str, ...]
    own: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one sort, the largest first; `pairs` counts all, `left_out` those not listed."""

    listed: tuple[Change, ...] = ()
    pairs: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Impact:
    """What changes when one policy takes the place of another."""

    gained: Changes
    lost: Changes
    ssh_gained: Changes
    ssh_lost: Changes
    #: (device, route) that need nobody's approval any more.
    approved: tuple[tuple[str, str], ...]
    #: Devices whose packet filter, peers or SSH rules are others.
    filters: int
    peers: int
    ssh: int

    @property
    def is_none(self) -> bool:
        """Whether nobody notices."""
        return not (
            self.gained.pairs
            or self.lost.pairs
            or self.ssh_gained.pairs
            or self.ssh_lost.pairs
            or self.approved
            or self.filters
            or self.peers
            or self.ssh
        )


def impact(old: Policy, new: Policy, users: Iterable[User], devices: Iterable[Device]) -> Impact:
    """The difference between two policies for these users and devices."""
    users, devices = list(users), sorted(devices, key=lambda device: device.id)
    before, after = _engine(old, users, devices), _engine(new, users, devices)
    scene = _Scene(before, after, devices)
    gained, lost = scene.compare(_Access(before), _Access(after))
    ssh_gained, ssh_lost = scene.compare(_Logins(before), _Logins(after))
    return Impact(
        gained,
        lost,
        ssh_gained,
        ssh_lost,
        approved=tuple(_approved(after, devices)),
        filters=scene.count(lambda o, n: before.template(o).json != after.template(n).json),
        peers=scene.count_peers(),
        ssh=scene.count(lambda o, n: before.ssh_rules(o) != after.ssh_rules(n)),
    )


def _engine(policy: Policy, users: Iterable[User], devices: Iterable[Device]) -> PolicyEngine:
    engine = PolicyEngine(policy, users)
    for device in devices:
        engine.put(device)
    return engine


def _approved(engine: PolicyEngine, devices: Iterable[Device]) -> Iterator[tuple[str, str]]:
    for device in devices:
        waiting = [route for route in device.announced_routes if route not in device.approved_routes]
        if waiting:
            found = auto_approved(engine.policy, engine.directory, device.user_id, device.tags, waiting)
            yield from ((device.given_name, route) for route in found)


# -- what one policy allows, rule by rule ------------------------------------------------------------


class _Relation(ABC):
    """Rules as sources and targets of classes. Bit n of a mask is the rule of that number."""

    def __init__(self) -> None:
        self._sources: dict[DeviceClass, tuple[int, int]] = {}
        self._targets: dict[DeviceClass, _Target] = {}

    def source(self, cls: DeviceClass) -> tuple[int, int]:
        """The rules a class is a source of: for everybody, and for devices of the same user."""
        found = self._sources.get(cls)
        if found is None:
            found = self._sources[cls] = self._source(cls)
        return found

    def target(self, cls: DeviceClass) -> _Target:
        """What each rule opens at a class."""
        found = self._targets.get(cls)
        if found is None:
            found = self._targets[cls] = self._target(cls)
        return found

    @abstractmethod
    def _source(self, cls: DeviceClass) -> tuple[int, int]: ...

    @abstractmethod
    def _target(self, cls: DeviceClass) -> _Target: ...


@dataclass(frozen=True, slots=True)
class _Target:
    """What rules open at a class, by their numbers: for everybody, and for the same user."""

    opened: _Opened = ()
    own: _Opened = ()

    @property
    def mask(self) -> int:
        """The rules for everybody that open something."""
        return sum(1 << number for number, _ in self.opened)

    def contents(self, mask: int, own_mask: int = 0) -> Contents:
        """What all rules of the masks open together."""
        spans: dict[tuple[str, str], list[Range]] = {}
        for bits, rules in ((mask, self.opened), (own_mask, self.own)):
            for number, opened in rules:
                if bits >> number & 1:
                    for key, span in opened:
                        spans.setdefault(key, []).append(span)
        return {key: merged(found) for key, found in spans.items()}


class _Access(_Relation):
    """Packets and capabilities."""

    def __init__(self, engine: PolicyEngine) -> None:
        super().__init__()
        self._engine = engine
        self._states = [state for state in engine.states if not state.rule.is_silent]

    def _source(self, cls: DeviceClass) -> tuple[int, int]:
        masks = [0, 0]
        for number, state in enumerate(self._states):
            if state.source_bits & cls.bit:
                masks[state.rule.self_only] |= 1 << number
        return masks[0], masks[1]

    def _target(self, cls: DeviceClass) -> _Target:
        opened: list[tuple[int, _Opening]] = []
        own: list[tuple[int, _Opening]] = []
        for number, state in enumerate(self._states):
            if state.target_bits & cls.bit:
                contents = frozenset(self._opened(state, cls))
                if contents:
                    (own if state.rule.self_only else opened).append((number, contents))
        return _Target(tuple(opened), tuple(own))

    def _opened(self, state: RuleState, cls: DeviceClass) -> Iterator[tuple[tuple[str, str], Range]]:
        for target in state.targets:
            for where in self._where(state, cls, target):
                if state.rule.caps is None:
                    for proto in state.rule.protos or DEFAULT_PROTOS:
                        for span in target.ports:
                            yield (where, _PROTO_NAMES.get(proto, str(proto))), span
                else:
                    for name in state.rule.caps.keys() - COMPANIONS.values():
                        yield (where, f"app {name}"), _ONCE[0]

    def _where(self, state: RuleState, cls: DeviceClass, target: Target) -> set[str]:
        """What is in reach at a class: itself, routes behind it, the internet."""
        found: set[str] = set()
        for text in self._engine.reached(state, cls, target):
            if text in (OWN_V4, OWN_V6):
                found.add("")
            elif text == b"*":
                found |= {"", *cls.shape.subnets, *(["internet"] if cls.shape.is_exit else [])}
            else:
                found.add("internet" if target.alias.name == a.INTERNET else text.decode())
        if found and cls.shape.literals & target.literal:
            found = {""} if not cls.shape.subnets else {"", *found}
        return found


class _Logins(_Relation):
    """SSH rules."""

    def __init__(self, engine: PolicyEngine) -> None:
        super().__init__()
        self._selectors = engine.selectors
        self._rules: Sequence[SshRule] = engine.policy.ssh

    def _source(self, cls: DeviceClass) -> tuple[int, int]:
        mask = 0
        for number, rule in enumerate(self._rules):
            if cls.shape.identity & self._selectors.mask(rule.sources):
                mask |= 1 << number
        return mask, mask

    def _target(self, cls: DeviceClass) -> _Target:
        opened, own = [], []
        for number, rule in enumerate(self._rules):
            word = " (check)" if rule.check else ""
            users = frozenset((("", f"{user}{word}"), _ONCE[0]) for user in rule.users)
            targets = self._selectors.mask(target for target in rule.targets if target.name != a.SELF)
            if cls.shape.identity & targets:
                opened.append((number, users))
            if any(target.name == a.SELF for target in rule.targets):
                own.append((number, users))
        return _Target(tuple(opened), tuple(own))


# -- two policies beside each other ------------------------------------------------------------------

_Joint = tuple[DeviceClass, DeviceClass]
_SourceKind = tuple[int, int]
_TargetKind = tuple[_Target, _Target]


@dataclass(slots=True)
class _Group:
    """Devices that are the same as sources, or as targets, to both policies."""

    devices: list[Device] = field(default_factory=list)
    by_user: Counter[UserId] = field(default_factory=Counter)

    def add(self, device: Device, user: UserId | None) -> None:
        self.devices.append(device)
        if user is not None:
            self.by_user[user] += 1


class _Scene:
    def __init__(self, before: PolicyEngine, after: PolicyEngine, devices: Sequence[Device]) -> None:
        self._before, self._after = before, after
        self._joints: dict[_Joint, list[Device]] = {}
        for device in devices:
            joint = (before.class_of(device.id), after.class_of(device.id))
            self._joints.setdefault(joint, []).append(device)

    def count(self, differs: Callable[[DeviceClass, DeviceClass], bool]) -> int:
        """How many devices are in classes that differ."""
        return sum(len(devices) for (old, new), devices in self._joints.items() if differs(old, new))

    def count_peers(self) -> int:
        """How many devices see other peers, or other routes of theirs."""
        old = self._visible(self._before, [joint[0] for joint in self._joints])
        new = self._visible(self._after, [joint[1] for joint in self._joints])
        routers = sorted(self._before.routers() | self._after.routers())
        changed = 0
        for number, ((old_cls, new_cls), devices) in enumerate(self._joints.items()):
            # A device is not its own peer.
            alone = 1 << number if len(devices) == 1 else 0
            if old[old_cls] & ~alone != new[new_cls] & ~alone or any(
                self._before.shown_routes(old_cls, i) != self._after.shown_routes(new_cls, i) for i in routers
            ):
                changed += len(devices)
        return changed

    @staticmethod
    def _visible(engine: PolicyEngine, classes: Sequence[DeviceClass]) -> dict[DeviceClass, int]:
        """Of each class the joints it sees, as bits."""
        joints: dict[DeviceClass, int] = {}
        for number, cls in enumerate(classes):
            joints[cls] = joints.get(cls, 0) | 1 << number
        seen = {}
        for cls in joints:
            bits = 0
            for other in engine.visible(cls):
                bits |= joints.get(other, 0)
            seen[cls] = bits
        return seen

    def compare(self, old: _Relation, new: _Relation) -> tuple[Changes, Changes]:
        """(what is gained, what is lost)."""
        sources: dict[_SourceKind, _Group] = {}
        targets: dict[_TargetKind, _Group] = {}
        same_device: Counter[tuple[_SourceKind, _TargetKind]] = Counter()
        by_user: dict[UserId, Counter[_Joint]] = {}
        for joint, devices in self._joints.items():
            source: _SourceKind = (old.source(joint[0])[0], new.source(joint[1])[0])
            target: _TargetKind = (
                _Target(old.target(joint[0]).opened),
                _Target(new.target(joint[1]).opened),
            )
            source_group, target_group = (
                sources.setdefault(source, _Group()),
                targets.setdefault(target, _Group()),
            )
            for device in devices:
                user = None if device.tags else device.user_id
                source_group.add(device, user)
                target_group.add(device, user)
                same_device[source, target] += 1
                if user is not None:
                    by_user.setdefault(user, Counter())[joint] += 1
        has_own = any(old.target(o).own or new.target(n).own for o, n in self._joints)
        gained, lost = _Collected(), _Collected()
        for target, target_group in targets.items():
            masks = target[0].mask, target[1].mask
            known: dict[_SourceKind, tuple[Contents, Contents]] = {}
            for source, source_group in sources.items():
                common = source[0] & masks[0], source[1] & masks[1]
                found = known.get(common)
                if found is None:
                    was, will = target[0].contents(common[0]), target[1].contents(common[1])
                    found = known[common] = (_beyond(will, was), _beyond(was, will))
                if not (found[0] or found[1]):
                    continue
                pairs = len(source_group.devices) * len(target_group.devices)
                if has_own:
                    pairs -= sum(
                        count * target_group.by_user[user] for user, count in source_group.by_user.items()
                    )
                    # Tagged devices are nobody's, and no device is its own peer.
                    tagged = {device.id for device in source_group.devices if device.tags}
                    pairs -= sum(device.id in tagged for device in target_group.devices)
                else:
                    pairs -= same_device[source, target]
                if pairs > 0:
                    gained.add(found[0], source_group.devices, target_group.devices, pairs)
                    lost.add(found[1], source_group.devices, target_group.devices, pairs)
        if has_own:
            self._compare_own(old, new, by_user, gained, lost)
        return gained.changes(), lost.changes()

    def _compare_own(
        self,
        old: _Relation,
        new: _Relation,
        by_user: dict[UserId, Counter[_Joint]],
        gained: _Collected,
        lost: _Collected,
    ) -> None:
        """Pairs of devices of one user: all rules for everybody count, and those for the same user."""
        known: dict[tuple[object, ...], tuple[Contents, Contents]] = {}
        for counts in by_user.values():
            for source, source_count in counts.items():
                for target, target_count in counts.items():
                    pairs = source_count * target_count - (source_count if source == target else 0)
                    if not pairs:
                        continue
                    key = (
                        old.source(source[0]),
                        new.source(source[1]),
                        old.target(target[0]),
                        new.target(target[1]),
                    )
                    found = known.get(key)
                    if found is None:
                        was = key[2].contents(*key[0])
                        will = key[3].contents(*key[1])
                        found = known[key] = (_beyond(will, was), _beyond(was, will))
                    if found[0] or found[1]:
                        ends = self._joints[source], self._joints[target]
                        gained.add(found[0], *ends, pairs, own=True)
                        lost.add(found[1], *ends, pairs, own=True)


class _Collected:
    """Changes of one sort as they are found; equal ones of the same devices' kind become one."""

    def __init__(self) -> None:
        self._own: dict[tuple[str, ...], tuple[dict[str, None], dict[str, None], int]] = {}
        self._found: list[Change] = []

    def add(
        self,
        what: Contents,
        sources: Sequence[Device],
        targets: Sequence[Device],
        pairs: int,
        *,
        own: bool = False,
    ) -> None:
        if not what:
            return
        texts = tuple(_texts(what))
        if own:
            from_names, to_names, before = self._own.get(texts, ({}, {}, 0))
            from_names |= {device.given_name: None for device in sources}
            to_names |= {device.given_name: None for device in targets}
            self._own[texts] = (from_names, to_names, before + pairs)
        else:
            self._found.append(
                Change(_some(sources), len(sources), _some(targets), len(targets), pairs, texts)
            )

    def changes(self) -> Changes:
        for texts, (sources, targets, pairs) in self._own.items():
            first, last = tuple(sources)[:MAX_NAMES], tuple(targets)[:MAX_NAMES]
            self._found.append(Change(first, len(sources), last, len(targets), pairs, texts, own=True))
        found = sorted(self._found, key=lambda change: (-change.pairs, change.sources, change.targets))
        return Changes(
            tuple(found[:MAX_CHANGES]),
            sum(change.pairs for change in found),
            max(0, len(found) - MAX_CHANGES),
        )


def _some(devices: Sequence[Device]) -> tuple[str, ...]:
    return tuple(device.given_name for device in devices[:MAX_NAMES])


def _beyond(one: Contents, other: Contents) -> Contents:
    """What `one` has and `other` has not."""
    found = {}
    for key, spans in one.items():
        left = _without(spans, other.get(key, ()))
        if left:
            found[key] = left
    return found


def _without(spans: Iterable[Range], holes: Sequence[Range]) -> tuple[Range, ...]:
    """Merged ranges less merged holes."""
    left = []
    for low, high in spans:
        for first, last in holes:
            if last < low or first > high:
                continue
            if first > low:
                left.append((low, first - 1))
            low = last + 1
        if low <= high:
            left.append((low, high))
    return tuple(left)


def _texts(what: Contents) -> Iterator[str]:
    """`tcp:22`, with the place before it if it is not the device; protocols with the same ports together."""
    ports: dict[tuple[str, tuple[Range, ...]], list[str]] = {}
    for (where, name), spans in sorted(what.items()):
        if spans == _ONCE:
            yield f"{where} {name}".strip()
        else:
            ports.setdefault((where, spans), []).append(name)
    for (where, spans), names in ports.items():
        if set(names) >= set(_DEFAULTS):
            names = ["*", *(name for name in names if name not in _DEFAULTS)]
        told = ",".join(
            "*" if span == a.ALL_PORTS else f"{span[0]}" if span[0] == span[1] else f"{span[0]}-{span[1]}"
            for span in spans
        )
        yield f"{where} {'/'.join(names)}:{told}".strip()
