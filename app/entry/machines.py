"""Where machines belong: what an entry remembers, and one question to the database for all that ask at once.

What is remembered is advice: it lives for a while, and dies when `hs_routing` says that it is old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from app import log
from app.errors import HsError

_log = log.get("machines")

#: An answer is used for so long. Machines that nobody knows are asked about each time.
KNOWN_S = 30.0
#: Machines remembered; the one that was learnt first gives way.
MAX_KNOWN = 200_000
#: Machines in one question.
MAX_ASKED = 1000
ASK_DEADLINE_S = 2.0

#: The clusters of those machines that are known.
AskMachines = Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, str]]]


class Machines:
    """Clusters of machines, by machine key."""

    def __init__(self, ask: AskMachines) -> None:
        self.questions = 0
        self._ask = ask
        #: Cluster ('' when in doubt), and until when by the loop's clock. What is past its time helps while
        #: the database is away.
        self._known: dict[bytes, tuple[str, float]] = {}
        self._wanted: dict[bytes, asyncio.Future[str | None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def remembered(self, machine_key: bytes) -> tuple[str | None, bool]:
        """What is remembered, and whether it may be used without asking."""
        cluster, until = self._known.get(machine_key, (None, 0.0))
        return cluster, self._loop.time() < until

    def learn(self, machine_key: bytes, cluster_id: str, life_s: float = KNOWN_S) -> None:
        self._known.pop(machine_key, None)
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[machine_key] = (cluster_id, self._loop.time() + life_s)

    def doubt(self, machine_key: bytes) -> None:
        """Somebody sent it somewhere: ask before anything is believed."""
        self.learn(machine_key, "", 0.0)

    def doubt_all(self) -> None:
        """Nothing is believed any more, though it is better than nothing while the database is away."""
        self._known = {key: (cluster, 0.0) for key, (cluster, _) in self._known.items()}

    async def find(self, machine_key: bytes) -> str | None:
        """The cluster of a machine by the database; by memory while it is away; None for an unknown one."""
        answer = self._wanted.get(machine_key)
        if answer is None:
            answer = self._wanted[machine_key] = self._loop.create_future()
        if self._asking is None or self._asking.done():
            self._asking = self._loop.create_task(self._ask_all(), name="machines")
        return await asyncio.shield(answer)

    async def _ask_all(self) -> None:
        while self._wanted:
            asked = dict(list(self._wanted.items())[:MAX_ASKED])
            for key in asked:
                del self._wanted[key]
            self.questions += 1
            found: Mapping[bytes, str] | None = None
            try:
                async with asyncio.timeout(ASK_DEADLINE_S):
                    found = await self._ask(list(asked))
            except (HsError, TimeoutError) as error:
                _log.warning("machines_not_known", machines=len(asked), reason=str(error) or "no answer")
            finally:
                # Whatever happened: nobody waits for ever.
                for key, answer in asked.items():
                    answer.set_result(self._settled(key, found))

    def _settled(self, machine_key: bytes, found: Mapping[bytes, str] | None) -> str | None:
        """What a machine's question came to; without an answer, what was known before."""
        if found is None:
            return self._known.get(machine_key, ("", 0.0))[0] or None
        cluster = found.get(machine_key)
        if cluster is not None:
            self.learn(machine_key, cluster)
        else:
            self._known.pop(machine_key, None)
        return cluster
