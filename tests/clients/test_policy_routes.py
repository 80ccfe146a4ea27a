"""Subnet routers and exit nodes between unmodified clients: announced, approved, allowed, used.

Behind the routers there is nothing: tsnet ends a connection to an address that is not its own with a reset,
once its packet filter has let it in. So a reset, and the packets that the router's client has counted, say
that a connection was carried there; without a route the device that dials says so itself, and what a
filter drops comes to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.clients.administration import Administration
from tests.clients.caddy import WEB_CLIENT_PORT, CaddyNode
from tests.clients.deployment import USER, Deployment, Devices
from tests.clients.mesh import MeshNode, mesh_node
from tests.clients.namespace import Answer, Namespace
from tests.clients.netmaps import ClientNetmap
from tests.clients.server import BASE_DOMAIN, Server
from tests.clients.waiting import eventually
from tests.clients.webclient import WebClient

pytestmark = pytest.mark.clients

#: From a decision to its effect at clients, seconds.
TOLD_DEADLINE_S = 5.0
FETCH_S = 5.0
#: A fetch that must fail when its packets vanish.
HOPELESS_FETCH_S = 0.6
#: A lost device counts as online for so long; its routes move then.
GRACE_S = 2
FAIL_OVER_DEADLINE_S = GRACE_S + TOLD_DEADLINE_S
EXIT_ROUTES = {"0.0.0.0/0", "::/0"}
PORT, CLOSED_PORT = 443, 80
#: What a dialling device says when it has no route, and when its connection was reset.
NO_ROUTE: Final = ("is not a peer on the mesh", "network is unreachable")
RESET: Final = ("the peer refused the connection", "connection was refused")

#: The one user's devices may drive each other's web client; bob's may open the routers' pages.
BASE: list[dict[str, Any]] = [
    {"action": "accept", "src": ["ada@"], "dst": [f"autogroup:self:{WEB_CLIENT_PORT}"]},
    {"action": "accept", "src": ["bob@"], "dst": ["ada@:80"]},
]


def _policy(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"acls": [*BASE, *rules], **more}


def _acl(source: str, destination: str) -> dict[str, Any]:
    return {"action": "accept", "src": [source], "dst": [destination]}


@dataclass(frozen=True, slots=True)
class Cast:
    """`east` and `west` may become routers; `ada` and `mesh` are of the same user, `bob` is not."""

    server: Server
    administration: Administration
    ada: CaddyNode
    routers: dict[str, CaddyNode]
    mesh: MeshNode
    ids: dict[str, str]
    addresses: dict[str, list[str]]

    def netmap(self, name: str) -> ClientNetmap:
        return self.server.netmap(self.ids[name])

    def begin(self, policy: dict[str, Any]) -> None:
        """A policy for a test, until it lets the devices that drive and are driven see each other."""
        self.administration.set_policy(policy)
        driven = {"ada", *self.routers}
        eventually(
            lambda: all(driven <= {name, *self.netmap(name).peers} for name in driven),
            TOLD_DEADLINE_S,
            "devices of one user see each other",
        )

    def web_client(self, driver: CaddyNode, name: str) -> WebClient:
        """The web client of a device, driven by another of the same user."""
        return WebClient(driver, self.addresses[name][0])

    def announce(self, name: str, *routes: str) -> None:
        """Have a router announce, and the server know it."""
        self.web_client(self.ada, name).announce(*routes)
        self.wait_announced(name, *routes)

    def wait_announced(self, name: str, *routes: str) -> None:
        eventually(
            lambda: self.administration.routes(self.ids[name]).announced == {*routes},
            TOLD_DEADLINE_S,
            f"{name} announces {routes}",
        )

    def wait_routes(
        self, viewer: str, router: str, *routes: str, deadline_s: float = TOLD_DEADLINE_S
    ) -> None:
        """Until a device's netmap has exactly these routes by way of a router."""
        eventually(
            lambda: self.netmap(viewer).routes_of(router) == {*routes},
            deadline_s,
            f"{viewer} has {routes} by way of {router}",
        )

    def wait_admitted(self, router: str, source: str, address: str, admitted: bool = True) -> None:
        """Until a router's filter lets a device in to PORT of an address behind it, or does not."""
        (own,) = (own for own in self.addresses[source] if (":" in own) is (":" in address))
        eventually(
            lambda: self.netmap(router).admits(own, address, PORT) is admitted,
            TOLD_DEADLINE_S,
            f"{router} {'lets' if admitted else 'does not let'} {source} in to {address}",
        )

    def mesh_router(self, address: str, *routers: str) -> str:
        """Which of the running routers carries a connection of the Rust client; "" for no route."""
        return self._carrier(lambda: self.mesh.fetch(f"{address}:{PORT}", timeout_s=FETCH_S), routers)

    def exit_router(self, address: str) -> str:
        """Which router carries a connection of `ada` to an address of the internet; "" for no route."""
        return self._carrier(lambda: self.ada.fetch(f"{address}:{PORT}", timeout_s=FETCH_S), ())

    def _carrier(self, fetch: Callable[[], Answer], routers: tuple[str, ...]) -> str:
        def received() -> dict[str, int]:
            names = routers or tuple(self.routers)
            return {name: self.received(name)[0] for name in names}

        before = received()
        answer = fetch()
        told = answer.body + answer.headers.get("x-error", "")
        if any(text in told for text in NO_ROUTE):
            return ""
        assert any(text in told for text in RESET), answer
        (carrier,) = (name for name, count in received().items() if count > before[name])
        return carrier

    def received(self, router: str) -> tuple[int, int]:
        """Packets that a router's client took out of its tunnels, and how many of them its filter dropped."""
        metrics = self.server.client_metrics(self.ids[router])
        return metrics.get("tstun_in_from_wg", 0), metrics.get("tstun_in_from_wg_drop_filter", 0)


