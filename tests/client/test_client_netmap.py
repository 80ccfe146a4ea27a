"""The Go client's reading of map messages: order, traps, and what it stumbles over."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.client.netmap import MAX_VIOLATIONS, WHOLE_ONLY, ClientNetmap, shrink
from app.errors import RemoteProtocolError
from app.keys import DiscoKey, MachineKey, NodeKey
from app.model import Device, DeviceId, TenantId, UserId
from app.wire.tailcfg import WHOLE, live_fields, patch, static_fields

OWN = {"ID": 1, "Name": "self.x.", "User": 1}
PROFILES = [{"ID": 1, "LoginName": "ann"}]


def row(device_id: int, **members: Any) -> dict[str, Any]:
    return {
        "ID": device_id,
        "Name": f"d{device_id}.x.",
        "User": 1,
        "Key": "nodekey:" + f"{device_id:064x}",
        "Addresses": [f"100.64.0.{device_id}/32"],
        "Endpoints": ["1.2.3.4:5"],
        "HomeDERP": 900,
        "Cap": 130,
        "Online": True,
        **members,
    }


def started(*peers: dict[str, Any]) -> ClientNetmap:
    netmap = ClientNetmap()
    netmap.apply({"Node": OWN, "Peers": list(peers), "UserProfiles": PROFILES})
    assert netmap.violations == []
    return netmap


def test_the_first_message_needs_node() -> None:
    netmap = ClientNetmap()
    netmap.apply({"KeepAlive": True, "Peers": [row(2)]})
    assert (netmap.keepalives, netmap.messages, netmap.peers) == (1, 0, {})
    with pytest.raises(RemoteProtocolError, match="lacks Node"):
        netmap.apply({"Peers": [row(2)]})
    assert netmap.violations == ["the first message lacks Node"]


def test_peers_replace_everything_and_hide_the_other_members() -> None:
    netmap = started(row(2), row(3))
    netmap.apply(
        {"Peers": [row(4)], "PeersRemoved": [4], "PeersChanged": [row(5)], "OnlineChange": {"4": False}}
    )
    assert list(netmap.peers) == [4]
    assert netmap.peers[4]["Online"] is True
    assert netmap.violations == [
        "PeersRemoved beside Peers is ignored",
        "PeersChanged beside Peers is ignored",
        "OnlineChange beside Peers is ignored",
    ]


@pytest.mark.parametrize("peers", [[], None])
def test_empty_peers_mean_no_change(peers: list[Any] | None) -> None:
    netmap = started(row(2))
    netmap.apply({"Peers": peers})
    assert list(netmap.peers) == [2]
    assert bool(netmap.violations) == (peers == [])


@pytest.mark.parametrize(
    ("changed", "present"),
    [
        ({}, False),  # identical: shrinks to nothing, then the removal takes it
        ({"Online": False}, False),  # shrinks to a patch, which then finds nobody
        ({"Addresses": ["100.64.0.99/32"]}, True),  # stays whole, comes after the removal
        ({"Name": "new.x."}, True),
    ],
)
def test_one_id_removed_and_changed(changed: dict[str, Any], present: bool) -> None:
    netmap = started(row(2))
    netmap.apply({"PeersRemoved": [2], "PeersChanged": [row(2, **changed)]})
    assert (2 in netmap.peers) is present
    assert "device 2 is in PeersRemoved and PeersChanged of one message" in netmap.violations


def test_members_apply_in_order() -> None:
    netmap = started(row(2), row(3))
    netmap.apply(
        {
            "PeersRemoved": [3, 77],
            "PeersChanged": [row(4, Online=False)],
            "PeerSeenChange": {"4": True, "2": False},
            "OnlineChange": {"4": True},
            "PeersChangedPatch": [{"NodeID": 4, "Online": False, "DERPRegion": 901}],
        },
        now=60.0,
    )
    assert sorted(netmap.peers) == [2, 4]
    assert netmap.peers[4]["LastSeen"] == "1970-01-01T00:01:00Z"
    assert netmap.peers[2]["LastSeen"] is None
    assert (netmap.peers[4]["Online"], netmap.peers[4]["HomeDERP"]) == (False, 901)
    assert netmap.violations == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"DERPRegion": 901}, {"HomeDERP": 901}),
        ({"DERPRegion": 0}, {"HomeDERP": 900}),
        ({"Cap": 0}, {"Cap": 130}),
        ({"Cap": 131}, {"Cap": 131}),
        ({"Endpoints": []}, {"Endpoints": []}),
        ({"Endpoints": None}, {"Endpoints": ["1.2.3.4:5"]}),
        ({"Key": "nodekey:" + "ab" * 32}, {"Key": "nodekey:" + "ab" * 32}),
        ({"DiscoKey": "discokey:" + "ab" * 32, "Online": True}, {"DiscoKey": "discokey:" + "ab" * 32}),
        ({"KeyExpiry": "2030-01-01T00:00:00Z"}, {"KeyExpiry": "2030-01-01T00:00:00Z"}),
        ({"Online": False, "LastSeen": "2030-01-01T00:00:00Z"}, {"Online": False}),
        ({"CapMap": {}}, {"CapMap": {}}),
    ],
)
def test_patches(change: dict[str, Any], expected: dict[str, Any]) -> None:
    netmap = started(row(2))
    netmap.apply({"PeersChangedPatch": [{"NodeID": 2, **change}]})
    assert {name: netmap.peers[2][name] for name in expected} == expected
    assert netmap.violations == []


def test_rows_are_replaced_not_changed_in_place() -> None:
    netmap = started(row(2))
    before = netmap.peers[2]
    netmap.apply({"OnlineChange": {"2": False}})
    assert before["Online"] is True


@pytest.mark.parametrize(
    "message",
    [
        {"PeersChangedPatch": [{"NodeID": 9, "Online": True}]},
        {"OnlineChange": {"9": True}},
        {"PeerSeenChange": {"9": True}},
    ],
)
def test_what_concerns_strangers_is_ignored_and_noted(message: dict[str, Any]) -> None:
    netmap = started(row(2))
    netmap.apply(message)
    assert list(netmap.peers) == [2]
    assert len(netmap.violations) == 1
    assert "device 9, which is no peer" in netmap.violations[0]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"PeersChanged": [row(1)]}, "the own device is in PeersChanged"),
        ({"Peers": [row(2), row(2)]}, "an id stands in Peers twice"),
        ({"PeersChanged": [row(3, User=8)]}, "device 3: no profile of User 8"),
        ({"PeersChanged": [row(3, Name="d3.x")]}, "PeersChanged row 3: Name has no trailing dot"),
        ({"PeersChanged": [row(2, HomeDERP=0)]}, "row of device 2 cannot clear HomeDERP: it becomes a patch"),
        ({"PeersChanged": [row(2, Cap=0)]}, "row of device 2 cannot clear Cap: it becomes a patch"),
        (
            {"PeersChanged": [row(2, Endpoints=None)]},
            "row of device 2 cannot clear Endpoints unless it says []",
        ),
        (
            {"PeersChangedPatch": [{"NodeID": 2, "DiscoKey": "discokey:" + "1" * 64, "Online": False}]},
            "patch for device 2 has a DiscoKey and Online false: newer clients drop it",
        ),
    ],
)
def test_notes(message: dict[str, Any], text: str) -> None:
    netmap = started(row(2))
    netmap.apply(message)
    assert netmap.violations == [text]


def test_notes_are_bounded() -> None:
    netmap = started(row(2))
    netmap.apply({"OnlineChange": {str(device_id): True for device_id in range(100, 400)}})
    assert len(netmap.violations) == MAX_VIOLATIONS


@pytest.mark.parametrize(
    "broken",
    [
        {"Key": "nodekey:12"},
        {"Key": "mkey:" + "1" * 64},
        {"Key": 5},
        {"Machine": "mkey:"},
        {"DiscoKey": "discokey:" + "g" * 64},
        {"ID": 0},
        {"ID": "2"},
        {"Addresses": ["100.64.0.2"]},
        {"AllowedIPs": ["100.64.0.2/33"]},
        {"AllowedIPs": [5]},
        {"Endpoints": ["1.2.3.4"]},
        {"Endpoints": ["::1:5"]},
        {"KeyExpiry": "soon"},
        {"LastSeen": 5},
        {"Online": "true"},
    ],
)
def test_what_cannot_be_decoded_ends_the_poll(broken: dict[str, Any]) -> None:
    for message in ({"PeersChanged": [row(2) | broken]}, {"Node": OWN | broken}):
        netmap = started()
        with pytest.raises(RemoteProtocolError):
            netmap.apply(message)
        assert netmap.violations


def test_filters_by_name() -> None:
    netmap = started()
    steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"PacketFilter": []}, {"base": []}),
        ({"PacketFilters": {}}, {"base": []}),
        ({"PacketFilters": {"a": [1], "b": [2]}}, {"base": [], "a": [1], "b": [2]}),
        ({"PacketFilters": {"a": None}}, {"base": [], "b": [2]}),
        ({"PacketFilters": {"*": None, "c": [3]}}, {"c": [3]}),
        ({"PacketFilters": None, "PacketFilter": None}, {"c": [3]}),
        ({"PacketFilters": {"*": None}}, {}),
    ]
    for message, expected in steps:
        netmap.apply(message)
        assert netmap.filters == expected


def test_derp_map_deltas() -> None:
    netmap = started()
    regions = {"900": {"RegionID": 900}, "901": None}
    netmap.apply({"DERPMap": {"omitDefaultRegions": True, "Regions": regions}})
    kept = {"900": {"RegionID": 900}}
    assert netmap.derp_map == {"omitDefaultRegions": True, "Regions": kept, "HomeParams": None}
    netmap.apply({"DERPMap": {"HomeParams": {"RegionScore": {"900": 2}}}})
    assert netmap.derp_map["Regions"] == kept
    assert netmap.derp_map["omitDefaultRegions"] is True
    netmap.apply({"DERPMap": {"Regions": {}, "HomeParams": {}}})
    assert netmap.derp_map["Regions"] == {}
    assert netmap.derp_map["HomeParams"] == {"RegionScore": {"900": 2}}


def test_dns_is_replaced_whole_and_profiles_add_up() -> None:
    netmap = started()
    netmap.apply(
        {"DNSConfig": {"Proxied": True, "Domains": ["x"]}, "Domain": "x", "UserProfiles": [{"ID": 2}]}
    )
    netmap.apply({"DNSConfig": {"Domains": ["y"]}, "Domain": "", "SSHPolicy": {"rules": []}})
    assert netmap.dns_config == {"Domains": ["y"]}
    assert netmap.domain == "x"
    assert sorted(netmap.user_profiles) == [1, 2]
    assert netmap.ssh_policy == {"rules": []}
    netmap.apply({"DNSConfig": None, "SSHPolicy": None, "Health": ["bad"], "CollectServices": False})
    assert (netmap.dns_config, netmap.health, netmap.collect_services) == ({"Domains": ["y"]}, ["bad"], False)


def test_display_messages_by_name() -> None:
    netmap = started()
    netmap.apply({"DisplayMessages": {"a": {"Title": "A"}, "b": {"Title": "B"}}})
    netmap.apply({"DisplayMessages": {"a": None}})
    assert netmap.display_messages == {"b": {"Title": "B"}}


def test_keepalives_carry_nothing_but_the_time() -> None:
    netmap = started(row(2))
    netmap.apply({"KeepAlive": True, "PeersRemoved": [2], "ControlTime": "2026-01-01T00:00:00Z"})
    assert list(netmap.peers) == [2]
    assert netmap.control_time == "2026-01-01T00:00:00Z"
    assert (netmap.keepalives, netmap.messages) == (1, 1)


@pytest.mark.parametrize("member", WHOLE_ONLY)
def test_members_that_keep_a_row_whole(member: str) -> None:
    assert shrink(row(2), row(2, **{member: "other"})) is None


@pytest.mark.parametrize(
    ("was", "now", "change"),
    [
        ({}, {}, {}),
        ({"Tags": None}, {"Tags": []}, {}),
        ({}, {"AllowedIPs": ["100.64.0.2/32"]}, {}),
        ({"Created": "0001-01-01T00:00:00Z"}, {}, {}),
        ({"KeyExpiry": "2030-01-01T00:00:00Z"}, {}, {"KeyExpiry": "0001-01-01T00:00:00Z"}),
        ({"DiscoKey": "discokey:" + "1" * 64}, {}, {"DiscoKey": "discokey:" + "0" * 64}),
        ({}, {"HomeDERP": 0}, {"DERPRegion": 0}),
        ({}, {"Endpoints": []}, {"Endpoints": []}),
        ({}, {"Online": None}, {}),
        ({"Online": None}, {}, {}),
        ({}, {"Online": False, "LastSeen": "2030-01-01T00:00:00Z"}, {"Online": False}),
        ({}, {"CapMap": {"a": None}}, {"CapMap": {"a": None}}),
        ({"CapMap": {"a": None}}, {}, {"CapMap": {}}),
    ],
)
def test_shrinking(was: dict[str, Any], now: dict[str, Any], change: dict[str, Any]) -> None:
    assert shrink(row(2, **was), row(2, **now)) == change


def test_a_null_hostinfo_is_not_an_empty_one() -> None:
    assert shrink(row(2), row(2, Hostinfo={})) is None


def test_invariants_of_the_whole_map() -> None:
    netmap = started(row(2), row(3))
    assert netmap.check_invariants() == []
    netmap.apply({"PeersChanged": [row(4, Key=row(2)["Key"], AllowedIPs=["0.0.0.0/0", "100.64.0.3/32"])]})
    netmap.apply(
        {"PeersChanged": [row(3, AllowedIPs=["0.0.0.0/0", "100.64.0.3/32"])], "Node": {**OWN, "ID": 2}}
    )
    assert netmap.check_invariants() == [
        "the own device is among the peers",
        "devices 2 and 4 have one node key",
        "devices 3 and 4 both own 100.64.0.3/32",
    ]


def test_equal_maps_have_equal_views() -> None:
    one = started(
        row(2, LastSeen="2030-01-01T00:00:00Z"), row(3, Online=False, LastSeen="2031-01-01T00:00:00Z")
    )
    two = started(row(3, Online=False, Tags=[], KeyExpiry="0001-01-01T00:00:00Z"), row(2, Expired=False))
    assert one.view() == two.view()
    assert one.view(last_seen=True) != two.view(last_seen=True)
    assert "LastSeen" not in one.view(last_seen=True)["Peers"][2]
    two.apply({"OnlineChange": {"2": False}})
    assert one.view() != two.view()


def test_peers_by_name() -> None:
    netmap = started(row(2))
    assert netmap.peer_named("d2") is netmap.peers[2]
    assert netmap.peer_named("d3") is None


DEVICE = Device(
    id=DeviceId(2),
    tenant_id=TenantId(1),
    user_id=UserId(1),
    machine_key=MachineKey(b"\x01" * 32),
    node_key=NodeKey(b"\x02" * 32),
    disco_key=DiscoKey(b"\x03" * 32),
    ipv4="100.64.0.2",
    ipv6="fd7a:115c:a1e0::2",
    hostname="d2",
    given_name="d2",
    created=1.0,
)
states = st.builds(
    replace,
    st.just(DEVICE),
    node_key=st.sampled_from([NodeKey(b"\x02" * 32), NodeKey(b"\x04" * 32)]),
    disco_key=st.sampled_from([DiscoKey(bytes(32)), DiscoKey(b"\x03" * 32), DiscoKey(b"\x05" * 32)]),
    expiry=st.sampled_from([None, 10.0, 20.0]),
    endpoints=st.sampled_from([(), ("1.1.1.1:1",), ("1.1.1.1:1", "2.2.2.2:2")]),
    home_derp=st.sampled_from([900, 901]),
    capver=st.sampled_from([130, 131]),
    online=st.booleans(),
    last_seen=st.sampled_from([1.0, 2.0, 3.0]),
    hostname=st.just("d2"),
    hostinfo=st.sampled_from([b'{"OS":"linux"}', b'{"OS":"plan9"}']),
)


def wire_row(device: Device) -> dict[str, Any]:
    decoded: dict[str, Any] = orjson.loads(orjson.dumps(static_fields(device, "d2.x") | live_fields(device)))
    return decoded


@given(st.lists(states, min_size=2, max_size=8))
@settings(max_examples=200, deadline=None)
def test_patches_and_rows_lead_where_a_full_map_leads(history: list[Device]) -> None:
    netmap = started(wire_row(history[0]))
    for old, new in itertools.pairwise(history):
        change = patch(new.id, old, new)
        if change is WHOLE or old.hostinfo != new.hostinfo:
            netmap.apply({"PeersChanged": [wire_row(new)]})
        elif change is not None:
            netmap.apply({"PeersChangedPatch": [orjson.loads(orjson.dumps(change))]})
        fresh = started(wire_row(new))
        assert netmap.view()["Peers"] == fresh.view()["Peers"]
    assert [note for note in netmap.violations if "DiscoKey" not in note] == []


@given(
    st.lists(st.sampled_from(["Peers", "PeersChanged", "PeersRemoved", "OnlineChange"]), max_size=12),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_messages_are_left_as_they_came(kinds: list[str], data: st.DataObject) -> None:
    netmap = started(row(2))
    for kind in kinds:
        device_id = data.draw(st.integers(2, 5))
        content: dict[str, Any] = {
            "Peers": [row(device_id)],
            "PeersChanged": [row(device_id, Cap=device_id)],
            "PeersRemoved": [device_id],
            "OnlineChange": {str(device_id): False},
        }
        message = {kind: content[kind]}
        copied = copy.deepcopy(message)
        netmap.apply(message)
        assert message == copied
        assert netmap.check_invariants() == []
