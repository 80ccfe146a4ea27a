"""Answers: registration and the two halves of a node row, and patches between two states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.keys import DiscoKey, MachineKey, NodeKey
from app.model import TAGGED_DEVICES_USER_ID, Device, DeviceId, TenantId, UserId
from app.wire import tailcfg
from app.wire.tailcfg import WHOLE, live_fields, patch, register_response, static_fields, user_profile

DEVICE = Device(
    id=DeviceId(7),
    tenant_id=TenantId(1),
    user_id=UserId(3),
    machine_key=MachineKey(b"\x01" * 32),
    node_key=NodeKey(b"\x02" * 32),
    disco_key=DiscoKey(b"\x03" * 32),
    ipv4="100.64.0.7",
    ipv6="fd7a:115c:a1e0::7",
    hostname="laptop",
    given_name="laptop",
    created=1_700_000_000.0,
    expiry=1_800_000_000.0,
    capver=130,
    hostinfo=b'{"OS":"linux"}',
    endpoints=("1.2.3.4:5",),
    home_derp=900,
    online=True,
    last_seen=1_700_000_001.0,
)
ZERO_DISCO = DiscoKey(bytes(32))


def test_a_registration_answer_has_every_member_the_rust_client_needs() -> None:
    assert orjson.loads(register_response(3, "ann@example.com", "Ann")) == {
        "User": {"ID": 3, "DisplayName": "Ann"},
        "Login": {"ID": 3, "Provider": "", "LoginName": "ann@example.com", "DisplayName": "Ann"},
        "NodeKeyExpired": False,
        "MachineAuthorized": True,
        "AuthURL": "",
        "Error": "",
    }


def test_registration_answers_for_refusals() -> None:
    body = register_response(
        0,
        "",
        "",
        error='no "such"\nkey',
        auth_url="http://x/r/1",
        node_key_expired=True,
        machine_authorized=False,
    )
    answer = orjson.loads(body)
    assert (answer["Error"], answer["AuthURL"]) == ("no 'such' key", "http://x/r/1")
    assert (answer["NodeKeyExpired"], answer["MachineAuthorized"]) == (True, False)
    assert b"\\" not in body


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://x.test/p.png", "https://x.test/p.png"),
        ("", ""),
        ("p.png", ""),
        ("javascript:x", ""),
        ('https://x/"', ""),
        ("https://x/\\", ""),
        ("https://x/\n", ""),
    ],
)
def test_a_profile_has_an_absolute_picture_url_or_none(url: str, kept: str) -> None:
    profile = user_profile(3, 'a"b', "c\\d", url)
    assert profile == {"ID": 3, "LoginName": "a'b", "DisplayName": "c/d", "ProfilePicURL": kept}


@pytest.mark.parametrize("fqdn", ["laptop.example.com", "laptop.example.com."])
def test_static_fields(fqdn: str) -> None:
    assert orjson.loads(orjson.dumps(static_fields(DEVICE, fqdn))) == {
        "ID": 7,
        "StableID": "7",
        "Name": "laptop.example.com.",
        "User": 3,
        "Machine": "mkey:" + "01" * 32,
        "Addresses": ["100.64.0.7/32", "fd7a:115c:a1e0::7/128"],
        "AllowedIPs": ["100.64.0.7/32", "fd7a:115c:a1e0::7/128"],
        "Hostinfo": {"OS": "linux"},
        "Created": "2023-11-14T22:13:20Z",
        "MachineAuthorized": True,
    }


def test_static_fields_of_a_tagged_and_expired_device() -> None:
    fields = static_fields(replace(DEVICE, user_id=None, tags=("tag:web",)), "x", expired=True)
    assert (fields["User"], fields["Tags"], fields["Expired"]) == (TAGGED_DEVICES_USER_ID, ["tag:web"], True)


def test_live_fields() -> None:
    assert live_fields(DEVICE) == {
        "Key": "nodekey:" + "02" * 32,
        "KeyExpiry": "2027-01-15T08:00:00Z",
        "DiscoKey": "discokey:" + "03" * 32,
        "Endpoints": ["1.2.3.4:5"],
        "HomeDERP": 900,
        "Cap": 130,
        "Online": True,
    }


def test_live_fields_of_a_device_that_never_polled() -> None:
    device = replace(
        DEVICE, expiry=None, disco_key=ZERO_DISCO, endpoints=(), home_derp=0, online=False, last_seen=None
    )
    assert live_fields(device) == {
        "Key": "nodekey:" + "02" * 32,
        "Endpoints": [],
        "Cap": 130,
        "Online": False,
    }
    assert live_fields(replace(device, last_seen=0.0))["LastSeen"] == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, None),
        ({}, {"hostname": "other", "hostinfo": b"{}", "last_seen": 5.0}, None),
        ({}, {"node_key": NodeKey(b"\x09" * 32)}, {"Key": "nodekey:" + "09" * 32}),
        ({}, {"expiry": 60.0}, {"KeyExpiry": "1970-01-01T00:01:00Z"}),
        ({"expiry": None}, {"expiry": 60.0}, {"KeyExpiry": "1970-01-01T00:01:00Z"}),
        ({}, {"expiry": None}, WHOLE),
        ({}, {"endpoints": ("1.1.1.1:1", "2.2.2.2:2")}, {"Endpoints": ["1.1.1.1:1", "2.2.2.2:2"]}),
        ({}, {"endpoints": ()}, {"Endpoints": []}),
        ({}, {"home_derp": 901}, {"DERPRegion": 901}),
        ({"home_derp": 0}, {"home_derp": 901}, {"DERPRegion": 901}),
        ({}, {"home_derp": 0}, WHOLE),
        ({}, {"capver": 131}, {"Cap": 131}),
        ({}, {"capver": 0}, WHOLE),
        ({}, {"disco_key": DiscoKey(b"\x09" * 32)}, {"DiscoKey": "discokey:" + "09" * 32, "Online": True}),
        ({}, {"disco_key": ZERO_DISCO}, WHOLE),
        (
            {"online": False},
            {"online": False, "disco_key": DiscoKey(b"\x09" * 32)},
            {"DiscoKey": "discokey:" + "09" * 32},
        ),
        ({}, {"online": False}, {"Online": False, "LastSeen": "2023-11-14T22:13:21Z"}),
        ({}, {"online": False, "last_seen": None}, WHOLE),
        ({"online": False}, {"online": True, "last_seen": 9.0}, {"Online": True}),
        ({"online": False}, {"online": False, "last_seen": 9.0}, {"LastSeen": "1970-01-01T00:00:09Z"}),
        ({"online": False, "last_seen": None}, {"online": False, "last_seen": None}, None),
        ({"online": False}, {"online": False, "last_seen": None}, WHOLE),
    ],
)
def test_patches(before: dict[str, Any], after: dict[str, Any], expected: Any) -> None:
    got = patch(DEVICE.id, replace(DEVICE, **before), replace(DEVICE, **after))
    assert got == ({"NodeID": 7, **expected} if isinstance(expected, dict) else expected)


def test_a_patch_carries_several_changes() -> None:
    new = replace(DEVICE, endpoints=(), home_derp=5, online=False)
    assert patch(DEVICE.id, DEVICE, new) == {
        "NodeID": 7,
        "Endpoints": [],
        "DERPRegion": 5,
        "Online": False,
        "LastSeen": "2023-11-14T22:13:21Z",
    }


def test_an_offline_row_may_say_when_it_was_last_seen() -> None:
    assert tailcfg.live_fields(replace(DEVICE, online=False))["LastSeen"] == "2023-11-14T22:13:21Z"
