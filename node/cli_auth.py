"""`hs-node auth`: devices without an auth key wait here for a person's decision."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import click

from app.db.scoped import Scoped
from app.keys import fingerprint
from app.model import Login
from app.settings import Settings
from node import shell
from node.cli_options import config_option, output_option, tenant_option

LoadSettings = Callable[[str | None], Settings]


def auth_group(load_settings: LoadSettings) -> click.Group:
    """The commands; settings come from where the caller finds them."""

    @click.group()
    def auth() -> None:
        """Logins without an auth key, until somebody decides."""

    @auth.command("list")
    @config_option
    @output_option
    def auth_list(config: str | None, output: str) -> None:
        """List logins of the last 15 minutes, of all clusters: they belong to none until approved."""
        asyncio.run(list_logins(load_settings(config), output))

    @auth.command("approve")
    @click.argument("login_id", metavar="ID")
    @click.option("-u", "--user", required=True, help="Owner of the device: name or id.")
    @config_option
    @tenant_option
    @output_option
    def auth_approve(login_id: str, user: str, config: str | None, tenant: str | None, output: str) -> None:
        """Let the waiting device in as a user's."""
        asyncio.run(approve_login(load_settings(config), tenant, login_id, user, output))

    @auth.command("deny")
    @click.argument("login_id", metavar="ID")
    @config_option
    @output_option
    def auth_deny(login_id: str, config: str | None, output: str) -> None:
        """Send the waiting device away."""
        asyncio.run(deny_login(load_settings(config), login_id, output))

    return auth


async def list_logins(settings: Settings, output: str) -> None:
    async with shell.administration(settings) as scoped:
        logins = await scoped.logins()
    shell.show([login_row(login) for login in logins], output)


async def approve_login(
    settings: Settings, tenant: str | None, login_id: str, user: str, output: str
) -> None:
    async with shell.administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        owner = await shell.owner_of(scoped, place, user)
        await scoped.approve_login(login_id, place.id, owner.id, actor=shell.actor())
        row = await _decided(scoped, login_id)
    shell.show(row, output)


async def deny_login(settings: Settings, login_id: str, output: str) -> None:
    async with shell.administration(settings) as scoped:
        await scoped.deny_login(login_id, actor=shell.actor())
        row = await _decided(scoped, login_id)
    shell.show(row, output)


async def _decided(scoped: Scoped, login_id: str) -> shell.Row:
    (login,) = await scoped.logins([login_id])
    return login_row(login)


def login_row(login: Login) -> shell.Row:
    return {
        "id": login.id,
        "state": login.state,
        "hostname": login.hostname,
        "os": login.os,
        "version": login.version,
        "fingerprint": fingerprint(login.machine_key),
        "ephemeral": login.ephemeral,
        "address": login.address,
        "cluster": login.seen_in,
        "user_id": login.user_id,
        "device_id": login.device_id,
        "created": shell.when(login.created),
        "expires": shell.when(login.expires),
    }
