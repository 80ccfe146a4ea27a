"""Who owns the devices of the demo: users and tags, an auth key for each."""

from __future__ import annotations

import time

from app.db.scoped import Scoped
from app.model import Tenant
from app.simulation.scenario import Spec
from deploy.demo.fleet import device_spec
from deploy.demo.server import Server
from node.shell import owner_of

#: Who owns devices in each cluster: user or tag, whether they are ephemeral, the devices' names.
OWNERS = (
    ("alice", False, ("laptop", "phone", "tablet", "desktop", "watch", "camera")),
    ("bob", False, ("notebook", "pixel", "printer", "nas", "tv")),
    ("carol", True, ("runner-1", "runner-2", "runner-3", "runner-4")),
    ("tag:server", False, ("web-1", "web-2", "db-1", "cache-1", "mail-1")),
)
DEVICES_EACH = sum(len(names) for _, _, names in OWNERS)
KEY_LIFE_S = 24 * 3600.0


async def people(scoped: Scoped, tenant: Tenant, server: Server) -> list[Spec]:
    """Makes users and a key for each owner; the devices that will use it."""
    specs = []
    have = {user.name for user in await scoped.list_users(tenant.id)}
    for owner, ephemeral, names in OWNERS:
        tagged = owner.startswith("tag:")
        if not tagged and owner not in have:
            await scoped.create_user(tenant.id, owner, actor="demo")
        _, text = await scoped.create_auth_key(
            tenant.id,
            None if tagged else (await owner_of(scoped, tenant, owner)).id,
            reusable=True,
            ephemeral=ephemeral,
            tags=[owner] if tagged else [],
            expiration=time.time() + KEY_LIFE_S,
            actor="demo",
        )
        specs += [device_spec(server.url, server.cluster, name, text, ephemeral) for name in names]
    return specs
