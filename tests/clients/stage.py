"""Three devices whose access a policy decides, and what each policy of the tests means for them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.clients.administration import Administration, Commit
from tests.clients.caddy import KEPT, CaddyNode
from tests.clients.namespace import Answer
from tests.clients.netmaps import ClientNetmap
from tests.clients.server import Server

#: Where each device serves its page.
PORTS = (80, 8080)
#: Until netmaps that never agree fail a test.
AGREE_DEADLINE_S = 5.0
#: Until a page that never comes fails a test. Crossed handshakes of WireGuard cost 5 to 15 s.
PAGE_DEADLINE_S = 25.0
#: What a client logs when its handshake has crossed that of the other side, and its session does not work.
_CROSSED = "Received invalid response message|Handshake did not complete after"
#: A fetch that must fail: its packets vanish, so it ends by its own time-out.
HOPELESS_FETCH_S = 0.6


class Flow(NamedTuple):
    """One device opens a connection to a port of another."""

    source: str
    destination: str
    port: int


@dataclass(frozen=True, slots=True)
class Case:
    """A policy and what it means: the open flows, and who sees each other for another reason."""

    name: str
    policy: dict[str, Any]
    open: frozenset[Flow]
    also_seen: frozenset[frozenset[str]] = frozenset()

    def seen_by(self, name: str) -> set[str]:
        pairs = {frozenset((flow.source, flow.destination)) for flow in self.open} | self.also_seen
        return {other for pair in pairs if name in pair for other in pair - {name}}


@dataclass(frozen=True, slots=True)
class Convergence:
    """Seconds from asking for the commit: all netmaps agree; all pages that are open have come.

    `crossed`: two clients began a WireGuard handshake with each other at the same moment and lost their
    session by it, of which no control server knows. Dials of earlier steps, which go on for a minute
    behind the test's back, make that happen once in a few hundred switches.
    """

    netmaps: float
    pages: float
    crossed: bool


class Stage:
    """Devices `ada` and `bob` of the users of these names, and `web` with tag:web."""

    def __init__(self, server: Server, administration: Administration, nodes: Sequence[CaddyNode]) -> None:
        """All devices have met."""
        self.server = server
        self.administration = administration
        self.nodes = {node.hostname: node for node in nodes}
        listed = server.devices()
        self.ids = {name: listed[name]["id"] for name in self.nodes}
        self.addresses: dict[str, list[str]] = {name: listed[name]["ip_addresses"] for name in self.nodes}
        self.flows = [
            Flow(source, destination, port)
            for source, destination in itertools.permutations(self.nodes, 2)
            for port in PORTS
        ]
        self._pool = ThreadPoolExecutor(4 * len(self.flows))

    def close(self) -> None:
        self._pool.shutdown()

    # -- netmaps --------------------------------------------------------------------------------

    def netmaps(self) -> dict[str, ClientNetmap]:
        """What each client holds now."""
        found = self._pool.map(lambda name: self.server.netmap(self.ids[name]), self.ids)
        return dict(zip(self.ids, found, strict=True))

    def disagreements(self, case: Case, netmaps: dict[str, ClientNetmap]) -> list[str]:
        """How the netmaps of the clients differ from what a policy means."""
        found = []
        for name, netmap in netmaps.items():
            if set(netmap.peers) != case.seen_by(name):
                found.append(f"{name} sees {sorted(netmap.peers)}, not {sorted(case.seen_by(name))}")
        for flow in self.flows:
            pairs = zip(self.addresses[flow.source], self.addresses[flow.destination], strict=True)
            for source, destination in pairs:
                admitted = netmaps[flow.destination].admits(source, destination, flow.port)
                if admitted != (flow in case.open):
                    found.append(f"{flow}, {source} to {destination}: {'open' if admitted else 'closed'}")
        return found

    # -- traffic --------------------------------------------------------------------------------

    def fetch(self, flow: Flow, timeout_s: float) -> list[Answer]:
        """The page behind a flow, over connections made for this: one by IPv4, then one by IPv6."""
        return [self._fetch(flow, place, timeout_s) for place in self._places(flow)]

    def _fetch(self, flow: Flow, place: str, timeout_s: float) -> Answer:
        # Every fetch dials anew. These connections stay open, for a tsnet device ignores a SYN whose port is
        # still in TIME_WAIT, and a port is soon used again when there are hundreds of them in a minute.
        return self.nodes[flow.source].fetch(place, path=KEPT, timeout_s=timeout_s)

    def reaching(self, flows: Iterable[Flow]) -> set[Flow]:
        """The flows that bring a page, by IPv4 or IPv6, when all are tried at once and not for long."""
        tries = [(flow, place) for flow in flows for place in self._places(flow)]

        def reaches(one: tuple[Flow, str]) -> bool:
            flow, place = one
            return self._is_page(flow, self._fetch(flow, place, HOPELESS_FETCH_S))

        return {flow for (flow, _), came in zip(tries, self._pool.map(reaches, tries), strict=True) if came}

    def _places(self, flow: Flow) -> list[str]:
        ipv4, ipv6 = self.addresses[flow.destination]
        return [f"{ipv4}:{flow.port}", f"[{ipv6}]:{flow.port}"]

    def _is_page(self, flow: Flow, answer: Answer) -> bool:
        return answer.body == self.nodes[flow.destination].page

    def check_traffic(self, case: Case) -> float:
        """Every open flow brings its page, no other does. `time.monotonic()` when the last page came."""
        last = time.monotonic()
        # Devices that begin to talk at the same moment may lose seconds over their crossing handshakes.
        # So one begins; and among those that only try in vain, one side of each pair before the other.
        for flow in sorted(case.open):
            answers = self.fetch(flow, PAGE_DEADLINE_S)
            assert all(self._is_page(flow, answer) for answer in answers), f"{case.name}: {flow}: {answers}"
            last = max(answer.at for answer in answers)
        closed = {flow for flow in self.flows if flow not in case.open}
        later = {
            flow
            for flow in closed
            if flow.source > flow.destination and frozenset((flow.source, flow.destination)) in case.also_seen
        }
        leaks = self.reaching(closed - later) | (self.reaching(later) if later else set())
        assert not leaks, f"{case.name}: closed, but a page came: {sorted(leaks)}"
        return last

    # -- policies -------------------------------------------------------------------------------

    def put(self, case: Case) -> Commit:
        return self.administration.set_policy(case.policy)

    def switch(self, case: Case) -> Convergence:
        """A new policy, until netmaps and traffic agree with it, and go on to."""
        marks = {node.process: node.process.mark() for node in self.nodes.values()}
        commit = self.put(case)
        agreed = self.wait_agreed(case)
        pages = self.check_traffic(case)
        assert self.disagreements(case, self.netmaps()) == []
        crossed = any(process.find(_CROSSED, mark) for process, mark in marks.items())
        return Convergence(agreed - commit.before, pages - commit.before, crossed)

    def wait_agreed(self, case: Case) -> float:
        """`time.monotonic()` when all clients had shown netmaps that agree with a policy."""
        ends = time.monotonic() + AGREE_DEADLINE_S
        while differences := self.disagreements(case, self.netmaps()):
            assert time.monotonic() < ends, f"{case.name}: {differences}"
        return time.monotonic()


def _acl(source: str, *destinations: str, proto: str = "") -> dict[str, Any]:
    rule: dict[str, Any] = {"action": "accept", "src": [source], "dst": list(destinations)}
    return rule | ({"proto": proto} if proto else {})


def _case(name: str, rules: dict[str, Any], *flows: tuple[str, str, int], seen: tuple[str, ...] = ()) -> Case:
    """`seen` are further devices of which each sees each."""
    return Case(
        name,
        {"tagOwners": {"tag:web": ["ada@"]}} | rules,
        frozenset(Flow(*flow) for flow in flows),
        frozenset(frozenset(pair) for pair in itertools.combinations(seen, 2)),
    )


NOBODY = _case("nobody", {"acls": []})
ONE_PORT = _case("one port", {"acls": [_acl("ada@", "tag:web:80")]}, ("ada", "web", 80))
EVERYTHING = _case(
    "everything",
    {"acls": [_acl("*", "*:*")]},
    *((*pair, port) for pair in itertools.permutations(("ada", "bob", "web"), 2) for port in PORTS),
)
CASES = (
    NOBODY,
    ONE_PORT,
    EVERYTHING,
    _case("another's port", {"acls": [_acl("bob@", "tag:web:8080")]}, ("bob", "web", 8080)),
    _case(
        "members to web",
        {"acls": [_acl("autogroup:member", "tag:web:80,8080")]},
        *((name, "web", port) for name in ("ada", "bob") for port in PORTS),
    ),
    _case("web to ada", {"acls": [_acl("tag:web", "ada@:8080")]}, ("web", "ada", 8080)),
    _case(
        "crosswise",
        {
            "groups": {"group:bobs": ["bob@"]},
            "grants": [
                {"src": ["ada@"], "dst": ["group:bobs"], "ip": ["tcp:80"]},
                {"src": ["group:bobs"], "dst": ["ada@"], "ip": ["8080"]},
            ],
        },
        ("ada", "bob", 80),
        ("bob", "ada", 8080),
    ),
    _case("seen, but no TCP", {"acls": [_acl("ada@", "tag:web:80", proto="udp")]}, seen=("ada", "web")),
    _case("self only", {"acls": [_acl("autogroup:member", "autogroup:self:*")]}),
)


def describe(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return f"median {ordered[len(ordered) // 2] * 1000:.0f} ms, max {ordered[-1] * 1000:.0f} ms"
