"""Where clients belong and who is there: routing facts, and the processes of a cluster."""

from __future__ import annotations

from app.db.base import ScopedBase
from app.keys import MachineKey
from app.model import ClusterOwner, Instance
from app.sql import QUERIES


class Routing(ScopedBase):
    """The routing part of Scoped. Facts about other clusters are where they are, never what they hold."""

    async def route_machine(self, machine_key: MachineKey) -> list[str]:
        """Clusters where a machine has devices, most recently seen first."""
        return [row[0] for row in await self._fetch(QUERIES["route_machine"], machine_key)]

    async def cluster_owner(self, cluster_id: str | None = None) -> ClusterOwner | None:
        """Who owns a cluster, default this one, and where entries reach it; None while nobody does."""
        wanted = self.cluster_id if cluster_id is None else cluster_id
        row = await self._fetchrow(QUERIES["cluster_owner"], wanted)
        return None if row is None else ClusterOwner(wanted, *row)

    async def put_instance(self, instance: Instance) -> None:
        """Says that this process is alive, and where it is reached."""
        await self._execute(
            QUERIES["put_instance"],
            self.cluster_id,
            instance.id,
            instance.kind,
            instance.addr,
            instance.version,
            instance.internal_addr,
            instance.advertise_addr,
            instance.login_url,
        )

    async def delete_instance(self, instance: str) -> None:
        """Takes this process from the list."""
        await self._execute(QUERIES["delete_instance"], self.cluster_id, instance)

    async def advertised_instances(self, silent_s: float) -> list[tuple[str, str]]:
        """(instance, address) of those that clients may dial and that were heard within `silent_s`."""
        found = await self._fetch(QUERIES["advertised_instances"], self.cluster_id, silent_s)
        return [(row[0], row[1]) for row in found]
