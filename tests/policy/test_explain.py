"""Explanations: said in words for people, and never other than what the packet filters do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.policy.check import accept
from app.policy.explain import MAX_PAIRS, explain, who_can_reach
from tests.policy import worlds as w
from tests.policy.test_properties import allowed, engine_of, filter_of

POLICY = """{
  // who is who
  "groups": {"group:ab": ["ada@example.com", "bob@example.com"]},
  "hosts": {"printer": "10.33.0.9", "lan": "10.33.0.0/16"},
  "tagOwners": {"tag:a": [], "tag:r": []},
  "acls": [
    {"action": "accept", "src": ["group:ab"], "dst": ["tag:a:22,80-443"]},
    {"action": "accept", "src": ["*"], "dst": ["autogroup:self:*"]},
    {"action": "accept", "proto": "udp", "src": ["cyd@example.org"], "dst": ["lan:53"]},
    {"action": "accept", "src": ["cyd@example.org"], "dst": ["autogroup:internet:*"]},
  ],
  "grants": [
    {"src": ["group:ab"], "dst": ["lan"], "ip": ["tcp:9100"], "via": ["tag:r"]},
  ],
}"""
DEVICES = [
    w.device(1, 1, (), ()),
    w.device(2, 1, (), ()),
    w.device(3, 3, (), ()),
    w.device(4, None, ("tag:a",), ()),
    w.device(5, None, ("tag:r",), ("10.33.0.0/16",)),
    w.device(6, None, ("tag:a",), w.EXITS),
]


def asked(source, target, port=None, proto=6):
    return explain(accept(POLICY, w.USERS, DEVICES), w.USERS, DEVICES, source, target, port, proto)


def test_a_rule_that_lets_through_is_named_with_its_place_and_what_matched():
    answer = asked("d1", "d4", 80)
    assert answer.allowed
    (way,) = answer.answers[0].ways
    assert (way.rule.kind, way.rule.line, way.rule.column) == ("acl", 7, 5)
    assert way.rule.text == '{"action": "accept", "src": ["group:ab"], "dst": ["tag:a:22,80-443"]}'
    assert (way.source, way.target, way.ports, way.through) == ("group:ab", "tag:a", "22,80-443", "")


def test_autogroup_self():
    assert asked("d1", "d2").answers[0].ways[0].rule.line == 8
    (answer,) = asked("d1", "d3").answers
    assert answer.misses[0].reason == "only devices of the same user may reach it, not d1"


def test_through_a_router_and_via():
    (way,) = asked("ada@example.com", "printer", 9100).answers[0].ways
    assert way.through == "subnet route 10.33.0.0/16 of d5, via tag:r"
    assert (way.rule.kind, way.rule.line, way.target) == ("grant", 13, "lan")
    (way,) = asked("d3", "10.33.0.9", 53, 17).answers[0].ways
    assert (way.ports, way.through) == ("udp:53", "subnet route 10.33.0.0/16 of d5")


def test_through_an_exit_node():
    (way,) = asked("d3", "1.1.1.1", 443).answers[0].ways
    assert way.through == "exit node d6"
    assert not asked("d3", "172.16.0.1", 443).any_allowed


def test_near_misses_come_first():
    answer = asked("d1", "d4", 8080).answers[0]
    assert not answer.allowed
    assert (answer.misses[0].reason, answer.misses[0].rule.line) == (
        "group:ab may reach tag:a on 22,80-443 only",
        7,
    )
    answer = asked("d3", "d4", 22).answers[0]
    assert answer.misses[0].reason == "only group:ab may reach it, not d3"
    assert "cyd@example.org may reach lan, not d4" in [miss.reason for miss in answer.misses]


def test_a_route_that_waits_for_approval_is_told():
    waiting = [*DEVICES[:4], replace(DEVICES[4], approved_routes=())]
    policy = accept(POLICY, w.USERS, waiting)
    (answer,) = explain(policy, w.USERS, waiting, "d3", "printer", 53, 17).answers
    assert [miss.reason for miss in answer.misses] == [
        "no device has printer (10.33.0.9), and no approved route leads there",
        "d5 announces 10.33.0.0/16, which is not approved",
    ]


def test_several_at_once():
    answer = asked("tag:a", "autogroup:member")
    assert (len(answer.answers), answer.any_allowed) == (6, False)
    both = asked("ada@example.com", "tag:a", 22)
    assert (len(both.answers), both.allowed) == (4, True)


def test_many_pairs_are_counted_but_not_all_told():
    devices = [w.device(number, 1, (), ()) for number in range(1, 41)]
    found = explain(accept("{}", w.USERS, []), w.USERS, devices, "*", "ada@example.com")
    assert (len(found.answers), found.left_out) == (MAX_PAIRS, 40 * 39 - MAX_PAIRS)


def test_unknown_names_are_refused():
    for name in ("nobody", "bob@example.com", "tag:none"):
        with pytest.raises(ValueError, match=name):
            asked("d1", name)


def test_who_can_reach():
    policy = accept(POLICY, w.USERS, DEVICES)
    (found,) = who_can_reach(policy, w.USERS, DEVICES, "d4", 22)
    assert (found.rule.line, found.target, found.ports) == (7, "tag:a", "22,80-443")
    assert [(source.source, source.devices) for source in found.sources] == [("group:ab", ("d1", "d2"))]
    assert who_can_reach(policy, w.USERS, DEVICES, "d4", 23) == ()
    told = {(r.rule.line, r.through) for r in who_can_reach(policy, w.USERS, DEVICES, "printer")}
    assert told == {(9, "subnet route 10.33.0.0/16 of d5"), (13, "subnet route 10.33.0.0/16 of d5")}


def test_without_a_policy_everything_is_allowed():
    policy = accept("{}", w.USERS, DEVICES)
    (way,) = explain(policy, w.USERS, DEVICES, "d1", "d4", 1).answers[0].ways
    assert (way.rule.kind, way.source, way.target, way.ports) == ("", "*", "*", "*")


@settings(max_examples=45, deadline=None)
@given(w.policies(ssh=False), w.topologies(least=2, most=5), st.sampled_from([(22, 6), (80, 17), (0, 1)]))
def test_answers_are_what_the_filters_do(policy, devices, service):
    port, proto = service
    text = json.dumps(policy)
    engine, oracle = engine_of(policy, devices), w.Oracle(policy, devices)
    rules = {d.id: json.loads(filter_of(engine, d)) for d in devices}
    read = accept(text, w.USERS, [])

    def passes(source, target):
        v6 = ":" in target
        return any(
            (port, proto) in allowed(rules[d.id], source, target)
            for d in devices
            if target in oracle.in_reach(d) and (":" in source) == v6
        )

    for target in devices:
        reachers = who_can_reach(read, w.USERS, devices, target.given_name, port, proto)
        names = {name for found in reachers for source in found.sources for name in source.devices}
        for source in devices:
            if source is target:
                continue
            pairs = [(s, t) for s in oracle.addresses(source) for t in oracle.addresses(target)]
            want = any(
                (port, proto) in allowed(rules[target.id], s, t) for s, t in pairs if (":" in s) == (":" in t)
            )
            told = (source.given_name, target.given_name)
            answer = explain(read, w.USERS, devices, *told, port, proto)
            assert (told, answer.allowed) == (told, want)
            assert bool(answer.answers[0].misses) <= (not want)
            assert (told, source.given_name in names) == (told, want)
    for point in w.POINTS:
        for source in (*devices[:2], "10.33.7.1", "1.2.3.4"):
            if point == source or point in oracle.owner:
                continue
            name = source if isinstance(source, str) else source.given_name
            addresses = (source,) if isinstance(source, str) else oracle.addresses(source)
            told = (name, point)
            answer = explain(read, w.USERS, devices, name, point, port, proto)
            if isinstance(source, str) or not any(w.holds(r, point) for r in oracle.subnets(source)):
                assert (told, answer.allowed) == (told, any(passes(s, point) for s in addresses))
