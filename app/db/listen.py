"""Listener: a LISTEN connection that heals itself.

NOTIFY only wakes: whoever iterates reads `changes` after every event, and loads everything anew when the
generation differs from the one it loaded under.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from app import log
from app.db.connect import connect
from app.db.errors import translated
from app.sql import QUERIES

CHANNEL_PREFIX = "netmap_dirty_"
#: Owners tell everybody that something of their cluster was committed.
FLEET_CHANNEL = "hs_fleet"
#: Payload of the wake-up for a new operator request (migration 0006).
REQUEST_PAYLOAD = "request"
HEARTBEAT_S = 5.0
HEARTBEAT_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 2.0
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 2.0
#: Different wake-ups kept for a slow reader; beyond, one per channel without payload.
QUEUE_LIMIT = 64

_log = log.get("listen")


@dataclass(frozen=True, slots=True)
class Wake:
    """Somebody committed something; the payload is a hint."""

    channel: str
    payload: str


@dataclass(frozen=True, slots=True)
class Resync:
    """The connection is new: anything may have happened. `new_generation`: load everything."""

    generation: str
    new_generation: bool


class Listener:
    """Run `run()` in a task and iterate: `async for event in listener`."""

    def __init__(
        self,
        dsn: str,
        channels: Sequence[str],
        *,
        role: str = "hs_node",
        cluster_id: str = "",
        instance: str = "",
        generation: str | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        at_once: Mapping[str, Callable[[str], None]] | None = None,
    ) -> None:
        """`at_once`: channels whose payloads are given to a function instead of standing in line; it hears
        '' when some may have been lost."""
        self._at_once = dict(at_once or {})
        self.generation = generation
        self.connected = False
        self.reconnects = 0
        self._dsn = dsn
        self._channels = tuple(channels)
        self._role = role
        self._cluster_id = cluster_id
        self._instance = instance
        self._heartbeat_s = heartbeat_s
        self._wakes: dict[Wake, None] = {}
        self._resync: Resync | None = None
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Keeps the connection until cancelled."""
        pause = BACKOFF_MIN_S
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - a killed connection makes asyncpg raise almost anything
                _log.warning("listener_lost", error=str(error), cluster=self._cluster_id)
            if self.connected:
                pause = BACKOFF_MIN_S
            self.connected = False
            self.reconnects += 1
            await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311
            pause = min(pause * 2, BACKOFF_MAX_S)

    async def __aiter__(self) -> AsyncIterator[Wake | Resync]:
        while True:
            await self._ready.wait()
            if self._resync is not None:
                event: Wake | Resync = self._resync
                self._resync = None
                # Whoever resyncs needs no hint from before.
                self._wakes.clear()
            else:
                event = next(iter(self._wakes))
                del self._wakes[event]
            if not self._wakes and self._resync is None:
                self._ready.clear()
            yield event

    async def _listen(self) -> None:
        conn = await connect(
            self._dsn,
            self._role,
            cluster_id=self._cluster_id,
            instance=self._instance,
            timeout_s=CONNECT_TIMEOUT_S,
        )
        ended = asyncio.Event()
        try:
            conn.add_termination_listener(lambda _: ended.set())
            with translated():
                # LISTEN before the reader looks, else there is a gap.
                for channel in (*self._channels, *self._at_once):
                    await conn.add_listener(channel, self._on_notify)
                generation = await conn.fetchval(QUERIES["generation"], timeout=HEARTBEAT_TIMEOUT_S)
            self.connected = True
            for heard in self._at_once.values():
                heard("")
            self._push_resync(generation)
            while not ended.is_set():
                try:
                    async with asyncio.timeout(self._heartbeat_s):
                        await ended.wait()
                except TimeoutError:
                    with translated():
                        await conn.execute(QUERIES["heartbeat"], timeout=HEARTBEAT_TIMEOUT_S)
        finally:
            _terminate(conn)

    def _push_resync(self, generation: str) -> None:
        new = self.generation is not None and generation != self.generation
        pending = self._resync
        self._resync = Resync(generation, new or (pending is not None and pending.new_generation))
        self.generation = generation
        self._ready.set()

    def _on_notify(self, _conn: object, _pid: int, channel: str, payload: object) -> None:
        heard = self._at_once.get(channel)
        if heard is not None:
            heard(str(payload))
            return
        if len(self._wakes) >= QUEUE_LIMIT:
            self._wakes = {Wake(name, ""): None for name in self._channels}
        else:
            self._wakes[Wake(channel, str(payload))] = None
        self._ready.set()


def _terminate(conn: asyncpg.Connection[asyncpg.Record]) -> None:
    if not conn.is_closed():
        conn.terminate()
