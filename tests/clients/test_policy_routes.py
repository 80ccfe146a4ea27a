"""Subnet routers and exit nodes between unmodified clients: announced, approved, allowed, used.

Where traffic goes is told by Tailscale's web client on the router: it answers whatever destination a
connection to its port has, and names its own device. Destinations beyond routers are never real.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.clients.administration import Administration
from tests.clients.caddy import WEB_CLIENT_PORT, CaddyNode
from tests.clients.deployment import USER, Deployment, Devices
from tests.clients.mesh import MeshNode, mesh_node
from tests.clients.namespace import Namespace
from tests.clients.netmaps import ClientNetmap
from tests.clients.server import Server
from tests.clients.waiting import eventually
from tests.clients.webclient import WebClient, answered_by

pytestmark = pytest.mark.clients

#: From a decision to its effect at clients, seconds.
TOLD_DEADLINE_S = 5.0
FETCH_S = 5.0
#: A fetch that must fail when its packets vanish.
HOPELESS_FETCH_S = 0.6
#: From the end of a router's process until its peer is answered by the other one.
FAIL_OVER_DEADLINE_S = 10.0
EXIT_ROUTES = {"0.0.0.0/0", "::/0"}

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

    def wait_routes(self, viewer: str, router: str, *routes: str) -> None:
        """Until a device's netmap has exactly these routes by way of a router."""
        eventually(
            lambda: self.netmap(viewer).routes_of(router) == {*routes},
            TOLD_DEADLINE_S,
            f"{viewer} has {routes} by way of {router}",
        )

    def mesh_router(self, address: str) -> str:
        """Who answers the Rust client at an address behind a router; "" for nobody."""
        answer = self.mesh.fetch(f"{address}:{WEB_CLIENT_PORT}", timeout_s=FETCH_S)
        return self._name(answered_by(answer))

    def exit_router(self, address: str) -> str:
        """Who answers `ada` at an address of the internet; "" for nobody."""
        where = f"{address}:{WEB_CLIENT_PORT}"
        return self._name(answered_by(self.ada.fetch(where, timeout_s=FETCH_S)))

    def _name(self, address: str) -> str:
        return next((name for name, own in self.addresses.items() if address.strip("[]") in own), address)


@pytest.fixture(scope="module")
def cast(
    namespace: Namespace, deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cast]:
    server = deployment.server("routes")
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
    cast.administration.set_policy(_policy(_acl("ada@", f"{route}:{WEB_CLIENT_PORT}")))
    cast.announce("east", route)
    assert cast.administration.routes(cast.ids["east"]).approved == frozenset()
    assert cast.netmap("ada").routes_of("east") == set()
    assert cast.mesh_router(inside) == ""

    cast.administration.approve(cast.ids["east"], route)
    cast.wait_routes("ada", "east", route)
    assert cast.netmap("ada").primary_routes_of("east") == {route}
    # bob sees the router, for its page, but may not use the route.
    assert cast.netmap("bob").routes_of("east") == set()
    assert cast.netmap("bob").primary_routes_of("east") == set()
    router = cast.netmap("east")
    for name, admitted in (("ada", True), ("mesh", True), ("bob", False)):
        assert router.admits(cast.addresses[name][0], inside, WEB_CLIENT_PORT) is admitted
        assert not router.admits(cast.addresses[name][0], inside, 80)
    assert cast.mesh_router(inside) == "east"
    # The router's filter drops other ports; it would refuse a connection to a port that only nobody serves.
    other = cast.mesh.fetch(f"{inside}:80", timeout_s=HOPELESS_FETCH_S)
    assert (other.status, "refused" in other.body) == (0, False), other

    cast.administration.unapprove(cast.ids["east"], route)
    cast.wait_routes("ada", "east")
    assert cast.mesh_router(inside) == ""
    assert not cast.netmap("east").admits(cast.addresses["ada"][0], inside, WEB_CLIENT_PORT)


