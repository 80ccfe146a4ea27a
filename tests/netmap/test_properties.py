"""The engine's invariants over random histories, seen by a model of the Go client.

For every viewer: previous map + delta = fresh full map, a patch never reaches who may not see the
device, who is not concerned gets nothing, and no id is removed and changed in one message.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from app.client.netmap import ClientNetmap
from app.keys import DiscoKey, NodeKey
from app.model import Device, DeviceId, User, UserId
from app.netmap import tenant
from app.netmap.flush import RESYNC, Flush
from app.netmap.tenant import TenantNetmap
from app.netmap.variant import Variant
from app.policy.document import NO_POLICY, Policy
from tests.netmap.support import NOW, TENANT, key, make_device, make_netmap, pairs_policy

_SELF = (
    *("ID", "Name", "User", "Addresses", "AllowedIPs", "PrimaryRoutes", "CapMap", "Tags", "KeyExpiry"),
    "Expired",
)
TAGS = ("tag:a", "tag:b")
ROUTES = ("0.0.0.0/0", "10.1.0.0/16", "10.1.2.0/24", "::/0")
#: Sections that a random policy has or has not, beside who reaches whom.
SECTIONS: dict[str, dict[str, Any]] = {
    "self": {"src": ["autogroup:member"], "dst": ["autogroup:self:*"]},
    "tags": {"src": ["tag:a"], "dst": ["tag:b:22", "user1@:80"]},
    "route": {"src": ["user1@", "user2@"], "dst": ["10.1.0.0/16:443"]},
    "way back": {"src": ["10.1.2.0/24"], "dst": ["user3@:*"]},
    "wild": {"src": ["*"], "dst": ["tag:b:80"]},
    "exit": {"src": ["user4@"], "dst": ["autogroup:internet:*"]},
    "host": {"src": ["100.64.0.3"], "dst": ["100.64.0.4:1"]},
}
SSH: list[dict[str, Any]] = [
    {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self", "tag:a"], "users": ["root"]}
]
ATTRS = [
    {"target": ["user2@"], "attr": ["disable-ipv4"]},
    {"target": ["tag:a"], "attr": ["randomize-client-port"]},
]
VIA = [{"src": ["user1@", "tag:b"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:a"]}]

numbers = st.integers(1, 9)
owners = st.integers(1, 4)
# A known disco key or home relay is never cleared (node.hub), only replaced.
edits = st.one_of(
    st.tuples(st.just("endpoints"), st.lists(st.sampled_from(["1.2.3.4:5", "[2001:db8::1]:9"]), max_size=2)),
    st.tuples(st.just("home_derp"), st.integers(1, 3)),
    st.tuples(st.just("disco_key"), st.integers(1, 4)),
    st.tuples(st.just("node_key"), st.integers(50, 60)),
    st.tuples(st.just("online"), st.booleans()),
    st.tuples(st.just("expiry"), st.sampled_from([None, 1_900_000_000.0, 1_950_000_000.5])),
    st.tuples(st.just("hostinfo"), st.sampled_from([b'{"OS":"linux"}', b'{"OS":"plan9"}'])),
    st.tuples(st.just("given_name"), st.sampled_from(["alpha", "beta"])),
    st.tuples(st.just("user_id"), owners),
    st.tuples(st.just("tags"), st.lists(st.sampled_from(TAGS), min_size=1, max_size=2, unique=True)),
    st.tuples(st.just("announced_routes"), st.sets(st.sampled_from(ROUTES))),
    st.tuples(st.just("approved_routes"), st.sets(st.sampled_from(ROUTES))),
    st.tuples(st.just("capver"), st.sampled_from([113, 142])),
)


def policy_of(pairs: set[tuple[int, int]], parts: set[str]) -> Policy:
    if "none" in parts:
        return NO_POLICY
    acls = [SECTIONS[name] | {"action": "accept"} for name in sorted(parts & SECTIONS.keys())]
    acls += [{"action": "accept", "src": [f"user{a}@"], "dst": [f"user{b}@:*"]} for a, b in sorted(pairs)]
    sections: dict[str, Any] = {"acls": acls, "tagOwners": {tag: ["user1@"] for tag in TAGS}}
    for name, key_name, value in (("ssh", "ssh", SSH), ("attrs", "nodeAttrs", ATTRS), ("via", "grants", VIA)):
        if name in parts:
            sections[key_name] = value
    return pairs_policy((), **sections)


steps = st.one_of(
    st.tuples(st.just("put"), numbers, owners),
    st.tuples(st.just("edit"), numbers, edits),
    st.tuples(st.just("edit"), numbers, edits),
    st.tuples(st.just("expired"), numbers, st.booleans()),
    st.tuples(st.just("remove"), numbers, st.none()),
    st.tuples(st.just("user"), owners, st.sampled_from(["anna", "bert"])),
    st.tuples(st.just("derp"), st.integers(1, 2), st.none()),
    st.tuples(st.just("connect"), numbers, st.sampled_from(list(Variant))),
    st.tuples(
        st.just("policy"),
        st.sets(st.tuples(owners, owners), max_size=6),
        st.sets(st.sampled_from([*SECTIONS, "ssh", "attrs", "via", "none"])),
    ),
    st.tuples(st.just("commit"), st.none(), st.none()),
    st.tuples(st.just("commit"), st.none(), st.none()),
    st.tuples(st.just("slow"), numbers, st.booleans()),
    st.tuples(st.just("move"), st.none(), st.none()),
)
#: What may happen between the steps of a commit: changes, no commit and no full map.
collected = st.one_of(
    st.tuples(st.just("put"), numbers, owners),
    st.tuples(st.just("edit"), numbers, edits),
    st.tuples(st.just("remove"), numbers, st.none()),
    st.tuples(st.just("user"), owners, st.sampled_from(["anna", "bert"])),
    st.tuples(
        st.just("policy"),
        st.sets(st.tuples(owners, owners), max_size=6),
        st.sets(st.sampled_from([*SECTIONS, "ssh", "attrs", "via", "none"])),
    ),
    st.tuples(st.just("renew"), numbers, st.none()),
    st.tuples(st.just("renew all"), st.none(), st.none()),
)


def decode(body: bytes, variant: Variant) -> dict[str, Any]:
    if variant is Variant.ZSTD:
        text, rest = b"", body
        while rest:
            frame = zstandard.ZstdDecompressor().decompressobj()
            text += frame.decompress(rest)
            rest = frame.unused_data
        body = text
    message: dict[str, Any] = json.loads(body)
    return message


class Viewer:
    """One connected device: what it was told, and how it asks to be told."""

    def __init__(self, netmap: TenantNetmap, device_id: DeviceId, variant: Variant) -> None:
        self.device_id = device_id
        self.variant = variant
        self.client = ClientNetmap()
        self.receive(netmap.full_map(device_id, variant, NOW))

    def receive(self, body: bytes) -> dict[str, Any]:
        message = decode(body, self.variant)
        self.client.apply(message)
        assert self.client.violations == []
        for name in ("Peers", "PeersChanged"):
            ids = [peer["ID"] for peer in message.get(name) or []]
            assert ids == sorted(ids), name
        return message


def own(client: ClientNetmap) -> dict[str, Any]:
    assert client.self_node is not None
    return {name: client.self_node.get(name) for name in _SELF}


def check(viewer: Viewer, netmap: TenantNetmap) -> None:
    fresh = Viewer(netmap, viewer.device_id, viewer.variant).client
    row = netmap._rows[viewer.device_id]
    assert own(viewer.client) == own(fresh)
    assert viewer.client.derp_map == fresh.derp_map
    assert viewer.client.dns_config == fresh.dns_config
    assert viewer.device_id not in fresh.peers
    if row.expired:
        assert fresh.peers == {}
        return
    for part in ("Peers", "PacketFilters", "SSHPolicy"):
        assert viewer.client.view()[part] == fresh.view()[part], part
    for peer in fresh.peers.values():
        assert viewer.client.user_profiles[peer["User"]] == fresh.user_profiles[peer["User"]]


def peers_named(message: dict[str, Any]) -> set[int]:
    return {
        *(peer["ID"] for peer in message.get("PeersChanged", [])),
        *(change["NodeID"] for change in message.get("PeersChangedPatch", [])),
        *message.get("PeersRemoved", []),
    }


def edited(device: Device, name: str, value: Any) -> Device:
    if name == "endpoints":
        value = tuple(value)
    elif name == "disco_key":
        value = DiscoKey(key(value, 3))
    elif name == "node_key":
        value = NodeKey(key(value * 100 + device.id, 2))
    elif name == "user_id":
        value = UserId(value)
        device = replace(device, tags=())
    elif name == "tags":
        value = tuple(sorted(value))
        device = replace(device, user_id=None)
    elif name.endswith("_routes"):
        value = tuple(sorted(value))
    device = replace(device, **{name: value})
    if name == "disco_key":  # only a device that is there can bring a new one
        device = replace(device, online=True, last_seen=None)
    if name == "online":
        device = replace(device, last_seen=None if value else 1_800_000_000.0 + device.id)
    return device


class Scene:
    """A tenant, its connected viewers and the class matrix in force."""

    def __init__(self) -> None:
        self.netmap = make_netmap(pairs_policy({(1, 1), (1, 2), (3, 3), (1, 4), (4, 2)}))
        self.viewers: dict[DeviceId, Viewer] = {}
        self.expired: dict[DeviceId, bool] = {}
        self.gone: set[int] = set()
        #: Viewers that read nothing: they get one whole map when they have caught up.
        self.slow: set[DeviceId] = set()
        #: What happens between the steps of the next commits.
        self.between: list[tuple[str, Any, Any]] = []

    def put(self, device: Device) -> None:
        self.netmap.put(device, expired=self.expired.get(device.id, False))

    def step(self, verb: str, first: Any, second: Any) -> None:
        match verb:
            case "put":
                if DeviceId(first) not in self.netmap and first not in self.gone:  # ids are for ever
                    newcomer = make_device(first, user_id=UserId(second), online=False)
                    self.put(replace(newcomer, disco_key=DiscoKey(bytes(32)), capver=0))
            case "edit":
                device = self.netmap.device(DeviceId(first))
                if device is not None:
                    self.put(edited(device, *second))
            case "expired":
                self.expired[DeviceId(first)] = second
                device = self.netmap.device(DeviceId(first))
                if device is not None:
                    expiry = 1_600_000_000.0 if second else None
                    self.put(replace(device, expiry=expiry))
            case "remove":
                self.netmap.remove(DeviceId(first))
                self.gone.add(first)
            case "user":
                self.netmap.put_user(User(UserId(first), TENANT.id, second))
            case "derp":
                self.netmap.set_derp_map(b'{"Regions":{"%d":{}}}' % first)
            case "policy":
                self.netmap.set_policy(policy_of(first, second))
            case "connect":
                self.commit()
                if self.netmap.is_committed(DeviceId(first)):
                    self.viewers[DeviceId(first)] = Viewer(self.netmap, DeviceId(first), second)
            case "commit":
                self.commit()
            case "slow":
                self.slow_down(DeviceId(first)) if second else self.catch_up(DeviceId(first))
            case "move":
                self.move()
            case "renew":
                self.netmap.renew({DeviceId(first)})
            case "renew all":
                self.netmap.renew({device.id for device in self.netmap.devices()})

    def slow_down(self, device_id: DeviceId) -> None:
        if device_id in self.viewers:
            self.slow.add(device_id)

    def catch_up(self, device_id: DeviceId) -> None:
        if device_id in self.slow:
            self.commit()
            viewer = self.viewers.get(device_id)
            if viewer is not None:
                self.slow.discard(device_id)
                viewer.client = ClientNetmap()
                viewer.receive(self.netmap.full_map(device_id, viewer.variant, NOW))
                check(viewer, self.netmap)

    def move(self) -> None:
        """The tenant goes to another cluster: its owner loads it, and the devices poll there."""
        self.commit()
        while self.netmap.is_dirty:
            self.commit()
        there = make_netmap(self.netmap.engine.policy, users=())
        for user in self.netmap.users():
            there.put_user(user)
        for device in self.netmap.devices():
            there.put(device, expired=self.expired.get(device.id, False))
        there.set_derp_map(self.netmap._derp_map)
        there.commit()
        self.netmap = there
        for device_id, viewer in self.viewers.items():
            if device_id not in self.slow:
                check(viewer, there)
            viewer.client = Viewer(there, device_id, viewer.variant).client
        self.slow.clear()

    def _committed(self) -> Flush:
        steps = self.netmap.commit_steps()
        while True:
            try:
                next(steps)
            except StopIteration as done:
                flush: Flush = done.value
                return flush
            if self.between:
                self.step(*self.between.pop(0))

    def commit(self) -> None:
        before = {v: set(viewer.client.peers) for v, viewer in self.viewers.items()}
        flush = self._committed()
        for device_id, viewer in list(self.viewers.items()):
            if not self.netmap.is_committed(device_id):
                del self.viewers[device_id]
                self.slow.discard(device_id)
                continue
            if device_id in self.slow:
                continue
            message = flush.message_for(device_id, viewer.variant)
            if message is RESYNC:
                if not self.netmap.has_peers(device_id):
                    viewer.client = ClientNetmap()
                viewer.receive(self.netmap.full_map(device_id, viewer.variant, NOW))
            elif message is not None:
                self.check_addressed(viewer, viewer.receive(message), before[device_id])
            check(viewer, self.netmap)

    def check_addressed(self, viewer: Viewer, message: dict[str, Any], before: set[int]) -> None:
        """Nobody hears of a device that it neither saw nor sees; an empty message is none."""
        assert message
        row = self.netmap._rows[viewer.device_id]
        for peer_id in peers_named(message):
            assert peer_id != viewer.device_id
            peer = self.netmap._rows.get(DeviceId(peer_id))
            sees = peer is not None and bool(row.cls.sees & peer.cls.bit)
            assert sees or peer_id in before
        for change in message.get("PeersChangedPatch", []):
            assert change["NodeID"] in before


@settings(max_examples=250, deadline=None)
@given(st.lists(steps, min_size=10, max_size=60))
def test_map_plus_deltas_is_the_fresh_map_for_every_viewer(history):
    scene = Scene()
    for number in range(1, 7):
        scene.put(make_device(number, user_id=UserId(number % 3 + 1)))
    scene.netmap.commit()
    for number in range(1, 5):
        variant = Variant.ZSTD if number % 2 else Variant.PLAIN
        scene.viewers[DeviceId(number)] = Viewer(scene.netmap, DeviceId(number), variant)
    for step in history:
        scene.step(*step)
    scene.commit()


@settings(max_examples=250, deadline=None)
@given(st.lists(steps, min_size=5, max_size=40), st.lists(collected, min_size=5, max_size=40))
def test_changes_between_the_steps_of_a_commit_count_for_the_next(history, between):
    small = {"STEP_ROWS": 1, "STEP_RECLASSED": 1, "STEP_USERS": 1}
    with patch.multiple(tenant, **small):
        scene = Scene()
        for number in range(1, 7):
            scene.put(make_device(number, user_id=UserId(number % 3 + 1)))
        scene.netmap.commit()
        for number in range(1, 5):
            variant = Variant.ZSTD if number % 2 else Variant.PLAIN
            scene.viewers[DeviceId(number)] = Viewer(scene.netmap, DeviceId(number), variant)
        scene.between = list(between)
        for step in history:
            scene.step(*step)
        scene.commit()
        scene.between.clear()
        scene.commit()
        for number in list(scene.slow):
            scene.catch_up(number)
        assert not scene.netmap.is_dirty


def test_a_commit_that_is_given_up_leaves_its_changes_to_the_next():
    with patch.multiple(tenant, STEP_ROWS=1):
        scene = Scene()
        for number in range(1, 5):
            scene.put(make_device(number, user_id=UserId(1)))
        scene.commit()
        scene.viewers[DeviceId(1)] = Viewer(scene.netmap, DeviceId(1), Variant.PLAIN)
        for number in range(2, 5):
            scene.put(make_device(number, user_id=UserId(1), endpoints=("192.0.2.1:1",)))
        scene.netmap.set_policy(policy_of({(1, 1)}, {"self"}))
        steps = scene.netmap.commit_steps()
        next(steps)
        steps.close()
        assert scene.netmap.is_dirty
        scene.commit()
        assert scene.viewers[DeviceId(1)].client.peers[2]["Endpoints"] == ["192.0.2.1:1"]


def test_large_commits_take_the_block_path_and_stay_exact():
    scene = Scene()
    for number in range(1, 200):
        scene.put(make_device(number, user_id=UserId(1)))
    scene.commit()
    for number in (1, 70, 150):
        for variant in Variant:
            scene.viewers[DeviceId(number)] = Viewer(scene.netmap, DeviceId(number), variant)
            for other in range(40, 180):
                device = scene.netmap.device(DeviceId(other))
                assert device is not None
                scene.put(replace(device, home_derp=device.home_derp + 1))
            for other in range(200 + 100 * number, 290 + 100 * number):
                scene.put(make_device(other, user_id=UserId(1)))
            scene.commit()


def test_who_is_not_concerned_gets_nothing():
    scene = Scene()
    for number, owner in ((1, 1), (2, 2), (3, 3)):
        scene.put(make_device(number, user_id=UserId(owner)))
    scene.commit()
    scene.put(replace(scene.netmap.device(DeviceId(1)), endpoints=("9.9.9.9:1",)))
    flush = scene.netmap.commit()
    assert flush.message_for(DeviceId(3), Variant.PLAIN) is None
    assert flush.message_for(DeviceId(1), Variant.PLAIN) is None
    assert decode(flush.message_for(DeviceId(2), Variant.PLAIN), Variant.PLAIN) == {
        "PeersChangedPatch": [{"NodeID": 1, "Endpoints": ["9.9.9.9:1"]}]
    }


def test_a_device_that_came_and_went_within_one_tick_was_never_there():
    netmap = make_netmap()
    netmap.put(make_device(1))
    netmap.commit()
    netmap.put(make_device(2))
    netmap.remove(DeviceId(2))
    flush = netmap.commit()
    assert flush.is_empty
    assert flush.message_for(DeviceId(1), Variant.PLAIN) is None


def test_putting_back_what_is_known_is_no_change():
    netmap = make_netmap()
    netmap.put(make_device(1))
    netmap.put(make_device(2))
    netmap.commit()
    netmap.put(make_device(2))
    assert netmap.commit().is_empty


def test_one_encoding_serves_a_thousand_viewers():
    netmap = make_netmap()
    for number in range(1, 1001):
        netmap.put(make_device(number))
    netmap.commit()
    netmap.put(make_device(1000, endpoints=("9.9.9.9:1",)))
    flush = netmap.commit()
    messages = {id(flush.message_for(DeviceId(n), Variant.ZSTD)) for n in range(1, 1000)}
    assert len(messages) == 1
    assert flush.encodings == 1


def test_an_unreadable_record_blanks_nobodys_map():
    """orjson refuses times outside year 1 to 9999, text that is no UTF-8, and Hostinfo that is no JSON."""
    netmap = make_netmap()
    for number in (1, 2, 3):
        netmap.put(make_device(number))
    netmap.commit()
    client = Viewer(netmap, DeviceId(1), Variant.ZSTD)
    netmap.put(make_device(2, expiry=float("nan")))
    netmap.put(make_device(3, endpoints=("9.9.9.9:1",)))
    netmap.put(make_device(4, given_name="\ud800"))
    netmap.put(make_device(5))
    message = netmap.commit().message_for(DeviceId(1), Variant.ZSTD)
    client.receive(message)
    assert set(client.client.peers) == {2, 3, 5}
    assert set(netmap.rejected) == {2, 4}
    assert set(Viewer(netmap, DeviceId(3), Variant.PLAIN).client.peers) == {1, 2, 5}
    netmap.put(make_device(2, home_derp=7))
    netmap.remove(DeviceId(4))
    client.receive(netmap.commit().message_for(DeviceId(1), Variant.ZSTD))
    assert client.client.peers[2]["HomeDERP"] == 7
    assert netmap.rejected == {}
