"""Who owns the devices of the demo: users and tags, an auth key for each."""

from __future__ import annotations

import time

from app.db.scoped import Scoped
from app.model import Tenant
from app.simulation.scenario import Spec
from deploy.demo.fleet import device_spec
from deploy.demo.policies import HOME, give_policy
from deploy.demo.server import Server
from node.shell import owner_of

DAY_S = 86_400.0
#: Who owns devices in each cluster: user or tag, whether they are ephemeral, their names, the key's life.
#: Carol's key is soon in its last day: there is an alarm for that.
OWNERS = (
    ("alice", False, ("laptop", "phone", "tablet", "desktop", "watch", "camera"), 90 * DAY_S),
    ("bob", False, ("notebook", "pixel", "printer", "nas", "tv"), 90 * DAY_S),
    ("carol", True, ("runner-1", "runner-2", "runner-3", "runner-4"), DAY_S + 5),
    ("tag:server", False, ("web-1", "web-2", "db-1", "cache-1", "mail-1"), 30 * DAY_S),
)


async def people(scoped: Scoped, tenant: Tenant, server: Server) -> list[Spec]:
    """Makes users, a key for each owner, and the policy; the devices that will use the keys."""
    specs = []
    have = {user.name for user in await scoped.list_users(tenant.id)}
    for owner, ephemeral, names, life_s in OWNERS:
        tagged = owner.startswith("tag:")
        if not tagged and owner not in have:
            await scoped.create_user(tenant.id, owner, actor="demo")
        _, text = await scoped.create_auth_key(
            tenant.id,
            None if tagged else (await owner_of(scoped, tenant, owner)).id,
            reusable=True,
            ephemeral=ephemeral,
            tags=[owner] if tagged else [],
            expiration=time.time() + life_s,
            actor="demo",
        )
        specs += [device_spec(server.url, server.cluster, name, text, ephemeral) for name in names]
    await give_policy(scoped, tenant.id, HOME)
    return specs
