"""The live pipeline: wake-ups and a poll -> one read of what is on screen -> one message to the app.

The feed touches no widget. It never ends because of the database: it keeps trying, and says so.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from app.errors import HsError, NotFound, Unavailable
from app.model import OperatorRequest, RequestId
from console.store import Store

#: Repaints a second are bounded by this pause between two reads.
MIN_PAUSE_S = 0.125
#: Presence is written without notification, so the screen is read again this often.
POLL_S = 1.0
#: A read that took t is followed by a pause of at least this many t: big tables cost a tenth of one core.
READ_SHARE = 10
#: While a request is under way its row is looked at this often.
REQUEST_POLL_S = 0.25
#: The same for a read that owners ask for: a busy fleet wakes without end, and costs a quarter of one core.
WAKE_SHARE = 3
#: However slow a read was: nobody looks at an older picture, nor waits longer for the end of a request.
PAUSE_MAX_S = 5.0
#: Requests followed at a time; further ones wait their turn.
MAX_FOLLOWED = 50
BACKOFF_MIN_S = 0.25
BACKOFF_MAX_S = 5.0
#: A refusal of the database (rights, schema) is tried again this often.
REFUSED_PAUSE_S = 5.0
STALE_AFTER_S = 5.0

LinkKind = Literal["connecting", "live", "down", "refused"]


@dataclass(frozen=True, slots=True)
class Link:
    """How it stands with the database. Times are of the console's clock."""

    kind: LinkKind = "connecting"
    rtt_ms: float = 0.0
    since: float = 0.0
    attempt: int = 0
    retry_at: float = 0.0
    reason: str = ""

    @property
    def is_up(self) -> bool:
        return self.kind == "live"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the screen on top needs: whose it is, and the read."""

    screen: str
    serial: int
    read: Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Picture:
    """What a read brought."""

    wanted: Wanted
    data: Any
    at: float


@dataclass(frozen=True, slots=True)
class Vanished:
    """A request that is not in the database any more: its outcome will not be known."""

    request_id: RequestId


Report = Link | Picture | OperatorRequest | Vanished


class Feed:
    """`wanted` tells what to read; `tell` takes Link, Picture and OperatorRequest."""

    def __init__(
        self,
        store: Store,
        wanted: Callable[[], Wanted | None],
        tell: Callable[[Report], object],
        clock: Callable[[], float],
    ) -> None:
        self.link = Link(since=clock())
        self.followed: dict[RequestId, str] = {}
        self._store = store
        self._wanted = wanted
        self._tell = tell
        self._clock = clock
        self._kick = asyncio.Event()
        self._urgent = asyncio.Event()
        self._woken = False
        self._heeds_wakes = False

    def kick(self, *, urgent: bool = False) -> None:
        """Read as soon as the pause allows, also while waiting for a lost database.

        `urgent`: the operator asked for something else. A read that is under way for what was wanted before
        is given up, and there is no pause.
        """
        self._kick.set()
        if urgent:
            self._urgent.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="feed-wakes")
            group.create_task(self._read(), name="feed-reads")

    async def _listen(self) -> None:
        async for _ in self._store.wakes():
            self._woken = True
            if self._heeds_wakes:
                self.kick()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._kick.clear()
            self._woken = self._heeds_wakes = False
            began = loop.time()
            wake_pause = MIN_PAUSE_S
            try:
                await self._picture()
                await self._requests()
            except Unavailable as error:
                pause = self._lost(error)
            except HsError as error:
                pause = REFUSED_PAUSE_S
                self._set(Link("refused", since=self._since("refused"), reason=error.message))
            else:
                took = loop.time() - began
                self._set(Link("live", rtt_ms=took * 1000, since=self._since("live")))
                pause = max(REQUEST_POLL_S if self.followed else POLL_S, min(READ_SHARE * took, PAUSE_MAX_S))
                wake_pause = max(MIN_PAUSE_S, min(WAKE_SHARE * took, PAUSE_MAX_S))
            await self._pause(pause, wake_pause)

    async def _picture(self) -> None:
        while (wanted := self._wanted()) is not None:
            self._urgent.clear()
            read = asyncio.ensure_future(wanted.read())
            other = asyncio.ensure_future(self._urgent.wait())
            try:
                await asyncio.wait({read, other}, return_when=asyncio.FIRST_COMPLETED)
                if read.done():
                    self._tell(Picture(wanted, await read, self._clock()))
                    return
            finally:
                other.cancel()
                _give_up(read)

    async def _requests(self) -> None:
        for request_id in list(self.followed)[:MAX_FOLLOWED]:
            try:
                request = await self._store.request(request_id)
            except NotFound:
                self.followed.pop(request_id, None)
                self._tell(Vanished(request_id))
                continue
            if request.is_finished:
                self.followed.pop(request_id, None)
            self._tell(request)

    async def _pause(self, pause_s: float, wake_pause_s: float) -> None:
        """Ends early for what the operator did, and after `wake_pause_s` for what owners told, too."""
        if await _set_within(self._urgent, MIN_PAUSE_S):
            return
        if await _set_within(self._kick, wake_pause_s - MIN_PAUSE_S):
            return
        self._heeds_wakes = True
        if not self._woken:
            await _set_within(self._kick, pause_s - wake_pause_s)

    def _lost(self, error: Unavailable) -> float:
        attempt = self.link.attempt + 1
        pause: float = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(attempt - 1, 10))
        pause *= random.uniform(0.75, 1.25)  # noqa: S311
        self._set(Link("down", 0.0, self._since("down"), attempt, self._clock() + pause, error.message))
        return pause

    def _since(self, kind: LinkKind) -> float:
        return self.link.since if self.link.kind == kind else self._clock()

    def _set(self, link: Link) -> None:
        self.link = link
        self._tell(link)


async def _set_within(event: asyncio.Event, pause_s: float) -> bool:
    """Whether it is set, now or within this time."""
    try:
        async with asyncio.timeout(max(0.0, pause_s)):
            return await event.wait()
    except TimeoutError:
        return event.is_set()


def _give_up(read: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more, nor for what it may fail with."""
    read.cancel()
    read.add_done_callback(lambda done: done.cancelled() or done.exception())
