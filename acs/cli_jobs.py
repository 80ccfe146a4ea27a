"""`hs-acs jobs`: what the leading hs-acs does by the clock. Over the API."""

from __future__ import annotations

import click

from app.commands import Verbs, config_option, load_settings, output_option, run


@click.group(cls=Verbs)
def jobs() -> None:
    """Jobs: what the leading hs-acs does by the clock."""


jobs.also(list="ls")


@jobs.command("list")
@config_option
@output_option
def list_(config: str | None, output: str) -> None:
    """All jobs and their last runs."""
    from acs import shell_jobs

    run(shell_jobs.list_all(load_settings(config), output))


@jobs.command("run")
@click.argument("job")
@click.option("--wait", "wait_s", type=click.IntRange(0, 3600), default=60, show_default=True)
@config_option
@output_option
def run_now(job: str, wait_s: int, config: str | None, output: str) -> None:
    """Have a job run now and show what came of it; --wait 0 only asks for it."""
    from acs import shell_jobs

    run(shell_jobs.run_now(load_settings(config), job, wait_s, output))
