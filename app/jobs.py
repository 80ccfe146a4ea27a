"""What happens by the clock. Each job is a plain coroutine; the scheduler only calls it.

Jobs run on the owner alone, never twice at a time, and a failed run is a log line, not an end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from app import log
from app.errors import HsError

_log = log.get("jobs")


@dataclass(frozen=True, slots=True)
class Job:
    """`run` every `every_s` seconds."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[object]]


def schedule(jobs: list[Job]) -> AsyncIOScheduler:
    """A started scheduler; shut it down with `shutdown(wait=False)`."""
    scheduler = AsyncIOScheduler(
        job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": 60}
    )
    for job in jobs:
        scheduler.add_job(
            _guarded, IntervalTrigger(seconds=job.every_s), args=[job], id=job.name, name=job.name
        )
    scheduler.start()
    return scheduler


async def _guarded(job: Job) -> None:
    try:
        await job.run()
    except HsError as error:
        _log.warning("job_failed", job=job.name, reason=error.message)
    except Exception:  # noqa: BLE001 - a job's outermost frame; the next run may do better
        _log.exception("job_failed", job=job.name)
