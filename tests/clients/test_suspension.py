"""A suspended tenant's Tailscale clients: they reach nobody, stay logged in, and come back as they were."""

from __future__ import annotations

import pytest

from tests.clients.deployment import Deployment, Devices
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

CUT_OFF_DEADLINE_S = 10.0
#: A Go client that is refused asks again after 30 s at most.
BACK_DEADLINE_S = 45.0


def test_clients_are_cut_off_and_come_back(deployment: Deployment, devices: Devices) -> None:
    server = deployment.server("centre")
    administration = deployment.administration(server)
    one, other = devices.join(server, "rook", "daw")
    before = devices.meet(server, one, other)
    assert one.fetch(other.hostname).body == other.page
    marks = {node: node.process.mark() for node in (one, other)}

    administration.set_status("suspended")
    address = before[other.hostname]["ip_addresses"][0]
    eventually(
        lambda: one.fetch(address, timeout_s=1).body != other.page, CUT_OFF_DEADLINE_S, "nobody is reached"
    )
    for node, mark in marks.items():
        node.process.wait_for("failed 403: this tailnet is suspended", CUT_OFF_DEADLINE_S, mark)

    administration.set_status("active")
    eventually(
        lambda: one.fetch(other.hostname, timeout_s=2).body == other.page, BACK_DEADLINE_S, "all is as it was"
    )
    after = server.devices()
    for node, mark in marks.items():
        assert node.process.find("NeedsLogin", mark) is None, "it was never logged out"
        assert {key: after[node.hostname][key] for key in ("id", "ip_addresses", "user")} == {
            key: before[node.hostname][key] for key in ("id", "ip_addresses", "user")
        }
