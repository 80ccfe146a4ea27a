"""What a new policy changes: said of groups, and the same as counted pair by pair."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from app.policy.advice import warnings_of
from app.policy.check import accept
from app.policy.document import NO_POLICY
from app.policy.impact import MAX_CHANGES, MAX_NAMES, impact
from tests.policy import worlds as w
from tests.policy.test_properties import engine_of, filter_of

BASE = {"groups": w.GROUPS, "hosts": w.HOSTS, "tagOwners": {tag: [] for tag in w.TAGS}}
DEVICES = [
    w.device(1, 1, (), ()),
    w.device(2, 1, (), ()),
    w.device(3, 2, (), ()),
    w.device(4, None, ("tag:a",), ()),
    w.device(5, None, ("tag:r",), ("10.33.0.0/16",)),
]


def policy_of(**parts):
    return accept(json.dumps(BASE | parts), w.USERS, [])


def acl(src, dst, **more):
    return {"action": "accept", "src": [src], "dst": [dst], **more}


def changed(old, new, devices=DEVICES):
    return impact(old, new, w.USERS, devices)


def told(changes):
    return [(c.sources, c.targets, c.pairs, c.what, c.own) for c in changes.listed]


def test_the_same_policy_changes_nothing():
    policy = policy_of(acls=[acl("*", "*:*"), acl("*", "autogroup:self:*")])
    assert changed(policy, policy).is_none


def test_a_port_more_and_a_port_less():
    old, new = (
        policy_of(acls=[acl("group:ab", "tag:a:20-22")]),
        policy_of(acls=[acl("group:ab", "tag:a:22-25")]),
    )
    found = changed(old, new)
    people = ("d1", "d2", "d3")
    assert told(found.gained) == [(people, ("d4",), 3, ("*:23-25",), False)]
    assert told(found.lost) == [(people, ("d4",), 3, ("*:20-21",), False)]
    assert (found.gained.pairs, found.filters, found.peers, found.ssh) == (3, 1, 0, 0)


def test_another_way_of_writing_the_same_is_no_change_of_access():
    old = policy_of(acls=[acl("group:ab", "tag:a:80-443")])
    new = policy_of(
        acls=[acl("ada@example.com", "tag:a:80-200,150-443"), acl("bob@example.com", "tag:a:80-443")]
    )
    found = changed(old, new)
    assert (found.gained.pairs, found.lost.pairs, found.peers) == (0, 0, 0)
    assert found.filters == 1


def test_protocols_are_told():
    new = policy_of(acls=[acl("bob@example.com", "tag:a:53", proto="udp")])
    assert told(changed(policy_of(acls=[]), new).gained) == [(("d3",), ("d4",), 1, ("udp:53",), False)]


def test_routes_and_capabilities():
    grant = {"src": ["bob@example.com"], "dst": ["lan"], "ip": ["443"], "app": {"example.com/cap/x": []}}
    found = changed(policy_of(acls=[]), policy_of(grants=[grant]))
    what = ("10.33.0.0/16 app example.com/cap/x", "10.33.0.0/16 *:443")
    assert told(found.gained) == [(("d3",), ("d5",), 1, what, False)]
    assert (found.filters, found.peers) == (1, 2)


def test_self_is_between_the_devices_of_one_user():
    found = changed(policy_of(acls=[]), policy_of(acls=[acl("autogroup:member", "autogroup:self:22")]))
    assert told(found.gained) == [(("d1", "d2"), ("d1", "d2"), 2, ("*:22",), True)]
    both = policy_of(acls=[acl("autogroup:member", "autogroup:self:22"), acl("*", "*:22")])
    found = changed(policy_of(acls=[acl("*", "*:22")]), both)
    assert (found.gained.pairs, found.lost.pairs) == (0, 0)


def test_no_policy_is_everything():
    found = changed(NO_POLICY, policy_of(acls=[]))
    assert (found.gained.pairs, found.lost.pairs, found.peers, found.filters) == (0, 20, 5, 5)


def test_ssh():
    rule = {"action": "check", "src": ["autogroup:member"], "dst": ["tag:a"], "users": ["root"]}
    old, new = policy_of(ssh=[rule]), policy_of(ssh=[rule | {"action": "accept"}])
    found = changed(old, new)
    people = ("d1", "d2", "d3")
    assert told(found.ssh_gained) == [(people, ("d4",), 3, ("root",), False)]
    assert told(found.ssh_lost) == [(people, ("d4",), 3, ("root (check)",), False)]
    assert (found.ssh, found.filters) == (1, 0)
    own = rule | {"dst": ["autogroup:self"]}
    assert told(changed(policy_of(), policy_of(ssh=[own])).ssh_gained) == [
        (("d1", "d2"), ("d1", "d2"), 2, ("root (check)",), True)
    ]


def test_routes_that_are_approved_from_now_on():
    waiting = replace(DEVICES[4], approved_routes=())
    new = policy_of(autoApprovers={"routes": {"10.0.0.0/8": ["tag:r"]}})
    assert changed(policy_of(), new, [*DEVICES[:4], waiting]).approved == (("d5", "10.33.0.0/16"),)
    assert changed(policy_of(), new).approved == ()


def test_lists_are_bounded_and_counts_are_not():
    devices = [w.device(n, 1, (), ()) for n in range(1, 31)]
    found = changed(policy_of(acls=[]), policy_of(acls=[acl("*", "*:22")]), devices).gained
    (one,) = found.listed
    assert (len(one.sources), one.source_count, one.pairs) == (MAX_NAMES, 30, 30 * 29)
    acls = [acl(f"100.64.0.{n}", f"100.64.0.{n % 30 + 1}:{n}") for n in range(1, 31)]
    acls += [acl(f"100.64.0.{n}", f"100.64.0.{m}:{n}") for n in range(1, 31) for m in range(1, 31)]
    many = changed(policy_of(acls=[]), policy_of(acls=acls), devices).gained
    assert (len(many.listed), many.left_out, many.pairs) == (MAX_CHANGES, 870 - MAX_CHANGES, 870)


class Pairs:
    """What each device may do at each other device itself, pair by pair, from the oracle's rules."""

    def __init__(self, policy, devices):
        oracle = w.Oracle(policy, devices)
        self.access, self.ssh = {}, {}
        for one in devices:
            for other in devices:
                if one is not other:
                    self.access[one.given_name, other.given_name] = self._access(oracle, one, other)
                    self.ssh[one.given_name, other.given_name] = self._ssh(oracle, policy, one, other)

    @staticmethod
    def _same(one, other):
        return not one.tags and not other.tags and one.user_id == other.user_id

    def _access(self, oracle, one, other):
        found = set()
        for rule in oracle.rules:
            if rule.caps is None and oracle.sends(rule, one) and (not rule.is_self or self._same(one, other)):
                for alias, ports in rule.dst:
                    if any(oracle.is_target(rule, alias, other, at) for at in oracle.addresses(other)):
                        found |= ports
        return found

    def _ssh(self, oracle, policy, one, other):
        return {
            (user, rule["action"])
            for rule in policy.get("ssh", ())
            if any(oracle.is_a(alias, one) for alias in rule["src"])
            and any(
                self._same(one, other) if alias == "autogroup:self" else oracle.is_a(alias, other)
                for alias in rule["dst"]
            )
            for user in rule["users"]
        }


