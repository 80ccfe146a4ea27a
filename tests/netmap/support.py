"""Devices and tenants for netmap tests, and a visibility with several classes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from app.compression import compress
from app.keys import DiscoKey, MachineKey, NodeKey
from app.model import Device, DeviceId, Tenant, TenantId, User, UserId
from app.netmap.dns import DnsPlan
from app.netmap.tenant import TenantNetmap
from app.policy.visibility import ALLOW_ALL_RULES, AllowAll, Visibility

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


class Matrix:
    """Classes are owners; who sees whom stands in a set of (viewer, member)."""

    def __init__(self, pairs: frozenset[tuple[int, int]]) -> None:
        self.pairs = pairs

    def class_of(self, device: Device) -> Hashable:
        return device.user_id or 0

    def sees(self, viewer: Hashable, member: Hashable) -> bool:
        return (viewer, member) in self.pairs

    def packet_filter(self, viewer: Hashable) -> tuple[dict[str, Any], ...]:
        return ALLOW_ALL_RULES


def make_netmap(visibility: Visibility | None = None, users: tuple[int, ...] = (1, 2, 3, 4)) -> TenantNetmap:
    netmap = TenantNetmap(
        TENANT,
        visibility=visibility or AllowAll(),
        compress=compress,
        dns=DnsPlan("hs.internal"),
        derp_map=b'{"Regions":{}}',
    )
    for user in users:
        netmap.put_user(User(UserId(user), TENANT.id, f"user{user}"))
    netmap.commit()
    return netmap
