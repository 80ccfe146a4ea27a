"""Operations that let devices in: tokens to join with, and the join itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC
from typing import Any

from acs.api.operation import ADMIN, MAY, TENANT_ADMIN, Call, Operation, Reply, cursor_id
from acs.api.tokens import moment
from acs.joining import Joiner
from app.api.records import JoinAsked, Joining, JoinToken, JoinTokenAsked, JoinTokenRecord, Page, PageAsked
from app.db.tenants import Tenants
from app.errors import BadRequest, NotFound
from app.model import JoinTokenFacts
from app.tokens import RANDOM_BYTES, make_join_token


def shown(token: JoinTokenFacts) -> JoinTokenRecord:
    created_at = moment(token.created_at)
    assert created_at is not None
    return JoinTokenRecord(
        id=token.id,
        prefix=token.prefix,
        tenant=token.tenant,
        user=token.user_name,
        uses_left=token.uses_left,
        created_by=token.created_by,
        created_at=created_at,
        expires_at=moment(token.expires_at),
        revoked_at=moment(token.revoked_at),
    )


def operations(store: Tenants, joiner: Joiner, clock: Callable[[], float]) -> list[Operation[Any]]:
    """`clock`: epoch seconds."""

    async def own(call: Call) -> str | None:
        """The name of the one tenant that the caller's token is for."""
        token = call.caller.token
        if token is None or token.tenant_id is None:
            return None
        return (await store.tenant(token.tenant_id)).name

    async def make_token(call: Call) -> Reply:
        asked: JoinTokenAsked = call.body
        if await own(call) not in (None, asked.tenant):
            raise NotFound(f"there is no tenant {asked.tenant!r}")
        expires_at = None
        if asked.expires_at is not None:
            expires_at = asked.expires_at.astimezone(UTC).timestamp()
            if expires_at <= clock():
                raise BadRequest("expires_at has passed already", code="bad_expiry")
        text, stored = make_join_token(secrets.token_bytes(RANDOM_BYTES))
        token_id = await store.create_join_token(
            stored,
            tenant=asked.tenant,
            user_name=asked.user,
            uses=asked.uses,
            expires_at=expires_at,
            actor=call.caller.actor,
        )
        return Reply(JoinToken(id=token_id, text=text), status=201)

    async def tokens(call: Call) -> Reply:
        query: PageAsked = call.query
        found = await store.list_join_tokens(cursor_id(query.cursor), query.limit, tenant=await own(call))
        following = str(found[-1].id) if len(found) == query.limit else None
        return Reply(Page[JoinTokenRecord](items=[shown(token) for token in found], next=following))

    async def revoke(call: Call) -> Reply:
        token = await store.revoke_join_token(
            call.id("token"), tenant=await own(call), actor=call.caller.actor
        )
        return Reply(shown(token))

    async def join(call: Call) -> Reply:
        return Reply(await joiner.join(call.caller, call.body), status=201)

    tags, may, at = ("joining",), MAY[ADMIN] | MAY[TENANT_ADMIN], "/v1/join-tokens"
    return [
        Operation(
            *("POST", "/v1/join", "All that a device needs to join its tailnet.", frozenset[str]()),
            *(join, Joining),
            body=JoinAsked,
            status=201,
            tags=tags,
        ),
        Operation(
            *("POST", at, "Make a token to join with.", may, make_token, JoinToken),
            body=JoinTokenAsked,
            status=201,
            tags=tags,
        ),
        Operation(
            *("GET", at, "Tokens to join with.", may, tokens, Page[JoinTokenRecord]),
            query=PageAsked,
            tags=tags,
        ),
        Operation(
            *("DELETE", f"{at}/{{token}}", "End a join token at once.", may, revoke, JoinTokenRecord),
            tags=tags,
        ),
    ]
