"""The policy engine alone: compile, one device joins, one edit of the policy, filters of everybody."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field, replace
from typing import Any

from app.model import Device, User, UserId
from app.policy.addresses import address, merged, parse_range, written
from app.policy.check import accept
from app.policy.engine import PolicyEngine
from app.policy.explain import explain, who_can_reach
from app.policy.impact import impact
from bench.data import TENANT, device
from bench.netmap import cpu_ms
from bench.report import Table
from bench.system import Lab

RULES = 100
TAGS = 20
ROUTERS = 10
COMPILE_BUDGET_MS = 50.0
BUDGET_DEVICES = 1_000
#: The naive way pairs up so many viewers with everybody, and is scaled to all.
NAIVE_VIEWERS = 100


@dataclass(frozen=True, slots=True)
class World:
    """Users, devices and a policy as people write them."""

    users: list[User]
    devices: list[Device]
    policy: dict[str, Any]
    text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", json.dumps(self.policy, indent=1))

    def edited(self) -> str:
        """The policy with another port in one rule."""
        acls = [dict(acl) for acl in self.policy["acls"]]
        acls[RULES // 2]["dst"] = [f"tag:t{RULES // 2 % TAGS}:9999"]
        return json.dumps(self.policy | {"acls": acls}, indent=1)


def _place(number: int) -> dict[str, Any]:
    return {
        "ipv4": str(ipaddress.IPv4Address("100.64.0.0") + number),
        "ipv6": str(ipaddress.IPv6Address("fd7a:115c:a1e0::") + number),
        "given_name": f"d{number}",
    }


def groups_and_tags(count: int) -> World:
    """A fifth are servers with one of 20 tags; users, in 20 groups, have four devices each; ten routers."""
    users = [_user(number) for number in range(1, 1 + max(1, count // 5))]
    devices = []
    for number in range(1, count + 1):
        tagged = number % 5 == 0
        route = (f"10.{number // 5}.0.0/16",) if tagged and number <= 5 * ROUTERS else ()
        devices.append(
            replace(
                device(number),
                user_id=None if tagged else users[number % len(users)].id,
                tags=(f"tag:t{number // 5 % TAGS}",) if tagged else (),
                announced_routes=route,
                approved_routes=route,
                **_place(number),
            )
        )
    groups = {f"group:g{at}": [user.email for user in users[at::TAGS]] for at in range(TAGS)}
    acls = [_acl(at) for at in range(RULES)]
    tags = {f"tag:t{at}": ["group:g0"] for at in range(TAGS)}
    return World(users, devices, {"groups": groups, "tagOwners": tags, "acls": acls})


def _acl(at: int) -> dict[str, Any]:
    source = f"tag:t{at * 7 % TAGS}" if at % 4 == 0 else f"group:g{at * 3 % TAGS}"
    target = f"10.{1 + at % ROUTERS}.0.0/16" if at % 10 == 9 else f"tag:t{at % TAGS}"
    return {"action": "accept", "src": [source], "dst": [f"{target}:{1000 + at},{2000 + at}-{2010 + at}"]}


def own_devices(users_count: int) -> World:
    """Users with two devices each, who reach their own and the servers of nobody else."""
    users = [_user(number) for number in range(1, users_count + 1)]
    devices = [
        replace(device(number), user_id=users[(number - 1) // 2].id, tags=(), **_place(number))
        for number in range(1, 2 * users_count + 1)
    ]
    acls = [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}]
    acls += [_acl(at) for at in range(1, RULES)]
    groups = {f"group:g{at}": [user.email for user in users[at::TAGS]] for at in range(TAGS)}
    tags = {f"tag:t{at}": ["group:g0"] for at in range(TAGS)}
    return World(users, devices, {"groups": groups, "tagOwners": tags, "acls": acls})


def _user(number: int) -> User:
    return User(UserId(number), TENANT.id, f"user{number}", email=f"user{number}@example.com")


# -- ours --------------------------------------------------------------------------------------------


def compiled(world: World, text: str) -> PolicyEngine:
    """A policy text at work for everybody: every class has its filter, and who it sees."""
    engine = PolicyEngine(accept(text, world.users, world.devices), world.users)
    for one in world.devices:
        engine.put(one)
    for one in world.devices:
        engine.template(engine.class_of(one.id))
    return engine


def filters(engine: PolicyEngine, world: World) -> list[bytes]:
    """The packet filter of every device, ready for the wire."""
    return [engine.template(engine.class_of(d.id)).filled(d.ipv4, d.ipv6) for d in world.devices]


def _joins(engine: PolicyEngine, world: World, newcomer: Device) -> int:
    """One device comes: everything that changes by it is made again."""
    engine.put(newcomer)
    touched, _ = engine.take_touched()
    for cls in touched:
        engine.template(cls)
    return len(touched)


# -- the naive way -----------------------------------------------------------------------------------


class Naive:
    """What one would write first: sources and destinations of every rule as lists of addresses, a filter
    cut for each device, peers found pair by pair."""

    def __init__(self, world: World) -> None:
        self.world = world
        policy = json.loads(world.text)
        members = {name: set(emails) for name, emails in policy["groups"].items()}
        emails = {user.id: user.email for user in world.users}
        self.rules = []
        for acl in policy["acls"]:
            target, _, ports = acl["dst"][0].rpartition(":")
            sources = [d for d in world.devices if self._is(acl["src"][0], d, members, emails)]
            targets = [d for d in world.devices if self._is(target, d, members, emails)]
            spans = [self._span(part) for part in ports.split(",")]
            texts = [
                written(span)
                for span in merged((at, at) for d in sources for at in (address(d.ipv4), address(d.ipv6)))
            ]
            self.rules.append((acl["src"][0], target, sources, targets, sorted(texts), spans))
        self._sources = [{d.id for d in rule[2]} for rule in self.rules]
        self._targets = [
            {d.id for d in rule[3]} | {d.id for d in world.devices if rule[1] in d.active_routes}
            for rule in self.rules
        ]

    @staticmethod
    def _span(part: str) -> tuple[int, int]:
        if part == "*":
            return 0, 65535
        first, _, last = part.partition("-")
        return int(first), int(last or first)

    @staticmethod
    def _is(alias: str, d: Device, members: dict[str, set[str]], emails: dict[UserId, str]) -> bool:
        if alias.startswith("tag:"):
            return alias in d.tags
        if d.user_id is None:
            return False
        if alias.startswith("group:"):
            return emails[d.user_id] in members[alias]
        return alias in ("autogroup:member", "autogroup:self")

    def filter_of(self, viewer: Device) -> bytes:
        """The packet filter of one device."""
        out = []
        for _source, target, sources, targets, texts, spans in self.rules:
            if target == "autogroup:self":
                own = [d for d in sources if d.user_id == viewer.user_id and not viewer.tags]
                texts = [ip for d in own for ip in (d.ipv4, d.ipv6)]
            if not texts:
                continue
            hit = any(d.id == viewer.id for d in targets)
            ips = [viewer.ipv4, viewer.ipv6] if hit else [r for r in viewer.active_routes if r == target]
            ports = [{"IP": ip, "Ports": {"First": f, "Last": last}} for ip in ips for f, last in spans]
            if ports:
                out.append({"SrcIPs": texts, "DstPorts": ports})
        return json.dumps(out).encode()

    def peers_of(self, viewer: Device) -> list[int]:
        """The ids a device sees."""
        seen: list[int] = []
        for other in self.world.devices:
            if other.id != viewer.id and any(
                ((viewer.id in s and other.id in t) or (other.id in s and viewer.id in t))
                and (rule[1] != "autogroup:self" or viewer.user_id == other.user_id)
                for rule, s, t in zip(self.rules, self._sources, self._targets, strict=True)
            ):
                seen.append(other.id)
        return seen


def _same(engine: PolicyEngine, world: World, naive: Naive) -> None:
    """Both ways must say the same, or comparing them is worth nothing."""
    for viewer in world.devices[:: max(1, len(world.devices) // 7)]:
        cls = engine.class_of(viewer.id)
        ours = engine.template(cls).filled(viewer.ipv4, viewer.ipv6)
        if _allowed(ours) != _allowed(naive.filter_of(viewer)):
            raise AssertionError(f"the naive filter of {viewer.given_name} differs from ours")
        peers = sorted(i for seen in engine.visible(cls) for i in seen.members if i != viewer.id)
        if peers != naive.peers_of(viewer):
            raise AssertionError(f"the naive peers of {viewer.given_name} differ from ours")


def _allowed(rules: bytes) -> dict[tuple[str, int, int], tuple[tuple[int, int], ...]]:
    """Sources by destination and ports."""
    found: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
    for rule in json.loads(rules):
        spans = [span for text in rule["SrcIPs"] if (span := parse_range(text)) is not None]
        for entry in rule["DstPorts"]:
            key = (entry["IP"], entry["Ports"]["First"], entry["Ports"]["Last"])
            found.setdefault(key, []).extend(spans)
    return {key: merged(spans) for key, spans in found.items()}


# -- the table ---------------------------------------------------------------------------------------


def run(lab: Lab) -> Table:
    table = Table("policy", f"the policy engine alone, {RULES} rules, CPU")
    sizes = [(1_000, groups_and_tags(1_000)), (10_000, groups_and_tags(2_000 if lab.quick else 10_000))]
    for count, world in sizes:
        _rows(lab, table, f"{count:,} devices", world, COMPILE_BUDGET_MS if count == BUDGET_DEVICES else None)
    _rows(lab, table, "500 users x 2, autogroup:self", own_devices(500), None)
    table.notes.append(
        "Compile: text read and judged, every device put into its class, the filter of every class. A join "
        "and an edit include all filters that change by it; peers are known with the classes."
    )
    table.notes.append(
        f"Naive: the addresses of every rule, a filter cut and dumped for each device, peers pair by pair; "
        f"{NAIVE_VIEWERS} viewers against everybody, scaled to all. It keeps nothing, so a join or an edit "
        "costs the same again. A fifth of the devices are servers with one of 20 tags, users in 20 groups."
    )
    return table


def _rows(lab: Lab, table: Table, label: str, world: World, budget: float | None) -> None:
    rounds = 3 if lab.quick else 9
    count = len(world.devices)
    engine = compiled(world, world.text)
    _same(engine, world, Naive(world))
    scale = count / NAIVE_VIEWERS
    viewers = world.devices[:: count // NAIVE_VIEWERS][:NAIVE_VIEWERS]
    naive = Naive(world)
    prepared = cpu_ms(lambda: Naive(world), 3)
    cutting = [ms * scale for ms in cpu_ms(lambda: [naive.filter_of(one) for one in viewers], 3)]
    pairing = [ms * scale for ms in cpu_ms(lambda: [naive.peers_of(one) for one in viewers], 3)]
    everything = [sum(parts) for parts in zip(prepared, cutting, pairing, strict=True)]

    compile_ms = cpu_ms(lambda: compiled(world, world.text), rounds)
    table.add(f"{label}: compile", "ms", compile_ms, budget=budget, naive=everything)
    table.add(
        f"{label}: filters of all devices",
        "ms",
        cpu_ms(lambda: filters(engine, world), rounds),
        naive=cutting,
    )
    table.add(
        f"{label}: compile, no address seen before",
        "ms",
        cpu_ms(lambda: compiled(world, world.text), 3, address.cache_clear),
        budget=budget,
        naive=everything,
    )
    newcomers = iter(range(count + 1, 10**6))

    def join() -> None:
        number = next(newcomers)
        like = world.devices[number % count]
        _joins(engine, world, replace(like, id=type(like.id)(number), **_place(number)))

    table.add(f"{label}: one device joins", "ms", cpu_ms(join, 10 * rounds), naive=everything)
    old, edited = accept(world.text, world.users, world.devices), world.edited()
    table.add(
        f"{label}: one edit of the policy",
        "ms",
        cpu_ms(lambda: compiled(world, edited), rounds),
        naive=everything,
    )
    new = accept(edited, world.users, world.devices)
    table.add(
        f"{label}: impact of that edit", "ms", cpu_ms(lambda: impact(old, new, world.users, world.devices), 3)
    )
    names = world.devices[0].given_name, world.devices[4].given_name
    table.add(
        f"{label}: explain one pair",
        "ms",
        cpu_ms(lambda: explain(old, world.users, world.devices, *names, 22), 3),
    )
    table.add(
        f"{label}: who can reach one device",
        "ms",
        cpu_ms(lambda: who_can_reach(old, world.users, world.devices, names[1]), 3),
    )
