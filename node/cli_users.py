"""`hs-node users`."""

from __future__ import annotations

import click

from app.commands import config_option, load_settings, output_option, run, yes_option
from app.policy.people import ROLES
from node import shell_users
from node.cli_options import Verbs, chosen, tenant_option


@click.group(cls=Verbs)
def users() -> None:
    """Owners of devices."""


@users.command("create")
@click.argument("name")
@click.option("-d", "--display-name", default="")
@click.option("-e", "--email", default="")
@click.option("-p", "--picture-url", default="", help="Picture of the user.")
@config_option
@tenant_option
@output_option
def users_create(
    name: str,
    display_name: str,
    email: str,
    picture_url: str,
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Create a user."""
    settings = load_settings(config)
    run(shell_users.create_user(settings, tenant, name, display_name, email, picture_url, output))


@users.command("list")
@click.option("-i", "--identifier", metavar="ID", help="Only the user of this id.")
@click.option("-n", "--name", help="Only the user of this name.")
@click.option("-e", "--email", help="Only users of this address.")
@config_option
@tenant_option
@output_option
def users_list(
    identifier: str | None,
    name: str | None,
    email: str | None,
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """List users."""
    run(shell_users.list_users(load_settings(config), tenant, identifier, name, email, output))


@users.command("rename")
@click.argument("user", required=False)
@click.option("-i", "--identifier", metavar="ID", help="Id of the user.")
@click.option("-n", "--name", help="Present name of the user.")
@click.option("-r", "--new-name", required=True)
@config_option
@tenant_option
@output_option
def users_rename(
    user: str | None,
    identifier: str | None,
    name: str | None,
    new_name: str,
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Give a user, by name or id, another name."""
    who = chosen("user", user, identifier, name)
    run(shell_users.rename_user(load_settings(config), tenant, who, new_name, output))


@users.command("role")
@click.argument("user")
@click.argument("role", type=click.Choice(ROLES))
@config_option
@tenant_option
@output_option
def users_role(user: str, role: str, config: str | None, tenant: str | None, output: str) -> None:
    """Give a user, by name or id, a role: policies speak of it as `autogroup:admin` and so on."""
    run(shell_users.set_role(load_settings(config), tenant, user, role, output))


@users.command("destroy")
@click.argument("user", required=False)
@click.option("-i", "--identifier", metavar="ID", help="Id of the user.")
@click.option("-n", "--name", help="Name of the user.")
@yes_option
@config_option
@tenant_option
@output_option
def users_destroy(
    user: str | None,
    identifier: str | None,
    name: str | None,
    yes: bool,
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Delete a user, by name or id, who has no devices."""
    who = chosen("user", user, identifier, name)
    run(shell_users.destroy_user(load_settings(config), tenant, who, yes, output))


users.also(create="new", list="ls show", rename="mv", destroy="delete rm")
