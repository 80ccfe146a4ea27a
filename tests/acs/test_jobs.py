"""Jobs of the leading hs-acs: seen, run at somebody's word, by one of all instances; some admit or purge."""

from __future__ import annotations

import re

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from acs.jobs import MAX_TEXT, JobRunner
from acs.metrics import Metrics
from app.api.client import AcsClient
from app.api.records import JobRecord
from app.db.admission import Admission
from app.db.setup import Database
from app.errors import NotFound, Refused
from app.jobs import Job
from tests.acs.support import AcsProcess, parsed
from tests.node.support import ROOT, eventually, fresh_database


async def test_a_job_is_run_at_somebodys_word_and_everybody_sees_what_came_of_it(
    acs: AcsProcess, admin: AcsClient
) -> None:
    await acs.leads()
    asked = await admin.run_job("trim-answers")
    assert asked.requested_at is not None

    async def done() -> JobRecord | None:
        job = await admin.job("trim-answers")
        return job if job.state == "done" and job.requested_at is None else None

    job = await eventually(done, "it was run")
    assert job.started_at >= asked.requested_at
    assert job.instance == (await admin.service()).instance
    assert (job.error, job.result, job.duration_s >= 0) == (None, "0 old answers forgotten", True)
    assert (job.runs, job.failures) == (asked.runs + 1, 0)
    listed = {
        job["name"]: job
        for job in parsed(await acs.shell("jobs", "list", "-o", "json", token=await acs.token()))
    }
    assert listed["trim-answers"]["state"] == "done"
    assert "purge-tenants" in listed
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://127.0.0.1:{acs.metrics_port}/metrics")).text
    series = {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("job") == "trim-answers"
    }
    assert series["hs_acs_job_runs_total", "done"] == 1
    assert series["hs_acs_job_seconds_count", None] == 1
    assert series["hs_acs_job_last_success_timestamp_seconds", None] > 1.7e9
    with pytest.raises(NotFound, match="no job 'sweep'"):
        await admin.run_job("sweep")
    async with acs.client("read-only") as reader:
        assert await reader.jobs()
        with pytest.raises(Refused, match="scope admin"):
            await reader.run_job("trim-answers")


async def test_a_replica_that_does_not_lead_takes_the_word_for_the_one_that_does(
    acs: AcsProcess, admin: AcsClient
) -> None:
    await acs.leads()
    async with AcsProcess(acs.settings["PG_DSN"], secret_key_file=acs.secret_key_file) as second:
        told = await second.shell("jobs", "run", "trim-answers", "-o", "json", token=await acs.token())
        assert parsed(told)["instance"] == (await admin.service()).instance


async def test_failures_are_kept_as_sentences_and_one_that_was_cut_off_is_no_mystery(pg_server: str) -> None:
    async with fresh_database(pg_server) as dsn:
        await Database.prepare(dsn)
        store = await Admission.open(dsn, pool_size=2)
        leads = True

        async def refuse() -> None:
            raise Refused("no cluster has room")

        async def break_down() -> None:
            raise ZeroDivisionError("by zero" * MAX_TEXT)

        jobs = [Job("refused", 60, refuse), Job("broken", 60, break_down)]
        seen: list[tuple[str, bool]] = []

        def runner(instance: str, jobs: list[Job]) -> JobRunner:
            return JobRunner(
                store, instance, jobs, leads=lambda: leads, on_run=lambda name, ok, _: seen.append((name, ok))
            )

        first = runner("one", jobs)
        await first.declare()
        for name in ("refused", "broken"):
            await first.run(name)
        found = {job.name: job for job in await store.jobs()}
        assert found["refused"].error == "no cluster has room"
        assert found["broken"].error == ("ZeroDivisionError: " + "by zero" * MAX_TEXT)[:MAX_TEXT]
        assert {(job.state, job.runs, job.failures) for job in found.values()} == {("failed", 1, 1)}
        assert seen == [("refused", False), ("broken", False)]
        # The leader dies in the middle of a run, and the next one knows only one of the jobs.
        await store.begin_job("refused", "one")
        await runner("two", jobs[:1]).declare()
        (left,) = await store.jobs()
        assert (left.name, left.state, left.error) == ("refused", "failed", "one ended while it ran")
        leads = False
        await first.run("refused")
        assert (await store.job("refused")).runs == 2, "who does not lead runs nothing"
        await store.close()


def test_every_series_is_listed() -> None:
    listing = (ROOT / "docs" / "METRICS.md").read_text().partition("## hs-acs")[2]
    listed = {name.removesuffix("_total") for name in re.findall(r"`(hs_acs_\w+?)(?:\{|`)", listing)}
    assert listed == {family.name for family in Metrics().registry.collect()}
