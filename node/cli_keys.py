"""`hs-node preauthkeys`."""

from __future__ import annotations

import click

from app.commands import config_option, life, load_settings, output_option, run, yes_option
from node import shell_keys
from node.cli_options import Verbs, chosen, tag_list, tenant_option


@click.group(cls=Verbs)
def preauthkeys() -> None:
    """Auth keys, with which devices join."""


@preauthkeys.command("create")
@click.option("-u", "--user", help="Owner of the devices: name or id.")
@click.option("--reusable", is_flag=True, help="Any number of devices.")
@click.option("--ephemeral", is_flag=True, help="Devices vanish when they are gone.")
@click.option(
    "-e", "--expiration", default="1h", show_default=True, help="Life of the key: 30m, 24h, 7d, 0 = for ever."
)
@click.option("--tags", multiple=True, help="Comma-separated; the devices belong to the tags.")
@config_option
@tenant_option
@output_option
def preauthkeys_create(
    user: str | None,
    reusable: bool,
    ephemeral: bool,
    expiration: str,
    tags: tuple[str, ...],
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Create an auth key; its text is shown this once."""
    life_s = life(expiration, "--expiration")
    settings = load_settings(config)
    run(
        shell_keys.create_auth_key(
            settings, tenant, user, reusable, ephemeral, life_s, tag_list(tags), output
        )
    )


@preauthkeys.command("list")
@config_option
@tenant_option
@output_option
def preauthkeys_list(config: str | None, tenant: str | None, output: str) -> None:
    """List auth keys, without their secrets."""
    run(shell_keys.list_auth_keys(load_settings(config), tenant, output))


@preauthkeys.command("expire")
@click.argument("key", type=int, required=False)
@click.option("-i", "--id", "key_id", type=int)
@config_option
@tenant_option
@output_option
def preauthkeys_expire(
    key: int | None, key_id: int | None, config: str | None, tenant: str | None, output: str
) -> None:
    """End an auth key, by id; devices that joined with it stay."""
    wanted = int(chosen("auth key", key, key_id))
    run(shell_keys.expire_auth_key(load_settings(config), tenant, wanted, output))


@preauthkeys.command("delete")
@click.argument("key", type=int, required=False)
@click.option("-i", "--id", "key_id", type=int)
@yes_option
@config_option
@tenant_option
@output_option
def preauthkeys_delete(
    key: int | None, key_id: int | None, yes: bool, config: str | None, tenant: str | None, output: str
) -> None:
    """Delete an auth key, by id; devices that joined with it stay."""
    wanted = int(chosen("auth key", key, key_id))
    run(shell_keys.delete_auth_key(load_settings(config), tenant, wanted, yes, output))


preauthkeys.also(create="new", list="ls show", expire="revoke exp", delete="destroy rm")
