"""What the commands of `hs-acs join-tokens` do."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from acs.shell import api, row
from acs.shell_tenants import checked
from app.api.records import JoinTokenAsked
from app.output import show
from app.settings import Settings


async def create(
    settings: Settings, tenant: str, user: str, uses: int | None, expires_at: float | None, output: str
) -> None:
    """Prints the token's text and where people take it. Raises BadRequest."""
    until = None if expires_at is None else datetime.fromtimestamp(expires_at, UTC)
    asked = checked(JoinTokenAsked, {"tenant": tenant, "user": user, "uses": uses, "expires_at": until})
    async with api(settings) as client:
        made = await client.create_join_token(asked)
    if output == "table":
        click.echo(made.text)
        # Behind the #: browsers send that to nobody, so it is in no log.
        click.echo(f"for people: {settings.acs.url}/join#{made.text}", err=True)
    else:
        show(row(made), output)


async def list_all(settings: Settings, output: str) -> None:
    async with api(settings) as client:
        show([row(token) async for token in client.join_tokens()], output)


async def revoke(settings: Settings, token_id: int, output: str) -> None:
    """Raises NotFound."""
    async with api(settings) as client:
        show(row(await client.revoke_join_token(token_id)), output)
