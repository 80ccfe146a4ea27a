"""Operations that let devices in: tokens to join with, and the join itself."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from acs.api.operation import ADMIN, MAY, TENANT_ADMIN, Call, Operation, Reply
from app.api.records import JoinAsked, Joining, JoinToken, JoinTokenAsked
from app.db.tenants import Tenants
from app.errors import BadRequest, Conflict, NotFound, Refused, Unavailable
from app.model import TenantFacts
from app.placement import Wish
from app.tokens import RANDOM_BYTES, make_join_token, parse_join_token

DEFAULT_USER = "default"


def operations(store: Tenants, login_server: str, clock: Callable[[], float]) -> list[Operation[Any]]:
    """`login_server`: one URL for all, '' to name that of the tenant's cluster. `clock`: epoch seconds."""

    async def make_token(call: Call) -> Reply:
        asked: JoinTokenAsked = call.body
        if call.caller.token is not None and call.caller.token.tenant_id is not None:
            own = await store.tenant(call.caller.token.tenant_id)
            if asked.tenant != own.name:
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

    async def who(call: Call) -> tuple[TenantFacts, str]:
        """The tenant that shall be joined and whose the device is, placed first if need be."""
        asked: JoinAsked = call.body
        if asked.token is not None:
            stored = parse_join_token(asked.token)
            used = None if stored is None else await store.use_join_token(stored)
            if used is None:
                raise Refused("this join token is unknown, expired, revoked or used up", code="join_token")
            name, user = used
            if asked.tenant not in (None, name) or asked.user not in (None, user):
                raise Refused("this join token is for another tenant or user", code="join_token")
        elif call.caller.may(MAY[TENANT_ADMIN]):
            token = call.caller.token
            assert token is not None
            if token.tenant_id is not None:
                own = await store.tenant(token.tenant_id)
                if asked.tenant not in (None, own.name):
                    raise NotFound(f"there is no tenant {asked.tenant!r}")
                return own, asked.user or DEFAULT_USER
            if asked.tenant is None:
                raise BadRequest("tenant: name the tenant to join", code="bad_body")
            name, user = asked.tenant, asked.user or DEFAULT_USER
        else:
            raise Refused("joining needs a join token, or an API token of the tenant", code="scope")
        tenant, _ = await store.place_tenant(name, Wish(), plan=None, actor=call.caller.actor)
        return tenant, user

    async def join(call: Call) -> Reply:
        asked: JoinAsked = call.body
        tenant, user_name = await who(call)
        if tenant.status != "active":
            raise Refused(f"tenant {tenant.name!r} is {tenant.status}", code=f"tenant_{tenant.status}")
        cluster = await store.cluster_load(tenant.cluster_id)
        url = login_server or cluster.login_url
        if not url:
            raise Unavailable(f"nobody serves cluster {cluster.cluster_id} now", code="cluster_away")
        admin = store.cluster(tenant.cluster_id)
        found = await admin.list_users(tenant.id, user_name)
        if found:
            user = found[0]
        else:
            try:
                user = await admin.create_user(tenant.id, user_name, actor=call.caller.actor)
            except Conflict:
                # Somebody else joined as the same user just now.
                user = (await admin.list_users(tenant.id, user_name))[0]
        expires_at = clock() + asked.life_s
        _, text = await admin.create_auth_key(
            tenant.id,
            user.id,
            reusable=asked.reusable,
            ephemeral=asked.ephemeral,
            expiration=expires_at,
            actor=call.caller.actor,
        )
        command = ["tailscale", "up", "--login-server", url, "--auth-key", text]
        return Reply(
            Joining(
                tenant=tenant.name,
                tenant_id=tenant.id,
                cluster_id=tenant.cluster_id,
                login_server=url,
                auth_key=text,
                expires_at=datetime.fromtimestamp(expires_at, UTC),
                command=shlex.join(command),
            ),
            status=201,
        )

    tags = ("joining",)
    return [
        Operation(
            *("POST", "/v1/join", "All that a device needs to join its tailnet.", frozenset[str]()),
            *(join, Joining),
            body=JoinAsked,
            status=201,
            tags=tags,
        ),
        Operation(
            *("POST", "/v1/join-tokens", "Make a token to join with.", MAY[ADMIN] | MAY[TENANT_ADMIN]),
            *(make_token, JoinToken),
            body=JoinTokenAsked,
            status=201,
            tags=tags,
        ),
    ]
