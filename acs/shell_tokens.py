"""What the commands of `hs-acs tokens` do."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from pydantic import ValidationError

from acs.api.tokens import create_token, shown
from acs.shell import actor, direct, row
from app.api.records import MAX_PAGE_SIZE, TokenAsked
from app.errors import BadRequest
from app.output import show
from app.settings import Settings


async def create(
    settings: Settings,
    name: str,
    scope: str,
    tenant: int | None,
    expires_at: float | None,
    now: float,
    output: str,
) -> None:
    """Prints the token's text. Raises BadRequest."""
    try:
        asked = TokenAsked.model_validate(
            {
                "name": name,
                "scope": scope,
                "tenant": tenant,
                "expires_at": None if expires_at is None else datetime.fromtimestamp(expires_at, UTC),
            }
        )
    except ValidationError as error:
        raise BadRequest("; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())) from error
    async with direct(settings) as admission:
        made = await create_token(admission, asked, actor(), now)
    if output == "table":
        click.echo(made.text)
    else:
        show({**row(made.token), "text": made.text}, output)


async def list_all(settings: Settings, output: str) -> None:
    found = []
    async with direct(settings) as admission:
        after = 0
        while page := await admission.list_tokens(after, MAX_PAGE_SIZE):
            found += page
            after = page[-1].id
    show([row(shown(token)) for token in found], output)


async def revoke(settings: Settings, token_id: int, output: str) -> None:
    """Raises NotFound."""
    async with direct(settings) as admission:
        token = await admission.revoke_token(token_id, actor=actor())
    show(row(shown(token)), output)
