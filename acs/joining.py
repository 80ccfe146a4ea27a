"""Use case: somebody joins. Who may, into which tenant, and all that the device needs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from acs.api.operation import MAY, TENANT_ADMIN, Caller
from app.api.records import JoinAsked, Joining
from app.db.tenants import Tenants
from app.errors import BadRequest, Conflict, NotFound, Refused, Unavailable
from app.model import TenantFacts
from app.placement import Wish
from app.tokens import parse_join_token

DEFAULT_USER = "default"
#: Code of the refusal of a join token, whatever is wrong with it.
BAD_TOKEN = "join_token"  # noqa: S105 - a word for programs


@dataclass(frozen=True, slots=True)
class Joiner:
    """`login_server`: one URL for all, '' to name that of the tenant's cluster. `clock`: epoch seconds."""

    store: Tenants
    login_server: str
    clock: Callable[[], float]

    async def join(self, caller: Caller, asked: JoinAsked) -> Joining:
        """Raises Refused, NotFound, BadRequest, and Unavailable while nobody serves the tenant's cluster."""
        tenant, user_name = await self._who(caller, asked)
        if tenant.status != "active":
            raise Refused(f"tenant {tenant.name!r} is {tenant.status}", code=f"tenant_{tenant.status}")
        cluster = await self.store.cluster_load(tenant.cluster_id)
        url = self.login_server or cluster.login_url
        if not url:
            raise Unavailable(f"nobody serves cluster {cluster.cluster_id} now", code="cluster_away")
        admin = self.store.cluster(tenant.cluster_id)
        found = await admin.list_users(tenant.id, user_name)
        if found:
            user = found[0]
        else:
            try:
                user = await admin.create_user(tenant.id, user_name, actor=caller.actor)
            except Conflict:
                # Somebody else joined as the same user just now.
                user = (await admin.list_users(tenant.id, user_name))[0]
        expires_at = self.clock() + asked.life_s
        _, text = await admin.create_auth_key(
            tenant.id,
            user.id,
            reusable=asked.reusable,
            ephemeral=asked.ephemeral,
            expiration=expires_at,
            actor=caller.actor,
        )
        command = ["tailscale", "up", "--login-server", url, "--auth-key", text]
        return Joining(
            tenant=tenant.name,
            tenant_id=tenant.id,
            cluster_id=tenant.cluster_id,
            login_server=url,
            auth_key=text,
            expires_at=datetime.fromtimestamp(expires_at, UTC),
            command=shlex.join(command),
        )

    async def _who(self, caller: Caller, asked: JoinAsked) -> tuple[TenantFacts, str]:
        """The tenant that shall be joined and whose the device is, placed first if need be."""
        if asked.token is not None:
            stored = parse_join_token(asked.token)
            used = None if stored is None else await self.store.use_join_token(stored)
            if used is None:
                raise Refused("this join token is unknown, expired, revoked or used up", code=BAD_TOKEN)
            name, user = used
            if asked.tenant not in (None, name) or asked.user not in (None, user):
                raise Refused("this join token is for another tenant or user", code=BAD_TOKEN)
        elif caller.may(MAY[TENANT_ADMIN]):
            token = caller.token
            assert token is not None
            if token.tenant_id is not None:
                own = await self.store.tenant(token.tenant_id)
                if asked.tenant not in (None, own.name):
                    raise NotFound(f"there is no tenant {asked.tenant!r}")
                return own, asked.user or DEFAULT_USER
            if asked.tenant is None:
                raise BadRequest("tenant: name the tenant to join", code="bad_body")
            name, user = asked.tenant, asked.user or DEFAULT_USER
        else:
            raise Refused("joining needs a join token, or an API token of the tenant", code="scope")
        tenant, _ = await self.store.place_tenant(name, Wish(), plan=None, actor=caller.actor)
        return tenant, user
