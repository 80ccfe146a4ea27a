"""Records of usage, prices, invoices, and of limits that are lifted for a while."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer

from app.api.records import Answered, Asked, Id, Moment, PageAsked


def _plain(amount: Decimal) -> str:
    return format(amount.normalize(), "f")


#: Written without exponent, as few digits as it has.
Number = Annotated[Decimal, PlainSerializer(_plain, when_used="json")]
Amount = Annotated[Decimal, Field(ge=0, max_digits=20, decimal_places=8)]


class UsageAsked(PageAsked):
    """Which usage; by default of the last 31 days, a day each."""

    tenant: Id | None = Field(None, description="Id; all when it is not given.")
    since: Moment | None = Field(None, description="The first hour.")
    until: Moment | None = Field(None, description="The first hour that is not wanted.")
    by: Literal["hour", "day", "month"] = "day"
    format: Literal["json", "csv"] = "json"


class UsageRecord(Answered):
    """What a tenant used in the hour, day or month that begins at a time."""

    at: datetime
    tenant_id: int
    tenant: str
    registered: int
    peak: int
    device_hours: float
    map_bytes: int
    registrations: int


class PricesRecord(Answered):
    """Prices: an hour of a connected device, 10^9 bytes of maps, a month of each plan."""

    currency: str
    device_hour: Number
    gigabyte: Number
    plan_fees: dict[str, Number]
    version: int


class PricesAsked(Asked):
    """The price list from now on."""

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    device_hour: Amount
    gigabyte: Amount
    plan_fees: dict[str, Amount] = Field(default_factory=dict, max_length=100)


class InvoiceAsked(Asked):
    """In which form."""

    tenant: Id | None = None
    format: Literal["json", "csv"] = "json"


class LineRecord(Answered):
    """One line of a tenant's invoice."""

    tenant_id: int
    tenant: str
    item: str
    quantity: Number
    price: Number
    amount: Decimal
    currency: str


class OverrideAsked(Asked):
    """Other limits until a time; a limit of null is no limit."""

    max_devices: int | None = Field(None, ge=0, le=2**31 - 1)
    max_users: int | None = Field(None, ge=0, le=2**31 - 1)
    max_keys: int | None = Field(None, ge=0, le=2**31 - 1)
    max_routes: int | None = Field(None, ge=0, le=2**31 - 1)
    max_requests: int | None = Field(None, ge=1, le=2**31 - 1)
    until: Moment


class QuotaRecord(Answered):
    """Limits of a tenant, what is used of them, and until when they are lifted."""

    tenant_id: int
    tenant: str
    plan: str | None
    max_devices: int | None
    devices: int
    max_users: int | None
    users: int
    max_keys: int | None
    keys: int
    max_routes: int | None
    routes: int
    max_requests: int | None
    overridden_until: datetime | None
    former: dict[str, int | None] | None
