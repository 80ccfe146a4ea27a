"""Requests: what real clients send, what null and zero mean, and the sentence for what is wrong."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.wire import hostinfo, tailcfg

NODE = bytes(range(32))
NODE_TEXT = "nodekey:" + NODE.hex()
ZERO = "00" * 32


def register(**members: Any) -> tailcfg.RegisterRequest:
    return tailcfg.parse_register(orjson.dumps({"NodeKey": NODE_TEXT, **members}))


def map_(**members: Any) -> tailcfg.MapRequest:
    return tailcfg.parse_map(orjson.dumps({"NodeKey": NODE_TEXT, **members}))


def test_a_go_client_registers() -> None:
    body = {
        "Version": 130,
        "NodeKey": NODE_TEXT,
        "OldNodeKey": "nodekey:" + ZERO,
        "NLKey": "nlpub:" + ZERO,
        "Auth": {"AuthKey": "hskey-auth-abc-def"},
        "Expiry": "0001-01-01T00:00:00Z",
        "Followup": "",
        "Hostinfo": {
            "IPNVersion": "1.90.9",
            "BackendLogID": "deadbeef",
            "OS": "linux",
            "OSVersion": "6.1.0",
            "Hostname": "laptop",
            "RoutableIPs": ["10.1.2.3/8", "::/0"],
            "RequestTags": ["tag:web"],
            "Services": [
                {"Proto": "peerapi4", "Port": 1234},
                {"Proto": "tcp", "Port": 22, "Description": "ssh"},
            ],
            "NetInfo": {
                "PreferredDERP": 900,
                "DERPLatency": {"900-v4": 0.01},
                "WorkingUDP": True,
                "PMP": None,
            },
            "sshHostKeys": ["ssh-ed25519 AAAA"],
            "Userspace": True,
            "NewThing": {"A": [1, 2]},
        },
        "NodeKeySignature": None,
        "Timestamp": None,
    }
    request = tailcfg.parse_register(orjson.dumps(body))
    assert (request.version, request.node_key, request.old_node_key) == (130, NODE, None)
    assert (request.auth_key, request.expiry, request.followup) == ("hskey-auth-abc-def", None, "")
    info = request.hostinfo
    assert (info.hostname, info.os, info.os_version, info.ipn_version) == (
        "laptop",
        "linux",
        "6.1.0",
        "1.90.9",
    )
    assert info.routable_ips == ("10.0.0.0/8", "::/0")
    assert info.request_tags == ("tag:web",)
    assert info.services == (tailcfg.Service("peerapi4", 1234), tailcfg.Service("tcp", 22, "ssh"))
    assert info.ssh_host_keys == ("ssh-ed25519 AAAA",)
    assert info.preferred_derp == 900
    assert orjson.loads(info.raw) == body["Hostinfo"]


def test_what_the_rust_client_leaves_out_and_what_go_nulls_are_the_same() -> None:
    absent = register()
    nulls = register(
        **dict.fromkeys(
            ("Version", "OldNodeKey", "Auth", "Expiry", "Followup", "Hostinfo", "Ephemeral", "Tailnet"), None
        )
    )
    zeros = register(
        Version=0,
        OldNodeKey="nodekey:" + ZERO,
        Auth={"AuthKey": ""},
        Expiry="0001-01-01T00:00:00Z",
        Followup="",
        Hostinfo={},
        Ephemeral=False,
        Tailnet="",
    )
    assert absent == nulls == zeros
    map_nulls = map_(
        **dict.fromkeys(
            ("Version", "Compress", "KeepAlive", "DiscoKey", "Stream", "Hostinfo", "Endpoints", "OmitPeers"),
            None,
        )
    )
    assert map_() == map_nulls == map_(DiscoKey="discokey:" + ZERO, Endpoints=[], Compress="", Stream=False)


def test_null_members_of_hostinfo_are_zero() -> None:
    names = ("Hostname", "OS", "RoutableIPs", "RequestTags", "Services", "NetInfo", "sshHostKeys")
    info = map_(Hostinfo=dict.fromkeys(names)).hostinfo
    assert info is not None
    assert (info.hostname, info.services, info.preferred_derp) == ("", (), 0)


def test_a_go_client_polls() -> None:
    request = map_(
        Version=130,
        Compress="zstd",
        KeepAlive=True,
        DiscoKey="discokey:" + NODE.hex(),
        Stream=True,
        Endpoints=["1.2.3.4:41641"],
        EndpointTypes=[1],
        DebugFlags=["warn-ip-forwarding-off"],
        Hostinfo={"Hostname": "x"},
    )
    assert request.zstd
    assert request.stream
    assert request.keep_alive
    assert not request.omit_peers
    assert not request.read_only
    assert (request.disco_key, request.endpoints) == (NODE, ("1.2.3.4:41641",))
    assert map_().hostinfo is None


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("1970-01-01T00:02:03Z", 123.0),
        ("1970-01-01T01:02:03+01:00", 123.0),
        ("1969-12-31T23:02:03-01:00", 123.0),
        ("1970-01-01T00:00:00.123456789Z", 0.123456789),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:53:28+00:53", None),
        ("9999-12-31T23:59:59Z", 253402300799.0),
    ],
)
def test_times(text: str, epoch: float | None) -> None:
    assert register(Expiry=text).expiry == epoch


@given(st.integers(-(10**10), 2 * 10**11))
@settings(max_examples=100, deadline=None)
def test_time_text_reads_back(epoch: int) -> None:
    assert tailcfg.parse_time(tailcfg.rfc3339(epoch), "x") == epoch


def test_time_text_has_a_fraction_only_when_there_is_one() -> None:
    assert tailcfg.rfc3339(0) == "1970-01-01T00:00:00Z"
    assert tailcfg.rfc3339(1.5) == "1970-01-01T00:00:01.500000Z"


WRONG_REGISTRATIONS = [
    (b"", "RegisterRequest is not readable JSON"),
    (b"[]", "RegisterRequest: expected `object`"),
    (b'{"NodeKey":', "not readable JSON"),
    (b'{"Followup":"\xff","NodeKey":"x"}', "not readable JSON"),
    (b"{}", "NodeKey: missing"),
    (b'{"NodeKey":null}', "NodeKey: missing"),
    (b'{"NodeKey":"nodekey:' + b"0" * 64 + b'"}', "NodeKey: missing"),
    (b'{"NodeKey":7}', "RegisterRequest.NodeKey: expected `str | null`, got `int`"),
    (b'{"NodeKey":"mkey:' + b"1" * 64 + b'"}', "NodeKey: a key must start with 'nodekey:'"),
    (b'{"NodeKey":"nodekey:12"}', "NodeKey: a nodekey must have 64 hex digits"),
]


@pytest.mark.parametrize(("body", "sentence"), WRONG_REGISTRATIONS)
def test_wrong_bodies(body: bytes, sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        tailcfg.parse_register(body)
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"Version": -1}, "RegisterRequest.Version: "),
        ({"Version": tailcfg.MAX_CAPVER + 1}, "RegisterRequest.Version: "),
        ({"OldNodeKey": "nodekey:xx"}, "OldNodeKey: a nodekey must have"),
        ({"Auth": {"AuthKey": 5}}, "RegisterRequest.Auth.AuthKey: expected"),
        ({"Expiry": "tomorrow"}, "Expiry: not an RFC 3339 time"),
        ({"Expiry": "2026-02-30T00:00:00Z"}, "Expiry: no such time"),
        ({"Expiry": "2026-02-03T00:00:00+25:00"}, "Expiry: no such time"),
        ({"Expiry": 5}, "RegisterRequest.Expiry: expected"),
        ({"Hostinfo": []}, "Hostinfo: expected `object`, got `array`"),
        ({"Hostinfo": {"Hostname": 1}}, "Hostinfo.Hostname: expected `str | null`, got `int`"),
        ({"Hostinfo": {"NetInfo": {"PreferredDERP": 65536}}}, "Hostinfo.NetInfo.PreferredDERP: "),
        (
            {"Hostinfo": {"RoutableIPs": ["10.0.0.0/8", "10.0.0.0/33"]}},
            "Hostinfo.RoutableIPs[1]: not an address",
        ),
        ({"Hostinfo": {"Services": [{"Port": 65536}]}}, "Hostinfo.Services[0].Port: "),
        ({"Hostinfo": {"RequestTags": ["tag:a"] * 65}}, "Hostinfo.RequestTags has 65 entries, more than 64"),
        (
            {"Hostinfo": {"RoutableIPs": ["::/0"] * 257}},
            "Hostinfo.RoutableIPs has 257 entries, more than 256",
        ),
    ],
)
def test_wrong_members(members: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        register(**members)
    assert sentence in caught.value.message


def test_a_compression_nobody_knows() -> None:
    with pytest.raises(BadRequest, match="Compress: 'gzip' is not known"):
        map_(Compress="gzip")


@pytest.mark.parametrize(
    ("given_text", "kept"),
    [
        ("1.2.3.4:41641", "1.2.3.4:41641"),
        ("[2001:DB8:0:0::1]:41641", "[2001:db8::1]:41641"),
        ("[::ffff:1.2.3.4]:5", "1.2.3.4:5"),
        ("127.0.0.1:5", "127.0.0.1:5"),
        ("10.0.0.1:00080", "10.0.0.1:80"),
        ("[fe80::1%eth0]:5", None),
        ("[fe80::1]:5", None),
        ("[2001:db8::1%eth0]:5", None),
        ("169.254.1.1:5", None),
        ("[::ffff:169.254.1.1]:5", None),
        ("0.0.0.0:5", None),
        ("[::]:5", None),
        ("224.0.0.1:5", None),
        ("[ff02::1]:5", None),
        ("1.2.3.4:0", None),
        ("1.2.3.4:65536", None),
        ("1.2.3.4:-1", None),
        ("1.2.3.4:٣", None),
        ("1.2.3.4", None),
        ("1.2.3.4:", None),
        (":5", None),
        ("", None),
        ("host:5", None),
        ("2001:db8::1:5", None),
        ("[1.2.3.4]:5", None),
        ("01.2.3.4:5", None),
        ("[]:5", None),
        ("[2001:db8:0000:0000:0000:0000:0000:0001]:1", "[2001:db8::1]:1"),
        ("[" + "0" * tailcfg.MAX_ENDPOINT_TEXT + "::1]:5", None),
    ],
)
def test_endpoints(given_text: str, kept: str | None) -> None:
    assert map_(Endpoints=["9.9.9.9:9", given_text]).endpoints == (
        ("9.9.9.9:9", kept) if kept else ("9.9.9.9:9",)
    )


def test_endpoints_are_capped_and_distinct() -> None:
    texts = [f"10.0.0.1:{port}" for port in range(1, tailcfg.MAX_ENDPOINTS + 10)]
    assert map_(Endpoints=["[fe80::1]:1", texts[0], *texts]).endpoints == tuple(
        texts[: tailcfg.MAX_ENDPOINTS]
    )


def test_names_lose_what_json_would_escape_and_their_excess() -> None:
    info = map_(Hostinfo={"Hostname": 'a"b\\c\n\x00é' + "x" * 300}).hostinfo
    assert info is not None
    assert info.hostname == "a'b/c  é" + "x" * (hostinfo.MAX_HOSTNAME - 8)


def test_a_hostinfo_too_long_is_refused_by_size() -> None:
    def info(size: int) -> dict[str, str]:
        return {"App": "x" * (size - len('{"App":""}'))}

    limit = tailcfg.MAX_HOSTINFO_BYTES
    assert map_(Hostinfo=info(limit)).hostinfo is not None
    with pytest.raises(BadRequest, match=f"Hostinfo has {limit + 1} bytes, more than {limit}"):
        map_(Hostinfo=info(limit + 1))


@pytest.mark.parametrize("member", [b'"Hostinfo":%b', b'"Unknown":%b', b'"Hostinfo":{"Unknown":%b}'])
def test_deep_nesting_is_survived(member: bytes) -> None:
    deep = b"[" * 5000 + b"]" * 5000
    body = b'{"NodeKey":"' + NODE_TEXT.encode() + b'",' + member % deep + b"}"
    with pytest.raises(BadRequest):
        tailcfg.parse_map(body)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | text,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(text, children, max_size=3),
    max_leaves=6,
)
register_names = ["Version", "NodeKey", "OldNodeKey", "Auth", "Expiry", "Followup", "Hostinfo", "Ephemeral"]
map_names = ["Version", "Compress", "NodeKey", "DiscoKey", "Stream", "Hostinfo", "Endpoints", "OmitPeers"]


@given(
    st.dictionaries(st.sampled_from(register_names), json_values),
    st.dictionaries(st.sampled_from(map_names), json_values),
)
@settings(max_examples=150, deadline=None)
def test_any_json_is_a_request_or_a_bad_request(first: dict[str, Any], second: dict[str, Any]) -> None:
    for members, call in ((first, register), (second, map_)):
        with contextlib.suppress(BadRequest):
            call(**members)


@given(st.binary(max_size=100))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_bad_request(body: bytes) -> None:
    for parse in (tailcfg.parse_map, tailcfg.parse_register):
        with pytest.raises(BadRequest):
            parse(body)
