"""Tags of unmodified clients: asked for, given by an auth key, and what a policy makes of their devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.clients.administration import Administration
from tests.clients.caddy import WEB_CLIENT_PORT, CaddyNode
from tests.clients.deployment import Deployment, Devices
from tests.clients.namespace import Namespace
from tests.clients.server import Server
from tests.clients.waiting import eventually
from tests.clients.webclient import WebClient

pytestmark = pytest.mark.clients

TOLD_DEADLINE_S = 5.0
REFUSED_DEADLINE_S = 10.0
#: A fetch that must fail when its packets vanish.
HOPELESS_FETCH_S = 0.6
ROUTE = "10.95.0.0/16"

OWNERS = {"tag:shop": ["ada@"], "tag:db": ["ada@"]}
#: What ada's devices may do to each other, and to shops. Nothing may be done by a shop.
RULES = [
    {"src": ["ada@"], "dst": ["ada@"], "ip": ["*"]},
    {"src": ["ada@"], "dst": ["tag:shop"], "ip": ["tcp:80"]},
]


@dataclass(frozen=True, slots=True)
class Place:
    server: Server
    administration: Administration
    ada: CaddyNode
    ada_id: str

    def peer(self, name: str) -> dict[str, Any] | None:
        """What the client of `ada` knows of a peer."""
        return self.server.netmap(self.ada_id).peers.get(name)


@pytest.fixture(scope="module")
def place(
    namespace: Namespace, deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    server = deployment.server("tags")
    administration = deployment.administration(server)
    administration.create_user("bob")
    devices = Devices(namespace, tmp_path_factory.mktemp("tags"), deployment)
    (ada,) = devices.join(server, "ada")
    yield Place(server, administration, ada, server.devices()["ada"]["id"])
    devices.close()


def test_a_tag_that_its_owner_asks_for_makes_another_device_of_it(place: Place, devices: Devices) -> None:
    place.administration.set_policy({"tagOwners": OWNERS, "grants": RULES})
    shop = devices.start(place.server, "shop", tags=("tag:shop",))
    shop.wait_running()
    shop.wait_reachable()
    listed = devices.meet(place.server, place.ada, shop)
    assert listed["shop"]["tags"] == ["tag:shop"]
    told = place.server.netmap(listed["shop"]["id"])
    assert told.tags == ["tag:shop"]
    assert place.peer("shop")["Tags"] == ["tag:shop"]  # type: ignore[index]  # they have met
    assert place.ada.fetch("shop").body == shop.page
    # ada asked for it, but it is not hers any more.
    ours, its = listed["ada"]["ip_addresses"][0], listed["shop"]["ip_addresses"][0]
    assert not place.server.netmap(place.ada_id).admits(its, ours, 80)
    assert shop.fetch("ada", timeout_s=HOPELESS_FETCH_S).body == ""
    assert told.admits(ours, its, 80)
    assert not told.admits(ours, its, 8080)


def test_a_tag_is_refused_to_whom_it_does_not_belong(place: Place, devices: Devices) -> None:
    place.administration.set_policy({"tagOwners": OWNERS, "grants": RULES})
    key = place.administration.auth_key("bob")
    thief = devices.start(place.server, "thief", auth_key=key, tags=("tag:shop",))
    refusal = thief.process.wait_for("Received error: .*tag:shop", REFUSED_DEADLINE_S)
    print(refusal.text)
    assert "thief" not in place.server.devices()
    assert place.peer("thief") is None
    assert thief.process.find("-> Running") is None


def test_a_tagged_key_makes_a_router_whose_routes_its_tag_approves(place: Place, devices: Devices) -> None:
    """Its web client obeys ada only as long as a grant lets her edit it."""
    reach = {"src": ["ada@"], "dst": ["tag:db"], "ip": [f"tcp:{WEB_CLIENT_PORT}"]}
    manage = {"src": ["ada@"], "dst": ["tag:db"], "app": {"tailscale.com/cap/webui": [{"canEdit": ["*"]}]}}
    use = {"src": ["ada@"], "dst": [ROUTE], "ip": ["tcp:443"]}
    policy = {"tagOwners": OWNERS, "autoApprovers": {"routes": {ROUTE: ["tag:db"]}}}
    place.administration.set_policy({**policy, "grants": [reach, use]})
    key = place.administration.auth_key("ada", "tag:db")
    db = devices.start(place.server, "db", auth_key=key, web_client=True)
    db.wait_running()
    db.wait_reachable()
    listed = devices.meet(place.server, place.ada, db)
    assert listed["db"]["tags"] == ["tag:db"]
    address = listed["db"]["ip_addresses"][0]

    def granted() -> Any:
        rules = place.server.netmap(listed["db"]["id"]).raw["PacketFilterRules"] or []
        return [grant["CapMap"] for rule in rules for grant in rule.get("CapGrant") or ()]

    assert granted() == []
    session = WebClient(place.ada, address)
    with pytest.raises(AssertionError, match="status=401"):
        session.announce(ROUTE)
    place.administration.set_policy({**policy, "grants": [reach, use, manage]})
    eventually(granted, TOLD_DEADLINE_S, "db knows who may manage it")
    assert granted() == [{"tailscale.com/cap/webui": [{"canEdit": ["*"]}]}]

    session.announce(ROUTE)
    eventually(
        lambda: ROUTE in place.server.netmap(place.ada_id).primary_routes_of("db"),
        TOLD_DEADLINE_S,
        "ada has the route of db",
    )
    assert place.administration.routes(listed["db"]["id"]).approved == {ROUTE}
    ours = listed["ada"]["ip_addresses"][0]
    eventually(
        lambda: place.server.netmap(listed["db"]["id"]).admits(ours, "10.95.0.5", 443),
        TOLD_DEADLINE_S,
        "db lets ada in to its route",
    )