@pytest.fixture(scope="module")
def cast(
    namespace: Namespace, deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cast]:
    server = deployment.server("routes", {"HS_TIMING__OFFLINE_GRACE": f"{GRACE_S}s"})
    administration = deployment.administration(server)
    administration.create_user("bob")
    home = tmp_path_factory.mktemp("routes")
    devices = Devices(namespace, home, deployment)
    names = ("ada", "east", "west")
    nodes = [devices.start(server, name, web_client=True) for name in names]
    nodes.append(devices.start(server, "bob", auth_key=administration.auth_key("bob")))
    for node in nodes:
        node.wait_running()
        node.wait_reachable()
    key = administration.auth_key(USER)
    with mesh_node(namespace, home / "mesh", name="mesh", control_url=server.url, auth_key=key) as mesh:
        listed = devices.meet(server, *nodes)
        yield Cast(
            server,
            administration,
            ada=nodes[0],
            routers={"east": nodes[1], "west": nodes[2]},
            mesh=mesh,
            ids={name: device["id"] for name, device in listed.items()},
            addresses={name: device["ip_addresses"] for name, device in listed.items()},
        )
    devices.close()


def test_subnet_route_serves_once_approved_and_only_whom_the_policy_lets(cast: Cast) -> None:
    inside, route = "10.91.0.5", "10.91.0.0/16"
    cast.begin(_policy(_acl("ada@", f"{route}:{PORT}")))
    cast.announce("east", route)
    assert cast.administration.routes(cast.ids["east"]).approved == frozenset()
    assert cast.netmap("ada").routes_of("east") == set()
    assert cast.mesh_router(inside) == ""

    cast.administration.approve(cast.ids["east"], route)
    cast.wait_routes("ada", "east", route)
    assert cast.netmap("ada").primary_routes_of("east") == {route}
    cast.wait_admitted("east", "ada", inside)
    # bob sees the router, for its page, but may not use the route.
    bob, router = cast.netmap("bob"), cast.netmap("east")
    assert (bob.routes_of("east"), bob.primary_routes_of("east")) == (set(), set())
    assert not router.admits(cast.addresses["bob"][0], inside, PORT)
    assert router.admits(cast.addresses["mesh"][0], inside, PORT)
    assert not router.admits(cast.addresses["mesh"][0], inside, CLOSED_PORT)
    assert cast.mesh_router(inside) == "east"
    _, dropped = cast.received("east")
    closed = cast.mesh.fetch(f"{inside}:{CLOSED_PORT}", timeout_s=HOPELESS_FETCH_S)
    assert closed.status == 0, closed
    assert cast.received("east")[1] > dropped

    cast.administration.unapprove(cast.ids["east"], route)
    cast.wait_routes("ada", "east")
    cast.wait_admitted("east", "ada", inside, False)
    assert cast.mesh_router(inside) == ""


def test_auto_approvers_approve_what_is_announced_and_what_was(cast: Cast) -> None:
    may = _acl("ada@", f"10.92.0.0/15:{PORT}")
    one, other = "10.92.7.0/24", "10.93.0.0/16"
    cast.begin(_policy(may, autoApprovers={"routes": {"10.92.0.0/16": ["ada@"]}}))
    cast.announce("east", one, other)
    cast.wait_routes("ada", "east", one)
    cast.wait_admitted("east", "mesh", "10.92.7.5")
    assert cast.mesh_router("10.92.7.5") == "east"
    assert cast.mesh_router("10.93.0.5") == ""

    # Another policy approves what was announced before; what the first had approved stays so.
    cast.administration.set_policy(_policy(may, autoApprovers={"routes": {other: ["ada@"]}}))
    cast.wait_routes("ada", "east", one, other)
    cast.wait_admitted("east", "mesh", "10.93.0.5")
    assert cast.mesh_router("10.93.0.5") == "east"
    assert cast.mesh_router("10.92.7.5") == "east"


