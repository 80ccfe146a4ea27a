"""The `hs-node` command."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from app import __version__, log, settings_values
from app.errors import HsError
from app.runtime import Daemon, raise_open_files, run_daemon
from app.settings import Settings, load
from node import shell
from node.cli_auth import auth_group
from node.cli_options import config_option, output_option, tenant_option
from node.derp import child
from node.serve import Serving


def load_settings(config: str | None, *, warn: bool = False) -> Settings:
    """Settings; `warn` tells what an operator should know about them on stderr."""
    loaded = load(config, os.environ, Path.cwd())
    for warning in loaded.warnings if warn else ():
        click.echo(f"warning: {warning}", err=True)
    log.configure(loaded.settings.log.level, loaded.settings.log.format, loaded.settings.cluster_id)
    return loaded.settings


def program_name() -> str:
    """How a person in this directory calls this command."""
    path = Path(sys.argv[0]).absolute()
    if shutil.which(path.name) == str(path) or not os.access(path, os.X_OK):
        return "hs-node"
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hs-node")
def cli() -> None:
    """Tailscale-compatible control server of one cluster, and its administration."""


@cli.command()
@config_option
@click.option("--standby/--no-standby", default=True, help="Wait while another instance owns the cluster.")
def serve(config: str | None, standby: bool) -> None:
    """Serve a cluster until told to stop."""
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
    sys.exit(child.main(["--config", relay_config] if relay_config else []))


@cli.group()
def users() -> None:
    """Owners of devices."""


@users.command("create")
@click.argument("name")
@click.option("-d", "--display-name", default="")
@click.option("-e", "--email", default="")
@config_option
@tenant_option
@output_option
def users_create(
    name: str, display_name: str, email: str, config: str | None, tenant: str | None, output: str
) -> None:
    """Create a user."""
    run(shell.create_user(load_settings(config), tenant, name, display_name, email, output))


@users.command("list")
@config_option
@tenant_option
@output_option
def users_list(config: str | None, tenant: str | None, output: str) -> None:
    """List users."""
    run(shell.list_users(load_settings(config), tenant, output))


@cli.group()
def preauthkeys() -> None:
    """Auth keys, with which devices join."""


@preauthkeys.command("create")
@click.option("-u", "--user", help="Owner of the devices: name or id.")
@click.option("--reusable", is_flag=True, help="Any number of devices.")
@click.option("--ephemeral", is_flag=True, help="Devices vanish when they are gone.")
@click.option(
    "-e", "--expiration", default="1h", show_default=True, help="Life of the key: 30m, 24h, 7d, 0 = for ever."
)
@click.option("--tags", default="", help="Comma-separated; the devices belong to the tags.")
@config_option
@tenant_option
@output_option
def preauthkeys_create(
    user: str | None,
    reusable: bool,
    ephemeral: bool,
    expiration: str,
    tags: str,
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Create an auth key; its text is shown this once."""
    try:
        life = settings_values.parse_duration(expiration)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expiration") from error
    wanted = tuple(tag.strip() for tag in tags.split(",") if tag.strip())
    run(shell.create_auth_key(load_settings(config), tenant, user, reusable, ephemeral, life, wanted, output))


@preauthkeys.command("list")
@config_option
@tenant_option
@output_option
def preauthkeys_list(config: str | None, tenant: str | None, output: str) -> None:
    """List auth keys, without their secrets."""
    run(shell.list_auth_keys(load_settings(config), tenant, output))


@preauthkeys.command("expire")
@click.option("-i", "--id", "key_id", type=int, required=True)
@config_option
@tenant_option
@output_option
def preauthkeys_expire(key_id: int, config: str | None, tenant: str | None, output: str) -> None:
    """End an auth key; devices that joined with it stay."""
    run(shell.expire_auth_key(load_settings(config), tenant, key_id, output))


@cli.group()
def nodes() -> None:
    """Devices."""


@nodes.command("list")
@config_option
@tenant_option
@output_option
def nodes_list(config: str | None, tenant: str | None, output: str) -> None:
    """List devices."""
    run(shell.list_devices(load_settings(config), tenant, output))


@nodes.command("expire")
@click.option("-i", "--id", "device_id", type=int, required=True)
@click.option("--disable", is_flag=True, help="The key never expires.")
@config_option
@tenant_option
@output_option
def nodes_expire(device_id: int, disable: bool, config: str | None, tenant: str | None, output: str) -> None:
    """End a device's login now, or --disable its expiry."""
    run(shell.expire_device(load_settings(config), tenant, device_id, disable, output))


@nodes.command("delete")
@click.option("-i", "--id", "device_id", type=int, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@config_option
@tenant_option
@output_option
def nodes_delete(device_id: int, yes: bool, config: str | None, tenant: str | None, output: str) -> None:
    """Delete a device; it is logged out and its address becomes free."""
    settings = load_settings(config)
    if not yes:
        click.confirm(f"Delete device {device_id} of cluster {settings.cluster_id}?", abort=True, err=True)
    run(shell.delete_device(settings, tenant, device_id, output))


cli.add_command(auth_group(load_settings))


@cli.group()
def db() -> None:
    """The database."""


@db.command("init")
@click.option("--print-sql", is_flag=True, help="Only print what a database administrator has to run.")
@config_option
def db_init(print_sql: bool, config: str | None) -> None:
    """Create roles and schema, or print the SQL."""
    if print_sql:
        click.echo(shell.setup_sql())
        return
    run(shell.init_database(load_settings(config)))


def main() -> None:
    """Entry point; the one place where an error becomes a sentence and an exit code."""
    try:
        cli(standalone_mode=False)
    except HsError as error:
        click.echo(f"error: {error.message}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        click.echo("aborted", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
