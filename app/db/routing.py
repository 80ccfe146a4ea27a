"""The processes of a cluster: who is there, and where."""

from __future__ import annotations

from app.db.base import ScopedBase
from app.db.route_facts import RouteFacts
from app.model import Instance
from app.sql import QUERIES


class Routing(ScopedBase, RouteFacts):
    """The routing part of Scoped."""

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
            instance.connected,
        )

    async def delete_instance(self, instance: str) -> None:
        """Takes this process from the list."""
        await self._execute(QUERIES["delete_instance"], self.cluster_id, instance)

    async def advertised_instances(self, silent_s: float) -> list[tuple[str, str]]:
        """(instance, address) of those that clients may dial and that were heard within `silent_s`."""
        found = await self._fetch(QUERIES["advertised_instances"], self.cluster_id, silent_s)
        return [(row[0], row[1]) for row in found]
