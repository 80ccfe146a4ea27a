"""The `hs-node` command."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from app import __version__
from app.errors import HsError
from node import shell
from node.cli_auth import auth
from node.cli_clusters import clusters
from node.cli_debug import debug
from node.cli_devices import nodes
from node.cli_keys import preauthkeys
from node.cli_options import FORMATS, PROGRAM, Verbs, config_option, load_settings, output_option
from node.cli_policy import policy
from node.cli_rebuild import rebuild
from node.cli_routes import routes
from node.cli_simulate import simulate
from node.cli_system import config_check, configuration, db, health
from node.cli_users import users

COMPLETION_VARIABLE = "_HS_NODE_COMPLETE"


def program_name() -> str:
    """How a person in this directory calls this command."""
    path = Path(sys.argv[0]).absolute()
    if shutil.which(path.name) == str(path) or not os.access(path, os.X_OK):
        return PROGRAM
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


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
        await Serving(daemon, settings, standby, click.echo, program_name()).run()

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
        shell.show({"version": __version__}, output)


@cli.command()
@click.argument("kind", metavar="[bash|zsh|fish]", type=click.Choice(["bash", "zsh", "fish"]))
def completion(kind: str) -> None:
    """Print a shell's completion: `source <(hs-node completion bash)`."""
    found = get_completion_class(kind)
    assert found is not None
    click.echo(found(cli, {}, PROGRAM, COMPLETION_VARIABLE).source())


for group in (
    *(users, preauthkeys, nodes, routes, policy, auth, clusters, configuration, db),
    *(health, rebuild, debug),
):
    cli.add_command(group)
cli.add_command(config_check, "configtest")
cli.add_command(simulate)
cli.also(
    users="user",
    preauthkeys="preauthkey authkeys authkey pre",
    nodes="node devices device",
    routes="route",
    policy="policies",
    clusters="cluster",
)


def sentence(error: click.ClickException) -> str:
    """One line: what is wrong with the command, and where its help is."""
    text = " ".join(error.format_message().split())
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return text if ctx is None else f"{text.rstrip('.')}; see {ctx.command_path} --help"


def main() -> None:
    """Entry point; the one place where an error becomes a sentence and an exit code."""
    try:
        cli(standalone_mode=False, prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE)
    except HsError as error:
        click.echo(f"error: {error.message}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        click.echo("aborted", err=True)
        sys.exit(1)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"error: {sentence(error)}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
