"""Newcomers and restarted devices: the first packet gets through at once, and only they get a full map."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients.caddy import CaddyNode
from tests.clients.deployment import Deployment, Devices
from tests.clients.server import BASE_DOMAIN, Server
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

#: The promise: from "Running" to a page, seconds. A lost first handshake would cost 5 (CLIENTS.md 1.1).
FIRST_PACKET_S = 1.0
#: Until a device's client has told everything about itself and the server has passed it on.
SETTLED_DEADLINE_S = 10.0

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def server(deployment: Deployment) -> Server:
    return deployment.server("north")


def _fetch_in_time(fetches: list[tuple[CaddyNode, CaddyNode]], since: float) -> list[float]:
    """Seconds from `since` to the page, for each (from, to), all at once. Each gets one try.

    Earlier than the peer knows a newcomer's relay, and the relay the newcomer, a first packet is lost
    whatever a control server does: callers wait for both, and that counts.
    """
    with ThreadPoolExecutor(len(fetches)) as pool:
        tries = [pool.submit(one.fetch, to.hostname, timeout_s=10) for one, to in fetches]
        answers = [one_try.result() for one_try in tries]
    assert [answer.body for answer in answers] == [to.page for _, to in fetches], answers
    return [answer.at - since for answer in answers]


def _note(record: Record, what: str, seconds: list[float]) -> None:
    for way, value in zip(("to it", "from it"), seconds, strict=True):
        record(f"{what}, {way}, ms", round(value * 1000))
        print(f"first packet: {what}, {way}: {value * 1000:.0f} ms")
    assert max(seconds) < FIRST_PACKET_S


def _maps(server: Server) -> float:
    return server.metric("hs_full_maps_total")


def test_newcomer_gets_the_only_full_map_and_others_know_it(server: Server, devices: Devices) -> None:
    devices.join(server, "ant", "bee")
    before = _maps(server)
    resyncs = server.metric("hs_resyncs_total")
    devices.join(server, "cat")
    listed = server.devices()
    fqdn = listed["cat"]["fqdn"]
    for name in ("ant", "bee"):
        peer = server.known_peers(listed[name]["id"])[fqdn]
        assert peer["ID"] == int(listed["cat"]["id"])
        assert {address.split("/")[0] for address in peer["Addresses"]} == set(listed["cat"]["ip_addresses"])

    def has_derp_and_endpoints() -> bool:
        peer = server.known_peers(listed["ant"]["id"])[fqdn]
        return bool(peer.get("HomeDERP") and peer.get("Endpoints") and peer.get("Online"))

    eventually(has_derp_and_endpoints, SETTLED_DEADLINE_S, "ant knows where cat is")
    assert _maps(server) - before == 1
    assert server.metric("hs_resyncs_total") == resyncs


def test_first_packet_to_and_from_a_newcomer(
    server: Server, devices: Devices, record_property: Record
) -> None:
    old, other = devices.join(server, "dog", "eel")
    old_id = server.devices()["dog"]["id"]
    newcomer = devices.start(server, "fox")
    running = newcomer.wait_running()
    newcomer.wait_reachable()
    server.wait_known(old_id, f"fox.{BASE_DOMAIN}")
    record_property("start to Running, ms", round((running.at - newcomer.process.started_at) * 1000))
    _note(record_property, "newcomer", _fetch_in_time([(old, newcomer), (newcomer, other)], running.at))


def test_first_packet_to_and_from_a_restarted_device(
    server: Server, devices: Devices, record_property: Record
) -> None:
    old, other, restarted = devices.join(server, "gnu", "hen", "ibis")
    listed = devices.meet(server, old, other, restarted)
    for one, to in ((old, restarted), (restarted, other)):
        assert one.fetch(to.hostname).body == to.page
    identity, old_id = listed["ibis"], listed["gnu"]["id"]
    disco_key = server.known_peers(old_id)[identity["fqdn"]]["DiscoKey"]
    restarted.stop()
    restarted.start()
    running = restarted.wait_running()
    restarted.wait_reachable()
    server.wait_known(old_id, identity["fqdn"], disco_key)
    _note(record_property, "restarted", _fetch_in_time([(old, restarted), (restarted, other)], running.at))
    after = server.devices()["ibis"]
    assert (after["id"], after["ip_addresses"]) == (identity["id"], identity["ip_addresses"])
