"""Devices that came to the wrong owner: a hint for the entries, and a connection closed without an answer.

The client is back in 10-25 ms (CLIENTS.md), and is led to the cluster of the key it has shown. So a device is
registered by its own cluster's owner only, and nobody else ever says that it is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app import log
from app.db.route_facts import HINT_LIFE_S
from app.keys import MachineKey, NodeKey, short
from app.model import TenantId
from node.tunnel import TunnelProtocol

_log = log.get("elsewhere")

#: Closes of one machine within the window (app.db.route_facts); then it is told that it goes in circles.
MAX_CLOSES = 3


class Facts(Protocol):
    """What is needed of the database (app.db.route_facts)."""

    async def put_route_hint(self, machine_key: MachineKey, cluster_id: str) -> int: ...

    async def cluster_of_device(self, node_key: NodeKey, machine_key: MachineKey) -> str | None: ...

    async def cluster_of_tenant(self, tenant_id: TenantId) -> str | None: ...


@dataclass(slots=True)
class Elsewhere:
    """Finds out where a device belongs, and sends it there."""

    facts: Facts
    cluster_id: str
    #: The entry of this process takes the hint without waiting for news of it.
    learn: Callable[[bytes, str, float], None]
    count: Callable[[str], None]

    async def of_device(self, node_key: NodeKey, machine_key: MachineKey) -> str | None:
        """The cluster of a device or of its tombstone, this one too; None when nobody knows it."""
        return await self.facts.cluster_of_device(node_key, machine_key)

    async def other_of_device(self, node_key: NodeKey, machine_key: MachineKey) -> str | None:
        """The same, but None for this cluster."""
        return self._other(await self.of_device(node_key, machine_key))

    async def other_of_tenant(self, tenant_id: TenantId) -> str | None:
        """Another cluster in which a tenant lives."""
        return self._other(await self.facts.cluster_of_tenant(tenant_id))

    def _other(self, cluster_id: str | None) -> str | None:
        return None if cluster_id == self.cluster_id else cluster_id

    async def send(self, tunnel: TunnelProtocol, cluster_id: str) -> bool:
        """Close the tunnel with a hint to a cluster. False: this was done too often, somebody must answer."""
        closes = await self.facts.put_route_hint(tunnel.machine_key, cluster_id)
        if closes > MAX_CLOSES:
            machine = short(tunnel.machine_key)
            _log.warning("goes_in_circles", machine=machine, cluster=cluster_id, closes=closes)
            self.count("goes_in_circles")
            return False
        _log.info("sent_elsewhere", machine=short(tunnel.machine_key), cluster=cluster_id)
        self.count("sent_elsewhere")
        self.learn(tunnel.machine_key, cluster_id, HINT_LIFE_S)
        tunnel.close()
        return True