def test_second_router_takes_over_and_keeps_the_route(cast: Cast) -> None:
    inside, route = "10.94.0.5", "10.94.0.0/16"
    approved = {"routes": {route: ["ada@"]}}
    cast.begin(_policy(_acl("ada@", f"{route}:*"), autoApprovers=approved))
    cast.announce("east", route)
    cast.wait_routes("ada", "east", route)
    cast.announce("west", route)
    # The second is let in to as well: it may have to take over.
    for name in ("east", "west"):
        cast.wait_admitted(name, "mesh", inside)
    assert cast.netmap("ada").routes_of("west") == set()
    assert cast.mesh_router(inside) == "east"

    disco_key = cast.netmap("ada").peers["east"]["DiscoKey"]
    cast.routers["east"].stop()
    cast.wait_routes("ada", "west", route, deadline_s=FAIL_OVER_DEADLINE_S)
    cast.wait_routes("ada", "east")
    assert cast.mesh_router(inside, "west") == "west"

    cast.routers["east"].start().wait_running()
    cast.server.wait_known(cast.ids["ada"], f"east.{BASE_DOMAIN}", disco_key)
    assert cast.netmap("ada").routes_of("east") == set()
    assert cast.netmap("ada").routes_of("west") == {route}
    assert cast.mesh_router(inside) == "west"


def test_established_connection_lasts_as_long_as_the_peer(cast: Cast) -> None:
    """A client's packet filter judges first packets only; to a peer that vanishes there is no way at all."""
    page, place = cast.routers["west"].page, f"{cast.addresses['west'][0]}:80"
    cast.begin(_policy(_acl("ada@", "autogroup:self:80")))
    eventually(
        lambda: cast.netmap("west").admits(cast.addresses["mesh"][0], cast.addresses["west"][0], 80),
        TOLD_DEADLINE_S,
        "west lets mesh in",
    )
    assert cast.mesh.fetch_kept(place, timeout_s=FETCH_S).body == page

    cast.administration.set_policy(_policy())
    eventually(
        lambda: not cast.netmap("west").admits(cast.addresses["mesh"][0], cast.addresses["west"][0], 80),
        TOLD_DEADLINE_S,
        "west does not let mesh in",
    )
    assert cast.mesh.fetch(place, timeout_s=HOPELESS_FETCH_S).body != page
    assert cast.mesh.fetch_kept(place, timeout_s=FETCH_S).body == page

    cast.administration.set_policy({"acls": []})
    eventually(lambda: not cast.netmap("west").peers, TOLD_DEADLINE_S, "west sees nobody")
    assert cast.mesh.fetch_kept(place, timeout_s=HOPELESS_FETCH_S).body != page
    assert any(text in cast.mesh.fetch(place, timeout_s=FETCH_S).body for text in NO_ROUTE)


def test_exit_node_is_used_once_approved_and_allowed(cast: Cast) -> None:
    allowed = _policy(_acl("ada@", "autogroup:internet:*"))
    cast.begin(allowed)
    outside, outside6 = "192.31.196.5", "2620:4f:8000::5"
    ada = cast.web_client(cast.routers["west"], "ada")
    cast.announce("west")
    cast.web_client(cast.ada, "west").announce_exit()
    cast.wait_announced("west", *EXIT_ROUTES)
    assert cast.netmap("ada").routes_of("west") == set()
    assert cast.exit_router(outside) == ""

    cast.server.run("routes", "approve", str(cast.ids["west"]), "0.0.0.0/0")
    cast.wait_routes("ada", "west", *EXIT_ROUTES)
    for address in (outside, outside6):
        cast.wait_admitted("west", "ada", address)
    # Whoever sees an exit node is shown its routes, as by the official service; its filter knows better.
    assert cast.netmap("bob").routes_of("west") == EXIT_ROUTES
    assert not cast.netmap("west").admits(cast.addresses["bob"][0], outside, PORT)
    assert cast.exit_router(outside) == ""
    ada.use_exit(cast.netmap("ada").peers["west"]["StableID"])
    assert cast.exit_router(outside) == "west"
    assert cast.exit_router(f"[{outside6}]") == "west"

    # Without the rule nobody gets out, this device neither; with it again it does.
    cast.administration.set_policy(_policy())
    cast.wait_admitted("west", "ada", outside, False)
    _, dropped = cast.received("west")
    closed = cast.ada.fetch(f"{outside}:{PORT}", timeout_s=HOPELESS_FETCH_S)
    assert closed.status == 0, closed
    assert cast.received("west")[1] > dropped
    cast.administration.set_policy(allowed)
    cast.wait_admitted("west", "ada", outside)
    assert cast.exit_router(outside) == "west"

    cast.administration.unapprove(cast.ids["west"], "0.0.0.0/0")
    cast.wait_routes("ada", "west")
    assert cast.exit_router(outside) == ""
    # First from here: a tsnet device forgets the session with an idle peer that lost its routes, and what the
    # peer sends over it is lost for 15 s.
    cast.web_client(cast.ada, "west").announce_exit(False)
    ada.use_exit("")
