"""What tenants use and what it costs, and limits that are lifted for a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson

from app.billing import Override, Prices, Usage, UsageRow
from app.db.base import PoolBase, ScopedBase, check_seen, write_audit
from app.db.tenants import Tenants
from app.errors import Conflict, NotFound
from app.model import TenantFacts, TenantId
from app.sql import QUERIES

#: Usage is kept so long, the month that runs not counted.
KEPT_MONTHS = 13
LIMITS = ("max_devices", "max_users", "max_keys", "max_routes", "max_requests")


class UsageWriter(ScopedBase):
    """The part of Scoped that writes usage."""

    async def put_usage(self, rows: Sequence[Usage]) -> None:
        """Adds to what is there. Raises LeaseLost, Unavailable."""
        await self._execute(
            QUERIES["put_usage"],
            self.cluster_id,
            [row.tenant_id for row in rows],
            [row.hour for row in rows],
            [row.registered for row in rows],
            [row.peak for row in rows],
            [row.connected_s for row in rows],
            [row.map_bytes for row in rows],
            [row.registrations for row in rows],
        )


class UsageFacts(PoolBase):
    """The part of Admission about usage and prices. Times are epoch seconds."""

    async def read_usage(
        self,
        unit: str,
        since: float,
        until: float,
        *,
        tenant_id: TenantId | None = None,
        after: tuple[float, int] = (0.0, 0),
        limit: int,
    ) -> list[UsageRow]:
        """By `hour`, `day` or `month` (UTC) and tenant; what begins at `since` or later, before `until`."""
        found = await self._fetch(
            QUERIES["read_usage"], unit, tenant_id, since, until, after[0], after[1], limit
        )
        return [UsageRow(*row) for row in found]

    async def trim_usage(self) -> int:
        """Forgets what is older than KEPT_MONTHS."""
        gone: int = await self._fetchval(QUERIES["trim_usage"], KEPT_MONTHS)
        return gone

    async def month_usage(
        self, since: float, until: float
    ) -> list[tuple[TenantId, str, str | None, Decimal, int]]:
        """(tenant, its name, its plan of now, device-hours, map bytes) of who used anything."""
        found = await self._fetch(QUERIES["month_usage"], since, until)
        return [(TenantId(row[0]), row[1], row[2], row[3], row[4]) for row in found]

    async def say_invoices_are_ready(self, month: str, since: float, until: float, *, actor: str) -> bool:
        """Once a month (YYYY-MM), to the audit log and so to webhooks; False when there is nothing to say."""
        said = await self._fetchval(QUERIES["invoices_ready"], month, since, until, actor)
        return said is not None

    async def prices(self) -> Prices:
        """Raises NotFound until there is a price list."""
        row = await self._fetchrow(QUERIES["read_prices"])
        if row is None:
            raise NotFound("there is no price list yet: set one first")
        return _prices(row)

    async def put_prices(self, prices: Prices, *, actor: str) -> Prices:
        """The price list from now on; invoices of past months are made by it too."""
        fees = {plan: str(fee) for plan, fee in prices.plan_fees.items()}
        async with self._connection() as conn, conn.transaction():
            row = await conn.fetchrow(
                QUERIES["put_prices"],
                *(prices.currency, prices.device_hour, prices.gigabyte, orjson.dumps(fees).decode()),
            )
            stored = _prices(row)
            after = {
                "currency": stored.currency,
                "device_hour": str(stored.device_hour),
                "gigabyte": str(stored.gigabyte),
                "plan_fees": fees,
            }
            await write_audit(conn, "", None, actor, "prices_put", "prices", None, after)
            return stored


class Overrides(Tenants):
    """The part of Admission about limits that are lifted for a while."""

    async def override(self, tenant_id: TenantId) -> Override | None:
        """The override in force, and what comes after it."""
        row = await self._fetchrow(QUERIES["read_override"], tenant_id)
        return None if row is None else Override(tenant_id, orjson.loads(row[0]), row[1], row[2])

    async def put_override(
        self,
        tenant_id: TenantId,
        limits: Mapping[str, int | None],
        ends_at: float,
        *,
        actor: str,
        seen: Mapping[str, Any] | None = None,
    ) -> TenantFacts:
        """Other limits (None: no limit) until a time; then those of before are in force again.

        `seen`: limits as the asker saw them. Raises NotFound, Conflict, Refused for a home tenant.
        """
        before = await self.tenant(tenant_id)
        now = {"cluster": before.cluster_id, "max_devices": before.max_devices}
        check_seen(f"tenant {before.name!r}", seen, now)
        former = {name: getattr(before, name) for name in limits}
        args = QUERIES["put_override"], tenant_id, orjson.dumps(former).decode(), ends_at, actor
        return await self.update_tenant(
            tenant_id,
            actor=actor,
            action="quota_override",
            version=before.version if seen else None,
            along=lambda conn: conn.execute(*args),
            **{name: -1 if limit is None else limit for name, limit in limits.items()},  # type: ignore[arg-type]
        )

    async def end_override(self, tenant_id: TenantId, *, actor: str) -> None:
        """Before its time. Raises Conflict when there is none."""
        found = await self.override(tenant_id)
        if found is None:
            raise Conflict(f"tenant {tenant_id} has no override", code="no_override")
        async with self._connection() as conn, conn.transaction():
            await self._end(conn, tenant_id, orjson.dumps(dict(found.former)).decode(), actor)

    async def end_overrides(self, *, actor: str) -> list[int]:
        """Tenants whose overrides are over now."""
        async with self._connection() as conn, conn.transaction():
            ended = await conn.fetch(QUERIES["ended_overrides"])
            for tenant_id, former in ended:
                await self._end(conn, TenantId(tenant_id), former, actor)
        return [row[0] for row in ended]

    async def _end(self, conn: Any, tenant_id: TenantId, former: str, actor: str) -> None:
        await conn.execute(QUERIES["end_override"], tenant_id, former)
        after = orjson.loads(former)
        await write_audit(
            conn, "", tenant_id, actor, "quota_override_end", f"tenant:{tenant_id}", None, after
        )


def _prices(row: Any) -> Prices:
    fees = {plan: Decimal(fee) for plan, fee in orjson.loads(row[3]).items()}
    return Prices(row[0], row[1], row[2], fees, row[4])
