"""SSH policies: who may log in to a device, and as whom. Pure.

Wire form: PROTOCOL.md 6.5 (tailcfg.SSHRule, camelCase). Rules are per destination; the first that
matches wins, and checks come before what is simply accepted (policy-corpus, "SSH").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from app.model import UserId
from app.policy import aliases as a
from app.policy.addresses import written
from app.policy.aliases import Kind
from app.policy.classes import ClassShape
from app.policy.document import Policy, SshRule
from app.policy.people import Directory, Person
from app.policy.selectors import Selectors


@dataclass(frozen=True, slots=True)
class Member:
    """A device as far as SSH rules name it."""

    user: UserId | None
    tags: int
    identity: int
    addresses: tuple[int, ...]


#: The devices with one of some bits, or those of one user among them.
Members = Callable[[int, UserId | None], list[Member]]

LOCALPART = "localpart:"
_FORWARDING = ("allowAgentForwarding", "allowLocalPortForwarding", "allowRemotePortForwarding")
#: Asked inside the tunnel, so the host is never resolved (tailscale ssh/tailssh/tailssh.go, fetchSSHAction).
HOLD_URL = "https://unused/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER"


def localpart_domain(user: str) -> str | None:
    """The domain of `localpart:*@domain`, None for any other user."""
    if not user.startswith(LOCALPART + "*@"):
        return None
    return user[len(LOCALPART + "*@") :]


def foreign_domain(policy: Policy, directory: Directory) -> tuple[SshRule, str] | None:
    """The first SSH rule that speaks of a domain that is not the tenant's, and that domain."""
    for rule in policy.ssh:
        wanted = [d for user in rule.users if (d := localpart_domain(user)) is not None]
        wanted += [alias.name for alias in rule.sources if alias.kind is Kind.DOMAIN]
        for domain in wanted:
            if domain not in directory.domains():
                return rule, domain
    return None


class SshCompiler:
    """The `ssh` section of one policy; remembers the rules it made until sources change."""

    def __init__(self, policy: Policy, directory: Directory, selectors: Selectors) -> None:
        # Stable: policy order within checks, and within the rest.
        self._rules = sorted(policy.ssh, key=lambda rule: not rule.check)
        self._people = directory.people
        self._selectors = selectors
        self._source_masks = {id(rule): selectors.mask(rule.sources) for rule in self._rules}
        self._target_masks = {
            id(rule): selectors.mask(t for t in rule.targets if t.name != a.SELF) for rule in self._rules
        }
        self._all_sources = 0
        self._all_targets = 0
        for rule in self._rules:
            self._all_sources |= self._source_masks[id(rule)]
            self._all_targets |= self._target_masks[id(rule)]
        self.cares_for_user = any(
            any(localpart_domain(user) for user in rule.users) or any(t.name == a.SELF for t in rule.targets)
            for rule in self._rules
        )
        self._made: dict[tuple[int, UserId | None], bytes] = {}
        self._touched = False

    def touch(self, identity: int) -> None:
        """A device with these bits came, went or changed."""
        if identity & self._all_sources:
            self._made.clear()
            self._touched = True

    def forget(self) -> None:
        """Users changed."""
        if self._rules:
            self._made.clear()
            self._touched = True

    def take_touched(self) -> bool:
        touched, self._touched = self._touched, False
        return touched

    def rules(self, shape: ClassShape, members: Members) -> bytes:
        """The rules of every device of a class, as a JSON list."""
        if not self._rules:
            return b"[]"
        key = (shape.identity & (self._all_targets | self._all_sources), shape.user)
        made = self._made.get(key)
        if made is None:
            rules: list[dict[str, Any]] = []
            for rule in self._rules:
                rules += self._of(rule, shape, members)
            made = self._made[key] = orjson.dumps(rules)
        return made

    def _of(self, rule: SshRule, shape: ClassShape, members: Members) -> list[dict[str, Any]]:
        is_own = shape.user is not None
        wants_self = is_own and any(target.name == a.SELF for target in rule.targets)
        is_target = bool(shape.identity & self._target_masks[id(rule)])
        domains = {d for user in rule.users if (d := localpart_domain(user)) is not None}
        source_mask = self._source_masks[id(rule)]
        if is_target:
            user = None
        elif wants_self or (domains and is_own and shape.identity & source_mask):
            user = shape.user
        else:
            return []
        found = members(source_mask, user)
        common = _ssh_users(rule)
        if not domains:
            return self._rule(rule, self._principals(rule, found), common)
        out: list[dict[str, Any]] = []
        owners = sorted({member.user for member in found if member.user is not None})
        for owner in owners:
            own = self._principals(rule, [m for m in found if m.user == owner])
            person = self._people.get(owner)
            out += self._rule(rule, own, common)
            out += self._localparts(rule, own, person, domains)
        tagged = self._principals(rule, [m for m in found if m.user is None])
        return out + self._rule(rule, tagged, common)

    def _localparts(
        self, rule: SshRule, principals: list[str], person: Person | None, domains: set[str]
    ) -> list[dict[str, Any]]:
        if person is None or person.domain not in domains:
            return []
        users = {person.local_part: person.local_part}
        return self._rule(rule, principals, users)

    def _principals(self, rule: SshRule, found: list[Member]) -> list[str]:
        """Addresses by source alias; `autogroup:tagged` counts a device once for each of its tags."""
        out = []
        for alias in rule.sources:
            mask = self._selectors.mask((alias,))
            for member in found:
                if member.identity & mask:
                    times = member.tags if alias.name == a.TAGGED else 1
                    out += [written((at, at)) for at in member.addresses] * times
        return out

    @staticmethod
    def _rule(rule: SshRule, principals: list[str], users: dict[str, str]) -> list[dict[str, Any]]:
        if not principals:
            return []
        action: dict[str, Any] = (
            {"holdAndDelegate": HOLD_URL}
            if rule.check
            else {"accept": True} | dict.fromkeys(_FORWARDING, True)
        )
        wire: dict[str, Any] = {
            "principals": [{"nodeIP": address} for address in principals],
            "sshUsers": users,
            "action": action,
        }
        if rule.accept_env:
            wire["acceptEnv"] = list(rule.accept_env)
        return [wire]


def _ssh_users(rule: SshRule) -> dict[str, str]:
    """Requested name -> local name; root only if it is named."""
    users = {"root": "root" if "root" in rule.users else ""}
    for name in rule.users:
        if name == a.NONROOT:
            users["*"] = "="
        elif localpart_domain(name) is None:
            users[name] = name
    return users
