"""`hs-node routes`. What it does is imported by each command: the others would start slower for it."""

from __future__ import annotations

import click

from app.commands import config_option, load_settings, output_option, run
from node.cli_options import Verbs, tenant_option


@click.group(cls=Verbs)
def routes() -> None:
    """Subnet and exit routes of devices. DEVICE is an id or a name."""


routes_argument = click.argument("prefixes", metavar="ROUTE...", nargs=-1, required=True)


@routes.command("list")
@click.option("-i", "--identifier", "--id", metavar="DEVICE", help="Only this device.")
@config_option
@tenant_option
@output_option
def routes_list(identifier: str | None, config: str | None, tenant: str | None, output: str) -> None:
    """List what devices announce, and whether they may carry it."""
    from node import shell_routes

    run(shell_routes.list_routes(load_settings(config), tenant, identifier, output))


@routes.command("approve")
@click.argument("device")
@routes_argument
@config_option
@tenant_option
@output_option
def routes_approve(
    device: str, prefixes: tuple[str, ...], config: str | None, tenant: str | None, output: str
) -> None:
    """Let a device carry routes it announces; 0.0.0.0/0 makes it an exit node."""
    from node import shell_routes

    run(shell_routes.approve(load_settings(config), tenant, device, prefixes, output))


@routes.command("reject")
@click.argument("device")
@routes_argument
@config_option
@tenant_option
@output_option
def routes_reject(
    device: str, prefixes: tuple[str, ...], config: str | None, tenant: str | None, output: str
) -> None:
    """Take the approval of routes back."""
    from node import shell_routes

    run(shell_routes.reject(load_settings(config), tenant, device, prefixes, output))


routes.also(list="ls", approve="enable", reject="disable unapprove")