def test_auto_approvers_approve_what_is_announced_and_what_was(cast: Cast) -> None:
    may = _acl("ada@", f"10.92.0.0/15:{WEB_CLIENT_PORT}")
    first = {"routes": {"10.92.0.0/16": ["ada@"]}}
    cast.administration.set_policy(_policy(may, autoApprovers=first))
    cast.announce("east", "10.92.7.0/24", "10.93.0.0/16")
    cast.wait_routes("ada", "east", "10.92.7.0/24")
    assert cast.mesh_router("10.92.7.5") == "east"
    assert cast.mesh_router("10.93.0.5") == ""

    # Neither does somebody else's right help, nor does losing it take back what was approved.
    cast.administration.set_policy(_policy(may, autoApprovers={"routes": {"10.93.0.0/16": ["bob@"]}}))
    cast.wait_routes("ada", "east", "10.92.7.0/24")
    cast.administration.set_policy(_policy(may, autoApprovers={"routes": {"10.93.0.0/16": ["ada@"]}}))
    cast.wait_routes("ada", "east", "10.92.7.0/24", "10.93.0.0/16")
    assert cast.mesh_router("10.93.0.5") == "east"


def test_second_router_takes_over_and_keeps_the_route(cast: Cast) -> None:
    inside, route = "10.94.0.5", "10.94.0.0/16"
    cast.administration.set_policy(
        _policy(_acl("ada@", f"{route}:*"), autoApprovers={"routes": {route: ["ada@"]}})
    )
    cast.announce("east", route)
    cast.wait_routes("ada", "east", route)
    cast.announce("west", route)
    assert cast.netmap("ada").routes_of("west") == set()
    assert cast.mesh_router(inside) == "east"

    cast.routers["east"].stop()
    eventually(lambda: cast.mesh_router(inside) == "west", FAIL_OVER_DEADLINE_S, "west takes over")
    cast.wait_routes("ada", "west", route)
    cast.wait_routes("ada", "east")

    since = cast.server.netmap(cast.ids["ada"]).peers["east"]["DiscoKey"]
    cast.routers["east"].start().wait_running()
    cast.server.wait_known(cast.ids["ada"], "east.mesh.test", since)
    assert cast.netmap("ada").routes_of("east") == set()
    assert cast.netmap("ada").routes_of("west") == {route}
    assert cast.mesh_router(inside) == "west"


def test_exit_node_is_used_once_approved_and_allowed(cast: Cast) -> None:
    allowed = _policy(_acl("ada@", "autogroup:internet:*"))
    cast.administration.set_policy(allowed)
    outside, outside6 = "192.31.196.5", "[2620:4f:8000::5]"
    ada = cast.web_client(cast.routers["west"], "ada")
    cast.announce("west")
    cast.web_client(cast.ada, "west").announce_exit()
    cast.wait_announced("west", *EXIT_ROUTES)
    assert cast.netmap("ada").routes_of("west") == set()
    assert cast.exit_router(outside) == ""

    cast.administration.approve(cast.ids["west"], "0.0.0.0/0")
    cast.wait_routes("ada", "west", *EXIT_ROUTES)
    assert cast.netmap("bob").routes_of("west") == set()
    assert cast.exit_router(outside) == ""
    ada.use_exit(cast.netmap("ada").peers["west"]["StableID"])
    assert eventually(lambda: cast.exit_router(outside), TOLD_DEADLINE_S, "an exit node answers") == "west"
    assert cast.exit_router(outside6) == "west"
    router = cast.netmap("west")
    assert router.admits(cast.addresses["ada"][0], outside, WEB_CLIENT_PORT)
    assert not router.admits(cast.addresses["bob"][0], outside, WEB_CLIENT_PORT)

    # Without the rule the node is no exit any more, for this device either.
    cast.administration.set_policy(_policy())
    cast.wait_routes("ada", "west")
    eventually(
        lambda: not cast.netmap("west").admits(cast.addresses["ada"][0], outside, WEB_CLIENT_PORT),
        TOLD_DEADLINE_S,
        "west lets nobody out",
    )
    assert cast.exit_router(outside) == ""
    cast.administration.set_policy(allowed)
    cast.wait_routes("ada", "west", *EXIT_ROUTES)
    assert eventually(lambda: cast.exit_router(outside), TOLD_DEADLINE_S, "an exit node answers") == "west"
    ada.use_exit("")
