"""`hs-acs join-tokens`: tokens with which a tenant's people let devices in. Over the API."""

from __future__ import annotations

import click

from app.commands import Verbs, config_option, load_settings, moment, output_option, run
from app.output import confirm


@click.group("join-tokens", cls=Verbs)
def join_tokens() -> None:
    """Tokens with which a tenant's people let devices in."""


join_tokens.also(list="ls", create="new add", revoke="expire delete rm")


@join_tokens.command("create")
@click.argument("tenant")
@click.option("--user", default="default", show_default=True, help="Whose the devices are.")
@click.option("--uses", type=int, help="How often it can be used.  [default: any number]")
@click.option("--expiration", metavar="TIME", help="30d, or 2030-01-31T12:00:00Z.  [default: never]")
@config_option
@output_option
def create(
    tenant: str, user: str, uses: int | None, expiration: str | None, config: str | None, output: str
) -> None:
    """Make a token and show its text, this once."""
    from acs import shell_join_tokens

    expires_at = None if expiration is None else moment(expiration, "--expiration")
    run(shell_join_tokens.create(load_settings(config), tenant, user, uses, expires_at, output))


@join_tokens.command("list")
@config_option
@output_option
def list_(config: str | None, output: str) -> None:
    """All join tokens, without their texts."""
    from acs import shell_join_tokens

    run(shell_join_tokens.list_all(load_settings(config), output))


@join_tokens.command("revoke")
@click.argument("token_id", type=int)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@config_option
@output_option
def revoke(token_id: int, yes: bool, config: str | None, output: str) -> None:
    """End a join token at once; devices that joined with it stay."""
    from acs import shell_join_tokens

    confirm(f"End join token {token_id}?", yes)
    run(shell_join_tokens.revoke(load_settings(config), token_id, output))
