"""Runs of jobs, seen by everybody: when, by whom, how long, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from app import log
from app.errors import HsError
from app.jobs import Job

_log = log.get("jobs")

#: How often the leader looks for jobs that somebody wants run now.
LOOK_EVERY_S = 1.0
#: Longer results and errors are cut.
MAX_TEXT = 500


class Store(Protocol):
    """What is needed of the database (app.db.Admission)."""

    async def declare_jobs(self, jobs: Sequence[tuple[str, float]], instance: str) -> None: ...

    async def begin_job(self, name: str, instance: str) -> None: ...

    async def end_job(
        self, name: str, instance: str, *, duration_s: float, result: str = "", error: str | None = None
    ) -> None: ...

    async def requested_jobs(self) -> list[str]: ...


class JobRunner:
    """Runs the jobs of an instance that leads, one run of a job at a time."""

    def __init__(
        self,
        store: Store,
        instance: str,
        jobs: Sequence[Job],
        *,
        leads: Callable[[], bool],
        on_run: Callable[[str, bool, float], None],
        also: Sequence[Job] = (),
    ) -> None:
        """`on_run` hears of each run: job, whether it went well, seconds. `also`: done as often, but too
        often to record each run."""
        self._store = store
        self._instance = instance
        self._jobs = {job.name: job for job in jobs}
        self._leads = leads
        self._on_run = on_run
        self._also = tuple(also)
        self._running: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def declare(self) -> None:
        """Say which jobs there are. Raises Unavailable."""
        everys = [(job.name, job.every_s) for job in self._jobs.values()]
        await self._store.declare_jobs(everys, self._instance)

    def by_the_clock(self) -> list[Job]:
        """The jobs as the scheduler takes them."""

        def guarded(job: Job) -> Job:
            return Job(job.name, job.every_s, lambda: self.run(job.name))

        return [
            *map(guarded, self._jobs.values()),
            Job("look for requests", LOOK_EVERY_S, self.run_requested),
            *self._also,
        ]

    async def run(self, name: str) -> None:
        """One run, recorded; nothing while this instance does not lead, or runs it already.

        One whose start cannot be recorded is left out.
        """
        if not self._leads() or name in self._running:
            return
        self._running.add(name)
        try:
            await self._store.begin_job(name, self._instance)
            began_s = time.monotonic()
            result, error = await self._outcome(self._jobs[name])
            duration_s = time.monotonic() - began_s
            self._on_run(name, error is None, duration_s)
            await self._store.end_job(name, self._instance, duration_s=duration_s, result=result, error=error)
        except HsError as error:
            _log.warning("job_not_recorded", job=name, reason=error.message)
        finally:
            self._running.discard(name)

    async def _outcome(self, job: Job) -> tuple[str, str | None]:
        """(result, error) of a run."""
        try:
            result = await job.run()
        except HsError as error:
            _log.warning("job_failed", job=job.name, reason=error.message)
            return "", error.message[:MAX_TEXT]
        except Exception as error:  # noqa: BLE001 - a job's outermost frame; the next run may do better
            _log.exception("job_failed", job=job.name)
            return "", f"{type(error).__name__}: {error}"[:MAX_TEXT]
        return "" if result is None else str(result)[:MAX_TEXT], None

    async def run_requested(self) -> None:
        """Start what somebody wants run now."""
        if not self._leads():
            return
        for name in await self._store.requested_jobs():
            # One that runs now is run again afterwards.
            if name in self._jobs and name not in self._running:
                task = asyncio.create_task(self.run(name), name=f"job[{name}]")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
