"""Unmodified clients behind nginx and HAProxy, on ports 443 and 80 as in the samples of `deploy/`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.caddy import FetchLoop
from tests.clients.deployment import USER, Deployment, Devices
from tests.clients.namespace import Namespace
from tests.clients.process import Process
from tests.clients.server import Server
from tests.clients.waiting import eventually
from tests.deploy.proxies import ADDRESS, COMMANDS, CUTS_AFTER_S, SEARCHED, Certificate, Place, program

pytestmark = pytest.mark.clients

HTTPS_PORT, HTTP_PORT = 443, 80
START_DEADLINE_S = 15.0
BACK_DEADLINE_S = 30.0
SHOWN_DEADLINE_S = 20.0
FETCHES_IN_OUTAGE = 20
OUTAGE_DEADLINE_S = 20.0

_LOGIN_PAGE = r"https://[0-9.:]+/register/([0-9a-f]{24})"

Record = Callable[[str, object], None]


@dataclass
class Front:
    """A proxy in the namespace, and the server behind it."""

    name: str
    namespace: Namespace
    place: Place
    server: Server
    process: Process | None = None

    def start(self) -> None:
        argv = COMMANDS[self.name](self.place)
        env = {"PATH": SEARCHED, "HOME": str(self.place.home)}
        log = self.place.home / "log"
        process = self.process = self.namespace.spawn(self.name, argv, log=log, env=env, cwd=self.place.home)

        def listens() -> bool:
            assert process.running, process.tail()
            return self.namespace.fetch(f"http://{ADDRESS}/", timeout_s=2).status == 301

        eventually(listens, START_DEADLINE_S, f"{self.name} listens")

    def stop(self) -> None:
        process, self.process = self.process, None
        assert process is not None
        try:
            process.stop()
        finally:
            self.namespace.release(process)


@pytest.fixture(scope="module", params=sorted(COMMANDS))
def front(
    request: pytest.FixtureRequest,
    namespace: Namespace,
    deployment: Deployment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    program(request.param)
    home: Path = tmp_path_factory.mktemp(request.param)
    certificate = Certificate.make(home)
    server = deployment.server(
        request.param,
        behind=f"https://{ADDRESS}",
        client_env={"SSL_CERT_FILE": str(certificate.chain)},
    )
    place = Place(home, HTTPS_PORT, HTTP_PORT, server.port, certificate)
    made = Front(request.param, namespace, place, server)
    made.start()
    yield made
    if made.process is not None:
        made.stop()


def _fetch_both_ways(devices: Devices, front: Front, *names: str, derp_only: bool = False) -> None:
    one, other = devices.register(front.server, *names, derp_only=derp_only)
    for node in (one, other):
        node.wait_running()
        node.wait_reachable()
    devices.meet(front.server, one, other)
    assert one.fetch(other.hostname).body == other.page
    assert other.fetch(one.hostname).body == one.page


def test_devices_join_and_fetch(front: Front, devices: Devices) -> None:
    _fetch_both_ways(devices, front, "ruby", "opal")
    log = (front.place.home / "log").read_text()
    assert "/key" in log


def test_the_relay_does_not_pass_the_proxy(front: Front, devices: Devices, record_property: Record) -> None:
    """While the proxy is away, devices that have only the relay talk; then they are back by themselves."""
    one, other = devices.register(front.server, "onyx", "jade", derp_only=True)
    for node in (one, other):
        node.wait_running()
        node.wait_reachable()
    devices.meet(front.server, one, other)
    assert one.fetch(other.hostname).body == other.page
    sessions = front.server.metric("hs_sessions")
    with FetchLoop(one, other) as loop:
        loop.wait_for_more(1, OUTAGE_DEADLINE_S)
        front.stop()
        eventually(lambda: front.server.metric("hs_sessions") == 0, OUTAGE_DEADLINE_S, "all polls are cut")
        loop.wait_for_more(FETCHES_IN_OUTAGE, OUTAGE_DEADLINE_S)
        front.start()
        up_at = time.monotonic()
        eventually(
            lambda: front.server.metric("hs_sessions") >= sessions, BACK_DEADLINE_S, "all polls are back"
        )
        record_property("proxy up to all polls back, s", round(time.monotonic() - up_at, 1))
        loop.wait_for_more(1, OUTAGE_DEADLINE_S)
    assert loop.failures == []
    counters = front.server.client_metrics(front.server.devices()["onyx"]["id"])
    assert counters["magicsock_recv_data_derp"] > 0
    assert counters.get("magicsock_recv_data_ipv4", 0) == 0


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_a_client_is_held_and_a_login_waits_longer_than_the_timeout(front: Front, devices: Devices) -> None:
    """The poll of a joined client is never cut; one that waits for its login shows one page all the time."""
    (joined,) = devices.join(front.server, "topaz")
    waiting = devices.start(front.server, "beryl", with_key=False)
    shown = waiting.process.wait_for(_LOGIN_PAGE, SHOWN_DEADLINE_S)
    began = time.monotonic()
    maps = front.server.metric("hs_full_maps_total")  # each poll begins with one
    limit_s = CUTS_AFTER_S[front.name] + 6

    def timeout_has_passed() -> bool:
        assert joined.process.running
        assert front.server.metric("hs_sessions") >= 1
        return time.monotonic() - began > limit_s

    eventually(timeout_has_passed, limit_s + 10, "the timeout has passed")
    assert front.server.metric("hs_full_maps_total") == maps
    mark = waiting.process.mark()
    login = re.search(_LOGIN_PAGE, shown.text)
    assert login is not None
    front.server.run("auth", "approve", login[1], "--user", USER)
    waiting.wait_running(mark)
    pages = set(re.findall(_LOGIN_PAGE, waiting.process.log.read_text()))
    assert pages == {login[1]}
    waiting.wait_reachable()
    devices.meet(front.server, joined, waiting)
    assert joined.fetch("beryl").body == waiting.page
