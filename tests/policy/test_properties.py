"""The engine against a naive oracle, against itself after any history, and what it says has changed."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from app.policy.addresses import address, merged, written
from app.policy.check import accept
from app.policy.engine import PolicyEngine
from app.policy.sources import AddressSet
from tests.policy import worlds as w


def engine_of(policy, devices, users=w.USERS):
    engine = PolicyEngine(accept(json.dumps(policy), w.USERS, []), users)
    for device in devices:
        engine.put(device)
    return engine


def filter_of(engine, device):
    return engine.template(engine.class_of(device.id)).filled(device.ipv4, device.ipv6)


def holding(texts, address):
    return any(w.holds(net, address) for text in texts for net in w.nets_of(text))


def allowed(rules, source, target):
    """The (port, proto) pairs that a filter lets through."""
    found = set()
    for rule in rules:
        if "DstPorts" not in rule or not holding(rule["SrcIPs"], source):
            continue
        for entry in rule["DstPorts"]:
            if holding([entry["IP"]], target):
                span = range(entry["Ports"]["First"], entry["Ports"]["Last"] + 1)
                protos = rule.get("IPProto") or [6, 17, 1, 58]
                found |= {(port, proto) for port in w.PROBE_PORTS if port in span for proto in protos}
    return found


def granted(rules, source, target):
    found = set()
    for rule in rules:
        if "CapGrant" in rule and holding(rule["SrcIPs"], source):
            for grant in rule["CapGrant"]:
                if holding(grant["Dsts"], target):
                    found |= set(grant["CapMap"])
    return found


@settings(max_examples=150, deadline=None)
@given(w.policies(ssh=False), w.topologies())
def test_filters_peers_and_routes_are_the_oracles(policy, devices):
    engine, oracle = engine_of(policy, devices), w.Oracle(policy, devices)
    points = [*w.POINTS, *oracle.owner]
    for device in devices:
        rules = json.loads(filter_of(engine, device))
        for target in oracle.in_reach(device):
            for source in points:
                told = (device.given_name, source, target)
                assert (told, allowed(rules, source, target)) == (
                    told,
                    oracle.allowed(source, device, target),
                )
                assert (told, granted(rules, source, target)) == (
                    told,
                    oracle.granted(source, device, target),
                )
        cls = engine.class_of(device.id)
        peers = {i for seen in engine.visible(cls) for i in seen.members} - {device.id}
        assert peers == {d.id for d in devices if d.id != device.id and oracle.sees(device, d)}
        for other in devices:
            other_cls = engine.class_of(other.id)
            assert engine.sees(cls, other_cls) == engine.sees(other_cls, cls)
            told = (device.given_name, other.given_name)
            shown = list(engine.shown_routes(cls, other.id))
            assert (told, shown) == (told, oracle.shown(device, other))
        caps = json.loads(cls.self_caps)
        assert {name for name in ("disable-ipv4", "example-flag", "funnel") if name in caps} == (
            oracle.attributes(device)
        )


def logged_in(rules, source, login):
    """What a client does with SSH rules (tailscale ssh/tailssh/tailssh.go, matchRule)."""
    for rule in rules:
        if any(principal["nodeIP"] in source for principal in rule["principals"]):
            users = rule["sshUsers"]
            local = users.get(login, users.get("*", ""))
            if local:
                assert local in ("=", login)
                return "accept" if rule["action"].get("accept") else "check"
    return None


@settings(max_examples=150, deadline=None)
@given(st.lists(w.ssh_rules(), max_size=5), st.lists(w.attributes, max_size=1), w.topologies(least=2))
def test_ssh_is_the_oracles(rules, attributes, devices):
    policy = {"groups": w.GROUPS, "hosts": w.HOSTS, "tagOwners": {tag: [] for tag in w.TAGS}}
    policy |= {"ssh": rules, "nodeAttrs": attributes}
    engine, oracle = engine_of(policy, devices), w.Oracle(policy, devices)
    for target in devices:
        wire = json.loads(engine.ssh_rules(engine.class_of(target.id)))
        for source in devices:
            for login in w.LOGINS:
                told = (source.id, target.id, login)
                got = logged_in(wire, oracle.addresses(source), login)
                assert (told, got) == (told, oracle.ssh(source, target, login))


numbers = st.integers(1, 7)
steps = st.one_of(
    numbers.flatmap(lambda n: st.tuples(st.just("put"), w.devices_of(n))),
    st.tuples(st.just("remove"), numbers),
    st.tuples(st.just("identity"), numbers, w.identities),
    st.tuples(st.just("routes"), numbers, w.route_sets),
    st.tuples(st.just("online"), numbers, st.booleans()),
    st.tuples(st.just("user"), w.users),
    st.just(("sweep",)),
)


def answers(engine, devices):
    """Everything the engine says, by device."""
    told = {}
    for device in devices.values():
        cls = engine.class_of(device.id)
        told[device.id] = (
            filter_of(engine, device),
            engine.ssh_rules(cls),
            cls.self_caps,
            cls.peer_caps,
            sorted(i for seen in engine.visible(cls) for i in seen.members),
            {other.id: engine.sees(cls, engine.class_of(other.id)) for other in devices.values()},
            {other.id: engine.shown_routes(cls, other.id) for other in devices.values()},
            engine.carried_routes(device.id),
        )
    return told


@settings(max_examples=120, deadline=None)
@given(w.policies(), w.topologies(least=2), st.lists(steps, max_size=10))
def test_any_history_ends_as_if_begun_there(policy, first, history):
    engine = engine_of(policy, first)
    devices = {device.id: device for device in first}
    users = {user.id: user for user in w.USERS}
    engine.take_touched()
    before = answers(engine, devices)
    for verb, *what in history:
        if verb == "sweep":
            engine.sweep()
            continue
        again = []
        if verb == "put":
            device = what[0]
        elif verb == "user":
            device = None
        elif verb == "remove":
            devices.pop(what[0], None)
            engine.remove(what[0])
            device = None
        elif what[0] in devices:
            device = w.changed(devices[what[0]], verb, what[1])
        else:
            continue
        classes = {i: engine.class_of(i) for i in devices}
        if verb == "user":
            users[what[0].id] = what[0]
            again = sorted(engine.put_user(what[0]))
        for one in [devices[i] for i in again if i in devices] or [device] * (device is not None):
            devices[one.id] = one
            engine.put(one)
        touched, routers = engine.take_touched()
        after = answers(engine, devices)
        for i in after.keys() & before.keys():
            cls = engine.class_of(i)
            if classes.get(i) is not cls:
                continue
            assert cls in touched or after[i][:2] == before[i][:2], "a filter or SSH policy changed unsaid"
            moved = {o for o in after[i][6] if before[i][6].get(o, after[i][6][o]) != after[i][6][o]}
            assert moved - {device.id if device else 0, *again} <= routers, "a route moved unsaid"
        before = after
    fresh = engine_of(policy, sorted(devices.values(), key=lambda d: d.id), users.values())
    fresh.primaries._primary = dict(engine.primaries._primary)
    assert answers(engine, devices) == answers(fresh, devices)
    assert engine.routers() == fresh.routers()


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)).map(lambda s: (s[0], s[0] + s[1])), max_size=4),
    st.lists(st.integers(0, 60), max_size=30),
    st.booleans(),
)
def test_an_address_set_is_the_merged_set(fixed, toggled, is_v6):
    shift = address("fd7a:115c:a1e0::1") if is_v6 else address("100.64.0.0")
    spans = [(low + shift, high + shift) for low, high in fixed]
    found, held = AddressSet(spans), set()
    for at in toggled:
        (found.discard if at in held else found.add)(at + shift)
        held ^= {at}
        want = merged([*spans, *((one + shift, one + shift) for one in held)])
        assert tuple(found.ranges) == want
        assert found.texts == sorted(map(written, want))


def test_a_further_tag_that_no_policy_names_counts_as_a_principal():
    """Both devices are the same to every alias; only how often they are listed differs."""
    rule = {"action": "accept", "src": ["autogroup:tagged"], "dst": ["tag:a"], "users": ["root"]}
    policy = {"tagOwners": {"tag:a": []}, "ssh": [rule]}
    one, two = w.device(1, None, ("tag:a",), ()), w.device(1, None, ("tag:a", "tag:unknown"), ())
    engine = engine_of(policy, [one])
    engine.put(two)
    assert answers(engine, {1: two}) == answers(engine_of(policy, [two]), {1: two})


def test_via_with_everything_as_target_is_what_lies_behind_the_router():
    grant = {"src": ["autogroup:member"], "dst": ["*"], "ip": ["22"], "via": ["tag:r"]}
    policy = {"tagOwners": {"tag:r": []}, "grants": [grant]}
    router = w.device(1, None, ("tag:r",), ("10.33.0.0/16", *w.EXITS))
    rules = json.loads(filter_of(engine_of(policy, [router, w.device(2, 1, (), ())]), router))
    assert allowed(rules, "100.64.0.2", "10.33.0.1") == {(22, proto) for proto in (6, 17, 1, 58)}
    assert allowed(rules, "100.64.0.2", "1.1.1.1")
    assert not allowed(rules, "100.64.0.2", router.ipv4)


def test_routers_of_one_kind_whose_routes_hold_each_other():
    """Each passes packets on to the other: they are alike to every alias, but not in one class."""
    rule = {"action": "accept", "src": ["autogroup:member"], "dst": ["tag:r:22"]}
    policy = {"tagOwners": {"tag:r": []}, "acls": [rule]}
    one, two = (w.device(n, None, ("tag:r",), ("100.64.0.4/30",)) for n in (4, 5))
    engine = engine_of(policy, [one, two, w.device(1, 1, (), ())])
    for this, other in ((one, two), (two, one)):
        rules = json.loads(filter_of(engine, this))
        assert allowed(rules, "100.64.0.1", other.ipv4)
        assert [entry["IP"] for entry in rules[0]["DstPorts"]] == [this.ipv4, this.ipv6, other.ipv4]
