"""Load by the minute, facts that health is judged by, and alarms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import msgspec

from app.db.base import PoolBase
from app.errors import Conflict, NotFound
from app.health import (
    DEAD_S,
    EXPIRING_S,
    MOST_EXPIRING,
    RULES,
    SAMPLE_S,
    SILENT_S,
    STANDBY_S,
    Alarm,
    ClusterFacts,
    Facts,
    JobFailure,
    ProcessFacts,
)
from app.load import LoadSample
from app.sql import QUERIES

#: Samples are kept so long: the console shows an hour, a night is asked about in the morning.
LOAD_KEPT_S = 2 * 86_400.0
#: Alarms that are over are kept so long.
ALARMS_KEPT_S = 30 * 86_400.0


class LoadStore(PoolBase):
    """The part of Scoped and Admission that writes samples."""

    async def put_load(self, cluster_id: str, instance: str, sample: LoadSample) -> None:
        """Adds to the minute of a process. Raises Unavailable."""
        await self._execute(
            QUERIES["put_load"],
            *(cluster_id, instance, sample.span_s, sample.connected, sample.registered, sample.changes),
            *(sample.frames, sample.bytes, sample.cpu_s, sample.rss, sample.loop_lag_s, sample.pool_used),
            *(sample.pool_size, sample.clock),
        )

    async def trim_load(self, cluster_id: str | None, max_age_s: float = LOAD_KEPT_S) -> int:
        """Forgets old samples of one cluster, or of all; how many."""
        return await self._execute(QUERIES["trim_load"], cluster_id, max_age_s)


class Alarms(PoolBase):
    """The part of Admission about alarms."""

    async def health_facts(self) -> Facts:
        """What alarms are judged by. Raises Unavailable."""
        return await read_facts(self._fetch)

    async def open_alarms(self) -> list[Alarm]:
        """Those that are open."""
        return [Alarm(*row) for row in await self._fetch(QUERIES["open_alarms"])]

    async def keep_alarms(self, alarms: Sequence[Alarm]) -> None:
        """These are open from now on, and no others."""
        columns = [
            [getattr(alarm, name) for alarm in alarms]
            for name in ("rule", "cluster_id", "object", "severity", "text")
        ]
        await self._execute(QUERIES["keep_alarms"], *columns)

    async def acknowledge_alarm(self, alarm: int, *, actor: str) -> dict[str, Any]:
        """Somebody knows of it. Raises NotFound, Conflict when it is over."""
        row = await self._fetchrow(QUERIES["acknowledge_alarm"], alarm, actor)
        if row is None:
            raise NotFound(f"there is no alarm {alarm}")
        is_open, cluster_id, rule, by = row
        if not is_open:
            raise Conflict(f"alarm {alarm} is over", code="alarm_over")
        return {"alarm": alarm, "rule": rule, "cluster": cluster_id, "by": by}

    async def trim_alarms(self, max_age_s: float = ALARMS_KEPT_S) -> int:
        """Forgets what was over long ago; how many."""
        return await self._execute(QUERIES["trim_alarms"], max_age_s)


async def read_facts(fetch: Callable[..., Awaitable[list[asyncpg.Record]]]) -> Facts:
    """One picture; `fetch` runs a statement in a role that sees all clusters."""
    near = RULES["quota_near"].clear_below
    (row,) = await fetch(
        QUERIES["health_facts"], SILENT_S, SAMPLE_S, STANDBY_S, DEAD_S, EXPIRING_S, MOST_EXPIRING, near
    )
    return Facts(
        clusters=msgspec.json.decode(row[0], type=tuple[ClusterFacts, ...]),
        processes=msgspec.json.decode(row[1], type=tuple[ProcessFacts, ...]),
        failures=msgspec.json.decode(row[2], type=tuple[JobFailure, ...]),
        dead_deliveries=row[3],
        acs_waited_s=row[4],
        leader=row[5],
        now=row[6],
    )
