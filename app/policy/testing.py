"""The `tests` and `sshTests` of a policy, run against the users and devices there are. Pure.

A name without any device is tried as a device that might come, so that a policy can be tested before
the first one joins. What is tested are the rules for everybody: not `autogroup:self`, not `via`
(policy-corpus, "tests").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.model import Device, User, UserId
from app.policy import aliases as a
from app.policy.addresses import Range, address
from app.policy.aliases import Alias, Kind, Names
from app.policy.document import Policy, PolicyTest, SshRule, SshTest
from app.policy.people import Directory
from app.policy.rules import Rule, rules_of
from app.policy.ssh import localpart_domain

FAILED = "test(s) failed"
_PEOPLE = frozenset({*a.ROLE_AUTOGROUPS, a.MEMBER, a.TAGGED})
_TCP, _UDP, _SCTP = 6, 17, 132
_PROTOS = {"": _TCP, "tcp": _TCP, "udp": _UDP, "sctp": _SCTP, "6": _TCP, "17": _UDP, "132": _SCTP}
#: Protocols of a rule without `proto`.
_DEFAULT_PROTOS = (_TCP, _UDP, 1, 58)


@dataclass(frozen=True, slots=True)
class Subject:
    """One address of a device, or a device that might come (no address), or a bare range."""

    user: UserId | None
    tags: tuple[str, ...]
    span: Range | None


class Bench:
    """A policy with users and devices, ready to be asked."""

    def __init__(self, policy: Policy, users: Iterable[User], devices: Iterable[Device]) -> None:
        self.policy = policy
        self.rules = [rule for rule in rules_of(policy) if rule.caps is None]
        self.directory = Directory(users, policy.groups)
        self.names = Names(frozenset(policy.groups), frozenset(policy.tag_owners), policy.hosts)
        self._devices = list(devices)
        self._by_address: dict[int, Device] = {}
        for device in self._devices:
            for text in (device.ipv4, device.ipv6):
                self._by_address[address(text)] = device

    def subjects(self, alias: Alias) -> list[Subject]:
        """Who an alias stands for; empty for a name that nobody has."""
        if alias.span is not None:
            device = self._by_address.get(alias.span[0]) if a.is_single(alias.span) else None
            owner = (None, ()) if device is None else (None if device.tags else device.user_id, device.tags)
            return [Subject(*owner, alias.span)]
        users = self.directory.users_of(alias)
        found = [
            Subject(None if device.tags else device.user_id, device.tags, (at, at))
            for device in self._devices
            if self._is(alias, users, device.user_id, device.tags)
            for at in (address(device.ipv4), address(device.ipv6))
        ]
        if found:
            return found
        if alias.kind is Kind.TAG:
            return [Subject(None, (alias.name,), None)]
        return [Subject(user, (), None) for user in sorted(users or ())]

    @staticmethod
    def _is(
        alias: Alias, users: frozenset[UserId] | None, user: UserId | None, tags: tuple[str, ...]
    ) -> bool:
        if alias.kind is Kind.TAG:
            return alias.name in tags
        if alias.name == a.TAGGED:
            return bool(tags)
        return not tags and users is not None and user in users

    def matches(self, alias: Alias, subject: Subject, *, is_source: bool) -> bool:
        """Whether an alias of a rule means this subject."""
        if alias.kind is Kind.ANY or alias.name == a.DANGER_ALL:
            return True
        if alias.span is not None:
            span = subject.span
            return span is not None and alias.span[0] <= span[0] and span[1] <= alias.span[1]
        if alias.name in (a.INTERNET, a.SELF):
            return False
        return self._is(alias, self.directory.users_of(alias), subject.user, subject.tags)

    def allowing(self, source: Subject, target: Subject, port: int, proto: int) -> Rule | None:
        """The first rule for everybody that lets a source reach a target's port."""
        for rule in self.rules:
            if rule.self_only or rule.via or proto not in (rule.protos or _DEFAULT_PROTOS):
                continue
            if not any(self.matches(alias, source, is_source=True) for alias in rule.sources):
                continue
            for alias, ports in rule.targets:
                if any(first <= port <= last for first, last in ports) and self.matches(
                    alias, target, is_source=False
                ):
                    return rule
        return None


def run_tests(policy: Policy, users: list[User], devices: list[Device]) -> None:
    """Raises PolicyError, at its place, for the first test that fails."""
    if not policy.tests and not policy.ssh_tests:
        return
    bench = Bench(policy, users, devices)
    for number, test in enumerate(policy.tests):
        reason = _run(bench, test)
        if reason:
            raise test.place.error(f"{FAILED}: tests[{number}]: {reason}")
    for number, ssh_test in enumerate(policy.ssh_tests):
        reason = _run_ssh(bench, ssh_test)
        if reason:
            raise ssh_test.place.error(f"{FAILED}: sshTests[{number}]: {reason}")


