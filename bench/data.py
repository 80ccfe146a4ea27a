"""Synthetic devices, the same for ours and for the naive way, and a visibility with many classes."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import orjson

from app.compression import compress
from app.keys import DiscoKey, MachineKey, NodeKey
from app.model import Device, DeviceId, Tenant, TenantId, User, UserId
from app.netmap.dns import DnsPlan
from app.netmap.tenant import TenantNetmap
from app.policy.document import NO_POLICY, Policy
from app.policy.reader import read
from bench.load import endpoints

TENANT = Tenant(TenantId(1), "bench", "bench", is_home=True)
DOMAIN = "hs.internal"
NOW = "2026-11-21T12:00:00Z"
USERS = 50
#: Every so many-th device is a tagged server that everybody sees.
TAGGED_EVERY = 5
DERP_MAP = orjson.dumps({"Regions": {"900": {"RegionID": 900, "RegionCode": "bench", "Nodes": []}}})


def key(number: int, kind: str) -> bytes:
    """Keys do not compress, so these must not either."""
    return hashlib.sha256(f"{kind}{number}".encode()).digest()


def device(number: int) -> Device:
    """A rich but ordinary device: about 1 KB of JSON."""
    tagged = number % TAGGED_EVERY == 0
    return Device(
        id=DeviceId(number),
        tenant_id=TENANT.id,
        user_id=None if tagged else UserId(1 + number % USERS),
        machine_key=MachineKey(key(number, "machine")),
        node_key=NodeKey(key(number, "node")),
        disco_key=DiscoKey(key(number, "disco")),
        ipv4=f"100.64.{number // 256}.{number % 256}",
        ipv6=f"fd7a:115c:a1e0::{number:x}",
        hostname=f"laptop-{number}",
        given_name=f"laptop-{number}",
        tags=("tag:server",) if tagged else (),
        created=1_760_000_000.0 + number,
        capver=130,
        hostinfo=orjson.dumps(
            {
                "OS": "linux",
                "Hostname": f"laptop-{number}",
                "Services": [{"Proto": "peerapi4", "Port": 40_000 + number % 20_000}],
            }
        ),
        endpoints=tuple(endpoints(number)),
        home_derp=900,
        online=True,
    )


def moved(known: Device, salt: int) -> Device:
    """The device with other endpoints."""
    return replace(known, endpoints=tuple(endpoints(salt)))


#: People see their own devices and tagged servers; servers see all. One class per owner.
OWN_AND_SERVERS = read(
    """{
  "tagOwners": {"tag:server": ["autogroup:member"]},
  "acls": [
    {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},
    {"action": "accept", "src": ["*"], "dst": ["tag:server:*"]},
  ],
}"""
)


def own_and_servers(viewer: Device, member: Device) -> bool:
    """OWN_AND_SERVERS between two devices."""
    return bool(viewer.tags or member.tags) or viewer.user_id == member.user_id


def everybody(viewer: Device, member: Device) -> bool:
    return True


def netmap_of(devices: list[Device], policy: Policy = NO_POLICY) -> TenantNetmap:
    """A committed netmap of these devices."""
    netmap = TenantNetmap(TENANT, policy=policy, compress=compress, dns=DnsPlan(DOMAIN), derp_map=DERP_MAP)
    for number in range(1, USERS + 1):
        netmap.put_user(User(UserId(number), TENANT.id, f"user{number}", f"User {number}"))
    for one in devices:
        netmap.put(one)
    netmap.commit()
    return netmap
