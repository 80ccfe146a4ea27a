"""Operations on tokens."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime

from acs.api.operation import ADMIN, MAY, Call, Operation, Reply, cursor_id
from app.api.records import NewToken, Page, PageAsked, Token, TokenAsked
from app.db.access import Access
from app.errors import BadRequest
from app.model import ApiToken, TenantId
from app.tokens import RANDOM_BYTES, make_api_token


def moment(epoch: float | None) -> datetime | None:
    """Epoch seconds as the API writes times."""
    return None if epoch is None else datetime.fromtimestamp(epoch, UTC)


def shown(token: ApiToken) -> Token:
    return Token(
        id=token.id,
        prefix=token.prefix,
        name=token.name,
        scope=token.scope,
        tenant=token.tenant_id,
        created_by=token.created_by,
        created_at=datetime.fromtimestamp(token.created_at, UTC),
        expires_at=moment(token.expires_at),
        revoked_at=moment(token.revoked_at),
        last_used_at=moment(token.last_used_at),
    )


async def create_token(access: Access, asked: TokenAsked, actor: str, now: float) -> NewToken:
    """Makes a token; its text is in the answer and nowhere else. Raises BadRequest, Conflict."""
    if (asked.scope == "tenant-admin") != (asked.tenant is not None):
        raise BadRequest("a tenant-admin's token names its tenant, any other names none", code="bad_scope")
    expires_at = None
    if asked.expires_at is not None:
        at = asked.expires_at
        expires_at = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
        if expires_at <= now:
            raise BadRequest("expires_at has passed already", code="bad_expiry")
    text, stored = make_api_token(secrets.token_bytes(RANDOM_BYTES))
    token = await access.create_token(
        stored,
        name=asked.name,
        scope=asked.scope,
        tenant_id=None if asked.tenant is None else TenantId(asked.tenant),
        expires_at=expires_at,
        actor=actor,
    )
    return NewToken(token=shown(token), text=text)


def operations(access: Access, clock: Callable[[], float]) -> list[Operation[TokenAsked]]:
    """What the API offers about tokens. `clock` gives epoch seconds."""

    async def create(call: Call) -> Reply:
        return Reply(await create_token(access, call.body, call.caller.actor, clock()), status=201)

    async def tokens(call: Call) -> Reply:
        query: PageAsked = call.query
        found = await access.list_tokens(cursor_id(query.cursor), query.limit)
        following = str(found[-1].id) if len(found) == query.limit else None
        return Reply(Page[Token](items=[shown(token) for token in found], next=following))

    async def revoke(call: Call) -> Reply:
        return Reply(shown(await access.revoke_token(call.id("token"), actor=call.caller.actor)))

    at = "/v1/tokens"
    tags = ("tokens",)
    return [
        Operation(
            "POST", at, "Make a token.", MAY[ADMIN], create, NewToken, body=TokenAsked, status=201, tags=tags
        ),
        Operation("GET", at, "All tokens.", MAY[ADMIN], tokens, Page[Token], query=PageAsked, tags=tags),
        Operation("DELETE", f"{at}/{{token}}", "End a token at once.", MAY[ADMIN], revoke, Token, tags=tags),
    ]
