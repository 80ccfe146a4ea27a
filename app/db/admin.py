"""Administration of one cluster, audited: everything a shell or an operator's request may do."""

from __future__ import annotations

from typing import Any

import orjson

from app.db import rows
from app.db.auth_keys import AuthKeys
from app.db.device_admin import DeviceAdmin
from app.db.policies import Policies
from app.db.routes import Routes
from app.db.users import Users
from app.errors import BadRequest, NotFound, Refused
from app.model import DerpRegion, Tenant
from app.sql import QUERIES

MAX_REGION_ID = 65535


class Admin(Users, AuthKeys, DeviceAdmin, Policies, Routes):
    """The administrating part of Scoped: users, auth keys, devices, policies, routes; here tenants and
    relay regions.

    `actor` is who asked, for the audit log.
    """

    async def tenant(self, name: str | None = None) -> Tenant:
        """A tenant of this cluster by name, the home tenant by default. Raises NotFound."""
        row = await self._fetchrow(QUERIES["find_tenant"], self.cluster_id, name)
        if row is None:
            raise NotFound(f"there is no tenant {name or 'of its own'} in cluster {self.cluster_id}")
        return rows.tenant(row)

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
