"""A client without an auth key: it shows a URL, and the command on the page behind it lets it in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.clients.deployment import USER, Deployment, Devices
from tests.clients.namespace import Namespace
from tests.clients.server import Server

pytestmark = pytest.mark.clients

SHOWN_DEADLINE_S = 30.0
#: A Go client that finds nobody at http://127.0.0.1 tries again after 10 s (CLIENTS.md 1.8).
BACK_DEADLINE_S = 40.0
_URL = r"http://[0-9.:]+/register/([0-9a-f]{24})"

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def server(deployment: Deployment) -> Server:
    return deployment.server("centre")


def _url(text: str) -> str:
    found = re.search(_URL, text)
    assert found is not None, text
    return found[0]


def test_a_client_without_a_key_runs_once_approved(
    server: Server, devices: Devices, namespace: Namespace, record_property: Record
) -> None:
    """The page's own command, word for word; then traffic both ways."""
    (peer,) = devices.join(server, "oak")
    device = devices.start(server, "elm", with_key=False)
    url = _url(device.process.wait_for(_URL, SHOWN_DEADLINE_S).text)
    page = namespace.fetch(url)
    assert page.status == 200
    assert "<dd>elm</dd>" in page.body
    command = re.search(r"<pre>hs-node (auth approve [0-9a-f]{24} --user) USER</pre>", page.body)
    assert command is not None, page.body
    (asked,) = server.run("auth", "list")
    assert (asked["hostname"], asked["state"]) == ("elm", "pending")
    assert asked["fingerprint"] in page.body
    mark = device.process.mark()
    server.run(*command[1].split(), USER)
    approved_at = time.monotonic()
    running_ms = round((device.wait_running(mark).at - approved_at) * 1000)
    record_property("from the end of the approve command to Running, ms", running_ms)
    print(f"from the end of the approve command to Running: {running_ms} ms")
    device.wait_reachable()
    listed = devices.meet(server, device, peer)
    assert listed["elm"]["user"] == USER
    assert device.fetch(peer.hostname).body == peer.page
    assert peer.fetch(device.hostname).body == device.page
    assert "Approved" in namespace.fetch(url).body


@pytest.mark.chaos
def test_approved_while_the_server_was_away(server: Server, devices: Devices) -> None:
    """The waiting client comes back by itself and is in; it never had to show a second URL."""
    device = devices.start(server, "fir", with_key=False)
    line = device.process.wait_for(_URL, SHOWN_DEADLINE_S)
    url = _url(line.text)
    mark = device.process.mark()
    server.kill()
    server.run("auth", "approve", url.rpartition("/")[2], "--user", USER)
    server.start()
    device.process.wait_for(r"Switching ipn state \w+ -> (Starting|Running)", BACK_DEADLINE_S, mark)
    device.wait_running(mark)
    assert server.devices()["fir"]["user"] == USER
    shown = {found[0] for found in re.finditer(_URL, device.process.log.read_text())}
    assert shown == {url}
