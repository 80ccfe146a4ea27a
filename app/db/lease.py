"""Lease: who owns a cluster, kept by one direct connection of its own.

Expired is not lost: an owner that cannot renew is frozen at 0.7 of the TTL, counted from the moment its last
successful renewal was sent, and is owner again when a renewal succeeds. Refused means lost, for ever.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from app.db.connect import connect
from app.db.errors import translated
from app.errors import Unavailable
from app.sql import QUERIES

TTL_S = 5.0
RENEW_S = 1.0
POLL_S = 0.25
#: A holder's backend must be gone this long before a standby takes over ahead of the TTL.
EARLY_GRACE_S = 1.0
#: Between attempts from then on; another standby may be quicker.
GONE_POLL_S = 0.02
FREEZE_AT = 0.7
#: A takeover waits for writers of the old epoch; they die of their own deadlines before this.
ACQUIRE_TIMEOUT_S = 10.0
RECONNECT_S = 0.1
CLUSTER_PREFIX = "cluster:"
ROUTING_CHANNEL = "hs_routing"


class LeaseState(enum.StrEnum):
    """What this process may do: wait; write; serve without writing; nothing."""

    STANDBY = "standby"
    OWNER = "owner"
    FROZEN = "frozen"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease as the database says, and for how many seconds still."""

    instance: str
    epoch: int
    left_s: float
    alive: bool


