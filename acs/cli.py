"""The `hs-acs` command."""

from __future__ import annotations

import sys

import click

from acs.cli_jobs import jobs
from acs.cli_join_tokens import join_tokens
from acs.cli_rebalance import move, rebalance
from acs.cli_tenants import clusters, join, placement, plans, tenants
from acs.cli_tokens import tokens
from acs.cli_usage import invoices, prices, quota, usage
from acs.cli_webhooks import webhooks
from app import __version__, log
from app.commands import (
    FORMATS,
    Verbs,
    completion_command,
    config_option,
    load_settings,
    program_name,
    run_program,
)

PROGRAM = "hs-acs"
#: Settings that only an hs-node uses.
OF_NODES = ("server_url", "policy.")


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
@click.option("-c", "--config", metavar="PATH", help="Configuration file.")
@click.option("-o", "--output", type=FORMATS, help="Form of the output.  [default: table]")
@click.option("--force", "yes", is_flag=True, help="Ask nothing.")
def cli(config: str | None, output: str | None, yes: bool) -> None:
    """Admission and control service of a deployment, and its administration."""


@cli.command()
@config_option
def serve(config: str | None) -> None:
    """Serve the API and let clients in until told to stop."""
    # The other commands need none of this, and would take twice as long.
    from acs.serve import Serving
    from app.runtime import Daemon, raise_open_files, run_daemon

    settings = load_settings(config, warn=True, unused=OF_NODES)
    # Not of the cluster that the settings name: of none.
    log.configure(settings.log.level, settings.log.format, "")
    raise_open_files()

    async def main(daemon: Daemon) -> None:
        await Serving(daemon, settings, click.echo, program_name(PROGRAM)).run()

    sys.exit(run_daemon(main))


for group in (
    tenants,
    clusters,
    plans,
    placement,
    move,
    rebalance,
    usage,
    quota,
    prices,
    invoices,
    webhooks,
    join,
    join_tokens,
    tokens,
    jobs,
):
    cli.add_command(group)
cli.add_command(completion_command(cli, PROGRAM))
cli.also(
    tenants="tenant",
    clusters="cluster",
    plans="plan",
    tokens="token",
    jobs="job",
    webhooks="webhook",
    invoices="invoice",
    quota="quotas",
    **{"join-tokens": "join-token"},
)


def main() -> None:
    """Entry point."""
    run_program(cli, PROGRAM)


if __name__ == "__main__":
    main()
