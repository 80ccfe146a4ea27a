"""Why somebody may reach something, or why not; and who may reach it. Pure.

Every answer comes from what the engine puts into packet filters, so it is what devices do. Whether a
device is on line is not the policy's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from app.model import Device, User, UserId
from app.policy import aliases as a
from app.policy.addresses import (
    INTERNET,
    TAILNET,
    V4_END,
    Range,
    address,
    covers,
    merged,
    parse_range,
    prefix,
)
from app.policy.aliases import Alias, Kind, Names, PortRange
from app.policy.classes import DeviceClass
from app.policy.document import Policy
from app.policy.engine import PolicyEngine
from app.policy.filters import OWN_V4, OWN_V6
from app.policy.hujson import Place, excerpt
from app.policy.states import RuleState, Target

#: Protocols of a rule that names none (policy-corpus, "Rule order"): TCP, UDP, ICMP, ICMPv6.
DEFAULT_PROTOS = (6, 17, 1, 58)
TCP = 6
#: Pairs of source and target that are answered one by one, and near misses told of each.
MAX_PAIRS = 500
MAX_MISSES = 5
_NAMED = frozenset({*a.ROLE_AUTOGROUPS, a.MEMBER, a.TAGGED})


@dataclass(frozen=True, slots=True)
class RuleRef:
    """A rule of the policy: its kind (`acl`, `grant`; empty where there is no policy), place and text."""

    kind: str
    line: int
    column: int
    text: str


@dataclass(frozen=True, slots=True)
class Way:
    """One rule that lets somebody through: which source and target of it matched, the ports it opens,
    and what the packets go through (empty: straight to the device)."""

    rule: RuleRef
    source: str
    target: str
    ports: str
    through: str = ""


@dataclass(frozen=True, slots=True)
class Miss:
    """A rule that nearly matched, or a fact beside the rules (no rule then), and why that is not enough."""

    reason: str
    rule: RuleRef | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One source and one target."""

    source: str
    target: str
    ways: tuple[Way, ...]
    misses: tuple[Miss, ...]

    @property
    def allowed(self) -> bool:
        return bool(self.ways)


