"""Users, devices and policies of one tenant, for whoever has a role that may see them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from app.db import rows
from app.model import Device, StoredPolicy, TenantId, User
from app.sql import QUERIES

Fetch = Callable[..., Awaitable[list[asyncpg.Record]]]


async def read_users(
    fetch: Fetch, cluster_id: str, tenant_id: TenantId, name: str | None = None
) -> list[User]:
    """Users of a tenant, all or the one of this name, by id."""
    return [rows.user(row) for row in await fetch(QUERIES["list_users"], cluster_id, tenant_id, name)]


async def read_devices(fetch: Fetch, cluster_id: str, tenant_id: TenantId) -> list[Device]:
    """All devices of a tenant, by id."""
    return [rows.device(row) for row in await fetch(QUERIES["load_tenant_devices"], cluster_id, tenant_id)]


async def read_policies(fetch: Fetch, cluster_id: str, tenant_id: TenantId, limit: int) -> list[StoredPolicy]:
    """The newest versions of a policy, newest first."""
    found: list[Any] = await fetch(QUERIES["policy_history"], cluster_id, tenant_id, limit)
    return [rows.policy(row) for row in found]
