"""Deleted and expired devices lose access, also when they were away at the time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients.caddy import CaddyNode
from tests.clients.deployment import USER, Deployment, Devices
from tests.clients.server import Server
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

#: From the command's end to the client's own word for it, seconds.
OUT_DEADLINE_S = 5.0
#: A fetch that must fail: its packets vanish, so it ends by its own time-out.
HOPELESS_FETCH_S = 2.0


@pytest.fixture(scope="module")
def server(deployment: Deployment) -> Server:
    return deployment.server("south")


def _assert_connected(device: CaddyNode, peer: CaddyNode) -> None:
    """Either reaches the other; one after the other, for crossing handshakes may cost seconds."""
    assert device.fetch(peer.hostname).body == peer.page
    assert peer.fetch(device.hostname).body == device.page


def _assert_cut_off(device: CaddyNode, peer: CaddyNode) -> None:
    """Neither reaches the other."""
    with ThreadPoolExecutor(2) as pool:
        there = pool.submit(device.fetch, peer.hostname, timeout_s=HOPELESS_FETCH_S)
        back = pool.submit(peer.fetch, device.hostname, timeout_s=HOPELESS_FETCH_S)
        assert there.result().body != peer.page
        assert back.result().body != device.page


def test_deleted_device_is_out(server: Server, devices: Devices) -> None:
    peer, device = devices.join(server, "ada-1", "bob-1")
    listed = devices.meet(server, peer, device)
    _assert_connected(device, peer)
    mark = device.process.mark()
    server.delete(listed["bob-1"]["id"])
    device.wait_needs_login(OUT_DEADLINE_S, mark)
    assert "bob-1" not in server.devices()
    assert listed["bob-1"]["fqdn"] not in server.known_peers(listed["ada-1"]["id"])
    _assert_cut_off(device, peer)


@pytest.mark.chaos
def test_device_deleted_while_away_stays_out(server: Server, devices: Devices) -> None:
    """Its auth key is used up, so the state it kept is all it has to show."""
    (peer,) = devices.join(server, "ada-2")
    device = devices.start(server, "bob-2", auth_key=server.auth_key(USER))
    device.wait_running()
    device.wait_reachable()
    listed = devices.meet(server, peer, device)
    _assert_connected(device, peer)
    device.stop()
    server.delete(listed["bob-2"]["id"])
    device.start()
    device.process.wait_for("Received error: auth key already used", OUT_DEADLINE_S)
    assert "bob-2" not in server.devices()
    assert listed["bob-2"]["fqdn"] not in server.known_peers(listed["ada-2"]["id"])
    _assert_cut_off(device, peer)
    assert device.process.find("-> Running") is None


def test_expired_device_needs_login_and_peers_drop_it(server: Server, devices: Devices) -> None:
    peer, device = devices.join(server, "ada-3", "bob-3")
    listed = devices.meet(server, peer, device)
    _assert_connected(device, peer)
    mark = device.process.mark()
    server.expire(listed["bob-3"]["id"])
    device.wait_needs_login(OUT_DEADLINE_S, mark)

    def dropped() -> bool:
        known = server.known_peers(listed["ada-3"]["id"]).get(listed["bob-3"]["fqdn"])
        return known is None or bool(known.get("Expired"))

    eventually(dropped, OUT_DEADLINE_S, "the peer's client treats the device as expired")
    _assert_cut_off(device, peer)
