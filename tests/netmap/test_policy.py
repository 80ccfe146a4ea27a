"""What a change of policy, tags, routes or presence tells whom, and that nobody else hears of it."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from typing import Any

import pytest

from app.model import DeviceId, UserId
from app.netmap.flush import RESYNC, Flush
from app.netmap.members import MAX_LISTS
from app.netmap.tenant import TenantNetmap
from app.netmap.variant import Variant
from app.policy.document import NO_POLICY, Policy
from app.policy.reader import read
from tests.netmap.support import NOW, make_device, make_netmap

TAGS = {"tag:web": ["user1@"], "tag:db": ["user1@"], "tag:router": ["user1@"]}
PAIR = ("10.1.0.0/16",)
SSH = [
    {
        "action": "accept",
        "src": ["autogroup:member"],
        "dst": ["autogroup:self"],
        "users": ["autogroup:nonroot"],
    }
]


def policy(*acls: tuple[str, str], **sections: Any) -> Policy:
    rules = [{"action": "accept", "src": [src], "dst": [dst]} for src, dst in acls]
    return read(json.dumps({"tagOwners": TAGS, "acls": rules, **sections}))


def tagged(number: int, *tags: str, **more: Any) -> Any:
    return make_device(number, user_id=None, tags=tags, **more)


def place(rules: Policy) -> TenantNetmap:
    """1 and 2 belong to users 1 and 2; 3 is web, 4 is db, 5 and 6 carry the same route."""
    netmap = make_netmap(rules)
    netmap.put(make_device(1, user_id=UserId(1)))
    netmap.put(make_device(2, user_id=UserId(2)))
    netmap.put(tagged(3, "tag:web"))
    netmap.put(tagged(4, "tag:db"))
    for number in (5, 6):
        netmap.put(tagged(number, "tag:router", announced_routes=PAIR, approved_routes=PAIR))
    netmap.commit()
    for device in netmap.devices():  # as if all were connected
        netmap.full_map(device.id, Variant.PLAIN, NOW)
    return netmap


def told(flush: Flush) -> dict[int, dict[str, Any]]:
    """The message of every device that gets one."""
    messages = {}
    for number in range(1, 7):
        body = flush.message_for(DeviceId(number), Variant.PLAIN)
        assert body is not RESYNC
        if body is not None:
            messages[number] = json.loads(body)
    return messages


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [row["ID"] for row in rows]


BASE = (("user1@", "tag:web:80"), ("tag:web", "tag:db:5432"))


def test_the_same_rules_in_other_words_tell_nobody_anything() -> None:
    netmap = place(policy(*BASE))
    netmap.set_policy(read("// reviewed\n" + policy(*BASE).text))
    assert told(netmap.commit()) == {}


def test_a_port_more_is_told_to_its_destination_alone() -> None:
    netmap = place(policy(*BASE))
    netmap.set_policy(policy(*BASE, ("user1@", "tag:web:443")))
    messages = told(netmap.commit())
    assert list(messages) == [3]
    assert list(messages[3]) == ["PacketFilters"]
    ports = {entry["Ports"]["First"] for entry in messages[3]["PacketFilters"]["base"][0]["DstPorts"]}
    assert ports == {80, 443}


def test_who_comes_into_sight_is_told_to_both_sides_and_who_goes_out_too() -> None:
    netmap = place(policy(*BASE))
    netmap.set_policy(policy(BASE[0], ("user2@", "tag:db:5432")))
    messages = told(netmap.commit())
    assert {number: ids(m.get("PeersChanged", [])) for number, m in messages.items()} == {
        2: [4],
        3: [],
        4: [2],
    }
    removed = {number: sorted(m.get("PeersRemoved", [])) for number, m in messages.items()}
    assert removed == {2: [], 3: [4], 4: [3]}


def test_nothing_allowed_is_an_empty_filter_and_no_peers() -> None:
    netmap = place(NO_POLICY)
    netmap.set_policy(policy())
    messages = told(netmap.commit())
    for number, message in messages.items():
        assert message["PacketFilters"] == {"*": None, "base": []}
        assert sorted(message["PeersRemoved"]) == [n for n in range(1, 7) if n != number]
    assert len(messages) == 6


def test_ssh_rules_are_revoked_in_so_many_words() -> None:
    ssh = [{"action": "accept", "src": ["user1@"], "dst": ["tag:web"], "users": ["root"]}]
    netmap = place(policy(*BASE, ssh=ssh))
    netmap.set_policy(policy(*BASE))
    assert told(netmap.commit()) == {3: {"SSHPolicy": {"rules": []}}}


def test_attributes_of_its_own_are_told_to_the_device_alone() -> None:
    netmap = place(policy(*BASE))
    attrs = [{"target": ["tag:db"], "attr": ["randomize-client-port"]}]
    netmap.set_policy(policy(*BASE, nodeAttrs=attrs))
    messages = told(netmap.commit())
    assert list(messages) == [4]
    assert "randomize-client-port" in messages[4]["Node"]["CapMap"]


def test_a_newcomer_among_the_sources_renews_the_filters_that_name_it() -> None:
    netmap = place(policy(*BASE))
    netmap.put(make_device(9, user_id=UserId(1)))
    messages = told(netmap.commit())
    assert list(messages) == [3]
    assert "100.64.0.9" in messages[3]["PacketFilters"]["base"][0]["SrcIPs"]
    assert ids(messages[3]["PeersChanged"]) == [9]


def test_a_device_without_a_rule_joins_unheard() -> None:
    netmap = place(policy(*BASE))
    netmap.put(make_device(9, user_id=UserId(3)))
    assert told(netmap.commit()) == {}


def test_a_router_that_goes_away_hands_its_route_to_the_other() -> None:
    netmap = place(policy(("user1@", "10.1.0.0/16:*")))
    assert _routes(netmap, viewer=1) == {5: ["10.1.0.0/16"], 6: []}
    known = netmap.device(DeviceId(5))
    assert known is not None
    netmap.put(replace(known, online=False, last_seen=1_800_000_000.0))
    messages = told(netmap.commit())
    assert {1, 5, 6} >= messages.keys() >= {1}
    assert ids(messages[1]["PeersChanged"]) == [5, 6]
    assert _routes(netmap, viewer=1) == {5: [], 6: ["10.1.0.0/16"]}
    netmap.put(replace(known, online=True))
    netmap.commit()
    assert _routes(netmap, viewer=1) == {5: [], 6: ["10.1.0.0/16"]}, (
        "the primary stays as long as it is online"
    )


def _routes(netmap: TenantNetmap, viewer: int) -> dict[int, list[str]]:
    whole = json.loads(netmap.full_map(DeviceId(viewer), Variant.PLAIN, NOW))
    return {peer["ID"]: peer.get("PrimaryRoutes", []) for peer in whole["Peers"] if peer["ID"] in (5, 6)}


@pytest.mark.parametrize(
    ("rule", "sees"),
    [
        (("user1@", "10.1.0.0/16:80"), [1]),
        (("user2@", "10.1.7.0/24:80"), [2]),
        (("10.1.0.0/16", "tag:db:80"), [4]),
        (("*", "10.1.0.0/16:80"), [1, 2, 3, 4]),
    ],
)
def test_a_route_is_shown_to_who_may_use_it_or_is_reached_from_it(
    rule: tuple[str, str], sees: list[int]
) -> None:
    netmap = place(policy(rule))
    showing = [viewer for viewer in (1, 2, 3, 4) if _routes(netmap, viewer).get(5)]
    assert showing == sees


def test_an_exit_node_offers_both_families_and_suggests_itself() -> None:
    netmap = place(policy(("user1@", "autogroup:internet:*")))
    exits = ("0.0.0.0/0", "::/0")
    netmap.put(tagged(8, "tag:router", announced_routes=exits, approved_routes=exits))
    netmap.commit()
    whole = json.loads(netmap.full_map(DeviceId(1), Variant.PLAIN, NOW))
    (peer,) = whole["Peers"]
    assert peer["AllowedIPs"][2:] == list(exits)
    assert "PrimaryRoutes" not in peer
    assert "suggest-exit-node" in peer["CapMap"]
    own = json.loads(netmap.full_map(DeviceId(8), Variant.PLAIN, NOW))
    assert all("-" in entry["IP"] for entry in own["PacketFilters"]["base"][0]["DstPorts"])


def test_a_device_without_ipv4_neither_shows_nor_sees_any() -> None:
    attrs = [{"target": ["tag:db"], "attr": ["disable-ipv4"]}]
    netmap = place(policy(*BASE, nodeAttrs=attrs))
    own = json.loads(netmap.full_map(DeviceId(4), Variant.PLAIN, NOW))
    assert own["Node"]["Addresses"] == ["fd7a:115c:a1e0::4/128"]
    assert [peer["Addresses"] for peer in own["Peers"]] == [["fd7a:115c:a1e0::3/128"]]
    seen = json.loads(netmap.full_map(DeviceId(3), Variant.PLAIN, NOW))
    assert [p["Addresses"] for p in seen["Peers"] if p["ID"] == 4] == [["fd7a:115c:a1e0::4/128"]]


def test_a_changed_user_moves_its_devices_and_nobody_else() -> None:
    netmap = place(policy(("autogroup:admin", "tag:db:5432")))
    (user,) = [user for user in netmap.users() if user.id == 2]
    netmap.put_user(replace(user, role="admin"))
    flush = netmap.commit()
    assert flush.message_for(DeviceId(2), Variant.PLAIN) is RESYNC
    assert flush.message_for(DeviceId(1), Variant.PLAIN) is None
    body = flush.message_for(DeviceId(4), Variant.PLAIN)
    assert isinstance(body, bytes)
    assert ids(json.loads(body)["PeersChanged"]) == [2]


def test_lists_of_peers_are_bounded_and_what_gave_way_is_made_anew() -> None:
    """Every user sees own devices alone, so every class of viewers has a list of its own."""
    users = tuple(range(1, MAX_LISTS + 11))
    rules = read('{"acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}]}')
    netmap = make_netmap(rules, users)
    for user in users:
        for number in (user, 500 + user):
            netmap.put(make_device(number, user_id=UserId(user)))
    netmap.commit()
    for _ in range(2):
        for user in users:
            whole = json.loads(netmap.full_map(DeviceId(user), Variant.PLAIN, NOW))
            assert ids(whole["Peers"]) == [500 + user]
            assert len(netmap._members._list_of) <= MAX_LISTS
        # What has no list any more must not miss it when its rows change.
        netmap.put(make_device(501, user_id=UserId(1), endpoints=("192.0.2.1:1",)))
        netmap.commit()


def test_a_replaced_policy_leaves_memory_without_the_garbage_collector() -> None:
    """In a large process the collector looks at what is old seldom; edits would pile up until then."""
    netmap = place(policy(("*", "*:*"), ssh=SSH))
    former = weakref.ref(netmap.engine)
    gc.collect()
    gc.disable()
    try:
        netmap.set_policy(policy(("*", "*:22"), ssh=SSH))
        flush = netmap.commit()
        assert told(flush)
        del flush
        assert former() is None
    finally:
        gc.enable()
