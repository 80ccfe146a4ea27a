"""`hs-node nodes`: devices, under headscale's name."""

from __future__ import annotations

import time

import click

from app.commands import config_option, load_settings, moment, output_option, run, yes_option
from node import shell_devices
from node.cli_options import Verbs, chosen, tag_list, tenant_option


@click.group(cls=Verbs)
def nodes() -> None:
    """Devices. DEVICE is an id or a name."""


identifier_option = click.option("-i", "--identifier", "--id", metavar="DEVICE", help="Id or name.")
device_argument = click.argument("device", required=False)


@nodes.command("list")
@click.option("-u", "--user", help="Only devices of this user: name or id.")
@config_option
@tenant_option
@output_option
def nodes_list(user: str | None, config: str | None, tenant: str | None, output: str) -> None:
    """List devices."""
    run(shell_devices.list_devices(load_settings(config), tenant, user, output))


@nodes.command("show")
@device_argument
@identifier_option
@config_option
@tenant_option
@output_option
def nodes_show(
    device: str | None, identifier: str | None, config: str | None, tenant: str | None, output: str
) -> None:
    """Everything about one device."""
    which = chosen("device", device, identifier)
    run(shell_devices.show_device(load_settings(config), tenant, which, output))


@nodes.command("rename")
@click.argument("new_name")
@click.option("-i", "--identifier", "--id", metavar="DEVICE", required=True, help="Id or present name.")
@config_option
@tenant_option
@output_option
def nodes_rename(new_name: str, identifier: str, config: str | None, tenant: str | None, output: str) -> None:
    """Give a device another name, under which its peers find it."""
    run(shell_devices.rename_device(load_settings(config), tenant, identifier, new_name, output))


@nodes.command("expire")
@device_argument
@identifier_option
@click.option("-e", "--expiry", metavar="TIME", help="2030-01-31T12:00:00Z, or 24h from now; default: now.")
@click.option("-d", "--disable", is_flag=True, help="The login never ends.")
@config_option
@tenant_option
@output_option
def nodes_expire(
    device: str | None,
    identifier: str | None,
    expiry: str | None,
    disable: bool,
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """End a device's login, or --disable its end."""
    which = chosen("device", device, identifier)
    if expiry is not None and disable:
        raise click.UsageError("--expiry and --disable exclude each other")
    at = None if disable else time.time() if expiry is None else moment(expiry, "--expiry")
    run(shell_devices.expire_device(load_settings(config), tenant, which, at, output))


@nodes.command("tag")
@device_argument
@identifier_option
@click.option("-t", "--tags", multiple=True, required=True, help="All tags it shall have: tag:web,tag:db.")
@config_option
@tenant_option
@output_option
def nodes_tag(
    device: str | None,
    identifier: str | None,
    tags: tuple[str, ...],
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Give a device to tags; it leaves its user."""
    which = chosen("device", device, identifier)
    run(shell_devices.tag_device(load_settings(config), tenant, which, tag_list(tags), output))


@nodes.command("move-user")
@device_argument
@identifier_option
@click.option("-u", "--user", required=True, help="New owner: name or id.")
@config_option
@tenant_option
@output_option
def nodes_move_user(
    device: str | None,
    identifier: str | None,
    user: str,
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Give a user's device to another user."""
    which = chosen("device", device, identifier)
    run(shell_devices.move_device(load_settings(config), tenant, which, user, output))


@nodes.command("delete")
@device_argument
@identifier_option
@yes_option
@config_option
@tenant_option
@output_option
def nodes_delete(
    device: str | None,
    identifier: str | None,
    yes: bool,
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Delete a device; it is logged out and its addresses become free."""
    which = chosen("device", device, identifier)
    run(shell_devices.delete_device(load_settings(config), tenant, which, yes, output))


nodes.also(list="ls", expire="logout exp", tag="tags", delete="destroy del rm")
nodes.also(**{"move-user": "move assign"})
