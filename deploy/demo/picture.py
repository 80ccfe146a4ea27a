"""The deployment as the database tells it, and as tables."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from app.api.client import AcsClient
from app.api.records import TenantRecord
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import Unavailable
from app.model import AuthKey, ClusterFacts, Device, StoredPolicy, Tenant, User
from app.output import Row, show, when
from app.simulation.fleet import Fleet
from deploy.demo.fleet import away, happened
from node.shell_clusters import cluster_row

#: The tables must say what the devices do within this.
SETTLE_DEADLINE_S = 30.0
POLL_S = 0.1

#: Scope and home tenant of each cluster.
Places = dict[str, tuple[Scoped, Tenant]]


@dataclass(frozen=True, slots=True)
class Picture:
    """The deployment as the database tells it."""

    clusters: list[ClusterFacts]
    users: list[tuple[str, User]]
    keys: list[tuple[str, AuthKey]]
    devices: list[tuple[str, Device]]
    policies: list[tuple[str, StoredPolicy]]
    tenants: list[TenantRecord]

    def owner(self, cluster: str, device: Device) -> str:
        if device.tags:
            return ", ".join(device.tags)
        return next(user.name for place, user in self.users if place == cluster and user.id == device.user_id)

    def tables(self) -> list[tuple[str, list[Row]]]:
        return [
            ("Clusters", [cluster_row(cluster) for cluster in self.clusters]),
            ("Tenants", [self._tenant(tenant) for tenant in self.tenants]),
            ("Users", [self._user(cluster, user) for cluster, user in self.users]),
            ("Auth keys", [self._key(cluster, key) for cluster, key in self.keys]),
            ("Policies", [self._policy(cluster, policy) for cluster, policy in self.policies]),
            ("Routes", [row for cluster, device in self.devices for row in self._routes(cluster, device)]),
            ("Devices", [self.device(cluster, device) for cluster, device in self.devices]),
        ]

    def _tenant(self, tenant: TenantRecord) -> Row:
        kind = "home" if tenant.home else "customer"
        return {"tenant": tenant.name, "kind": kind, "cluster": tenant.cluster, "devices": tenant.devices}

    def _user(self, cluster: str, user: User) -> Row:
        owned = [device for place, device in self.devices if place == cluster and device.user_id == user.id]
        return {"cluster": cluster, "user": user.name, "devices": len(owned), "created": when(user.created)}

    def _key(self, cluster: str, key: AuthKey) -> Row:
        owner = next((user.name for _, user in self.users if user.id == key.user_id), None)
        kind = "ephemeral" if key.ephemeral else "reusable" if key.reusable else "once"
        return {
            "cluster": cluster,
            "key": f"{key.prefix}...",
            "owner": owner or ", ".join(key.tags),
            "kind": kind,
            "uses": key.uses,
            "expires": when(key.expiration),
        }

    def _policy(self, cluster: str, policy: StoredPolicy) -> Row:
        facts = {"version": policy.version, "author": policy.author, "note": policy.note}
        return {"cluster": cluster, **facts, "bytes": len(policy.text)}

    def _routes(self, cluster: str, device: Device) -> list[Row]:
        facts = {"cluster": cluster, "router": device.given_name}
        return [
            {**facts, "route": route, "state": "approved" if route in device.approved_routes else "waiting"}
            for route in device.announced_routes
        ]

    def device(self, cluster: str, device: Device) -> Row:
        return {
            "cluster": cluster,
            "device": device.given_name,
            "owner": self.owner(cluster, device),
            "address": device.ipv4,
            "state": "online" if device.online else "away",
            "last seen": when(device.last_seen),
            "endpoints": list(device.endpoints),
        }


async def look(database: Database, places: Places, api: AcsClient) -> Picture:
    users, keys, devices, policies = [], [], [], []
    for cluster, (scoped, tenant) in places.items():
        users += [(cluster, user) for user in await scoped.list_users(tenant.id)]
        keys += [(cluster, key) for key in await scoped.list_auth_keys(tenant.id)]
        devices += [(cluster, device) for device in await scoped.list_devices(tenant.id)]
        policies += [(cluster, policy) for policy in await scoped.policy_history(tenant.id)]
    tenants = [tenant async for tenant in api.tenants()]
    return Picture(await database.clusters(), users, keys, devices, policies, tenants)


async def settled(database: Database, places: Places, api: AcsClient, fleet: Fleet) -> Picture:
    """The picture once it says of every device of the home tenants whether it is here. Raises Unavailable."""
    gone = {hostname for hostname in away(fleet) if hostname.partition("-")[0] in places}
    end_s = time.monotonic() + SETTLE_DEADLINE_S
    while True:
        picture = await look(database, places, api)
        found = {device.hostname for _, device in picture.devices if not device.online}
        if found == gone:
            return picture
        if time.monotonic() > end_s:
            raise Unavailable(f"away are {sorted(gone)}, but the database says {sorted(found)}")
        await asyncio.sleep(POLL_S)


def report(picture: Picture, fleet: Fleet) -> None:
    for title, rows in picture.tables():
        print(f"\n{title}\n")
        show(rows, "table")
    online = sum(device.online for _, device in picture.devices)
    print(
        f"\n{len(picture.devices)} devices of home tenants, {len(fleet.devices) - len(picture.devices)} of"
        f" customers, on {len(picture.clusters)} clusters; of the former {online} online,"
        f" {len(picture.devices) - online} away; {happened(fleet)}\n",
        flush=True,
    )
