"""One tenant's rounds: commit what changed, tell the connected, then give newcomers their maps.

Peers hear of a newcomer before it gets its first map; otherwise its first WireGuard handshake is
lost and its first packet takes 5 s (CLIENTS.md 1.1). A round starts at once when the tenant was
idle; under load rounds keep a distance, so that many changes share one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from app import log
from app.errors import Unavailable
from app.model import DeviceId
from app.netmap.blocks import BlockCounts
from app.netmap.flush import RESYNC, Flush
from app.netmap.tenant import TenantNetmap
from app.netmap.variant import Variant
from node.session import MapSession, SessionState
from node.turns import Turns

_log = log.get("fanout")

#: Newcomers gather for so long before they are announced together; longer while rounds are slow.
GATHER_S = 0.020
GATHER_LOADED_S = 0.100
#: Rounds keep at least this distance, and at most that, by how long the last one took.
TICK_MIN_S = 0.100
TICK_MAX_S = 0.500
#: A change nobody waits for (a registration whose poll is about to come) is committed this late.
LAZY_S = 0.250
#: Viewers served between two looks at the clock.
SLICE_VIEWERS = 64
#: A newcomer's map waits for its announcement no longer than this.
ANNOUNCE_BOUND_S = 0.250
#: Who asks for a map once waits for a commit under way no longer than this.
STEADY_DEADLINE_S = 10.0


@dataclass(slots=True)
class RoundStats:
    """What one round did; reported to metrics."""

    devices: int = 0
    frames: int = 0
    bytes: int = 0
    maps: int = 0
    map_bytes: int = 0
    encodings: int = 0
    resyncs: int = 0
    late_maps: int = 0
    seconds: float = 0.0
    #: Changes handed to the netmap since the round before; over `devices` it says how well they coalesce.
    puts: int = 0
    blocks_known: int = 0
    blocks_made: int = 0
    kinds: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Delivery:
    """Whole maps that somebody asked for: whom they are still due to, and what went out so far."""

    waiting: set[DeviceId]
    done: asyncio.Future[None]
    maps: int = 0
    bytes: int = 0


class TenantFanout:
    """Serialises everything that is written to the devices of one tenant."""

    def __init__(
        self,
        netmap: TenantNetmap,
        *,
        turns: Turns,
        control_time: Callable[[], str],
        on_round: Callable[[TenantFanout, RoundStats], None],
    ) -> None:
        self.netmap = netmap
        self._turns = turns
        self.sessions: dict[DeviceId, MapSession] = {}
        self._control_time = control_time
        self._on_round = on_round
        self._loop = asyncio.get_running_loop()
        self._joiners: list[MapSession] = []
        self._told: set[DeviceId] = set()
        self._timer: asyncio.Handle | None = None
        self._due = 0.0
        self._round: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._rested = 0.0
        self._urgent = False
        self._loaded = False
        self._deliveries: list[Delivery] = []
        #: Set while no commit is under way.
        self._steady = asyncio.Event()
        self._steady.set()
        #: When the devices of the last round changed, and all others since somebody lags (loop's clock).
        self._changed: dict[DeviceId, float] = {}

    # -- what others call -----------------------------------------------------------------------

    def mark(self, delay_s: float = 0.0, *, urgent: bool = False) -> None:
        """Something changed in the netmap; it will be committed `delay_s` from now, or a tick after the
        last round. `urgent`: without waiting for the tick."""
        self._urgent = self._urgent or urgent
        if self._round is not None:
            return
        earliest = self._rested if self._urgent else self._not_before
        self._schedule(max(self._loop.time() + delay_s, earliest))

    def join(self, session: MapSession) -> None:
        """A session needs a full map: it is new, or it has fallen behind."""
        self._joiners.append(session)
        if self._round is None:
            self._schedule(self._gathered())

    async def full_map(self, device_id: DeviceId, variant: Variant) -> bytes:
        """A full map of what is committed, for who asks once. Raises NotFound, Unavailable."""
        try:
            async with asyncio.timeout(STEADY_DEADLINE_S):
                while not self._steady.is_set():
                    await self._steady.wait()
        except TimeoutError as error:
            raise Unavailable("this tenant's netmaps are being made anew", code="busy") from error
        return self.netmap.full_map(device_id, variant, self._control_time())

    def rebuild(self, devices: set[DeviceId]) -> Delivery:
        """Make the netmaps of these devices from scratch and send them to those connected, whole."""
        delivery = Delivery(set(), self._loop.create_future())
        for device_id in devices:
            session = self.sessions.get(device_id)
            if session is not None and session.state is not SessionState.LAGGING:
                delivery.waiting.add(device_id)
                if session.state is SessionState.LIVE:
                    session.state = SessionState.WAITING
                    self._joiners.append(session)
        self._deliveries.append(delivery)
        self.netmap.renew(devices)
        self.mark(urgent=True)
        return delivery

    def stop(self) -> None:
        for delivery in self._deliveries:
            delivery.done.cancel()
        self._deliveries = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._round is not None:
            self._round.cancel()

    # -- rounds ---------------------------------------------------------------------------------

    def _gathered(self) -> float:
        """When newcomers have gathered long enough, whatever distance rounds should keep."""
        return self._loop.time() + (GATHER_LOADED_S if self._loaded else GATHER_S)

    def _schedule(self, due: float) -> None:
        """Have a round at that time of the loop's clock, or earlier if one is due earlier."""
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._start)

    def _start(self) -> None:
        self._timer = None
        self._round = self._loop.create_task(self._run(), name=f"fanout[{self.netmap.tenant.id}]")
        self._round.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._round = None
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _log.error("round_failed", tenant=self.netmap.tenant.name, exc_info=error)
            for session in list(self.sessions.values()):
                session.end()
            return
        if self._joiners:
            self._schedule(self._gathered())
        elif self.netmap.is_dirty:
            self.mark()

    async def _run(self) -> None:
        started = self._loop.time()
        stats = RoundStats()
        self._urgent = False
        joiners, self._joiners = self._joiners, []
        viewers = [s for s in self.sessions.values() if s.state is SessionState.LIVE]
        stats.puts, self.netmap.puts = self.netmap.puts, 0
        flush = await self._commit()
        stats.devices = len(flush.changes)
        if all(session.state is not SessionState.LAGGING for session in self.sessions.values()):
            self._changed = {}
        self._changed |= dict.fromkeys(flush.changes, started)
        self._report_rejected()
        if not flush.is_empty:
            until = await self._turns.take()
            told = 0
            while told < len(viewers):
                if joiners and self._loop.time() - started > ANNOUNCE_BOUND_S:
                    stats.late_maps += len(joiners)
                    await self._deliver(joiners, stats)
                    joiners = []
                told = self._announce(flush, viewers, told, until, stats)
                until = await self._turns.take()
        await self._deliver(joiners, stats)
        self._settle()
        stats.encodings = flush.encodings
        stats.kinds = dict(flush.kinds)
        stats.blocks_known, stats.blocks_made = self.netmap.blocks.known, self.netmap.blocks.made
        self.netmap.blocks = BlockCounts()
        stats.seconds = self._loop.time() - started
        self._loaded = stats.seconds > GATHER_LOADED_S / 2
        ended = self._loop.time()
        self._rested = ended + min(4 * stats.seconds, TICK_MAX_S)
        self._not_before = max(self._rested, ended + TICK_MIN_S)
        self._on_round(self, stats)

    def _report_rejected(self) -> None:
        rejected = self.netmap.rejected
        for device_id in rejected.keys() - self._told:
            _log.error(
                "device_unreadable",
                tenant=self.netmap.tenant.name,
                device=device_id,
                reason=rejected[device_id],
            )
        self._told = set(rejected)

    async def _commit(self) -> Flush:
        steps = self.netmap.commit_steps()
        self._steady.clear()
        try:
            while True:
                until = await self._turns.take()
                while self._loop.time() < until:
                    try:
                        next(steps)
                    except StopIteration as done:
                        flush: Flush = done.value
                        return flush
        finally:
            steps.close()
            self._steady.set()

    def _announce(
        self, flush: Flush, viewers: list[MapSession], first: int, until: float, stats: RoundStats
    ) -> int:
        """Tells viewers from the `first` on, as many as the slice has time for; which is next."""
        encodings = flush.encodings
        live = SessionState.LIVE  # members of an enum are slow to find
        for number in range(first, len(viewers)):
            # What is encoded already costs each viewer little; what is not may cost milliseconds.
            is_due = number % SLICE_VIEWERS == 0 or flush.encodings != encodings
            if number > first and is_due and self._loop.time() >= until:
                return number
            encodings = flush.encodings
            session = viewers[number]
            if session.state is not live:
                continue
            message = flush.message_for(session.device_id, session.variant)
            if message is None:
                continue
            if message is RESYNC:
                stats.resyncs += 1
                self._resync(session)
            elif session.send_delta(message):
                stats.frames += 1
                stats.bytes += len(message)
            else:
                session.changed = self._changed
        return len(viewers)

    def _resync(self, session: MapSession) -> None:
        """Replace what a viewer knows. Without peers only a new stream can do that (empty Peers is
        "no change" to Go clients), so the stream is ended and the client polls again."""
        if not self.netmap.is_committed(session.device_id) or not self.netmap.has_peers(session.device_id):
            session.end()
            return
        session.state = SessionState.WAITING
        self._joiners.append(session)

    async def _deliver(self, joiners: list[MapSession], stats: RoundStats) -> None:
        until = 0.0
        for session in joiners:
            if self._loop.time() >= until:
                until = await self._turns.take(for_map=True)
            for _ in self.netmap.map_steps(session.device_id, session.variant):
                if self._loop.time() >= until:
                    until = await self._turns.take(for_map=True)
            if session.state is not SessionState.WAITING:
                continue
            if not self.netmap.is_committed(session.device_id):
                session.end()
                continue
            body = self.netmap.full_map(session.device_id, session.variant, self._control_time())
            session.send_map(body)
            stats.maps += 1
            stats.map_bytes += len(body)
            for delivery in self._deliveries:
                if session.device_id in delivery.waiting:
                    delivery.waiting.discard(session.device_id)
                    delivery.maps += 1
                    delivery.bytes += len(body)

    def _settle(self) -> None:
        """Deliveries end with their last map; who is gone meanwhile needs none."""
        due = {session.device_id for session in self._joiners}
        for delivery in self._deliveries:
            delivery.waiting &= due
            if not delivery.waiting and not delivery.done.done():
                delivery.done.set_result(None)
        self._deliveries = [delivery for delivery in self._deliveries if not delivery.done.done()]
