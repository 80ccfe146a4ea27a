"""What the overview adds to the clusters: open alarms and the last hour.

The leading hs-acs judges health, so alarms have ids, can be acknowledged and are the same for everybody.
While none leads nobody would: then this console judges the same facts by the same rules, for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from app.db.fleet import Fleet
from app.fleet import LoadHistory, OpenAlarm
from app.health import Facts, Key, State, alarms_of, readings, step

#: Samples are of a minute: looking more often shows nothing new.
LOAD_EVERY_S: Final = 10.0


class Watch:
    """State that lies between two pictures. `clock` is in epoch seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._state: State = {}
        self._raised: dict[Key, float] = {}
        self._load: tuple[float, str | None, Mapping[str, LoadHistory]] | None = None

    async def alarms(self, fleet: Fleet, cluster_id: str | None) -> tuple[tuple[OpenAlarm, ...], Facts]:
        """Open alarms, and what is known of the processes; without a leader these were judged here."""
        facts = await fleet.facts()
        if facts.leader:
            self._state, self._raised = {}, {}
            return tuple(await fleet.alarms(cluster_id)), facts
        self._state = step(self._state, readings(facts), facts.now)
        found = alarms_of(self._state)
        keys = [(one.rule, one.cluster_id, one.object) for one in found]
        self._raised = {key: self._raised.get(key, facts.now) for key in keys}
        return tuple(
            OpenAlarm(0, one.cluster_id, one.severity, one.rule, one.object, one.text, self._raised[key])
            for key, one in zip(keys, found, strict=True)
            if cluster_id is None or one.cluster_id in ("", cluster_id)
        ), facts

    async def load(self, fleet: Fleet, cluster_id: str | None) -> Mapping[str, LoadHistory]:
        """The last hour of each cluster, read again when there can be something new."""
        now = self._clock()
        if self._load is None or self._load[1] != cluster_id or now - self._load[0] >= LOAD_EVERY_S:
            self._load = now, cluster_id, await fleet.load(cluster_id)
        return self._load[2]
