"""Administration of one cluster: tenants, users, auth keys, devices, relay regions; audited."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import orjson

from app.db import rows
from app.db.base import PoolConnection, ScopedBase
from app.db.devices import missing_device
from app.errors import BadRequest, NotFound, Refused
from app.model import AuthKey, DerpRegion, DeviceId, Tenant, TenantId, User, UserId
from app.sql import QUERIES
from app.tokens import RANDOM_BYTES, make_auth_token

MAX_NAME = 255
MAX_TAGS = 64
MAX_REGION_ID = 65535


class Admin(ScopedBase):
    """The administrating part of Scoped. `actor` is who asked, for the audit log."""

    async def tenant(self, name: str | None = None) -> Tenant:
        """A tenant of this cluster by name, the home tenant by default. Raises NotFound."""
        row = await self._fetchrow(QUERIES["find_tenant"], self.cluster_id, name)
        if row is None:
            raise NotFound(f"there is no tenant {name or 'of its own'} in cluster {self.cluster_id}")
        return rows.tenant(row)

    async def create_user(
        self,
        tenant_id: TenantId,
        name: str,
        *,
        display_name: str = "",
        email: str = "",
        profile_pic_url: str = "",
        actor: str = "",
    ) -> User:
        """A new user. Raises BadRequest, Conflict for a taken name, Refused for a full tenant."""
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
            raise BadRequest(f"a user name has 1 to {MAX_NAME} printable characters", code="bad_user_name")
        async with self._tenant_tx(tenant_id) as conn:
            await self._check_quota(conn, tenant_id, users=1)
            row = await conn.fetchrow(
                QUERIES["insert_user"], self.cluster_id, tenant_id, name, display_name, email, profile_pic_url
            )
            assert row is not None
            user = rows.user(row)
            await self._audit(conn, tenant_id, actor, "user_create", f"user:{user.id}", None, {"name": name})
            return user

    async def list_users(self, tenant_id: TenantId, name: str | None = None) -> list[User]:
        """Users of a tenant, all or the one of this name, by id."""
        found = await self._fetch(QUERIES["list_users"], self.cluster_id, tenant_id, name)
        return [rows.user(row) for row in found]

    async def user(self, tenant_id: TenantId, name: str) -> User:
        """A user by name. Raises NotFound."""
        found = await self.list_users(tenant_id, name)
        if not found:
            raise NotFound(f"there is no user {name!r} in this tenant")
        return found[0]

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
        wanted = sorted(set(tags))
        if user_id is None and not wanted:
            raise BadRequest("an auth key needs a user or tags", code="key_without_owner")
        if len(wanted) > MAX_TAGS or not all(is_tag(tag) for tag in wanted):
            raise BadRequest(f"tags look like tag:web, at most {MAX_TAGS}", code="bad_tag")
        text, token = make_auth_token(tenant_id, secrets.token_bytes(RANDOM_BYTES))
        async with self._tenant_tx(tenant_id) as conn:
            await self._check_quota(conn, tenant_id, keys=1)
            row = await conn.fetchrow(
                QUERIES["insert_auth_key"],
                self.cluster_id,
                tenant_id,
                token.prefix,
                token.hash,
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
            return key, text

    async def list_auth_keys(self, tenant_id: TenantId) -> list[AuthKey]:
        """Auth keys of a tenant, by id, without secrets."""
        found = await self._fetch(QUERIES["list_auth_keys"], self.cluster_id, tenant_id)
        return [rows.auth_key(row) for row in found]

    async def revoke_auth_key(self, tenant_id: TenantId, key_id: int, *, actor: str = "") -> AuthKey:
        """Ends an auth key; devices that joined with it stay. Raises NotFound."""
        async with self._tenant_tx(tenant_id) as conn:
            row = await conn.fetchrow(QUERIES["revoke_auth_key"], self.cluster_id, tenant_id, key_id)
            if row is None:
                raise NotFound(f"there is no auth key {key_id} here")
            await self._audit(
                conn, tenant_id, actor, "auth_key_revoke", f"auth_key:{key_id}", None, {"revoked": True}
            )
            return rows.auth_key(row)

    async def delete_auth_key(self, tenant_id: TenantId, key_id: int, *, actor: str = "") -> None:
        """Deletes an auth key; devices that joined with it stay and forget it. Raises NotFound."""
        async with self._tenant_tx(tenant_id) as conn:
            await self._lock_counters(conn, tenant_id)
            await conn.execute(QUERIES["forget_auth_key"], self.cluster_id, tenant_id, key_id)
            prefix = await conn.fetchval(QUERIES["delete_auth_key"], self.cluster_id, tenant_id, key_id)
            if prefix is None:
                raise NotFound(f"there is no auth key {key_id} here")
            before = {"prefix": prefix}
            await self._audit(conn, tenant_id, actor, "auth_key_delete", f"auth_key:{key_id}", before, None)

    async def expire_device(
        self, tenant_id: TenantId, device_id: DeviceId, at: float | None, *, actor: str = ""
    ) -> bool:
        """Ends a device's login at a time, or never (None); False when it was so already or is not here."""
        async with self._tenant_tx(tenant_id) as conn:
            found = await conn.fetchval(QUERIES["expire_device"], self.cluster_id, tenant_id, device_id, at)
            if found is None:
                return False
            await self._audit(
                conn, tenant_id, actor, "device_expire", f"device:{device_id}", None, {"expiry": at}
            )
            return True

    async def delete_device(self, tenant_id: TenantId, device_id: DeviceId, *, actor: str = "") -> None:
        """Deletes a device; its tombstone stays. Raises NotFound."""
        async with self._tenant_tx(tenant_id) as conn:
            row = await conn.fetchrow(QUERIES["delete_device"], self.cluster_id, tenant_id, device_id)
            if row is None:
                raise missing_device(device_id)
            before = {"name": row[0], "ipv4": row[1]}
            await self._audit(conn, tenant_id, actor, "device_delete", f"device:{device_id}", before, None)

    async def put_own_region(self, wanted_id: int, region: dict[str, Any]) -> DerpRegion:
        """The relay region of this cluster, under the wanted id or the next one free in the deployment.

        The id is written into RegionID of the region and of its nodes, whose names it begins, for a
        DERP map has every name once. Raises BadRequest, Refused.
        """
        if not 1 <= wanted_id <= MAX_REGION_ID:
            raise BadRequest(f"a DERP region id is a number from 1 to {MAX_REGION_ID}", code="bad_region_id")
        async with self._connection() as conn, conn.transaction():
            await conn.execute(QUERIES["lock_regions"])
            taken = {row[0] for row in await conn.fetch(QUERIES["taken_regions"], self.cluster_id)}
            region_id = next(
                (free for free in range(wanted_id, MAX_REGION_ID + 1) if free not in taken), None
            )
            if region_id is None:
                raise Refused(f"no DERP region id from {wanted_id} on is free", code="no_free_region_id")
            nodes = [
                {**node, "RegionID": region_id, "Name": f"{region_id}{chr(ord('a') + number)}"}
                for number, node in enumerate(region.get("Nodes") or ())
            ]
            stored = orjson.dumps({**region, "RegionID": region_id, "Nodes": nodes})
            await conn.execute(QUERIES["put_region"], self.cluster_id, region_id, stored.decode())
            return DerpRegion(region_id, self.cluster_id, stored)

    async def list_regions(self) -> list[DerpRegion]:
        """The relay regions of the whole deployment, by id."""
        found = await self._fetch(QUERIES["list_regions"])
        return [DerpRegion(region_id, cluster_id, text.encode()) for region_id, cluster_id, text in found]

    async def _check_quota(
        self, conn: PoolConnection, tenant_id: TenantId, *, users: int = 0, keys: int = 0
    ) -> None:
        has_users, max_users, has_keys, max_keys = await self._lock_counters(conn, tenant_id)
        assert has_users is not None
        assert has_keys is not None
        if users and max_users is not None and has_users + users > max_users:
            raise Refused(f"this tenant may have at most {max_users} users", code="quota_users")
        if keys and max_keys is not None and has_keys + keys > max_keys:
            raise Refused(f"this tenant may have at most {max_keys} auth keys", code="quota_keys")

    async def _audit(
        self,
        conn: PoolConnection,
        tenant_id: TenantId,
        actor: str,
        action: str,
        what: str,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
    ) -> None:
        texts = [None if facts is None else orjson.dumps(facts).decode() for facts in (before, after)]
        await conn.execute(QUERIES["write_audit"], self.cluster_id, tenant_id, actor, action, what, *texts)


def is_tag(text: str) -> bool:
    """`tag:` + a letter + letters, digits, dashes (tailcfg.CheckTag)."""
    name = text.removeprefix("tag:")
    return (
        text.startswith("tag:")
        and len(name) <= 63
        and name.isascii()
        and name[:1].isalpha()
        and name.replace("-", "a").isalnum()
    )
