"""Use case: health is judged. The leading hs-acs raises and clears alarms; nobody else writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from app.db.admission import Admission
from app.health import Alarm, State, alarms_of, readings, resumed, step

JUDGE_EVERY_S: Final = 2.0


class Judge:
    """The rules' state of one term of leading; it begins with the alarms that a former leader left open."""

    def __init__(self, store: Admission) -> None:
        self._store = store
        self._state: State | None = None
        self._kept: Sequence[Alarm] | None = None

    async def run(self) -> str:
        """One look at everything. Raises Unavailable; alarms stay as they are then."""
        if self._state is None:
            self._state = resumed(await self._store.open_alarms())
        facts = await self._store.health_facts()
        self._state = step(self._state, readings(facts), facts.now)
        found = alarms_of(self._state)
        if found != self._kept:
            await self._store.keep_alarms(found)
            self._kept = found
        return f"{len(found)} alarms are open"
