"""`hs-acs tokens`: who may call the API. On the database itself: the first token must come from there."""

from __future__ import annotations

import time

import click

from app.commands import Verbs, config_option, load_settings, moment, output_option, run
from app.output import confirm

SCOPES = click.Choice(["admin", "tenant-admin", "billing", "read-only"])


@click.group(cls=Verbs)
def tokens() -> None:
    """Tokens of the API."""


tokens.also(list="ls", revoke="expire delete rm")


@tokens.command("create")
@click.argument("name")
@click.option("--scope", type=SCOPES, required=True, help="What it may do.")
@click.option("--tenant", type=int, metavar="ID", help="Of a tenant-admin's token: its tenant.")
@click.option("--expiration", metavar="TIME", help="30d, or 2030-01-31T12:00:00Z.  [default: never]")
@config_option
@output_option
def create(
    name: str, scope: str, tenant: int | None, expiration: str | None, config: str | None, output: str
) -> None:
    """Make a token and show its text, this once."""
    from acs import shell_tokens

    expires_at = None if expiration is None else moment(expiration, "--expiration")
    settings = load_settings(config)
    run(shell_tokens.create(settings, name, scope, tenant, expires_at, time.time(), output))


@tokens.command("list")
@config_option
@output_option
def list_(config: str | None, output: str) -> None:
    """All tokens, without their texts."""
    from acs import shell_tokens

    run(shell_tokens.list_all(load_settings(config), output))


@tokens.command("revoke")
@click.argument("token_id", type=int)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@config_option
@output_option
def revoke(token_id: int, yes: bool, config: str | None, output: str) -> None:
    """End a token at once."""
    from acs import shell_tokens

    confirm(f"End token {token_id}?", yes)
    run(shell_tokens.revoke(load_settings(config), token_id, output))
