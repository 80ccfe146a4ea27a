"""What tenants use, what it costs, and limits for a while. Pure; amounts are decimals, never floats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

from app.errors import BadRequest
from app.model import TenantId

CENT = Decimal("0.01")
GIGABYTE = Decimal(10**9)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant used in a part of an hour (`hour`: epoch seconds of its beginning)."""

    tenant_id: TenantId
    hour: float
    registered: int
    peak: int
    connected_s: float
    map_bytes: int
    registrations: int


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What a tenant used in an hour, a day or a month that began `at` (epoch seconds)."""

    at: float
    tenant_id: int
    tenant: str
    registered: int
    peak: int
    device_hours: float
    map_bytes: int
    registrations: int


@dataclass(frozen=True, slots=True)
class Prices:
    """What things cost: an hour of a connected device, 10^9 bytes of maps, a month of each plan."""

    currency: str
    device_hour: Decimal
    gigabyte: Decimal
    plan_fees: Mapping[str, Decimal]
    version: int = 0


@dataclass(frozen=True, slots=True)
class Override:
    """Limits of a tenant that end at a time; `former` are in force again then."""

    tenant_id: TenantId
    former: Mapping[str, int | None]
    ends_at: float
    created_by: str


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One line of a tenant's invoice: so much of a thing at a price."""

    tenant_id: int
    tenant: str
    item: str
    quantity: Decimal
    price: Decimal
    amount: Decimal


def month_of(text: str) -> tuple[float, float]:
    """Begin and end of `2026-11`, in epoch seconds (UTC). Raises BadRequest."""
    try:
        begin = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as error:
        raise BadRequest(f"a month is written as 2026-11, not {text!r}", code="bad_month") from error
    if len(text) != len("2026-11"):
        raise BadRequest(f"a month is written as 2026-11, not {text!r}", code="bad_month")
    year, month = (begin.year + 1, 1) if begin.month == 12 else (begin.year, begin.month + 1)
    return begin.timestamp(), begin.replace(year=year, month=month).timestamp()


def invoice(
    used: Iterable[tuple[TenantId, str, str | None, Decimal, int]], prices: Prices
) -> list[InvoiceLine]:
    """Lines for (tenant, name, plan, device-hours, map bytes); each amount is rounded to cents, half to even.

    A tenant that used nothing has no lines, not even the fee of its plan.
    """
    lines = []
    for tenant_id, name, plan, device_hours, map_bytes in used:
        items = [
            ("device hours", device_hours, prices.device_hour),
            ("gigabytes of maps", Decimal(map_bytes) / GIGABYTE, prices.gigabyte),
        ]
        if plan is not None and plan in prices.plan_fees:
            items.insert(0, (f"plan {plan}", Decimal(1), prices.plan_fees[plan]))
        for item, quantity, price in items:
            amount = (quantity * price).quantize(CENT, ROUND_HALF_EVEN)
            lines.append(InvoiceLine(tenant_id, name, item, quantity, price, amount))
    return lines
