"""What all administration commands share: the same database, one cluster, audited."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.database import database_dsn
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import NotFound
from app.model import Tenant, User
from app.settings import Settings


@asynccontextmanager
async def administration(settings: Settings) -> AsyncIterator[Scoped]:
    """The cluster's data as an administrator sees it. Raises NotFound for a cluster nobody created."""
    async with database_dsn(settings) as dsn:
        database = await Database.prepare(dsn)
        if not await database.cluster_exists(settings.cluster_id):
            raise NotFound(
                f"there is no cluster {settings.cluster_id!r} in this database: "
                "`hs-node serve` creates it at its first start (is CLUSTER_ID right?)"
            )
        scoped = await Scoped.open(dsn, cluster_id=settings.cluster_id, role="hs_admin", pool_size=1)
        try:
            yield scoped
        finally:
            await scoped.close()


def actor() -> str:
    return f"shell:{getpass.getuser()}"


async def owner_of(scoped: Scoped, tenant: Tenant, given: str) -> User:
    """A user by name or, as headscale's commands have it, by id. Raises NotFound."""
    users = await scoped.list_users(tenant.id)
    for user in users:
        if user.name == given:
            return user
    for user in users:
        if str(user.id) == given:
            return user
    raise NotFound(f"there is no user {given!r} in tenant {tenant.name!r}")