@dataclass(frozen=True, slots=True)
class Explanation:
    """All pairs of what the two names stand for; `left_out` says how many pairs are not listed."""

    answers: tuple[Answer, ...]
    left_out: int = 0

    @property
    def allowed(self) -> bool:
        """Whether every pair is allowed."""
        return bool(self.answers) and all(answer.allowed for answer in self.answers)

    @property
    def any_allowed(self) -> bool:
        return any(answer.allowed for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Reacher:
    """Sources of one rule that reach a target: by which of its names, and the devices that has now."""

    source: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reachable:
    """One rule that leads to a target."""

    rule: RuleRef
    target: str
    device: str
    ports: str
    through: str
    sources: tuple[Reacher, ...]


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a connection: a device, an address, or a range. `carrier` is who answers for it."""

    label: str
    spans: tuple[Range, ...]
    device: Device | None = None
    carrier: Device | None = None
    through: str = ""

    def by_family(self) -> Iterator[_End]:
        """The same end with its IPv4 spans only, then with its IPv6 spans only: packets never mix them."""
        for is_v4 in (True, False):
            spans = tuple(span for span in self.spans if (span[1] <= V4_END) == is_v4)
            if spans:
                yield replace(self, spans=spans)


def explain(
    policy: Policy,
    users: Iterable[User],
    devices: Iterable[Device],
    source: str,
    target: str,
    port: int | None = None,
    proto: int = TCP,
) -> Explanation:
    """Whether `source` may reach `target`, and why. Both may be a device's name or address, a user, a
    group, a tag, an autogroup, a name of `hosts` or a network. Without `port`: any port will do.

    Raises ValueError for a name that stands for nothing.
    """
    scene = Scene(policy, users, devices)
    sources, targets = scene.sources(source), scene.targets(target)
    answers: dict[tuple[str, str], Answer] = {}
    for s, t in ((s, t) for s in sources for t in targets):
        key = (s.label, t.label)
        if s.device is not None and s.device is t.device:
            continue
        if key not in answers and len(answers) == MAX_PAIRS:
            break
        answer = scene.answer(s, t, port, proto)
        known = answers.get(key)
        # An address may be in reach through several routers: one of them is enough.
        if known is None or (answer.allowed and not known.allowed):
            answers[key] = answer
    both = {s.device.id for s in sources if s.device} & {t.device.id for t in targets if t.device}
    total = len({s.label for s in sources}) * len({t.label for t in targets}) - len(both)
    return Explanation(tuple(answers.values()), total - len(answers))


def who_can_reach(
    policy: Policy,
    users: Iterable[User],
    devices: Iterable[Device],
    target: str,
    port: int | None = None,
    proto: int | None = None,
) -> tuple[Reachable, ...]:
    """Everybody who may reach a target, by rule. Raises ValueError for a name that stands for nothing."""
    scene = Scene(policy, users, devices)
    found: dict[tuple[RuleRef, str, str, str, str], dict[str, dict[str, None]]] = {}
    for whole in scene.targets(target):
        for end in whole.by_family():
            for state in scene.states:
                way = scene.opening(state, end, port, proto)
                if way is None:
                    continue
                key = (scene.ref(state), way[0], end.label, ports_text(state, way[1]), end.through)
                for name, names in scene.reachers(state, end):
                    found.setdefault(key, {}).setdefault(name, {}).update(dict.fromkeys(names))
    return tuple(
        Reachable(*key, tuple(Reacher(name, tuple(names)) for name, names in sources.items()))
        for key, sources in found.items()
    )


def alias_text(alias: Alias) -> str:
    """An alias as it stands in a policy."""
    return f"user:*@{alias.name}" if alias.kind is Kind.DOMAIN else alias.host or alias.name


def ports_text(state: RuleState, ports: Iterable[PortRange]) -> str:
    """`tcp:22,80-443`; `*` for everything."""
    spans = ",".join(
        "*" if span == a.ALL_PORTS else f"{span[0]}" if span[0] == span[1] else f"{span[0]}-{span[1]}"
        for span in ports
    )
    if not state.rule.protos:
        return spans
    names = {number: name for name, number in reversed(a.PROTOCOLS.items())}
    return "/".join(names.get(proto, str(proto)) for proto in state.rule.protos) + f":{spans}"


class Scene:
    """A policy with users and devices, ready to be asked."""

    def __init__(self, policy: Policy, users: Iterable[User], devices: Iterable[Device]) -> None:
        self.policy = policy
        self.engine = PolicyEngine(policy, users)
        self.devices = sorted(devices, key=lambda device: device.id)
        self._names = Names(frozenset(policy.groups), frozenset(policy.tag_owners), policy.hosts)
        self._owner: dict[int, Device] = {}
        for device in self.devices:
            self.engine.put(device)
        for device in self.devices:
            for at in self._addresses(device):
                self._owner[at] = device
        self.states = [state for state in self.engine.states if state.rule.caps is None]
        self._wild = merged([*TAILNET, *map(prefix, self.engine.routes())])
        self._kinds = {access.place: access.kind for access in policy.access or ()}
        self._refs: dict[Place, RuleRef] = {}
        self._sources_of: dict[tuple[RuleState, Alias, UserId | None, bool], list[Device]] = {}

    def ref(self, state: RuleState) -> RuleRef:
        """Where a rule stands."""
        place = state.rule.place
        if place is None:
            return RuleRef("", 1, 1, "")
        known = self._refs.get(place)
        if known is None:
            text = excerpt(self.policy.text, place)
            known = self._refs[place] = RuleRef(self._kinds[place], place.line, place.column, text)
        return known

    def _addresses(self, device: Device) -> tuple[int, ...]:
        if self.engine.class_of(device.id).shape.no_v4:
            return (address(device.ipv6),)
        return address(device.ipv4), address(device.ipv6)

    # -- names ----------------------------------------------------------------------------------

    def sources(self, text: str) -> list[_End]:
        """What a name stands for as a source. Raises ValueError."""
        return self._ends(text, is_target=False)

    def targets(self, text: str) -> list[_End]:
        """What a name stands for as a target: each with the device that answers for it. Raises ValueError."""
        return self._ends(text, is_target=True)

    def _ends(self, text: str, *, is_target: bool) -> list[_End]:
        text = text.strip()
        named = [d for d in self.devices if text in (d.given_name, str(d.id))]
        if named:
            return [self._device(device) for device in named]
        users = [p.id for p in self.engine.directory.people.values() if text.lower() in p.names]
        users = users or [p.id for p in self.engine.directory.people.values() if text == p.login]
        if users:
            found = [d for d in self.devices if not d.tags and d.user_id in users]
            return self._some(found, text)
        if text.startswith("tag:"):
            return self._some([d for d in self.devices if text in d.tags], text)
        try:
            alias = self._names.alias(text, _NAMED)
        except ValueError:
            raise ValueError(f"{text!r} is no device, user, group, tag, host or address here") from None
        if alias.span is not None:
            return self._range(text, alias.span, is_target=is_target)
        if alias.kind is Kind.ANY:
            return self._some(self.devices, text)
        of = self.engine.directory.users_of(alias)
        if alias.name == a.TAGGED:
            return self._some([d for d in self.devices if d.tags], text)
        return self._some([d for d in self.devices if not d.tags and d.user_id in (of or ())], text)

    def _device(self, device: Device) -> _End:
        spans = tuple((at, at) for at in self._addresses(device))
        return _End(device.given_name, spans, device, device)

    def _some(self, devices: list[Device], text: str) -> list[_End]:
        if not devices:
            raise ValueError(f"{text!r} has no devices")
        return [self._device(device) for device in devices]

    def _range(self, text: str, span: Range, *, is_target: bool) -> list[_End]:
        owner = self._owner.get(span[0]) if a.is_single(span) else None
        known = self.policy.hosts.get(text)
        beside = owner.given_name if owner is not None else known[0] if known is not None else ""
        label = f"{text} ({beside})" if beside else text
        if not is_target:
            return [_End(label, (span,), owner)]
        if owner is not None:
            return [_End(label, (span,), owner, owner), *self._routed(label, span, owner)]
        return list(self._routed(label, span, None)) or [_End(label, (span,))]

    def _routed(self, label: str, span: Range, owner: Device | None) -> Iterator[_End]:
        """Through whom a range is in reach."""
        for device in self.devices:
            if device is owner:
                continue
            for route in device.active_routes:
                low, high = prefix(route)
                if low <= span[0] and span[1] <= high:
                    if high - low + 1 in (1 << 32, 1 << 128):
                        if not covers(INTERNET, span):
                            continue
                        through = f"exit node {device.given_name}"
                    else:
                        through = f"subnet route {route} of {device.given_name}"
                    yield _End(label, (span,), owner, device, through)
                    break

    # -- one rule -------------------------------------------------------------------------------

    def source_alias(self, state: RuleState, source: _End, carrier: Device) -> Alias | None:
        """The first of a rule's sources that means this end, as seen by the device that filters."""
        for alias in state.rule.sources:
            if any(self._means(state, alias, source, span, carrier) for span in source.spans):
                return alias
        return None

    def _means(self, state: RuleState, alias: Alias, source: _End, span: Range, carrier: Device) -> bool:
        device = source.device if a.is_single(span) else None
        cls = None if device is None else self.engine.class_of(device.id)
        if state.rule.self_only:
            same = device is not None and not device.tags and device.user_id == carrier.user_id
            if not same or carrier.tags or cls is None or not state.is_source(cls):
                return False
        if alias.kind is Kind.ANY:
            return state.rule.self_only or covers(self._wild, span)
        if alias.name == a.DANGER_ALL:
            return True
        if alias.span is not None:
            return alias.span[0] <= span[0] and span[1] <= alias.span[1]
        if cls is None or span[0] not in self._owner:
            return False
        return bool(cls.shape.identity & self.engine.selectors.mask((alias,)))

    def opening(
        self, state: RuleState, end: _End, port: int | None, proto: int | None
    ) -> tuple[str, tuple[PortRange, ...]] | None:
        """The target of a rule that means this end with this port, and all ports opened by it."""
        if end.carrier is None or state.rule.is_silent:
            return None
        if proto is not None and proto not in (state.rule.protos or DEFAULT_PROTOS):
            return None
        for told in state.targets:
            fits = port is None or any(first <= port <= last for first, last in told.ports)
            if fits and self._is_reached(state, told, end, end.carrier):
                return alias_text(told.alias), told.ports
        return None

    def _is_reached(self, state: RuleState, told: Target, end: _End, carrier: Device) -> bool:
        cls = self.engine.class_of(carrier.id)
        dsts = self.engine.reached(state, cls, told)
        return bool(dsts) and any(self._is_written(dsts, carrier, cls, span) for span in end.spans)

    @staticmethod
    def _is_written(dsts: list[bytes], carrier: Device, cls: DeviceClass, span: Range) -> bool:
        for text in dsts:
            if text == b"*":
                return True
            own = {OWN_V4: carrier.ipv4, OWN_V6: carrier.ipv6}.get(text) or text.decode()
            place = parse_range(own)
            if place is not None and place[0] <= span[0] and span[1] <= place[1]:
                return True
        return False

    def reachers(self, state: RuleState, end: _End) -> Iterator[tuple[str, list[str]]]:
        """The sources of a rule, as seen by the device that filters, with the devices that are meant."""
        carrier = end.carrier
        if carrier is None:
            return
        for alias in state.rule.sources:
            named = self._named(state, alias, carrier, is_v4=end.spans[0][1] <= V4_END)
            found = [device.given_name for device in named if device is not end.device]
            # A range and `*` reach also from what no device is.
            is_wide = alias.span is not None or alias.kind is Kind.ANY or alias.name == a.DANGER_ALL
            if found or (is_wide and not state.rule.self_only):
                yield alias_text(alias), found

    def _named(self, state: RuleState, alias: Alias, carrier: Device, *, is_v4: bool) -> list[Device]:
        """The devices that a source of a rule means, by their addresses of one family."""
        user = carrier.user_id if state.rule.self_only else None
        key = (state, alias, user, is_v4)
        known = self._sources_of.get(key)
        if known is None:
            known = self._sources_of[key] = [
                device
                for device in self.devices
                if any(
                    self._means(state, alias, end, span, carrier)
                    for end in (self._device(device),)
                    for span in end.spans
                    if (span[1] <= V4_END) == is_v4
                )
            ]
        return known

    # -- one pair -------------------------------------------------------------------------------

    def answer(self, source: _End, target: _End, port: int | None, proto: int) -> Answer:
        """Whether and why, for one pair."""
        answers = [
            self._answer(s, t, port, proto)
            for s in source.by_family()
            for t in target.by_family()
            if (s.spans[0][1] <= V4_END) == (t.spans[0][1] <= V4_END)
        ]
        if not answers:
            return Answer(source.label, target.label, (), (Miss("one has only IPv4, the other only IPv6"),))
        ways = {way: None for answer in answers for way in answer.ways}
        if ways:
            return Answer(source.label, target.label, tuple(ways), ())
        return max(answers, key=lambda answer: len(answer.misses))

    def _answer(self, source: _End, target: _End, port: int | None, proto: int) -> Answer:
        ways: list[Way] = []
        misses: list[tuple[int, Miss]] = []
        for state in self.states:
            carrier = target.carrier
            alias = None if carrier is None else self.source_alias(state, source, carrier)
            way = self.opening(state, target, port, proto)
            if alias is not None and way is not None:
                through = target.through + self._via(state)
                ways.append(
                    Way(self.ref(state), alias_text(alias), way[0], ports_text(state, way[1]), through)
                )
            elif not ways:
                misses += self._miss(state, source, target, alias, way is not None)
        if ways:
            return Answer(source.label, target.label, tuple(ways), ())
        told = [*self._beside(target), *(miss for _, miss in sorted(misses, key=lambda item: item[0]))]
        return Answer(source.label, target.label, (), tuple(told[:MAX_MISSES]))

    @staticmethod
    def _via(state: RuleState) -> str:
        return f", via {', '.join(state.rule.via)}" if state.rule.via else ""

    def _miss(
        self, state: RuleState, source: _End, target: _End, alias: Alias | None, opens: bool
    ) -> Iterator[tuple[int, Miss]]:
        """How near a rule comes (0 is nearest), and what is missing."""
        rule, carrier = state.rule, target.carrier
        if carrier is None:
            return
        reached = [
            told
            for told in state.targets
            if not rule.is_silent and self._is_reached(state, told, target, carrier)
        ]
        if alias is not None and reached:
            opened = "; ".join(ports_text(state, told.ports) for told in reached)
            yield (
                0,
                Miss(
                    f"{alias_text(alias)} may reach {alias_text(reached[0].alias)} on {opened} only",
                    self.ref(state),
                ),
            )
        elif alias is not None and rule.via and not set(rule.via) & set(carrier.tags):
            reason = (
                f"{alias_text(alias)} has to go via {', '.join(rule.via)}, which {carrier.given_name} has not"
            )
            yield 2, Miss(reason, self.ref(state))
        elif alias is not None:
            told = ", ".join(alias_text(target_alias) for target_alias, _ in rule.targets)
            yield 3, Miss(f"{alias_text(alias)} may reach {told}, not {target.label}", self.ref(state))
        elif opens:
            told = ", ".join(map(alias_text, rule.sources))
            if rule.self_only:
                told = "devices of the same user"
            yield 1, Miss(f"only {told or 'nobody'} may reach it, not {source.label}", self.ref(state))

    def _beside(self, target: _End) -> Iterator[Miss]:
        """Facts that no rule can help."""
        if target.carrier is not None:
            return
        waiting = [
            f"{device.given_name} announces {route}, which is not approved"
            for device in self.devices
            for route in device.announced_routes
            if route not in device.approved_routes
            and all(prefix(route)[0] <= low and high <= prefix(route)[1] for low, high in target.spans)
        ]
        yield Miss(f"no device has {target.label}, and no approved route leads there")
        yield from map(Miss, waiting)
