"""Users of a tenant: owners of devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.db import rows
from app.db.auth_keys import AuthKeys
from app.db.base import PoolConnection, again_when_busy, check_seen, worded
from app.db.holdings import read_users
from app.errors import BadRequest, Conflict, NotFound, Refused
from app.model import TenantId, User, UserId
from app.policy.people import ROLES
from app.sql import QUERIES

MAX_NAME = 255


class Users(AuthKeys):
    """The part of Scoped about users. `actor` is who asked, for the audit log.

    `seen`: how the asker saw the user; where that differs from what is stored, Conflict is raised.
    """

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
        _check_name(name)
        with worded({"users_name": _name_taken(name)}):
            async with self._tenant_tx(tenant_id) as conn:
                await self._check_quota(conn, tenant_id, users=1)
                row = await conn.fetchrow(
                    QUERIES["insert_user"],
                    self.cluster_id,
                    tenant_id,
                    name,
                    display_name,
                    email,
                    profile_pic_url,
                )
                assert row is not None
                user = rows.user(row)
                await self._audit(
                    conn, tenant_id, actor, "user_create", f"user:{user.id}", None, {"name": name}
                )
                return user

    async def list_users(self, tenant_id: TenantId, name: str | None = None) -> list[User]:
        """Users of a tenant, all or the one of this name, by id."""
        return await read_users(self._fetch, self.cluster_id, tenant_id, name)

    async def user(self, tenant_id: TenantId, name: str) -> User:
        """A user by name. Raises NotFound."""
        found = await self.list_users(tenant_id, name)
        if not found:
            raise NotFound(f"there is no user {name!r} in this tenant")
        return found[0]

    async def rename_user(
        self,
        tenant_id: TenantId,
        user_id: UserId,
        name: str,
        *,
        actor: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> bool:
        """Gives a user another name; False when it has it already. Raises BadRequest, NotFound, Conflict."""
        _check_name(name)
        with worded({"users_name": _name_taken(name)}):
            async with self._tenant_tx(tenant_id) as conn:
                user = await self._lock_user(conn, tenant_id, user_id)
                if user.name == name:
                    return False
                _check(user, seen)
                await conn.execute(QUERIES["rename_user"], self.cluster_id, tenant_id, user_id, name)
                before, after = {"name": user.name}, {"name": name}
                await self._audit(conn, tenant_id, actor, "user_rename", f"user:{user_id}", before, after)
                return True

    async def set_user_role(
        self,
        tenant_id: TenantId,
        user_id: UserId,
        role: str,
        *,
        actor: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> bool:
        """Gives a user a role; False when it has it already. Raises BadRequest, NotFound, Conflict."""
        if role not in ROLES:
            raise BadRequest(f"{role!r} is no role; there are {', '.join(ROLES)}", code="bad_role")
        async with self._tenant_tx(tenant_id) as conn:
            user = await self._lock_user(conn, tenant_id, user_id)
            if user.role == role:
                return False
            _check(user, seen)
            await conn.execute(QUERIES["set_user_role"], self.cluster_id, tenant_id, user_id, role)
            before, after = {"role": user.role}, {"role": role}
            await self._audit(conn, tenant_id, actor, "user_role", f"user:{user_id}", before, after)
            return True

    async def delete_user(
        self, tenant_id: TenantId, user_id: UserId, *, actor: str = "", seen: Mapping[str, Any] | None = None
    ) -> None:
        """Deletes a user and its auth keys. Raises NotFound, Conflict, and Refused while it has devices."""
        await again_when_busy(lambda: self._delete_user(tenant_id, user_id, actor, seen))

    async def _delete_user(
        self, tenant_id: TenantId, user_id: UserId, actor: str, seen: Mapping[str, Any] | None
    ) -> None:
        async with self._tenant_tx(tenant_id) as conn:
            # Keys before the user, as registrations lock them.
            locked = await conn.fetch(QUERIES["lock_user_keys"], self.cluster_id, tenant_id, user_id)
            user = await self._lock_user(conn, tenant_id, user_id)
            _check(user, seen)
            devices = await conn.fetchval(QUERIES["count_user_devices"], self.cluster_id, tenant_id, user_id)
            if devices:
                raise Refused(
                    f"user {user.name!r} still has devices ({devices}): delete them or move them",
                    code="user_has_devices",
                )
            await self._delete_keys(conn, tenant_id, [row[0] for row in locked])
            await conn.execute(QUERIES["delete_user"], self.cluster_id, tenant_id, user_id)
            before = {"name": user.name, "auth_keys": [row[1] for row in locked]}
            await self._audit(conn, tenant_id, actor, "user_delete", f"user:{user_id}", before, None)

    async def _lock_user(self, conn: PoolConnection, tenant_id: TenantId, user_id: UserId) -> User:
        row = await conn.fetchrow(QUERIES["lock_user"], self.cluster_id, tenant_id, user_id)
        if row is None:
            raise missing_user(user_id)
        return rows.user(row)


def _check(user: User, seen: Mapping[str, Any] | None) -> None:
    check_seen(f"user {user.id}", seen, {"name": user.name, "role": user.role})


def missing_user(user_id: UserId) -> NotFound:
    return NotFound(f"there is no user {user_id} here")


def _name_taken(name: str) -> Conflict:
    return Conflict(f"there is already a user {name!r} in this tenant", code="user_exists")


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        raise BadRequest(f"a user name has 1 to {MAX_NAME} printable characters", code="bad_user_name")
