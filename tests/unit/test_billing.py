"""Months and invoices, to the cent."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from app.billing import Prices, invoice, month_of
from app.errors import BadRequest
from app.model import TenantId


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("2026-11", (2026, 11), (2026, 12)),
        ("2026-12", (2026, 12), (2027, 1)),
        ("2024-02", (2024, 2), (2024, 3)),
    ],
)
def test_months(text: str, begin: tuple[int, int], end: tuple[int, int]) -> None:
    assert month_of(text) == tuple(datetime(*at, 1, tzinfo=UTC).timestamp() for at in (begin, end))


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-1", "11-2026", "2026-11-01", "next"])
def test_other_texts_are_no_months(text: str) -> None:
    with pytest.raises(BadRequest, match="2026-11"):
        month_of(text)


def test_lines_are_exact_and_rounded_half_to_even() -> None:
    prices = Prices("EUR", Decimal("0.005"), Decimal("0.10"), {"gold": Decimal("9.90")})
    used = [
        (TenantId(1), "acme", "gold", Decimal(721), 2_500_000_000),
        (TenantId(2), "free", None, Decimal(1), 0),
        (TenantId(3), "other", "unknown", Decimal(3), 1),
    ]
    lines = [(line.tenant_id, line.item, line.quantity, line.amount) for line in invoice(used, prices)]
    assert lines == [
        (1, "plan gold", Decimal(1), Decimal("9.90")),
        (1, "device hours", Decimal(721), Decimal("3.60")),  # 3.605: to even
        (1, "gigabytes of maps", Decimal("2.5"), Decimal("0.25")),
        (2, "device hours", Decimal(1), Decimal("0.00")),  # 0.005: to even
        (2, "gigabytes of maps", Decimal(0), Decimal("0.00")),
        (3, "device hours", Decimal(3), Decimal("0.02")),  # 0.015: to even
        (3, "gigabytes of maps", Decimal("1E-9"), Decimal("0.00")),
    ]
