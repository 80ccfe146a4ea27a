"""What an administrator does to a cluster, from the test's own process: quicker than the shell."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

from app.db.scoped import Scoped
from app.model import DeviceId, TenantId

ACTOR = "test"


@dataclass(frozen=True, slots=True)
class Commit:
    """When a change was committed: `time.monotonic()` before it was asked for, and when it was done."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Routes:
    announced: frozenset[str]
    approved: frozenset[str]


class Administration:
    """The home tenant of a cluster, over one database connection in role hs_admin."""

    def __init__(self, dsn: str, cluster_id: str) -> None:
        """The server of the cluster has started once."""
        self._runner = asyncio.Runner()
        self._scoped = self._runner.run(Scoped.open(dsn, cluster_id=cluster_id, role="hs_admin", pool_size=1))
        self._tenant: TenantId = self._runner.run(self._scoped.tenant()).id

    def close(self) -> None:
        self._runner.run(self._scoped.close())
        self._runner.close()

    def create_user(self, name: str) -> None:
        self._runner.run(self._scoped.create_user(self._tenant, name, actor=ACTOR))

    def auth_key(self, user: str, *tags: str) -> str:
        """The text of a new auth key; with tags its devices belong to these and not to the user."""

        async def create() -> str:
            owner = await self._scoped.user(self._tenant, user)
            _, text = await self._scoped.create_auth_key(
                self._tenant, None if tags else owner.id, reusable=True, tags=tags, actor=ACTOR
            )
            return text

        return self._runner.run(create())

    def set_status(self, status: str) -> None:
        """active, suspended or deleted, as hs-acs says it of other tenants."""
        sql = "UPDATE tenants SET status = $2 WHERE tenant_id = $1"
        self._runner.run(self._scoped._execute(sql, self._tenant, status))

    def set_policy(self, policy: dict[str, Any]) -> Commit:
        """A new policy, in force from its commit on."""
        before = time.monotonic()
        self._runner.run(self._scoped.set_policy(self._tenant, json.dumps(policy), author=ACTOR))
        return Commit(before, time.monotonic())

    def approve(self, device_id: int | str, *routes: str) -> None:
        """Let a device carry routes that it announces."""
        wanted = DeviceId(int(device_id))
        self._runner.run(self._scoped.approve_routes(self._tenant, wanted, routes, actor=ACTOR))

    def unapprove(self, device_id: int | str, *routes: str) -> None:
        wanted = DeviceId(int(device_id))
        self._runner.run(self._scoped.unapprove_routes(self._tenant, wanted, routes, actor=ACTOR))

    def routes(self, device_id: int | str) -> Routes:
        """What a device announces and may carry, as committed."""
        for device in self._runner.run(self._scoped.routers(self._tenant)):
            if device.id == int(device_id):
                return Routes(frozenset(device.announced_routes), frozenset(device.approved_routes))
        return Routes(frozenset(), frozenset())
