"""`hs-node auth`: logins without an auth key."""

from __future__ import annotations

import click

from app.commands import config_option, load_settings, output_option, run
from node import shell_auth
from node.cli_options import Verbs, chosen, tenant_option


@click.group(cls=Verbs)
def auth() -> None:
    """Devices that log in without an auth key, until somebody decides."""


@auth.command("list")
@config_option
@output_option
def auth_list(config: str | None, output: str) -> None:
    """List logins of the last 15 minutes, of all clusters: they belong to none until approved."""
    run(shell_auth.list_logins(load_settings(config), output))


@auth.command("approve")
@click.argument("login", metavar="ID", required=False)
@click.option("--auth-id", metavar="ID", help="The same, as headscale has it.")
@click.option("-u", "--user", required=True, help="Owner of the device: name or id.")
@config_option
@tenant_option
@output_option
def auth_approve(
    login: str | None, auth_id: str | None, user: str, config: str | None, tenant: str | None, output: str
) -> None:
    """Let the waiting device in as a user's."""
    login_id = chosen("login", login, auth_id)
    run(shell_auth.approve_login(load_settings(config), tenant, login_id, user, output))


@auth.command("deny")
@click.argument("login", metavar="ID", required=False)
@click.option("--auth-id", metavar="ID", help="The same, as headscale has it.")
@config_option
@output_option
def auth_deny(login: str | None, auth_id: str | None, config: str | None, output: str) -> None:
    """Send the waiting device away."""
    run(shell_auth.deny_login(load_settings(config), chosen("login", login, auth_id), output))


auth.also(list="ls", approve="register", deny="reject")
