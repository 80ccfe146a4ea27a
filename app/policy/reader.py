"""The text of a policy -> Policy. Everything that can be judged without knowing users or devices. Pure.

Refusals carry line and column, and the official service's words where the policy corpus has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from app.policy import aliases as a
from app.policy.addresses import overlap, parse_range, prefix
from app.policy.aliases import Alias, Kind, Names
from app.policy.document import (
    Access,
    AutoApprover,
    NodeAttr,
    Policy,
    PolicyTest,
    SshRule,
    SshTest,
)
from app.policy.hujson import Json, Place, parse

_T = TypeVar("_T")
_P = ParamSpec("_P")

_ROLES = frozenset(a.ROLE_AUTOGROUPS)
_PEOPLE = _ROLES | {a.MEMBER, a.TAGGED}
_SOURCES = _PEOPLE | {a.DANGER_ALL}
_TARGETS = _PEOPLE | {a.SELF, a.INTERNET}
_SSH_TARGETS = _PEOPLE | {a.SELF}
_OWNERS = _ROLES | {a.MEMBER}
_ATTR_TARGETS = _PEOPLE

#: Capabilities of the service's own domain that a policy may grant (policy corpus: grant-k11).
OWN_CAPABILITIES = frozenset(
    {
        "tailscale.com/cap/drive",
        "tailscale.com/cap/kubernetes",
        "tailscale.com/cap/relay",
        "tailscale.com/cap/webui",
        "tailscale.com/cap/tsidp",
        "tailscale.com/cap/golink",
        "tailscale.com/cap/kubernetes-operator",
    }
)
#: Address blocks that no pool may take from.
RESERVED_POOLS = ("100.100.0.0/24", "100.100.100.0/24", "100.115.92.0/23")

SELF_SOURCES = "autogroup:self can only be used with users, groups, or supported autogroups"


def read(text: str) -> Policy:
    """The policy of a text. Raises PolicyError."""
    root = parse(text)
    return _Reader(text).policy(root)


class _Object:
    """An object whose members are taken out one by one; what is left over is unknown."""

    def __init__(self, json: Json, what: str) -> None:
        if not isinstance(json.value, dict):
            raise json.place.error(f"{what} must be an object")
        self.place = json.place
        self.what = what
        self._members: dict[str, Json] = dict(json.value)
        self._names = json.names or {}

    def take(self, *names: str) -> Json | None:
        """The member of the first of these names that is there; null counts as absent."""
        found: Json | None = None
        for name in names:
            member = self._members.pop(name, None)
            if member is not None and member.value is not None and found is None:
                found = member
        return found

    def text(self, name: str) -> tuple[str, Place] | None:
        json = self.take(name)
        if json is None:
            return None
        return _text(json, f'"{name}"'), json.place

    def texts(self, name: str) -> list[tuple[str, Place]]:
        json = self.take(name)
        return [] if json is None else _texts(json, f'"{name}"')

    def unsupported(self, *names: str) -> None:
        """Refuse what narrows a rule in the official service and would be lost without a word here."""
        for name in names:
            member = self._members.pop(name, None)
            if member is not None and member.value not in (None, False, [], {}):
                raise self._names[name].error(f'"{name}" in {self.what} is not supported')

    def done(self) -> None:
        for name in self._members:
            raise self._names[name].error(f'unknown field "{name}" in {self.what}')


def _text(json: Json, what: str) -> str:
    if not isinstance(json.value, str):
        raise json.place.error(f"{what} must be a string")
    return json.value


def _list(json: Json, what: str) -> list[Json]:
    if not isinstance(json.value, list):
        raise json.place.error(f"{what} must be a list")
    return json.value


def _texts(json: Json, what: str) -> list[tuple[str, Place]]:
    return [(_text(item, f"each entry of {what}"), item.place) for item in _list(json, what)]


def _at(place: Place, where: str, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What `call` gives; its ValueError becomes a refusal at `place`, `where` before its words."""
    try:
        return call(*args, **kwargs)
    except ValueError as error:
        raise place.error(f"{where}{error}") from None


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._names = Names(frozenset(), frozenset(), {})

    def policy(self, root: Json) -> Policy:
        top = _Object(root, "the policy")
        groups = self._groups(top.take("groups", "Groups"))
        hosts = self._hosts(top.take("hosts", "Hosts"))
        owners_json = top.take("tagOwners", "TagOwners")
        tags = self._tag_names(owners_json)
        self._names = Names(frozenset(groups), frozenset(tags), hosts)
        tag_owners = self._tag_owners(owners_json)
        acls, grants = top.take("acls", "ACLs"), top.take("grants", "Grants")
        access: tuple[Access, ...] | None = None
        if acls is not None or grants is not None:
            access = (
                *(self._grant(item) for item in self._items(grants, "grants")),
                *(self._acl(item) for item in self._items(acls, "acls")),
            )
        routes, exit_node = self._auto_approvers(top.take("autoApprovers", "AutoApprovers"))
        randomize = top.take("randomizeClientPort", "RandomizeClientPort")
        if randomize is not None and not isinstance(randomize.value, bool):
            raise randomize.place.error('"randomizeClientPort" must be true or false')
        policy = Policy(
            text=self._text,
            groups=groups,
            hosts=hosts,
            tag_owners=tag_owners,
            access=access,
            ssh=tuple(self._ssh(item) for item in self._items(top.take("ssh", "SSH"), "ssh")),
            node_attrs=tuple(
                self._node_attr(item) for item in self._items(top.take("nodeAttrs", "NodeAttrs"), "nodeAttrs")
            ),
            route_approvers=routes,
            exit_approvers=exit_node,
            tests=tuple(self._test(item) for item in self._items(top.take("tests", "Tests"), "tests")),
            ssh_tests=tuple(
                self._ssh_test(item) for item in self._items(top.take("sshTests", "SSHTests"), "sshTests")
            ),
            randomize_client_port=bool(randomize and randomize.value),
        )
        top.done()
        return policy

    @staticmethod
    def _items(json: Json | None, what: str) -> list[Json]:
        return [] if json is None else _list(json, f'"{what}"')

    @staticmethod
    def _members(json: Json | None, what: str) -> Iterable[tuple[str, Place, Json]]:
        if json is None:
            return []
        if not isinstance(json.value, dict) or json.names is None:
            raise json.place.error(f'"{what}" must be an object')
        return [(name, json.names[name], member) for name, member in json.value.items()]

    # -- definitions ----------------------------------------------------------------------------

    def _groups(self, json: Json | None) -> dict[str, tuple[str, ...]]:
        groups: dict[str, tuple[str, ...]] = {}
        for name, place, member in self._members(json, "groups"):
            if not name.startswith("group:") or name == "group:":
                raise place.error(f"groups[\"{name}\"]: group names must start with 'group:'")
            users = []
            for text, at in _texts(member, f'groups["{name}"]'):
                user = text.strip()
                if user.startswith("group:"):
                    raise at.error(f'groups["{name}"]: "{user}": group members cannot be recursive')
                if "@" not in user or user.startswith(("tag:", "autogroup:")):
                    raise at.error(f'groups["{name}"]: "{user}": group members must be users')
                users.append(user.lower())
            groups[name] = tuple(users)
        return groups

    def _hosts(self, json: Json | None) -> dict[str, tuple[str, tuple[int, int]]]:
        hosts: dict[str, tuple[str, tuple[int, int]]] = {}
        for name, place, member in self._members(json, "hosts"):
            if not name or "@" in name or "*" in name or ":" in name or "/" in name:
                raise place.error(f'hosts["{name}"]: a host name cannot hold any of @ * : /')
            text = _text(member, f'hosts["{name}"]').strip()
            span = _at(member.place, f'hosts["{name}"]: ', prefix, text)
            hosts[name] = (text, span)
        return hosts

    def _tag_names(self, json: Json | None) -> list[str]:
        tags = []
        for name, place, _ in self._members(json, "tagOwners"):
            _at(place, f'tagOwners["{name}"]: ', a.tag_name, name)
            tags.append(name)
        return tags

    def _tag_owners(self, json: Json | None) -> dict[str, tuple[Alias, ...]]:
        owners: dict[str, tuple[Alias, ...]] = {}
        for name, _, member in self._members(json, "tagOwners"):
            owners[name] = tuple(
                self._principal(text, place, f'tagOwners["{name}"]: ')
                for text, place in _texts(member, f'tagOwners["{name}"]')
            )
        return owners

    def _principal(self, text: str, place: Place, where: str) -> Alias:
        """Somebody who may own or approve: a user, a group, a tag, or an autogroup of people."""
        alias = _at(place, where, self._names.alias, text, _OWNERS)
        if alias.kind in (Kind.ANY, Kind.ADDRESSES, Kind.DOMAIN):
            raise place.error(f'{where}"{text}" is no user, group or tag')
        return alias

    def _auto_approvers(self, json: Json | None) -> tuple[tuple[AutoApprover, ...], tuple[Alias, ...]]:
        if json is None:
            return (), ()
        top = _Object(json, "autoApprovers")
        routes = []
        for name, place, member in self._members(top.take("routes", "Routes"), "autoApprovers.routes"):
            where = f'autoApprovers.routes["{name}"]: '
            span = _at(place, where, prefix, name)
            who = tuple(self._principal(t, p, where) for t, p in _texts(member, where))
            routes.append(AutoApprover(span, who))
        exit_json = top.take("exitNode", "ExitNode")
        exit_node = (
            ()
            if exit_json is None
            else tuple(
                self._principal(text, place, "autoApprovers.exitNode: ")
                for text, place in _texts(exit_json, "autoApprovers.exitNode")
            )
        )
        top.unsupported("services")
        top.done()
        return tuple(routes), exit_node

    # -- access ---------------------------------------------------------------------------------

    def _sources(self, entries: list[tuple[str, Place]]) -> tuple[Alias, ...]:
        return tuple(_at(place, "src=", self._names.alias, text, _SOURCES) for text, place in entries)

    def _acl(self, json: Json) -> Access:
        rule = _Object(json, "an ACL")
        action = rule.text("action")
        if action is None or action[0].strip() != "accept":
            shown = "" if action is None else action[0]
            place = rule.place if action is None else action[1]
            raise place.error(f'action="{shown}" is not supported, only "accept"')
        proto = rule.text("proto")
        protos = () if proto is None else _at(proto[1], "", a.protocol, proto[0])
        sources = self._sources(rule.texts("src"))
        entries = []
        for text, place in rule.texts("dst"):
            entry = _at(place, "", self._acl_target, text)
            _at(place, f'dst="{text}": ', a.check_ports, protos, entry[1])
            self._check_pair(sources, entry[0], place, wildcard_may_mean_self=True)
            entries.append(entry)
        rule.unsupported("srcPosture")
        rule.done()
        return Access(rule.place, "acl", sources, tuple(entries), protos=protos)

    def _acl_target(self, text: str) -> tuple[Alias, tuple[a.PortRange, ...]]:
        name, colon, ports_text = text.strip().rpartition(":")
        if not colon or name in ("tag", "group", "autogroup", "user:*@"):
            raise ValueError(f'dst="{text}": a destination is written "target:ports"')
        try:
            ports = a.port_ranges(ports_text)
        except ValueError as error:
            raise ValueError(f'dst="{text}": {error}') from None
        try:
            alias = self._names.alias(name, _TARGETS)
        except ValueError as error:
            raise ValueError(f"dst={error}") from None
        if a.is_everything(alias):
            raise ValueError(f'dst "{name}": to allow all IP addresses, use "*" or "autogroup:internet"')
        return alias, ports

    @staticmethod
    def _check_pair(
        sources: tuple[Alias, ...], target: Alias, place: Place, *, wildcard_may_mean_self: bool
    ) -> None:
        if target.name != a.SELF:
            return
        for source in sources:
            people = source.kind in (Kind.USER, Kind.GROUP, Kind.DOMAIN) or (
                source.kind is Kind.AUTOGROUP and source.name not in (a.TAGGED, a.DANGER_ALL)
            )
            if not people and not (wildcard_may_mean_self and source.kind is Kind.ANY):
                raise place.error(SELF_SOURCES)

    def _grant(self, json: Json) -> Access:
        rule = _Object(json, "a grant")
        sources = self._sources(rule.texts("src"))
        app = self._app(rule.take("app"))
        ip = tuple(_at(place, "", a.ip_capability, text) for text, place in rule.texts("ip"))
        if not ip and not app:
            raise rule.place.error("ip and app can not both be empty")
        targets = []
        for text, place in rule.texts("dst"):
            alias = _at(place, "dst=", self._names.alias, text, _TARGETS)
            if a.is_everything(alias):
                raise place.error(f'dst "{text}": to allow all IP addresses, use "*" or "autogroup:internet"')
            if alias.name == a.INTERNET and app:
                raise place.error("cannot use app grants with autogroup:internet")
            self._check_pair(sources, alias, place, wildcard_may_mean_self=False)
            targets.append(alias)
        via = []
        for text, place in rule.texts("via"):
            if not text.startswith("tag:"):
                raise place.error("via can only be a tag")
            if text not in self._names.tags:
                raise place.error(f'tag "{text}" not found')
            via.append(text)
        rule.unsupported("srcPosture")
        rule.done()
        entries = tuple((target, ()) for target in targets)
        return Access(rule.place, "grant", sources, entries, ip=ip, app=app, via=tuple(via))

    def _app(self, json: Json | None) -> dict[str, Any] | None:
        app: dict[str, Any] = {}
        for name, place, member in self._members(json, "app"):
            domain, slash, path = name.partition("/")
            if "://" in name or not slash or not path or "." not in domain or not domain.strip("."):
                raise place.error("capability name must have the form {domain}/{path}")
            own = domain == "tailscale.com" or domain.endswith(".tailscale.com")
            if own and name not in OWN_CAPABILITIES:
                raise place.error("capability name must not be in the tailscale.com domain")
            app[name] = [item.plain() for item in _list(member, f'"{name}"')]
        return app or None

    # -- SSH ------------------------------------------------------------------------------------

    def _ssh(self, json: Json) -> SshRule:
        rule = _Object(json, "an ssh rule")
        action = rule.text("action")
        word = "" if action is None else action[0].strip()
        if action is None or not word:
            raise rule.place.error("action must be specified")
        if word not in ("accept", "check"):
            raise action[1].error(f'"{word}" is not a valid action')
        sources = tuple(self._ssh_source(text, place) for text, place in rule.texts("src"))
        targets = []
        for text, place in rule.texts("dst"):
            target = _at(place, "dst=", self._names.alias, text, _SSH_TARGETS)
            if target.kind in (Kind.ANY, Kind.ADDRESSES, Kind.GROUP):
                raise place.error(f'dst="{text}": SSH destinations must be tags, users or autogroups')
            self._check_pair(sources, target, place, wildcard_may_mean_self=False)
            targets.append(target)
        users = rule.texts("users")
        if not users:
            raise rule.place.error("users must be specified")
        names = []
        for text, place in users:
            name = text.strip()
            if not name or name == "*":
                raise place.error(f'user "{name}" is not valid')
            names.append(name)
        env = rule.texts("acceptEnv")
        for text, place in env:
            if not text:
                raise place.error("acceptEnv values cannot be empty")
        period = rule.text("checkPeriod")
        rule.unsupported("recorder", "enforceRecorder", "srcPosture")
        rule.done()
        return SshRule(
            rule.place,
            check=word == "check",
            sources=sources,
            targets=tuple(targets),
            users=tuple(names),
            accept_env=tuple(text for text, _ in env),
            check_period_s=None if period is None else self._check_period(*period),
        )

    def _ssh_source(self, text: str, place: Place) -> Alias:
        source = _at(place, "src=", self._names.alias, text, _PEOPLE)
        if source.kind in (Kind.ANY, Kind.ADDRESSES):
            raise place.error(f'src="{text}": SSH sources must be users, groups, tags or autogroups')
        return source

    @staticmethod
    def _check_period(text: str, place: Place) -> float | None:
        if text.strip() == "always":
            return 0.0
        seconds = _at(place, "", a.duration, text.strip())
        if seconds < 0:
            raise place.error(f"checkPeriod {a.go_duration(seconds)} must be a positive duration")
        return seconds or None

    # -- attributes -----------------------------------------------------------------------------

    def _node_attr(self, json: Json) -> NodeAttr:
        rule = _Object(json, "an entry of nodeAttrs")
        targets = []
        for text, place in rule.texts("target"):
            alias = _at(place, "target=", self._names.alias, text, _ATTR_TARGETS)
            targets.append(alias)
        attributes = []
        for text, place in rule.texts("attr"):
            if not text.strip():
                raise place.error("attr values cannot be empty")
            attributes.append(text.strip())
        pools = []
        for text, place in rule.texts("ipPool"):
            span = parse_range(text)
            if span is None or "/" not in text:
                raise place.error(f"IPPool({text}): not a network")
            if any(overlap(span, prefix(reserved)) for reserved in RESERVED_POOLS):
                raise place.error(f"IPPool({text}): network within reserved range")
            pools.append(span)
        rule.unsupported("app")
        rule.done()
        return NodeAttr(rule.place, tuple(targets), tuple(attributes), tuple(pools))

    # -- tests ----------------------------------------------------------------------------------

    def _test(self, json: Json) -> PolicyTest:
        rule = _Object(json, "a test")
        source, proto = rule.text("src"), rule.text("proto")
        accept, deny = rule.texts("accept"), rule.texts("deny")
        rule.unsupported("srcPostureAttrs")
        rule.done()
        return PolicyTest(
            rule.place,
            source="" if source is None else source[0],
            proto="" if proto is None else proto[0],
            accept=tuple(text for text, _ in accept),
            deny=tuple(text for text, _ in deny),
        )

    def _ssh_test(self, json: Json) -> SshTest:
        rule = _Object(json, "an SSH test")
        source = rule.text("src")
        targets = []
        for text, place in rule.texts("dst"):
            name = text.strip()
            if name == a.INTERNET or name == "*" or ("/" in name and parse_range(name) is not None):
                raise place.error(f'SSH tests dst contains disallowed element "{name}"')
            targets.append(name)
        accept, deny, check = rule.texts("accept"), rule.texts("deny"), rule.texts("check")
        rule.done()
        return SshTest(
            rule.place,
            source="" if source is None else source[0],
            targets=tuple(targets),
            accept=tuple(text for text, _ in accept),
            deny=tuple(text for text, _ in deny),
            check=tuple(text for text, _ in check),
        )
