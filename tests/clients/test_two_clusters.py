"""Two clusters on one database, with equal user and device names: pages are fetched, nobody sees across."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.clients.caddy import CaddyNode
from tests.clients.deployment import USER, Deployment, Devices
from tests.clients.server import Server
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

CLUSTERS = ("east", "west")
#: The server stores what changes often, such as who is online, in batches.
LISTED_DEADLINE_S = 10.0
#: Disco finds the direct path while the first packets go by DERP.
DIRECT_DEADLINE_S = 15.0


@pytest.fixture(scope="module")
def servers(deployment: Deployment) -> list[Server]:
    return [deployment.server(cluster_id) for cluster_id in CLUSTERS]


def _fetch_each_other(nodes: list[list[CaddyNode]], names: list[dict[str, str]]) -> list[list[str]]:
    """What the devices of each cluster get from each other by these names; all clusters at once.

    In a cluster one after the other: two handshakes that cross may cost WireGuard seconds.
    """

    def both_ways(pair: list[CaddyNode], name_of: dict[str, str]) -> list[str]:
        return [one.fetch(name_of[other.hostname]).body for one, other in (pair, pair[::-1])]

    with ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(both_ways, nodes, names))


@pytest.mark.parametrize(
    ("hostnames", "derp_only"),
    [(("ash", "oak"), False), pytest.param(("elm", "fir"), True, marks=pytest.mark.chaos)],
    ids=["direct", "derp only"],
)
def test_devices_fetch_pages_of_their_own_cluster(
    servers: list[Server], devices: Devices, hostnames: tuple[str, str], derp_only: bool
) -> None:
    nodes = [devices.register(server, *hostnames, derp_only=derp_only) for server in servers]
    for node in (node for pair in nodes for node in pair):
        node.wait_running()
        node.wait_reachable()
    first, second = hostnames

    def all_online() -> list[dict[str, dict[str, Any]]] | None:
        listed = [server.devices() for server in servers]
        return listed if all(of[name]["online"] for of in listed for name in hostnames) else None

    listed = eventually(all_online, LISTED_DEADLINE_S, "all are listed as online")
    assert listed is not None
    expected = [[f"{second} of {c}", f"{first} of {c}"] for c in CLUSTERS]
    short_names = [{name: name for name in hostnames} for _ in CLUSTERS]
    assert _fetch_each_other(nodes, short_names) == expected
    fqdns = [{name: devices_of[name]["fqdn"] for name in hostnames} for devices_of in listed]
    assert _fetch_each_other(nodes, fqdns) == expected

    for name in hostnames:
        here, there = (devices_of[name] for devices_of in listed)
        assert here["ip_addresses"] == there["ip_addresses"]
        assert here["user"] == there["user"] == USER
    assert {device["id"] for device in listed[0].values()}.isdisjoint(d["id"] for d in listed[1].values())

    for server, devices_of in zip(servers, listed, strict=True):
        device_id = devices_of[first]["id"]
        others = {device["fqdn"] for device in devices_of.values() if device["name"] != first}
        peers = server.known_peers(device_id)
        assert set(peers) == others
        assert {peer["ID"] for peer in peers.values()} == {
            int(device["id"]) for device in devices_of.values() if device["name"] != first
        }
        _check_path(server, device_id, nodes[servers.index(server)][0], second, derp_only=derp_only)


def _check_path(server: Server, device_id: str, node: CaddyNode, peer: str, *, derp_only: bool) -> None:
    """The client's own counters tell which way packets came."""

    def received() -> dict[str, int]:
        assert node.fetch(peer).status == 200
        counters = server.client_metrics(device_id)
        return {way: counters.get(f"magicsock_recv_data_{way}", 0) for way in ("ipv4", "ipv6", "derp")}

    if derp_only:
        counts = received()
        assert counts["derp"] > 0
        assert counts["ipv4"] == counts["ipv6"] == 0
    else:
        eventually(
            lambda: received()["ipv4"] > 0, DIRECT_DEADLINE_S, f"{node!r} receives from {peer} without DERP"
        )