class Lease:
    """One lease, `cluster:<id>` or `acs`. After `lost` or `release` make a new object."""

    def __init__(
        self,
        dsn: str,
        name: str,
        instance: str,
        *,
        ttl_s: float = TTL_S,
        renew_s: float = RENEW_S,
        on_state: Callable[[LeaseState], None] | None = None,
        on_holder: Callable[[Holder | None], None] | None = None,
    ) -> None:
        """`on_holder` hears who holds the lease whenever it is read: by a standby several times a second."""
        self.name = name
        self.instance = instance
        self.epoch: int | None = None
        self.state = LeaseState.STANDBY
        self._dsn = dsn
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._on_state = on_state
        self._on_holder = on_holder
        self._cluster_id = name.removeprefix(CLUSTER_PREFIX) if name.startswith(CLUSTER_PREFIX) else ""
        self._conn: asyncpg.Connection[asyncpg.Record] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._freeze_timer: asyncio.TimerHandle | None = None
        self._gone: tuple[int, float] | None = None
        #: A connection does one thing at a time; whoever asks about the holder waits for an attempt.
        self._asking = asyncio.Lock()
        self._nudge = asyncio.Event()
        self._changed = asyncio.Event()

    async def holder(self) -> Holder | None:
        """Who holds the lease now, None if nobody ever did. Raises Unavailable."""
        async with self._asking:
            return await self._holder()

    async def _holder(self) -> Holder | None:
        conn = await self._connection()
        with translated():
            row = await conn.fetchrow(QUERIES["lease_state"], self.name, timeout=self._ttl_s)
        holder = None if row is None or row[1] is None else Holder(*row)
        if self._on_holder is not None:
            self._on_holder(holder)
        return holder

    async def acquire(self) -> int | None:
        """One attempt: the epoch, or None while another holds it. Raises Unavailable."""
        if self.state is not LeaseState.STANDBY:
            return self.epoch if self.state is LeaseState.OWNER else None
        loop = asyncio.get_running_loop()
        async with self._asking:
            try:
                early = self._gone_long_enough(await self._holder(), loop.time())
                sent = loop.time()
                conn = await self._connection()
                with translated():
                    epoch: int | None = await conn.fetchval(
                        QUERIES["lease_acquire"],
                        self.name,
                        self.instance,
                        self._ttl_s,
                        early,
                        timeout=ACQUIRE_TIMEOUT_S,
                    )
            except Unavailable:
                self._drop()
                raise
        if epoch is None:
            return None
        self.epoch = epoch
        self._renewed(sent)
        self._keeper = asyncio.create_task(self._keep(), name=f"lease[{self.name}]")
        self._keeper.add_done_callback(self._keeper_ended)
        return epoch

    async def wait(self) -> int:
        """Polls until the lease is ours, through outages of the database too."""
        while True:
            self._nudge.clear()
            try:
                epoch = await self.acquire()
            except Unavailable:
                epoch = None
            if epoch is not None:
                return epoch
            try:
                async with asyncio.timeout(self._pause()):
                    await self._nudge.wait()
            except TimeoutError:
                continue

    def _pause(self) -> float:
        """Until the next attempt: not past the moment from which a holder that is gone may be replaced."""
        if self._gone is None:
            return POLL_S
        left_s = self._gone[1] + EARLY_GRACE_S - asyncio.get_running_loop().time()
        return min(POLL_S, max(left_s, GONE_POLL_S))

    async def wait_for(self, *states: LeaseState) -> LeaseState:
        """Returns once the lease is in one of these states."""
        while self.state not in states:
            self._changed.clear()
            await self._changed.wait()
        return self.state

    async def release(self) -> bool:
        """Gives the lease back and closes; False when it was not ours any more. Raises Unavailable."""
        self._stop()
        try:
            if self.epoch is None:
                return False
            conn = await self._connection()
            with translated():
                given: bool = await conn.fetchval(
                    QUERIES["lease_release"], self.name, self.instance, self.epoch, timeout=self._ttl_s
                )
            return given
        finally:
            self._drop()
            self._enter(LeaseState.LOST)

    def close(self) -> None:
        """Lets go without a word to the database: others wait for the early path or the TTL."""
        self._stop()
        self._drop()
        self._enter(LeaseState.LOST)

    async def _keep(self) -> None:
        pause = self._renew_s
        while True:
            await asyncio.sleep(pause)
            sent = asyncio.get_running_loop().time()
            try:
                conn = await self._connection()
                with translated():
                    renewed = await conn.fetchval(
                        QUERIES["lease_renew"],
                        self.name,
                        self.instance,
                        self.epoch,
                        self._ttl_s,
                        timeout=self._renew_s,
                    )
            except Unavailable:
                # A standby counts from the moment our backend is gone: come back at once.
                self._drop()
                pause = RECONNECT_S
                continue
            if not renewed:
                self._stop_timer()
                self._enter(LeaseState.LOST)
                return
            self._renewed(sent)
            pause = self._renew_s

    def _renewed(self, sent: float) -> None:
        self._stop_timer()
        loop = asyncio.get_running_loop()
        self._freeze_timer = loop.call_at(sent + FREEZE_AT * self._ttl_s, self._enter, LeaseState.FROZEN)
        self._enter(LeaseState.OWNER)

    def _enter(self, state: LeaseState) -> None:
        if state is self.state or self.state is LeaseState.LOST:
            return
        self.state = state
        self._changed.set()
        if self._on_state is not None:
            self._on_state(state)

    def _gone_long_enough(self, holder: Holder | None, now: float) -> bool:
        if holder is None or holder.alive or not holder.instance:
            self._gone = None
            return False
        if self._gone is None or self._gone[0] != holder.epoch:
            self._gone = (holder.epoch, now)
        return now - self._gone[1] >= EARLY_GRACE_S

    async def _connection(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._conn is not None and not self._conn.is_closed():
            return self._conn
        role = "hs_node" if self._cluster_id else "hs_acs"
        conn = await connect(
            self._dsn,
            role,
            cluster_id=self._cluster_id,
            instance=self.instance,
            timeout_s=max(self._renew_s, self._ttl_s * (1 - FREEZE_AT)),
        )
        if self.state is LeaseState.STANDBY:
            with translated():
                await conn.add_listener(ROUTING_CHANNEL, self._on_routing)
        self._conn = conn
        return conn

    def _on_routing(self, _conn: object, _pid: int, _channel: str, payload: object) -> None:
        if payload == self.name:
            self._nudge.set()

    def _keeper_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._stop_timer()
            self._enter(LeaseState.LOST)
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the lease keeper failed", "exception": task.exception(), "task": task}
            )

    def _stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._freeze_timer is not None:
            self._freeze_timer.cancel()
            self._freeze_timer = None

    def _drop(self) -> None:
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None
