"""Everything this process does not serve itself: where it goes, and who waits for somebody to serve it.

A change of owner ends the relays to the former one in waves; their clients are back in 10-40 ms and find
the new one. While there is none they are parked, never refused.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from app import log
from app.entry.hop import NONCE_SIZE, Hop, seal_hop
from app.entry.limits import ConnectionLimits
from app.entry.relay import Client, RelayedClient
from app.entry.routing import Route, decide
from app.errors import HsError
from app.model import ClusterOwner

_log = log.get("relays")

#: Connections held until somebody serves the cluster (app.entry.relay.PARK_S), in all and of one address.
MAX_PARKED = 16_384
MAX_PARKED_PER_ADDRESS = 8_192
#: Relayed connections of one process; each needs two descriptors.
MAX_RELAYED = 30_000
#: Offers to an owner at a time.
MAX_DIALS = 256
#: While connections are parked the database is asked again, and an owner that did not answer tried again.
RETRY_S = 0.5
ASK_DEADLINE_S = 2.0
#: A known route is looked up again after this, should no news of a change have come.
ROUTE_MAX_AGE_S = 30.0
#: Parked connections served before the event loop gets a turn; relays ended at a time, and the pause between.
RELEASE_SLICE = 32
CUT_WAVE = 200
CUT_PAUSE_S = 0.05


class RelayPool:
    """What the relays of one process to all clusters share: their bounds, and what they count."""

    def __init__(self) -> None:
        self.parking = ConnectionLimits(
            half_open=MAX_PARKED, half_open_per_address=MAX_PARKED_PER_ADDRESS, per_address=MAX_PARKED
        )
        self.dialling = asyncio.Semaphore(MAX_DIALS)
        self.parked = 0
        self.flowing = 0
        self.parked_total = 0
        self.relayed_total = 0
        self.relayed_bytes = 0
        self.given_up = 0

    @property
    def is_full(self) -> bool:
        return self.flowing >= MAX_RELAYED


class Relays:
    """Connections for one cluster that this process does not serve, and those that wait for somebody to."""

    def __init__(
        self,
        *,
        instance: str,
        cluster_id: str,
        key: bytes,
        serves: Callable[[], bool],
        ask: Callable[[], Awaitable[ClusterOwner | None]],
        pool: RelayPool,
    ) -> None:
        """`serves`: whether this process serves the cluster. `ask`: who owns it by the database."""
        self.owner: ClusterOwner | None = None
        self.pool = pool
        self.cluster_id = cluster_id
        self._instance = instance
        self._key = key
        self._serves = serves
        self._ask = ask
        self._parked: dict[RelayedClient, None] = {}
        self._flowing: dict[RelayedClient, None] = {}
        self._unreachable: tuple[ClusterOwner, float] | None = None
        self._told: tuple[ClusterOwner, str] | None = None
        self._release_due = False
        #: The database did not answer the last question.
        self._is_blind = False
        self._wake = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def parked(self) -> int:
        return len(self._parked)

    @property
    def flowing(self) -> int:
        return len(self._flowing)

    # -- routes ---------------------------------------------------------------------------------

    def route(self) -> Route:
        """Where a connection goes now, as far as is known."""
        return decide(
            serves=self._serves(),
            instance=self._instance,
            owner=self.owner,
            unreachable=self._unreachable[0] if self._unreachable and self._failed_just_now() else None,
        )

    def heard(self, instance: str, epoch: int) -> None:
        """Somebody saw the lease: if it is news, look."""
        known = ("", 0) if self.owner is None else (self.owner.instance, self.owner.epoch)
        if known[0] != instance or (instance and known[1] != epoch):
            self._wake.set()

    def changed(self) -> None:
        """This process has begun to serve, or ceased to."""
        self._wake.set()

    async def look(self) -> None:
        """Ask the database who owns the cluster; many who ask at once get one question's answer."""
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look(), name="route")
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(ASK_DEADLINE_S):
                owner = await self._ask()
        except (HsError, TimeoutError) as error:
            # The last known route stays: its owner may be as cut off as we are, and serve on.
            if not self._is_blind:
                self._is_blind = True
                _log.warning("route_not_known", cluster=self.cluster_id, reason=str(error) or "no answer")
            return
        self._is_blind = False
        if owner != self.owner:
            _log.info(
                "route_changed",
                cluster=self.cluster_id,
                owner=None if owner is None else owner.instance,
                epoch=None if owner is None else owner.epoch,
            )
            self.owner = owner

    async def run(self) -> None:
        """Keeps routes fresh, relays to the right owner, and parked connections moving; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(RETRY_S if self._parked else ROUTE_MAX_AGE_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            before, served = self.owner, self._serves()
            if not served:
                await self.look()
            if served or self.owner != before:
                self._unreachable = None
                await self._release()
                await self._cut()
            elif self._release_due:
                await self._release()
            elif self._parked:
                # One tries; when it is taken, all follow.
                next(iter(self._parked)).go()

    async def _release(self) -> None:
        self._release_due = False
        for number, client in enumerate(list(self._parked), 1):
            client.go()
            if number % RELEASE_SLICE == 0:
                await asyncio.sleep(0)

    async def _cut(self) -> None:
        """End relays to former owners. No owner at all is no reason: it may be handing clients back."""
        serves = self._serves()
        if self.owner is None and not serves:
            return
        stale = [client for client in self._flowing if serves or client.owner != self.owner]
        for start in range(0, len(stale), CUT_WAVE):
            for client in stale[start : start + CUT_WAVE]:
                client.close()
            await asyncio.sleep(CUT_PAUSE_S)

    async def drain(self) -> None:
        """Hand all clients back in waves: this process ends."""
        clients = [*self._parked, *self._flowing]
        for start in range(0, len(clients), CUT_WAVE):
            for client in clients[start : start + CUT_WAVE]:
                client.close()
            await asyncio.sleep(CUT_PAUSE_S if start + CUT_WAVE < len(clients) else 0)

    # -- what its connections call --------------------------------------------------------------

    def take(
        self,
        client: Client,
        transport: asyncio.Transport,
        first: bytes,
        remote: str,
        port: int,
        on_let_go: Callable[[], None],
    ) -> RelayedClient:
        """A connection that is not served here. `first`: all it has sent, to be passed on unchanged.

        `on_let_go` hears when the owner ends it.
        """
        relayed = RelayedClient(self, client, transport, first, remote, port, on_let_go)
        relayed.go()
        return relayed

    def failed(self, owner: ClusterOwner, reason: str) -> None:
        """An owner could not be reached, or does not take hops: spare it for a moment."""
        if self._told != (owner, reason):
            self._told = (owner, reason)
            _log.warning("owner_unreachable", owner=owner.instance, addr=owner.addr, reason=reason)
        self._unreachable = (owner, self._loop.time())

    def is_unreachable(self, owner: ClusterOwner) -> bool:
        return self._unreachable is not None and self._unreachable[0] == owner and self._failed_just_now()

    def _failed_just_now(self) -> bool:
        return self._unreachable is not None and self._loop.time() - self._unreachable[1] < RETRY_S

    def header(self, owner: ClusterOwner, remote: str, port: int) -> bytes:
        hop = Hop(
            client=remote,
            client_port=port,
            entry=self._instance,
            cluster_id=owner.cluster_id,
            epoch=owner.epoch,
            sent_at=time.time(),
            nonce=secrets.token_bytes(NONCE_SIZE),
        )
        return seal_hop(hop, self._key)

    def was_parked(self, client: RelayedClient) -> None:
        self._parked[client] = None
        self.pool.parked += 1
        self.pool.parked_total += 1
        if len(self._parked) == 1:
            self._wake.set()

    def was_taken(self, client: RelayedClient) -> None:
        self._flowing[client] = None
        self.pool.flowing += 1
        self.pool.relayed_total += 1
        self._unreachable = self._told = None
        if self._parked:
            self._release_due = True
            self._wake.set()

    def forget(self, client: RelayedClient) -> None:
        if client in self._parked:
            del self._parked[client]
            self.pool.parked -= 1
        if client in self._flowing:
            del self._flowing[client]
            self.pool.flowing -= 1
