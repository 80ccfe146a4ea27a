"""Which cluster a client's connection is for, and the relays to all of them.

`hs_routing` carries `machine:<key in hex>` (a hint was written), `tenant:<id>` (it has moved) and the names
of leases that changed hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from app import log
from app.db.lease import CLUSTER_PREFIX
from app.entry.machines import ASK_DEADLINE_S, Machines
from app.entry.relays import RelayPool, Relays
from app.errors import HsError
from app.model import ClusterOwner

_log = log.get("exchange")

#: Clusters that one entry relays to.
MAX_CLUSTERS = 4096
#: How often it is looked which clusters there are, should no lease tell of a new one.
CLUSTERS_EVERY_S = 30.0
MACHINE_PREFIX = "machine:"
TENANT_PREFIX = "tenant:"


class RoutingFacts(Protocol):
    """What is needed of the database (app.db.route_facts)."""

    async def cluster_owner(self, cluster_id: str) -> ClusterOwner | None: ...

    async def cluster_ids(self) -> list[str]: ...


@dataclass(slots=True)
class OwnCluster:
    """The cluster of this process."""

    cluster_id: str
    #: Whether this process serves it now.
    serves: Callable[[], bool]
    #: Whether a machine has a device in it, as far as is in memory. Asked of the serving process only.
    knows: Callable[[bytes], bool]


class Exchange:
    """All connections of this process that are for some cluster, its own included."""

    def __init__(
        self,
        *,
        instance: str,
        key: bytes,
        facts: Callable[[], RoutingFacts],
        machines: Machines,
        own: OwnCluster | None = None,
        somewhere: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        """`somewhere` answers where machines go that nobody knows; by default the own cluster."""
        self.machines = machines
        self.pool = RelayPool()
        self.own: Relays | None = None
        self._instance = instance
        self._key = key
        self._facts = facts
        self._own = own
        self._somewhere = somewhere
        self._clusters: dict[str, Relays] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        #: The own cluster is the only one, so that nobody need ask.
        self._is_only = False
        self._look_again = asyncio.Event()
        self._defect: BaseException | None = None
        if own is not None:
            self.own = self._relays(own.cluster_id)

    # -- where to -------------------------------------------------------------------------------

    @property
    def serves(self) -> bool:
        """Whether this process serves its cluster now."""
        return self._own is not None and self._own.serves()

    def now(self, machine_key: bytes) -> Relays | None:
        """Where a machine's connection goes as far as that is certain without asking."""
        cluster_id, is_fresh = self.machines.remembered(machine_key)
        if cluster_id is not None and is_fresh:
            return self._relays(cluster_id)
        own = self._own
        if own is None:
            return None
        if self._is_only:
            return self.own
        if own.serves() and own.knows(machine_key) and cluster_id in (None, own.cluster_id):
            return self.own
        return None

    async def find(self, machine_key: bytes) -> Relays | None:
        """The same by asking. None when there is no cluster at all."""
        cluster_id = await self.machines.find(machine_key)
        if cluster_id is None and self._own is None and self._somewhere is not None:
            try:
                async with asyncio.timeout(ASK_DEADLINE_S):
                    cluster_id = await self._somewhere()
            except (HsError, TimeoutError) as error:
                _log.warning("no_cluster_chosen", reason=str(error) or "no answer")
        return self.own if cluster_id is None else self._relays(cluster_id)

    def _relays(self, cluster_id: str) -> Relays | None:
        known = self._clusters.get(cluster_id)
        if known is None and len(self._clusters) < MAX_CLUSTERS:
            own = self._own if self._own is not None and self._own.cluster_id == cluster_id else None
            known = self._clusters[cluster_id] = Relays(
                instance=self._instance,
                cluster_id=cluster_id,
                key=self._key,
                serves=own.serves if own is not None else _never,
                ask=lambda: self._facts().cluster_owner(cluster_id),
                pool=self.pool,
            )
            task = asyncio.get_running_loop().create_task(known.run(), name=f"routes {cluster_id}")
            task.add_done_callback(self._ended)
            self._running[cluster_id] = task
            known.changed()
        return known

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Routes are kept as long as the process lives: an end is a defect, and `run` says so."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._defect = error
            self._look_again.set()

    # -- news -----------------------------------------------------------------------------------

    def heard(self, payload: str) -> None:
        """A payload of `hs_routing`; the empty one stands for any number that were lost."""
        if payload.startswith(CLUSTER_PREFIX):
            relays = self._clusters.get(payload.removeprefix(CLUSTER_PREFIX))
            if relays is None:
                self._look_again.set()
            else:
                relays.changed()
        elif payload.startswith(MACHINE_PREFIX):
            try:
                self.machines.doubt(bytes.fromhex(payload.removeprefix(MACHINE_PREFIX)))
            except ValueError:
                self.machines.doubt_all()
        elif payload.startswith(TENANT_PREFIX):
            self.machines.doubt_all()
        elif not payload:
            self.machines.doubt_all()
            self._look_again.set()
            for relays in self._clusters.values():
                relays.changed()

    async def run(self) -> None:
        """Keeps what is known of clusters fresh, until cancelled."""
        while True:
            if self._defect is not None:
                raise self._defect
            self._look_again.clear()
            try:
                async with asyncio.timeout(ASK_DEADLINE_S):
                    there = await self._facts().cluster_ids()
                self._is_only = self._own is not None and there == [self._own.cluster_id]
            except (HsError, TimeoutError) as error:
                _log.warning("clusters_not_known", reason=str(error) or "no answer")
            try:
                async with asyncio.timeout(CLUSTERS_EVERY_S):
                    await self._look_again.wait()
            except TimeoutError:
                pass

    async def close(self) -> None:
        """Hand all clients back in waves: this process ends."""
        for relays in list(self._clusters.values()):
            await relays.drain()
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        self._running.clear()


def _never() -> bool:
    return False
