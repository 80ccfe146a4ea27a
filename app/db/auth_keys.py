"""Auth keys of a tenant, with which devices join."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from app.db import rows
from app.db.base import PoolConnection, ScopedBase, check_seen
from app.errors import BadRequest, NotFound
from app.model import AuthKey, TenantId, UserId
from app.names import check_tags
from app.sql import QUERIES
from app.tokens import RANDOM_BYTES, check_auth_token, make_auth_token


class AuthKeys(ScopedBase):
    """The part of Scoped about auth keys. `actor` is who asked, for the audit log."""

    async def create_auth_key(
        self,
        tenant_id: TenantId,
        user_id: UserId | None,
        *,
        reusable: bool = False,
        ephemeral: bool = False,
        tags: Sequence[str] = (),
        expiration: float | None = None,
        actor: str = "",
    ) -> tuple[AuthKey, str]:
        """A new auth key and its text, which exists nowhere else. Raises BadRequest, Conflict, Refused."""
        text, token = make_auth_token(tenant_id, secrets.token_bytes(RANDOM_BYTES))
        key = await self.insert_auth_key(
            tenant_id,
            token.prefix,
            token.hash,
            user_id,
            reusable=reusable,
            ephemeral=ephemeral,
            tags=tags,
            expiration=expiration,
            actor=actor,
        )
        return key, text

    async def insert_auth_key(
        self,
        tenant_id: TenantId,
        prefix: str,
        secret_hash: bytes,
        user_id: UserId | None,
        *,
        reusable: bool = False,
        ephemeral: bool = False,
        tags: Sequence[str] = (),
        expiration: float | None = None,
        actor: str = "",
    ) -> AuthKey:
        """A new auth key of which only its maker knows the text. Raises BadRequest, Conflict, Refused."""
        wanted = check_tags(tags)
        if user_id is None and not wanted:
            raise BadRequest("an auth key needs a user or tags", code="key_without_owner")
        check_auth_token(prefix, secret_hash)
        async with self._tenant_tx(tenant_id) as conn:
            await self._check_quota(conn, tenant_id, keys=1)
            row = await conn.fetchrow(
                QUERIES["insert_auth_key"],
                self.cluster_id,
                tenant_id,
                prefix,
                secret_hash,
                user_id,
                reusable,
                ephemeral,
                wanted,
                expiration,
            )
            assert row is not None
            key = rows.auth_key(row)
            facts = {"prefix": key.prefix, "user_id": user_id, "reusable": reusable, "tags": wanted}
            await self._audit(conn, tenant_id, actor, "auth_key_create", f"auth_key:{key.id}", None, facts)
            return key

    async def list_auth_keys(self, tenant_id: TenantId) -> list[AuthKey]:
        """Auth keys of a tenant, by id, without secrets."""
        found = await self._fetch(QUERIES["list_auth_keys"], self.cluster_id, tenant_id)
        return [rows.auth_key(row) for row in found]

    async def revoke_auth_key(
        self, tenant_id: TenantId, key_id: int, *, actor: str = "", seen: Mapping[str, Any] | None = None
    ) -> AuthKey:
        """Ends an auth key; devices that joined with it stay. Raises NotFound, Conflict."""
        async with self._tenant_tx(tenant_id) as conn:
            before = await self._lock_key(conn, tenant_id, key_id)
            if not before["revoked"]:
                check_seen(f"auth key {key_id}", seen, before)
            row = await conn.fetchrow(QUERIES["revoke_auth_key"], self.cluster_id, tenant_id, key_id)
            assert row is not None
            facts = {"revoked": before["revoked"]}, {"revoked": True}
            await self._audit(conn, tenant_id, actor, "auth_key_revoke", f"auth_key:{key_id}", *facts)
            return rows.auth_key(row)

    async def delete_auth_key(
        self, tenant_id: TenantId, key_id: int, *, actor: str = "", seen: Mapping[str, Any] | None = None
    ) -> None:
        """Deletes an auth key; devices that joined with it stay. Raises NotFound, Conflict."""
        async with self._tenant_tx(tenant_id) as conn:
            # The key before the devices that joined with it, as registrations lock them.
            check_seen(f"auth key {key_id}", seen, await self._lock_key(conn, tenant_id, key_id))
            (prefix,) = await self._delete_keys(conn, tenant_id, [key_id])
            before = {"prefix": prefix}
            await self._audit(conn, tenant_id, actor, "auth_key_delete", f"auth_key:{key_id}", before, None)

    async def _lock_key(self, conn: PoolConnection, tenant_id: TenantId, key_id: int) -> dict[str, Any]:
        row = await conn.fetchrow(QUERIES["lock_auth_key"], self.cluster_id, tenant_id, key_id)
        if row is None:
            raise missing_key(key_id)
        return dict(zip(("revoked", "expiration", "uses"), row, strict=True))

    async def _delete_keys(self, conn: PoolConnection, tenant_id: TenantId, key_ids: list[int]) -> list[str]:
        """Prefixes of the keys that were deleted. Devices forget which key let them in."""
        await conn.execute(QUERIES["forget_keys"], self.cluster_id, tenant_id, key_ids)
        gone = await conn.fetch(QUERIES["delete_keys"], self.cluster_id, tenant_id, key_ids)
        return [row[0] for row in gone]


def missing_key(key_id: int) -> NotFound:
    return NotFound(f"there is no auth key {key_id} here")
