"""Random policies over random devices, and a naive oracle that knows only JSON and pairs of devices.

The oracle reads the policy's plain JSON by itself and shares no code with app.policy. What it knows
is policy-corpus/README.md: aliases, reduction per device, self, via, peers, SSH.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from ipaddress import ip_address, ip_network, summarize_address_range

from hypothesis import strategies as st

from app.keys import DiscoKey, MachineKey, NodeKey
from app.model import Device, DeviceId, TenantId, User, UserId

TENANT = TenantId(1)
USERS = [
    User(UserId(1), TENANT, "ada", email="ada@example.com", role="owner"),
    User(UserId(2), TENANT, "bob", email="bob@example.com", role="member"),
    User(UserId(3), TENANT, "cyd", email="cyd@example.org", role="admin"),
]
GROUPS = {"group:ab": ["ada@example.com", "bob@example.com"], "group:empty": []}
HOSTS = {"three": "100.64.0.3", "lan": "10.33.0.0/16", "block": "100.64.0.0/29", "public": "9.9.9.9"}
TAGS = ("tag:a", "tag:b", "tag:r")
EXITS = ("0.0.0.0/0", "::/0")
ROUTES = ("10.0.0.0/8", "10.33.0.0/16", "192.168.1.0/24", "fd00:1::/64", "9.9.9.0/24", "100.64.0.4/30")
PEOPLE = ("autogroup:member", "ada@example.com", "bob@example.com", "group:ab", "group:empty")
ROLES = ("autogroup:admin", "autogroup:owner")
LITERALS = (
    *HOSTS,
    "100.64.0.5",
    "192.168.1.7",
    "fd7a:115c:a1e0::2",
    "10.33.7.0/24",
    "1.2.3.4",
    "100.64.0.0/10",
)
SOURCES = ("*", "autogroup:danger-all", "autogroup:tagged", *PEOPLE, *ROLES, *TAGS, *LITERALS)
TARGETS = ("*", "autogroup:internet", "autogroup:tagged", *PEOPLE, *ROLES, *TAGS, *LITERALS)
PORTS = ("*", "22", "80-443", "22,8000-8100")
CAPS = ("example.com/cap/x", "tailscale.com/cap/drive", "tailscale.com/cap/relay")
COMPANION = {"tailscale.com/cap/drive": "tailscale.com/cap/drive-sharer"}
COMPANION |= {"tailscale.com/cap/relay": "tailscale.com/cap/relay-target"}
PROTOS = {"tcp": {6}, "udp": {17}, "icmp": {1}, "": {6, 17, 1, 58}}
PROBE_PORTS = (0, 21, 22, 80, 200, 443, 8000, 8100, 8101, 65535)
POINTS = ("10.33.7.1", "10.1.1.1", "192.168.1.7", "192.168.1.8", "fd00:1::5", "9.9.9.9", "9.9.9.8", "1.2.3.4")
POINTS += ("100.64.0.6", "100.64.0.77", "100.115.92.5", "fd7a:115c:a1e0::77", "2a00::1", "172.16.0.1")
LOGINS = ("root", "ubuntu", "ada", "bob", "cyd", "nobody")


# -- strategies --------------------------------------------------------------------------------------


def device(
    number: int, owner: int | None, tags: tuple[str, ...], routes: tuple[str, ...], online: bool = True
):
    announced = tuple(sorted(routes))
    return Device(
        DeviceId(number),
        TENANT,
        None if tags else UserId(owner or 1),
        MachineKey(number.to_bytes(32, "big")),
        NodeKey(number.to_bytes(32, "big")),
        DiscoKey(number.to_bytes(32, "big")),
        f"100.64.0.{number}",
        f"fd7a:115c:a1e0::{number:x}",
        f"d{number}",
        f"d{number}",
        tags=tuple(sorted(tags)),
        announced_routes=announced,
        approved_routes=announced,
        online=online,
    )


# An unknown tag may be on a device though no policy names it.
tag_sets = st.lists(st.sampled_from((*TAGS, "tag:unknown")), min_size=1, max_size=2, unique=True).map(tuple)
identities = st.one_of(st.tuples(st.integers(1, 3), st.just(())), st.tuples(st.none(), tag_sets))
route_sets = st.one_of(
    st.just(()),
    st.lists(st.sampled_from(ROUTES), min_size=1, max_size=3, unique=True).map(tuple),
    st.just(EXITS),
    st.sampled_from(ROUTES).map(lambda route: (route, *EXITS)),
)


@st.composite
def devices_of(draw, number):
    owner, tags = draw(identities)
    return device(number, owner, tags, draw(route_sets), draw(st.booleans()))


users = st.builds(
    lambda number, role, host: User(
        UserId(number), TENANT, USERS[number - 1].name, email=f"{USERS[number - 1].name}@{host}", role=role
    ),
    st.integers(1, 3),
    st.sampled_from(("owner", "admin", "member")),
    st.sampled_from(("example.com", "example.org")),
)


@st.composite
def topologies(draw, *, least: int = 1, most: int = 7):
    count = draw(st.integers(least, most))
    return [draw(devices_of(number)) for number in range(1, count + 1)]


def some(values, most=2):
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True)


@st.composite
def acls(draw):
    if draw(st.integers(0, 3)) == 0:
        src = draw(some(("*", *PEOPLE, *ROLES)))
        targets = ["autogroup:self", *draw(st.lists(st.sampled_from(TAGS), max_size=1))]
    else:
        src, targets = draw(some(SOURCES)), draw(some(TARGETS))
    rule = {"action": "accept", "src": src}
    proto = draw(st.sampled_from(("", "", "tcp", "udp", "icmp")))
    ports = ("*",) if proto == "icmp" else PORTS
    if proto:
        rule["proto"] = proto
    rule["dst"] = [f"{target}:{draw(st.sampled_from(ports))}" for target in targets]
    return rule


@st.composite
def grants(draw):
    kind = draw(st.sampled_from(("ip", "ip", "app", "both", "via", "self")))
    src, dst = draw(some(SOURCES)), draw(some(TARGETS))
    if kind == "self":
        src = draw(some((*PEOPLE, *ROLES)))
        dst = ["autogroup:self", *draw(st.lists(st.sampled_from(TAGS), max_size=1))]
        kind = draw(st.sampled_from(("ip", "app", "both")))
    rule = {"src": src, "dst": dst}
    if kind in ("ip", "both", "via"):
        rule["ip"] = draw(some(("*", "22", "tcp:80-443", "udp:*", "icmp:*")))
    if kind in ("app", "both") or (kind == "via" and draw(st.booleans())):
        rule["app"] = {name: [{"v": 1}] for name in draw(some(CAPS))}
        rule["dst"] = [target for target in dst if target != "autogroup:internet"] or ["*"]
    if kind == "via":
        rule["via"] = draw(some(TAGS))
    return rule


@st.composite
def ssh_rules(draw):
    if draw(st.booleans()):
        src, dst = draw(some((*PEOPLE, *ROLES))), ["autogroup:self"]
    else:
        src = draw(some((*PEOPLE, *ROLES, *TAGS, "autogroup:tagged")))
        dst = draw(some((*TAGS, "autogroup:tagged", "ada@example.com", "autogroup:member")))
    users = draw(some(("root", "ubuntu", "autogroup:nonroot", "localpart:*@example.com")))
    return {"action": draw(st.sampled_from(("accept", "check"))), "src": src, "dst": dst, "users": users}


attributes = st.fixed_dictionaries(
    {
        "target": some(("*", "autogroup:tagged", *PEOPLE, *TAGS, "block", "three")),
        "attr": some(("disable-ipv4", "example-flag", "funnel")),
    }
)


@st.composite
def policies(draw, *, ssh: bool = True):
    policy = {"groups": GROUPS, "hosts": HOSTS, "tagOwners": {tag: [] for tag in TAGS}}
    if draw(st.integers(0, 9)):
        policy["acls"] = draw(st.lists(acls(), max_size=4))
        policy["grants"] = draw(st.lists(grants(), max_size=4))
    if draw(st.booleans()):
        policy["nodeAttrs"] = draw(st.lists(attributes, max_size=2))
    if ssh:
        policy["ssh"] = draw(st.lists(ssh_rules(), max_size=4))
    return policy


# -- the oracle --------------------------------------------------------------------------------------


@cache
def ip(text):
    return ip_address(text)


@cache
def net(text):
    return ip_network(text)


@cache
def holds(network, address):
    return ip(address) in net(network)


@cache
def overlaps(a, b):
    return net(a).version == net(b).version and net(a).overlaps(net(b))


@cache
def nets_of(text):
    """What a client makes of an entry of SrcIPs or DstPorts."""
    if text == "*":
        return EXITS
    if "-" in text:
        return tuple(map(str, summarize_address_range(*map(ip_address, text.split("-")))))
    return (str(ip_network(text)),)


TAILNET = (
    *nets_of("100.64.0.0-100.115.91.255"),
    *nets_of("100.115.94.0-100.127.255.255"),
    "fd7a:115c:a1e0::/48",
)
PRIVATE = ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")


@cache
def in_internet(network):
    """Whether a network lies in what autogroup:internet stands for."""
    if net(network).version == 6:
        return net(network).subnet_of(net("2000::/3"))
    return not any(overlaps(network, hole) for hole in PRIVATE)


@cache
def touches_internet(network):
    if net(network).version == 6:
        return overlaps(network, "2000::/3")
    return not any(net(network).subnet_of(net(hole)) for hole in PRIVATE)


class Rule:
    """One rule of the JSON: sources, (target, its (port, proto) probes), and how it is narrowed."""

    def __init__(self, src, dst, *, caps=None, via=(), is_self=False, silent=False):
        self.src, self.dst, self.caps, self.via = src, dst, caps, via
        self.is_self, self.silent = is_self, silent


def probes(ports, protos):
    spans = []
    for part in ports.split(","):
        first, _, last = ("0", "-", "65535") if part == "*" else part.partition("-")
        spans.append((int(first), int(last or first)))
    return frozenset((p, n) for p in PROBE_PORTS for n in protos if any(lo <= p <= hi for lo, hi in spans))


class Oracle:
    def __init__(self, policy, devices):
        self.policy, self.devices = policy, {d.id: d for d in devices}
        self.rules = list(self._rules())
        self.owner = {a: d for d in devices for a in self.addresses(d)}
        self.routes = {r for d in devices for r in self.subnets(d)}

    def _rules(self):
        if "acls" not in self.policy and "grants" not in self.policy:
            yield Rule(["*"], [("*", probes("*", PROTOS[""]))])
        for acl in self.policy.get("acls", ()):
            for entry in acl["dst"]:
                target, _, ports = entry.rpartition(":")
                told = [(target, probes(ports, PROTOS[acl.get("proto", "")]))]
                yield Rule(acl["src"], told, is_self=target == "autogroup:self")
        for grant in self.policy.get("grants", ()):
            via = grant.get("via", ())
            for target in grant["dst"]:
                own = target == "autogroup:self"
                for entry in grant.get("ip", ()):
                    name, _, ports = entry.rpartition(":")
                    yield Rule(grant["src"], [(target, probes(ports, PROTOS[name]))], via=via, is_self=own)
                caps = grant.get("app", {})
                if caps:
                    nothing = [(target, frozenset())]
                    yield Rule(grant["src"], nothing, caps=caps, via=via, is_self=own, silent=bool(via))
                    back = {COMPANION[name] for name in caps if name in COMPANION}
                    if back and not via:
                        sources = [(source, frozenset()) for source in grant["src"]]
                        yield Rule([target], sources, caps=dict.fromkeys(back), is_self=own)

    # what devices are

    @staticmethod
    def subnets(d):
        return [route for route in d.active_routes if route not in EXITS]

    @staticmethod
    def is_exit(d):
        return any(route in EXITS for route in d.active_routes)

    def is_a(self, alias, d):
        """Whether an alias that means devices means this one."""
        if alias.startswith("tag:"):
            return alias in d.tags
        if alias == "autogroup:tagged":
            return bool(d.tags)
        if d.tags:
            return False
        user = USERS[d.user_id - 1]
        if alias in ("autogroup:member", "autogroup:self"):
            return True
        if alias == "autogroup:admin":
            return user.role in ("admin", "owner")
        if alias == "autogroup:owner":
            return user.role == "owner"
        if alias.startswith("group:"):
            return user.email in GROUPS[alias]
        return alias == user.email

    @staticmethod
    def literal(alias):
        alias = HOSTS.get(alias, alias)
        return str(net(alias)) if alias[0].isdigit() or alias.startswith("fd") else None

    def lacks_v4(self, d):
        return "disable-ipv4" in self.attributes(d)

    def attributes(self, d):
        found = set()
        for rule in self.policy.get("nodeAttrs", ()):
            for target in rule["target"]:
                span = self.literal(target)
                if span is None:
                    hit = target == "*" or self.is_a(target, d)
                else:
                    # A device that loses its IPv4 address is still meant by it here.
                    hit = holds(span, d.ipv4) or holds(span, d.ipv6)
                if hit:
                    found.update(rule["attr"])
        return found

    def addresses(self, d):
        return (d.ipv6,) if self.lacks_v4(d) else (d.ipv4, d.ipv6)

    # packets

    def is_source(self, rule, address, target):
        """Whether an address may send by a rule (to a device, for self)."""
        sender = self.owner.get(address)
        if rule.is_self:
            if sender is None or sender.tags or target.tags or sender.user_id != target.user_id:
                return False
            return any(alias == "*" or self.is_a(alias, sender) for alias in rule.src)
        for alias in rule.src:
            span = self.literal(alias)
            if span is not None:
                hit = holds(span, address)
            elif alias == "*":
                hit = any(holds(n, address) for n in (*TAILNET, *self.routes))
            elif alias == "autogroup:danger-all":
                hit = True
            else:
                hit = sender is not None and self.is_a(alias, sender)
            if hit:
                return True
        return False

    def is_target(self, rule, alias, d, address):
        """Whether an address that a device answers for is a destination of a rule there."""
        if rule.via and not set(rule.via) & set(d.tags):
            return False
        own = address in self.addresses(d)
        routed = any(holds(route, address) for route in self.subnets(d))
        if rule.is_self:
            return own and not d.tags and (alias == "*" or self.is_a(alias, d))
        span = self.literal(alias)
        if rule.via:
            if alias == "*":
                return routed or (self.is_exit(d) and in_internet(host(address)))
            if span is not None:
                return any(overlaps(span, route) for route in self.subnets(d)) and holds(span, address)
        elif alias in ("*", "autogroup:danger-all"):
            return True
        if alias == "autogroup:internet":
            return (self.is_exit(d) or routed) and in_internet(host(address))
        if span is not None:
            near = any(overlaps(span, route) for route in self.subnets(d))
            near = near or any(holds(span, a) for a in self.addresses(d))
            return (near or (self.is_exit(d) and in_internet(span))) and holds(span, address)
        other = self.owner.get(address)
        if other is None or not self.is_a(alias, other):
            return False
        return (own and not rule.via) or (routed and other is not d)

    def in_reach(self, d):
        """The probed addresses a device answers for."""
        points = [*self.addresses(d)]
        for point in {*POINTS, *self.owner} - {*points}:
            if any(holds(route, point) for route in self.subnets(d)) or (
                self.is_exit(d) and in_internet(host(point))
            ):
                points.append(point)
        return points

    def allowed(self, source, d, address):
        """The (port, proto) pairs that an address may reach behind a device."""
        found = set()
        for rule in self.rules:
            if rule.caps is None and self.is_source(rule, source, d):
                for alias, ports in rule.dst:
                    if self.is_target(rule, alias, d, address):
                        found |= ports
        return found

    def granted(self, source, d, address):
        """The capabilities that an address has at a device's address."""
        found = set()
        own = address in self.addresses(d)
        for rule in self.rules:
            if rule.caps is None or rule.silent or not self.is_source(rule, source, d):
                continue
            for alias, _ in rule.dst:
                span = self.literal(alias)
                if span is None and not own and alias in ("*", "autogroup:danger-all"):
                    continue
                if span is not None and not own and not any(overlaps(span, r) for r in self.subnets(d)):
                    continue
                if self.is_target(rule, alias, d, address):
                    found |= set(rule.caps)
        return found

    # peers

    def sees(self, a, b):
        return any(self._leads(rule, a, b) or self._leads(rule, b, a) for rule in self.rules)

    def _leads(self, rule, a, b):
        if rule.is_self and (a.tags or b.tags or a.user_id != b.user_id):
            return False
        return self.sends(rule, a) and any(self.receives(rule, alias, b) for alias, _ in rule.dst)

    def sends(self, rule, d):
        for alias in rule.src:
            span = self.literal(alias)
            if alias in ("*", "autogroup:danger-all"):
                return True
            if span is None:
                if self.is_a(alias, d):
                    return True
            elif any(holds(span, a) for a in self.addresses(d)) or any(
                overlaps(span, route) for route in self.subnets(d)
            ):
                return True
        return False

    def receives(self, rule, alias, d):
        span, subnets = self.literal(alias), self.subnets(d)
        if rule.via and not set(rule.via) & set(d.tags):
            return False
        if rule.is_self:
            return alias == "*" or self.is_a(alias, d)
        if alias in ("*", "autogroup:danger-all"):
            return not rule.via or bool(subnets) or self.is_exit(d)
        if alias == "autogroup:internet":
            return self.is_exit(d) or any(touches_internet(route) for route in subnets)
        if span is None:
            return not rule.via and self.is_a(alias, d)
        if any(overlaps(span, route) for route in subnets):
            return True
        if rule.via:
            return False
        return any(holds(span, a) for a in self.addresses(d)) or (self.is_exit(d) and in_internet(span))

    def shown(self, viewer, router):
        """The subnet routes of a router that a viewer has there (policy-corpus, "Peers", "HA", "via")."""
        return [r for r in self.subnets(router) if self._shown(viewer, router, r)]

    def _shown(self, viewer, router, route):
        own = route in self.subnets(viewer)
        uses = [rule for rule in self.rules if not rule.is_self and self.sends(rule, viewer)]
        uses = [rule for rule in uses if any(self._is_towards(alias, route) for alias, _ in rule.dst)]
        back = (
            rule
            for rule in self.rules
            if not rule.via and not rule.is_self and any(self.receives(rule, a, viewer) for a, _ in rule.dst)
        )
        if not (own or uses or any(self._comes_from(rule, route) for rule in back)):
            return False
        tags = {tag for rule in uses for tag in rule.via}
        rank = [
            (not d.online, d.id)
            for d in self.devices.values()
            if route in self.subnets(d) and (own or not tags or tags & set(d.tags))
        ]
        return min(rank, default=(True, None))[1] == router.id

    def _is_towards(self, alias, route):
        if alias == "autogroup:internet":
            return touches_internet(route)
        span = self.literal(alias)
        return alias == "*" or (span is not None and overlaps(span, route))

    def _comes_from(self, rule, route):
        spans = [self.literal(alias) for alias in rule.src]
        return bool({"*", "autogroup:danger-all"} & set(rule.src)) or any(
            s and overlaps(s, route) for s in spans
        )

    # SSH

    def ssh(self, a, b, login):
        """accept, check or nothing: what happens when one device logs in to another."""
        for rule in sorted(self.policy.get("ssh", ()), key=lambda rule: rule["action"] == "accept"):
            if not any(self.is_a(alias, a) for alias in rule["src"]):
                continue
            same = not a.tags and not b.tags and a.user_id == b.user_id
            parts = [user.partition("*@")[2] for user in rule["users"] if user.startswith("localpart:")]
            target = any(same if alias == "autogroup:self" else self.is_a(alias, b) for alias in rule["dst"])
            # Captured: with localpart a source device has the rules for its own user too.
            target = target or (bool(parts) and same and any(self.is_a(alias, b) for alias in rule["src"]))
            if not target:
                continue
            email = "" if a.tags else USERS[a.user_id - 1].email
            local, _, domain = email.partition("@")
            if (
                login in rule["users"]
                or ("autogroup:nonroot" in rule["users"] and login != "root")
                or (domain in parts and login == local)
            ):
                return rule["action"]
        return None


def host(address):
    return f"{address}/{ip(address).max_prefixlen}"


def changed(d, what, value):
    """A device after one random change."""
    if what == "identity":
        return replace(d, user_id=None if value[1] else UserId(value[0]), tags=tuple(sorted(value[1])))
    if what == "routes":
        return replace(d, announced_routes=tuple(sorted(value)), approved_routes=tuple(sorted(value)))
    return replace(d, online=value)
