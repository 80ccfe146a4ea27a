"""Devices, tenants and policies for netmap tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from app.compression import compress
from app.keys import DiscoKey, MachineKey, NodeKey
from app.model import Device, DeviceId, Tenant, TenantId, User, UserId
from app.netmap.dns import DnsPlan
from app.netmap.tenant import TenantNetmap
from app.policy.document import NO_POLICY, Policy
from app.policy.reader import read

TENANT = Tenant(TenantId(1), "default", "default", is_home=True)
NOW = "2026-11-21T12:00:00Z"


def key(number: int, kind: int = 0) -> bytes:
    return bytes([kind]) + number.to_bytes(31, "big")


def make_device(number: int, **changes: Any) -> Device:
    values: dict[str, Any] = {
        "id": DeviceId(number),
        "tenant_id": TENANT.id,
        "user_id": UserId(1),
        "machine_key": MachineKey(key(number, 1)),
        "node_key": NodeKey(key(number, 2)),
        "disco_key": DiscoKey(key(number, 3)),
        "ipv4": f"100.64.{number // 256}.{number % 256}",
        "ipv6": f"fd7a:115c:a1e0::{number:x}",
        "hostname": f"host{number}",
        "given_name": f"host{number}",
        "created": 1_700_000_000.0,
        "capver": 130,
        "hostinfo": b'{"OS":"linux","Hostname":"host%d"}' % number,
        "online": True,
    }
    return Device(**{**values, **changes})


def pairs_policy(pairs: Iterable[tuple[int, int]], **sections: Any) -> Policy:
    """A policy in which devices of one user reach those of another; other sections as given."""
    acls = [{"action": "accept", "src": [f"user{a}@"], "dst": [f"user{b}@:*"]} for a, b in sorted(pairs)]
    return read(json.dumps({"acls": acls, **sections}))


def make_netmap(policy: Policy = NO_POLICY, users: tuple[int, ...] = (1, 2, 3, 4)) -> TenantNetmap:
    netmap = TenantNetmap(
        TENANT, compress=compress, dns=DnsPlan("hs.internal"), derp_map=b'{"Regions":{}}', policy=policy
    )
    for user in users:
        netmap.put_user(User(UserId(user), TENANT.id, f"user{user}"))
    netmap.commit()
    return netmap