def pairs_with(before, after):
    return {pair for pair in after if after[pair] - before[pair]}


def is_about_the_device(change):
    return any(" " not in text for text in change.what)


@settings(max_examples=100, deadline=None)
@given(w.policies(), w.policies(), w.topologies(least=2, most=6), st.booleans())
def test_counts_are_those_of_all_pairs(first, second, devices, alike):
    if alike:  # policies that differ in little are what people write
        second = {**first, "acls": second.get("acls", []), "ssh": second["ssh"]}
        first.setdefault("acls", [])
    old, new = (accept(json.dumps(policy), w.USERS, []) for policy in (first, second))
    found = impact(old, new, w.USERS, devices)
    before, after = Pairs(first, devices), Pairs(second, devices)
    for changes, want in (
        (found.gained, pairs_with(before.access, after.access)),
        (found.lost, pairs_with(after.access, before.access)),
        (found.ssh_gained, pairs_with(before.ssh, after.ssh)),
        (found.ssh_lost, pairs_with(after.ssh, before.ssh)),
    ):
        assert changes.left_out == 0
        is_ssh = changes in (found.ssh_gained, found.ssh_lost)
        about = [c for c in changes.listed if is_ssh or is_about_the_device(c)]
        assert sum(change.pairs for change in about) == len(want)
        for source, target in want:
            assert any(source in c.sources and target in c.targets for c in about)
    back = impact(new, old, w.USERS, devices)
    assert (back.lost, back.gained, back.ssh_lost) == (found.gained, found.lost, found.ssh_gained)
    engines = [engine_of(policy, devices) for policy in (first, second)]
    differs = [d for d in devices if filter_of(engines[0], d) != filter_of(engines[1], d)]
    assert found.filters == len(differs)
    peers = 0
    for device in devices:
        told = [
            {
                (i, engine.shown_routes(engine.class_of(device.id), i))
                for cls in engine.visible(engine.class_of(device.id))
                for i in cls.members - {device.id}
            }
            for engine in engines
        ]
        peers += told[0] != told[1]
    assert found.peers == peers


def test_what_looks_wrong_is_told_in_order():
    text = """{
      "groups": {"group:x": ["ada@example.com", "zoe@example.com"]},
      "hosts": {"gone": "192.168.9.9", "lan": "10.33.0.1", "three": "100.64.0.3"},
      "tagOwners": {"tag:a": [], "tag:idle": [], "tag:b": ["yan@example.com"]},
      "acls": [
        {"action": "accept", "src": ["max@example.com"], "dst": ["tag:a:22"]},
        {"action": "accept", "src": ["group:x"], "dst": ["tag:b:22"]},
        {"action": "accept", "src": ["*"], "dst": ["autogroup:self:*"]},
      ],
      "nodeAttrs": [{"target": ["*"], "ipPool": ["100.81.0.0/16"]}],
    }"""
    assert [str(one) for one in warnings_of(accept(text, w.USERS, []), w.USERS, DEVICES)] == [
        "line 6: user max@example.com does not exist",
        "line 6: this rule matches nothing now: no device is a source of it",
        "line 7: no device has tag:b",
        "line 7: this rule matches nothing now: no device is a target of it",
        "line 10: ipPool is accepted but not used: addresses come from the tenant's own range",
        "user zoe@example.com in group:x does not exist",
        "user yan@example.com does not exist",
        "host gone (192.168.9.9) is no device's address, and no approved route leads there",
    ]
    assert warnings_of(NO_POLICY, w.USERS, DEVICES) == ()
    assert len(warnings_of(accept(text, w.USERS, []), w.USERS, [])) == 4
