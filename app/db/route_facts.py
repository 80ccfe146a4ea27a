"""Routing facts: where machines, devices and tenants belong. Facts about clusters, never what they hold."""

from __future__ import annotations

from collections.abc import Sequence

from app.db.base import PoolBase
from app.keys import MachineKey, NodeKey
from app.model import ClusterOwner, TenantId
from app.sql import QUERIES

#: How long a machine is led to the cluster it was sent to.
HINT_LIFE_S = 60.0
#: Hints of one machine are counted over this time.
HINT_WINDOW_S = 10.0


class RouteFacts(PoolBase):
    """What every entry may ask, whatever cluster it belongs to. Raises Unavailable."""

    async def route_machines(self, machine_keys: Sequence[bytes]) -> dict[bytes, str]:
        """The cluster of each of these machines that is known."""
        found = await self._fetch(QUERIES["route_machines"], list(machine_keys))
        return {row[0]: row[1] for row in found}

    async def put_route_hint(self, machine_key: MachineKey, cluster_id: str) -> int:
        """Sends a machine to a cluster for HINT_LIFE_S; how often that was done within HINT_WINDOW_S."""
        count: int = await self._fetchval(
            QUERIES["put_route_hint"], machine_key, cluster_id, HINT_LIFE_S, HINT_WINDOW_S
        )
        return count

    async def cluster_of_device(self, node_key: NodeKey, machine_key: MachineKey) -> str | None:
        """Where a device lives, or where it lived before it was deleted."""
        cluster: str | None = await self._fetchval(QUERIES["cluster_of_device"], node_key, machine_key)
        return cluster

    async def cluster_of_tenant(self, tenant_id: TenantId) -> str | None:
        """Where a tenant lives."""
        cluster: str | None = await self._fetchval(QUERIES["cluster_of_tenant"], tenant_id)
        return cluster

    async def cluster_ids(self) -> list[str]:
        """All clusters of the deployment, by id."""
        return [row[0] for row in await self._fetch(QUERIES["cluster_ids"])]

    async def cluster_owner(self, cluster_id: str) -> ClusterOwner | None:
        """Who owns a cluster, and where entries reach it; None while nobody does."""
        row = await self._fetchrow(QUERIES["cluster_owner"], cluster_id)
        return None if row is None else ClusterOwner(cluster_id, *row)
