"""What the commands of `hs-acs jobs` do."""

from __future__ import annotations

import asyncio

from acs.shell import api, row
from app.api.client import AcsClient
from app.api.records import JobRecord
from app.errors import Refused, Unavailable
from app.output import show
from app.settings import Settings

#: Between two looks at a job that was asked for.
LOOK_S = 0.25


async def list_all(settings: Settings, output: str) -> None:
    async with api(settings) as client:
        found = [row(job) for job in await client.jobs()]
    if output == "table":
        columns = ("name", "every_s", "state", "started_at", "duration_s", "instance", "result", "error")
        found = [{name: job[name] for name in columns} for job in found]
    show(found, output)


async def run_now(settings: Settings, name: str, wait_s: float, output: str) -> None:
    """Raises Refused with the sentence of a run that failed, Unavailable when nobody has run it in time."""
    async with api(settings) as client:
        job = await client.run_job(name)
        if wait_s:
            job = await _outcome(client, job, wait_s)
    show(row(job), output, upright=True)
    if wait_s and job.error is not None:
        raise Refused(f"job {name}: {job.error}", code="job_failed")


async def _outcome(client: AcsClient, asked: JobRecord, wait_s: float) -> JobRecord:
    since = asked.requested_at
    assert since is not None
    try:
        async with asyncio.timeout(wait_s):
            while True:
                job = await client.job(asked.name)
                ran = job.started_at is not None and job.started_at >= since
                if ran and job.state in ("done", "failed"):
                    return job
                await asyncio.sleep(LOOK_S)
    except TimeoutError as error:
        raise Unavailable(f"job {asked.name} has not ended within {wait_s:g} s", code="job_slow") from error
