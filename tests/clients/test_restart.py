"""A control server that restarts or crashes: traffic goes on, clients come back with all they had."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.clients.caddy import FetchLoop
from tests.clients.deployment import Deployment, Devices
from tests.clients.server import Server
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

#: A Go client that finds nobody at http://127.0.0.1 tries again after 10 s (CLIENTS.md 1.8).
BACK_DEADLINE_S = 40.0
#: Fetches over a connection from before that must succeed while no server runs.
FETCHES_IN_OUTAGE = 20
OUTAGE_DEADLINE_S = 20.0
DIRECT_DEADLINE_S = 15.0
STORED_DEADLINE_S = 5.0

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def server(deployment: Deployment) -> Server:
    return deployment.server("centre")


@pytest.mark.parametrize("how", [pytest.param("terminated", marks=pytest.mark.chaos), "killed"])
def test_traffic_goes_on_and_clients_return(
    server: Server, devices: Devices, record_property: Record, how: str
) -> None:
    """Two devices go on as if nothing had been; a third, deleted during the outage, is told so at last."""
    names = [f"{name}-{how}" for name in ("ivy", "yew")]
    one, other, deleted = devices.join(server, *names, f"nut-{how}")
    before = devices.meet(server, one, other)

    def is_direct() -> bool:
        assert one.fetch(other.hostname).body == other.page
        return server.client_metrics(before[names[0]]["id"]).get("magicsock_recv_data_ipv4", 0) > 0

    eventually(is_direct, DIRECT_DEADLINE_S, "the two talk directly")
    assert server.metric("hs_sessions") == 3
    mark = deleted.process.mark()
    with FetchLoop(one, other) as loop:
        loop.wait_for_more(1, OUTAGE_DEADLINE_S)
        if how == "killed":
            server.kill()
        else:
            assert server.stop() == 0
        server.delete(before[deleted.hostname]["id"])
        loop.wait_for_more(FETCHES_IN_OUTAGE, OUTAGE_DEADLINE_S)
        assert one.fetch(other.hostname).body == other.page
        assert other.fetch(one.hostname).body == one.page
        server.start()
        up_at = time.monotonic()
        eventually(lambda: server.metric("hs_sessions") == 2, BACK_DEADLINE_S, "both polls are back")
        back_ms = round((time.monotonic() - up_at) * 1000)
        record_property("healthy to all clients back, ms", back_ms)
        print(f"server {how}: healthy to all clients back: {back_ms} ms, {loop.done} fetches meanwhile")
        deleted.wait_needs_login(BACK_DEADLINE_S, mark)
        loop.wait_for_more(1, OUTAGE_DEADLINE_S)
    assert loop.failures == []

    after = server.devices()
    for name in names:
        assert {key: after[name][key] for key in ("id", "ip_addresses", "fqdn", "user")} == {
            key: before[name][key] for key in ("id", "ip_addresses", "fqdn", "user")
        }

    def online() -> bool:
        listed = server.devices()
        return all(listed[name]["online"] for name in names)

    # The list is the database's, where presence is stored in batches.
    eventually(online, STORED_DEADLINE_S, "both are stored as online")
    assert server.metric("hs_registrations_total") == 0