def _run(bench: Bench, test: PolicyTest) -> str:
    """Why a test fails, empty when it passes."""
    if not test.accept and not test.deny:
        return "neither accept nor deny says what to test"
    proto = _PROTOS.get(test.proto.strip().lower())
    if proto is None:
        return f'proto "{test.proto}" cannot be tested, only tcp, udp and sctp'
    try:
        alias = bench.names.alias(test.source, _PEOPLE)
    except ValueError as error:
        return f"src={error}"
    sources = [] if alias.kind is Kind.ANY else bench.subjects(alias)
    if not sources:
        return f'src="{test.source}" is nobody'
    for wanted, targets in ((True, test.accept), (False, test.deny)):
        for text in targets:
            try:
                target, port = _target(bench, text)
            except ValueError as error:
                return f'dst="{text}": {error}'
            allowed = [bench.allowing(s, t, port, proto) is not None for s in sources for t in target]
            if wanted and not all(allowed):
                return f"{test.source} may not reach {text}"
            if not wanted and any(allowed):
                return f"{test.source} may reach {text}"
    return ""


def _target(bench: Bench, text: str) -> tuple[list[Subject], int]:
    """One host and one port. Raises ValueError."""
    name, _, ports_text = text.strip().rpartition(":")
    ports = a.port_ranges(ports_text)
    if len(ports) != 1 or ports[0][0] != ports[0][1]:
        raise ValueError("a test needs one port")
    alias = bench.names.alias(name, _PEOPLE)
    if alias.kind is Kind.ANY or "/" in name or (alias.span is not None and not a.is_single(alias.span)):
        raise ValueError("a test needs one host")
    found = bench.subjects(alias)
    if not found:
        raise ValueError("is nobody")
    return found, ports[0][0]


# -- SSH ---------------------------------------------------------------------------------------------


def _run_ssh(bench: Bench, test: SshTest) -> str:
    if not (test.accept or test.deny or test.check):
        return "none of accept, deny and check says what to test"
    if not test.targets:
        return "dst must be specified"
    try:
        sources = bench.subjects(bench.names.alias(test.source, _PEOPLE))
        targets = [(text, bench.subjects(_ssh_target(bench, test, text))) for text in test.targets]
    except ValueError as error:
        return str(error)
    if not sources:
        return f'src="{test.source}" is nobody'
    for users, wanted in ((test.accept, "accept"), (test.check, "check"), (test.deny, "deny")):
        for user in users:
            if not user.strip():
                return 'user "" is not valid'
            for text, subjects in targets:
                if not subjects:
                    return f'dst="{text}" is nobody'
                verdicts = [_ssh_verdict(bench, s, t, user.strip()) for s in sources for t in subjects]
                ok = {
                    "accept": all(verdicts),
                    "check": all(verdict == "check" for verdict in verdicts),
                    "deny": not any(verdicts),
                }[wanted]
                if not ok:
                    return f"{wanted} of {user} from {test.source} to {text} does not hold"
    return ""


def _ssh_target(bench: Bench, test: SshTest, text: str) -> Alias:
    if text == a.SELF:
        return bench.names.alias(test.source, _PEOPLE)
    return bench.names.alias(text, _PEOPLE)


def _ssh_verdict(bench: Bench, source: Subject, target: Subject, user: str) -> str:
    """`check`, `accept`, or empty when no rule lets the source log in."""
    for rule in sorted(bench.policy.ssh, key=lambda rule: not rule.check):
        if (
            any(bench.matches(alias, source, is_source=True) for alias in rule.sources)
            and any(_ssh_reaches(bench, alias, source, target) for alias in rule.targets)
            and _may_be(bench, rule, source, user)
        ):
            return "check" if rule.check else "accept"
    return ""


def _ssh_reaches(bench: Bench, alias: Alias, source: Subject, target: Subject) -> bool:
    if alias.name == a.SELF:
        return target.user is not None and target.user == source.user
    return bench.matches(alias, target, is_source=False)


def _may_be(bench: Bench, rule: SshRule, source: Subject, user: str) -> bool:
    if user in rule.users and localpart_domain(user) is None:
        return True
    if a.NONROOT in rule.users and user != "root":
        return True
    person = bench.directory.people.get(source.user) if source.user is not None else None
    return person is not None and any(
        localpart_domain(name) == person.domain and person.local_part == user for name in rule.users
    )
