"""What peers see of a device's Hostinfo: nothing private, nothing they could choke on."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.wire import hostinfo
from app.wire.hostinfo import clean_text, peer_hostinfo


def seen(**members: Any) -> Any:
    return orjson.loads(peer_hostinfo(orjson.dumps(members)))


def test_useful_members_pass_unchanged() -> None:
    members = {
        "IPNVersion": "1.90.9",
        "OS": "linux",
        "Hostname": "laptop",
        "ShieldsUp": True,
        "Userspace": False,
        "Services": [
            {"Proto": "peerapi4", "Port": 1234},
            {"Proto": "peerapi-dns-proxy", "Port": 1},
            {"Proto": "tcp", "Port": 22, "Description": "ssh"},
        ],
        "sshHostKeys": ["ssh-ed25519 AAAA"],
        "Location": {"Country": "Nowhere", "Latitude": -12.5, "Longitude": 3, "Priority": 1},
    }
    assert seen(**members) == members


@pytest.mark.parametrize(
    "name",
    [
        *(
            "BackendLogID",
            "FrontendLogID",
            "PushDeviceToken",
            "NetInfo",
            "RequestTags",
            "TPM",
            "ShareeNode",
            "RoutableIPs",
        ),
        *("Unknown", "services", "hostname"),
    ],
)
def test_private_and_unknown_members_are_dropped(name: str) -> None:
    assert seen(OS="linux", **{name: "x"}) == {"OS": "linux"}


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("OS", 5, None),
        ("OS", None, None),
        ("Hostname", ["x"], None),
        ("ShieldsUp", 1, None),
        ("Userspace", "true", None),
        ("Userspace", None, None),
        ("sshHostKeys", "x", None),
        ("sshHostKeys", ["a", 1, None, "b"], ["a", "b"]),
        ("Services", {}, None),
        ("Services", [5, {}, {"Proto": "tcp"}, {"Proto": "tcp", "Port": -1}], []),
        ("Services", [{"Proto": "tcp", "Port": True}, {"Proto": "tcp", "Port": 1.5}], []),
        ("Services", [{"Proto": "tcp", "Port": 65536}, {"Proto": 3, "Port": 1}], []),
        ("Services", [{"Proto": "udp", "Port": 1, "Description": 3, "X": 1}], [{"Proto": "udp", "Port": 1}]),
        ("Location", [], None),
        ("Location", {"Country": 3, "Latitude": "x", "Longitude": 1000, "Priority": -1}, {}),
    ],
)
def test_wrong_types_never_reach_a_peer(name: str, value: Any, kept: Any) -> None:
    assert seen(**{name: value}) == ({} if kept is None else {name: kept})


@pytest.mark.parametrize("raw", [b"", b"x", b"null", b"[]", b'"x"', b'{"OS":', b'{"OS":"\xff"}', b"[" * 5000])
def test_what_is_no_object_becomes_an_empty_one(raw: bytes) -> None:
    assert peer_hostinfo(raw) == b"{}"


def test_strings_that_json_would_escape_are_softened_at_every_depth() -> None:
    nasty = 'q"b\\n\nt\tz\x00'
    soft = "q'b/n t z "
    assert seen(
        Hostname=nasty,
        sshHostKeys=[nasty],
        Services=[{"Proto": nasty, "Port": 1, "Description": nasty}],
        Location={"City": nasty},
    ) == {
        "Hostname": soft,
        "sshHostKeys": [soft],
        "Services": [{"Proto": soft, "Port": 1, "Description": soft}],
        "Location": {"City": soft},
    }


def test_text_beyond_ascii_stays_as_it_is() -> None:
    raw = peer_hostinfo(orjson.dumps({"Hostname": "büro \u2028 <\U0001f600>\x7f"}))
    assert raw == '{"Hostname":"büro \u2028 <\U0001f600>\x7f"}'.encode()


def test_the_size_is_bounded() -> None:
    limit = hostinfo.MAX_HOSTINFO_BYTES
    raw = orjson.dumps({"App": "x" * (limit - len('{"App":""}'))})
    assert peer_hostinfo(raw) == raw
    with pytest.raises(BadRequest, match="more than"):
        peer_hostinfo(raw + b" ")


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_clean_text_never_needs_an_escape(text: str) -> None:
    cleaned = clean_text(text)
    assert len(cleaned) == len(text)
    assert b"\\" not in orjson.dumps(cleaned.encode("utf-8", "replace").decode())


names = st.sampled_from(sorted(hostinfo._PEER_MEMBERS))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Proto", "Port", "Description", "City", "Latitude", "Priority"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(names, values))
@settings(max_examples=150, deadline=None)
def test_the_result_is_stable_and_needs_no_escapes(members: dict[str, Any]) -> None:
    try:
        raw = orjson.dumps(members)
    except TypeError:  # integers beyond 64 bits
        return
    once = peer_hostinfo(raw)
    assert b"\\" not in once
    assert peer_hostinfo(once) == once
