"""Jobs of the leading hs-acs as everybody sees them, and the hs-acs that are there."""

from __future__ import annotations

from collections.abc import Sequence

from app.db.access import NO_CLUSTER
from app.db.base import PoolBase, write_audit
from app.db.routing import Routing
from app.errors import NotFound
from app.model import JobFacts
from app.sql import QUERIES


class Jobs(PoolBase):
    """The part of Admission about jobs and instances."""

    def presence(self) -> Routing:
        """Where an hs-acs says that it is there."""
        return Routing(self._pool, NO_CLUSTER)

    async def declare_jobs(self, jobs: Sequence[tuple[str, float]], instance: str) -> None:
        """(name, seconds between runs) of all jobs there are; one that an instance which is gone was
        running has failed."""
        names, everys = [name for name, _ in jobs], [every_s for _, every_s in jobs]
        await self._execute(QUERIES["declare_jobs"], names, everys, instance)

    async def begin_job(self, name: str, instance: str) -> None:
        """A run starts."""
        await self._execute(QUERIES["begin_job"], name, instance)

    async def end_job(
        self, name: str, instance: str, *, duration_s: float, result: str = "", error: str | None = None
    ) -> None:
        """What came of it; `error` is the sentence of one that failed."""
        await self._execute(QUERIES["end_job"], name, instance, duration_s, result, error)

    async def jobs(self) -> list[JobFacts]:
        """All jobs by name."""
        return await self._jobs(None)

    async def job(self, name: str) -> JobFacts:
        """One of them. Raises NotFound."""
        found = await self._jobs(name)
        if not found:
            raise NotFound(f"there is no job {name!r}")
        return found[0]

    async def _jobs(self, name: str | None) -> list[JobFacts]:
        return [JobFacts(*row) for row in await self._fetch(QUERIES["list_jobs"], name)]

    async def request_job(self, name: str, *, actor: str) -> JobFacts:
        """The leading instance shall run a job now. Raises NotFound."""
        async with self._connection() as conn, conn.transaction():
            if await conn.fetchval(QUERIES["request_job"], name, actor) is None:
                raise NotFound(f"there is no job {name!r}")
            await write_audit(conn, NO_CLUSTER, None, actor, "job_run", f"job:{name}", None, None)
        return await self.job(name)

    async def requested_jobs(self) -> list[str]:
        """Names of jobs that shall run now."""
        return [row[0] for row in await self._fetch(QUERIES["requested_jobs"])]
