"""A policy as records: every rule with its aliases resolved to kinds and its place in the text. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from app.policy.addresses import Range
from app.policy.aliases import Alias, PortRange
from app.policy.hujson import Place


@dataclass(frozen=True, slots=True)
class Access:
    """One ACL or grant: who may reach what.

    `entries` are (destination, its ports) of an ACL; a grant has the same ports for all, in `ip`.
    `app` maps capability names to their values (plain JSON), None when the grant has none.
    """

    place: Place
    kind: str
    sources: tuple[Alias, ...]
    entries: tuple[tuple[Alias, tuple[PortRange, ...]], ...]
    protos: tuple[int, ...] = ()
    ip: tuple[tuple[tuple[int, ...], tuple[PortRange, ...]], ...] = ()
    app: dict[str, Any] | None = None
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SshRule:
    """One entry of `ssh`. `users` are trimmed; `check_period_s` is None for the default."""

    place: Place
    check: bool
    sources: tuple[Alias, ...]
    targets: tuple[Alias, ...]
    users: tuple[str, ...]
    accept_env: tuple[str, ...] = ()
    check_period_s: float | None = None


@dataclass(frozen=True, slots=True)
class NodeAttr:
    """One entry of `nodeAttrs`."""

    place: Place
    targets: tuple[Alias, ...]
    attributes: tuple[str, ...]
    ip_pools: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """One entry of `tests`, as written: its names are only looked up when it runs."""

    place: Place
    source: str
    proto: str
    accept: tuple[str, ...]
    deny: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SshTest:
    """One entry of `sshTests`."""

    place: Place
    source: str
    targets: tuple[str, ...]
    accept: tuple[str, ...]
    deny: tuple[str, ...]
    check: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AutoApprover:
    """Who may announce routes inside a prefix without anybody's approval."""

    span: Range
    approvers: tuple[Alias, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy. `access` is None when it has neither `acls` nor `grants`: everything is allowed."""

    text: str
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    hosts: dict[str, tuple[str, Range]] = field(default_factory=dict)
    tag_owners: dict[str, tuple[Alias, ...]] = field(default_factory=dict)
    access: tuple[Access, ...] | None = None
    ssh: tuple[SshRule, ...] = ()
    node_attrs: tuple[NodeAttr, ...] = ()
    route_approvers: tuple[AutoApprover, ...] = ()
    exit_approvers: tuple[Alias, ...] = ()
    tests: tuple[PolicyTest, ...] = ()
    ssh_tests: tuple[SshTest, ...] = ()
    randomize_client_port: bool = False

    @property
    def hash(self) -> str:
        """SHA-256 of the text, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


#: What applies while a tenant has no policy: everybody may reach everybody.
NO_POLICY = Policy(text="")
#: What applies where a stored policy cannot be read: nobody reaches anybody.
NOTHING_ALLOWED = Policy(text="", access=())
