"""What an administrator does to devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app.db.base import PoolConnection, ScopedBase, check_seen, worded
from app.db.devices import missing_device
from app.db.users import missing_user
from app.errors import BadRequest, Conflict, Refused
from app.model import DeviceId, TenantId, UserId
from app.names import check_label, check_tags
from app.sql import QUERIES

#: The database keeps microseconds: a time that was stored is closer than this to the one that was meant.
SAME_TIME_S = 1e-3


class _Before(NamedTuple):
    name: str
    tags: list[str]
    user_id: UserId | None
    expiry: float | None


class DeviceAdmin(ScopedBase):
    """The part of Scoped that steers devices. `actor` is who asked, for the audit log.

    `seen`: how the asker saw the device; where that differs from what is stored, Conflict is raised.
    """

    async def expire_device(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        at: float | None,
        *,
        actor: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> bool:
        """Ends a device's login at a time, or never (None); False when it was so already.

        Raises NotFound, Conflict.
        """
        async with self._tenant_tx(tenant_id) as conn:
            before = await self._lock_device(conn, tenant_id, device_id)
            if _same_time(before.expiry, at):
                return False
            _check(device_id, seen, before)
            await conn.execute(QUERIES["expire_device"], self.cluster_id, tenant_id, device_id, at)
            facts = {"expiry": before.expiry}, {"expiry": at}
            await self._audit(conn, tenant_id, actor, "device_expire", f"device:{device_id}", *facts)
            return True

    async def delete_device(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        *,
        actor: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> None:
        """Deletes a device; its tombstone stays. Raises NotFound, Conflict."""
        async with self._tenant_tx(tenant_id) as conn:
            _check(device_id, seen, await self._lock_device(conn, tenant_id, device_id))
            row = await conn.fetchrow(QUERIES["delete_device"], self.cluster_id, tenant_id, device_id)
            assert row is not None
            before = {"name": row[0], "ipv4": row[1]}
            await self._audit(conn, tenant_id, actor, "device_delete", f"device:{device_id}", before, None)

    async def rename_device(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        name: str,
        *,
        actor: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> bool:
        """Gives a device its name; False when it has it already.

        Raises BadRequest for what is no DNS label, NotFound, and Conflict, also for a taken name.
        """
        check_label(name)
        taken = Conflict(f"another device of this tenant is called {name!r}", code="name_taken")
        with worded({"nodes_given_name": taken}):
            async with self._tenant_tx(tenant_id) as conn:
                before = await self._lock_device(conn, tenant_id, device_id)
                if before.name == name:
                    return False
                _check(device_id, seen, before)
                await conn.execute(QUERIES["rename_device"], self.cluster_id, tenant_id, device_id, name)
                facts = {"name": before.name}, {"name": name}
                await self._audit(conn, tenant_id, actor, "device_rename", f"device:{device_id}", *facts)
                return True

    async def set_device_tags(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        tags: Sequence[str],
        *,
        actor: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> bool:
        """Gives a device these tags and no others; False when it has them already.

        A user's device belongs to its tags from then on, and its login ends no more. Raises BadRequest for
        no or malformed tags, NotFound, and Conflict, also when the machine is here as a tagged device.
        """
        wanted = check_tags(tags)
        if not wanted:
            raise BadRequest(
                "a device cannot lose all its tags: to give it back to a user, log it in again",
                code="no_tags",
            )
        with worded({"nodes_machine_owner": _machine_twice("as a tagged device")}):
            async with self._tenant_tx(tenant_id) as conn:
                before = await self._lock_device(conn, tenant_id, device_id)
                if before.tags == wanted:
                    return False
                _check(device_id, seen, before)
                await conn.execute(QUERIES["tag_device"], self.cluster_id, tenant_id, device_id, wanted)
                facts = {"tags": before.tags, "user_id": before.user_id}, {"tags": wanted, "user_id": None}
                await self._audit(conn, tenant_id, actor, "device_tag", f"device:{device_id}", *facts)
                return True

    async def move_device_to_user(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        user_id: UserId,
        *,
        actor: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> bool:
        """Gives a user's device to another user of the tenant; False when it is its own already.

        Raises NotFound, Refused for a tagged device, Conflict, also when the user has this machine already.
        """
        sentences = {
            "nodes_machine_owner": _machine_twice("for that user"),
            "nodes_tenant_id_user_id_fkey": missing_user(user_id),
        }
        with worded(sentences):
            async with self._tenant_tx(tenant_id) as conn:
                before = await self._lock_device(conn, tenant_id, device_id)
                if before.user_id == user_id:
                    return False
                _check(device_id, seen, before)
                if before.user_id is None:
                    raise Refused(
                        "a tagged device belongs to its tags: to give it to a user, log it in again",
                        code="device_tagged",
                    )
                await conn.execute(QUERIES["move_device"], self.cluster_id, tenant_id, device_id, user_id)
                facts = {"user_id": before.user_id}, {"user_id": user_id}
                await self._audit(conn, tenant_id, actor, "device_move_user", f"device:{device_id}", *facts)
                return True

    async def _lock_device(self, conn: PoolConnection, tenant_id: TenantId, device_id: DeviceId) -> _Before:
        row = await conn.fetchrow(QUERIES["lock_device"], self.cluster_id, tenant_id, device_id)
        if row is None:
            raise missing_device(device_id)
        return _Before(*row)


def _same_time(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) < SAME_TIME_S


def _check(device_id: DeviceId, seen: Mapping[str, Any] | None, now: _Before) -> None:
    check_seen(f"device {device_id}", seen, now._asdict())


def _machine_twice(how: str) -> Conflict:
    return Conflict(f"this machine is registered {how} already: delete one of the two", code="machine_twice")
