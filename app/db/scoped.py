"""Scoped: the data-access object of one cluster, the only way of node code to its rows."""

from __future__ import annotations

from typing import Literal, Self

from app.db.admin import Admin
from app.db.connect import POOL_IDLE_S, POOL_LIMIT, POOL_MAX, create_pool, server_settings
from app.db.devices import Devices
from app.db.health import LoadStore
from app.db.logins import Logins
from app.db.reads import Reads
from app.db.registering import Registering
from app.db.requests import Requests
from app.db.routing import Routing
from app.db.usage import UsageWriter
from app.errors import ConfigError
from app.names import check_cluster_id
from app.sql import QUERIES

Role = Literal["hs_node", "hs_admin"]


class Scoped(Devices, Registering, Logins, Admin, Requests, Reads, Routing, UsageWriter, LoadStore):
    """Everything one cluster's process may do. Row security is the second barrier behind its statements.

    Opened with an epoch it acts as the owner under that lease and all its writes are fenced; a new epoch
    needs a new object.
    """

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        cluster_id: str,
        role: Role = "hs_node",
        instance: str = "",
        epoch: int | None = None,
        pool_size: int = POOL_MAX,
        pool_idle_s: float = POOL_IDLE_S,
    ) -> Self:
        """A pool in the role and scope. Raises BadRequest, ConfigError, Unavailable."""
        check_cluster_id(cluster_id)
        if not 1 <= pool_size <= POOL_LIMIT:
            raise ConfigError(f"a database pool has 1 to {POOL_LIMIT} connections, not {pool_size}")
        settings = server_settings(role, cluster_id=cluster_id, instance=instance, epoch=epoch)
        scoped = cls(await create_pool(dsn, pool_size, settings, pool_idle_s), cluster_id)
        try:
            await scoped.check_scope()
        except BaseException:
            scoped._pool.terminate()
            raise
        return scoped

    async def check_scope(self) -> None:
        """Raises ConfigError when this session sees rows without a scope."""
        async with self._connection() as conn, conn.transaction():
            await conn.execute(QUERIES["forget_scope"])
            leaks = sorted({row[0] for row in await conn.fetch(QUERIES["scope_check"])})
        if leaks:
            raise ConfigError(
                "the database shows rows of other clusters to this login ("
                + ", ".join(leaks)
                + "): row level security"
                " is off or bypassed for its role",
                code="scope_leak",
            )
