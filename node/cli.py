"""The `hs-node` command."""

from __future__ import annotations

import sys

import click

from app import __version__
from app.commands import (
    FORMATS,
    completion_command,
    config_option,
    load_settings,
    output_option,
    program_name,
    run_program,
)
from app.output import show
from node.cli_auth import auth
from node.cli_clusters import clusters
from node.cli_debug import debug
from node.cli_devices import nodes
from node.cli_keys import preauthkeys
from node.cli_options import PROGRAM, Verbs
from node.cli_policy import policy
from node.cli_rebuild import rebuild
from node.cli_routes import routes
from node.cli_simulate import simulate
from node.cli_system import config_check, configuration, db, health
from node.cli_users import users


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
@click.option("-c", "--config", metavar="PATH", help="Configuration file.")
@click.option("-o", "--output", type=FORMATS, help="Form of the output.  [default: table]")
@click.option("--force", "yes", is_flag=True, help="Ask nothing.")
def cli(config: str | None, output: str | None, yes: bool) -> None:
    """Tailscale-compatible control server of one cluster, and its administration."""


@cli.command()
@config_option
@click.option("--standby/--no-standby", default=True, help="Wait while another instance owns the cluster.")
def serve(config: str | None, standby: bool) -> None:
    """Serve a cluster until told to stop."""
    # The other commands need none of this, and would take twice as long.
    from app.runtime import Daemon, raise_open_files, run_daemon
    from node.serve import Serving

    settings = load_settings(config, warn=True)

    raise_open_files()

    async def main(daemon: Daemon) -> None:
        await Serving(daemon, settings, standby, click.echo, program_name(PROGRAM)).run()

    sys.exit(run_daemon(main))


@cli.command()
@click.option(
    "--config", "relay_config", metavar="PATH", help="JSON file; default: one line of JSON on stdin."
)
def derp(relay_config: str | None) -> None:
    """Run the relay alone; `serve` starts its own."""
    from node.derp import child

    sys.exit(child.main(["--config", relay_config] if relay_config else []))


@cli.command()
@output_option
def version(output: str) -> None:
    """Version of this program."""
    if output == "table":
        click.echo(f"{PROGRAM}, version {__version__}")
    else:
        show({"version": __version__}, output)


for group in (
    *(users, preauthkeys, nodes, routes, policy, auth, clusters, configuration, db),
    *(health, rebuild, debug),
):
    cli.add_command(group)
cli.add_command(config_check, "configtest")
cli.add_command(simulate)
cli.add_command(completion_command(cli, PROGRAM))
cli.also(
    users="user",
    preauthkeys="preauthkey authkeys authkey pre",
    nodes="node devices device",
    routes="route",
    policy="policies",
    clusters="cluster",
)


def main() -> None:
    """Entry point."""
    run_program(cli, PROGRAM)


if __name__ == "__main__":
    main()
