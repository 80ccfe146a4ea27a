"""Operations on jobs: looked at, and run now."""

from __future__ import annotations

from typing import Any

from acs.api.operation import ADMIN, MAY, READ_ONLY, Call, Operation, Reply
from acs.api.tokens import moment
from app.api.records import JobRecord, Page
from app.db.jobs import Jobs
from app.model import JobFacts


def shown(job: JobFacts) -> JobRecord:
    return JobRecord(
        name=job.name,
        every_s=job.every_s,
        state=job.state,
        instance=job.instance,
        started_at=moment(job.started_at),
        duration_s=job.duration_s,
        result=job.result,
        error=job.error,
        runs=job.runs,
        failures=job.failures,
        requested_at=moment(job.requested_at),
    )


def operations(store: Jobs) -> list[Operation[Any]]:
    """What the API offers about jobs. Any instance takes a request; the one that leads runs the job."""

    async def all_jobs(call: Call) -> Reply:
        return Reply(Page[JobRecord](items=[shown(job) for job in await store.jobs()]))

    async def one(call: Call) -> Reply:
        return Reply(shown(await store.job(call.path["job"])))

    async def run(call: Call) -> Reply:
        return Reply(shown(await store.request_job(call.path["job"], actor=call.caller.actor)), status=202)

    at, tags = "/v1/jobs", ("jobs",)
    one_at, may = f"{at}/{{job}}", MAY[READ_ONLY]
    return [
        Operation("GET", at, "What the leading hs-acs does.", may, all_jobs, Page[JobRecord], tags=tags),
        Operation("GET", one_at, "A job and its last run.", may, one, JobRecord, tags=tags),
        Operation(
            "POST", f"{one_at}/run", "Run a job now.", MAY[ADMIN], run, JobRecord, status=202, tags=tags
        ),
    ]
