"""Whatever is given as a policy: it is taken and works, or it is refused at a place in its text."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from app.policy.check import accept
from app.policy.engine import PolicyEngine
from app.policy.hujson import PolicyError
from tests.policy import worlds as w

DEVICES = [
    w.device(1, 1, (), ("10.33.0.0/16",)),
    w.device(2, 2, (), ()),
    w.device(3, None, ("tag:a", "tag:r"), (*w.ROUTES, *w.EXITS)),
]
FULL = {
    "randomizeClientPort": True,
    "groups": w.GROUPS,
    "hosts": w.HOSTS,
    "tagOwners": {"tag:a": ["group:ab", "autogroup:admin"], "tag:b": ["tag:a"], "tag:r": ["ada@example.com"]},
    "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:r"]}, "exitNode": ["group:ab"]},
    "acls": [
        {"action": "accept", "src": ["group:ab"], "dst": ["tag:a:22,80-443", "lan:*", "autogroup:self:*"]},
        {"action": "accept", "proto": "tcp", "src": ["*"], "dst": ["100.64.0.5:22", "[fd00:1::1]:80"]},
    ],
    "grants": [
        {
            "src": ["autogroup:member"],
            "dst": ["tag:a"],
            "ip": ["tcp:443"],
            "app": {"example.com/cap/x": [{}]},
        },
        {"src": ["*"], "dst": ["10.33.0.0/16"], "ip": ["*"], "via": ["tag:r"]},
    ],
    "ssh": [
        {
            "action": "check",
            "checkPeriod": "12h",
            "src": ["autogroup:member"],
            "dst": ["tag:a", "autogroup:self"],
            "users": ["root", "autogroup:nonroot", "localpart:*@example.com"],
            "acceptEnv": ["LANG"],
        }
    ],
    "nodeAttrs": [{"target": ["*"], "attr": ["funnel"], "ipPool": ["100.70.0.0/16"]}],
    "tests": [{"src": "ada@example.com", "accept": ["tag:a:22"], "deny": ["tag:b:22"], "proto": "tcp"}],
    "sshTests": [{"src": "ada@example.com", "dst": ["tag:a"], "check": ["root"], "deny": ["x"]}],
}
FULL["sshTests"][0]["deny"] = []
TEXT = json.dumps(FULL, indent=1)
ODDITIES = [
    "",
    "*",
    ":",
    "::",
    "/",
    "@",
    "tag:",
    "group:",
    "autogroup:",
    "autogroup:self",
    "localpart:*@",
    "user:*@",
]
ODDITIES += [
    "0",
    "-1",
    "1-",
    "65536",
    "１２",
    "0.0.0.0/0",
    "1.1.1.1-1.1.1.0",
    "::1%0",
    "[::",
    "\0",
    "\ud7ff",
    "é",
    "∞h",
]
ODDITIES += [
    "ns",
    "1e400h",
    "9" * 400 + "h",
    "9" * 30,
    "tcp:",
    "icmp:*",
    "255:*",
    "a" * 300,
    "*:*",
    "tag:a:*,",
    "svc:a",
]
odd = (
    st.sampled_from(ODDITIES) | st.text(max_size=6) | st.none() | st.booleans() | st.integers() | st.floats()
)
junk = st.recursive(
    odd, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner)
)


def judge(text):
    """Takes or refuses; what is taken has to work."""
    policy = error = None
    try:
        policy = accept(text, w.USERS, DEVICES)
    except PolicyError as caught:
        error = caught
    if error is not None:
        lines = text.split("\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        assert error.reason
        return False
    assert len(policy.hash) == 64
    engine = PolicyEngine(policy, w.USERS)
    for device in DEVICES:
        engine.put(device)
    for device in DEVICES:
        cls = engine.class_of(device.id)
        json.loads(engine.template(cls).filled(device.ipv4, device.ipv6))
        json.loads(engine.ssh_rules(cls))
        json.loads(cls.self_caps)
    return True


def test_the_policy_that_is_mutated_is_taken():
    assert judge(TEXT)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text(alphabet='{}[]",:/*\\u0d8 \n1e-.tfn'))
def test_any_text(text):
    judge(text)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_policy_with_letters_changed(data):
    text = TEXT
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        length = data.draw(st.sampled_from((0, 1, 1, 2, 20)))
        text = text[:at] + data.draw(st.sampled_from(ODDITIES) | st.text(max_size=3)) + text[at + length :]
    judge(text)


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from places(item, (*path, name))


PATHS = list(places(FULL))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS[1:]), junk, st.booleans()), min_size=1, max_size=2))
def test_a_policy_with_values_and_names_changed(changes):
    policy = json.loads(TEXT)
    for path, value, is_name in changes:
        inner = policy
        try:
            for step in path[:-1]:
                inner = inner[step]
            if is_name and isinstance(inner, dict):
                inner[str(value)] = inner.pop(path[-1])
            else:
                inner[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # the first change took away what the second was about
    judge(json.dumps(policy))
