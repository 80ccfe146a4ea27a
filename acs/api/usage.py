"""Operations on what tenants use: usage, prices, invoices, and limits that are lifted for a while."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from acs.api.operation import ADMIN, BILLING, MAY, READ_ONLY, TENANT_ADMIN, Call, Operation, Reply
from acs.api.tokens import moment
from app.api.billing import (
    InvoiceAsked,
    LineRecord,
    OverrideAsked,
    PricesAsked,
    PricesRecord,
    QuotaRecord,
    UsageAsked,
    UsageRecord,
)
from app.api.records import Page
from app.billing import Prices, UsageRow, invoice, month_of
from app.db.admission import Admission
from app.db.usage import LIMITS
from app.errors import BadRequest, Refused
from app.model import TenantFacts, TenantId

CSV = "text/csv"
#: What is shown when no time is asked for.
DEFAULT_S = 31 * 86400.0
#: A table has no pages.
MAX_CSV_ROWS = 100_000


def operations(store: Admission, clock: Callable[[], float]) -> list[Operation[Any]]:
    """What the API offers about usage. `clock` gives epoch seconds."""

    async def usage(call: Call) -> Reply:
        query: UsageAsked = call.query
        until = _epoch(query.until, clock())
        found = await store.read_usage(
            query.by,
            _epoch(query.since, until - DEFAULT_S),
            until,
            tenant_id=_tenant(call, query.tenant),
            after=_cursor(query.cursor),
            limit=MAX_CSV_ROWS if query.format == "csv" else query.limit,
        )
        items = [_shown(row) for row in found]
        if query.format == "csv":
            if len(found) == MAX_CSV_ROWS:
                raise BadRequest(f"more than {MAX_CSV_ROWS} rows: ask for less", code="too_many_rows")
            return Reply(raw=_table(UsageRecord, items), content_type=CSV)
        following = f"{found[-1].at:.0f}.{found[-1].tenant_id}" if len(found) == query.limit else None
        return Reply(Page[UsageRecord](items=items, next=following))

    async def prices(call: Call) -> Reply:
        found = await store.prices()
        return Reply(PricesRecord.model_validate(found), version=found.version)

    async def put_prices(call: Call) -> Reply:
        asked: PricesAsked = call.body
        wanted = Prices(asked.currency, asked.device_hour, asked.gigabyte, asked.plan_fees)
        stored = await store.put_prices(wanted, actor=call.caller.actor)
        return Reply(PricesRecord.model_validate(stored), version=stored.version)

    async def invoices(call: Call) -> Reply:
        query: InvoiceAsked = call.query
        since, until = month_of(call.path["month"])
        found = await store.prices()
        only = _tenant(call, query.tenant)
        used = [row for row in await store.month_usage(since, until) if only in (None, row[0])]
        lines = [
            LineRecord(
                tenant_id=line.tenant_id,
                tenant=line.tenant,
                item=line.item,
                quantity=line.quantity,
                price=line.price,
                amount=line.amount,
                currency=found.currency,
            )
            for line in invoice(used, found)
        ]
        if query.format == "csv":
            return Reply(raw=_table(LineRecord, lines), content_type=CSV)
        return Reply(Page[LineRecord](items=lines))

    async def quota(call: Call) -> Reply:
        return Reply(await _quota(await store.tenant(call.tenant())))

    async def override(call: Call) -> Reply:
        asked: OverrideAsked = call.body
        limits = {name: getattr(asked, name) for name in LIMITS if name in asked.model_fields_set}
        ends_at = asked.until.timestamp()
        if not limits:
            raise BadRequest("say which limit is another for a while", code="no_limit")
        if ends_at <= clock():
            raise BadRequest("an override ends in the future", code="bad_until")
        actor = call.caller.actor
        return Reply(await _quota(await store.put_override(call.tenant(), limits, ends_at, actor=actor)))

    async def end_override(call: Call) -> Reply:
        tenant_id = (await store.tenant(call.tenant())).id
        await store.end_override(tenant_id, actor=call.caller.actor)
        return Reply(await _quota(await store.tenant(tenant_id)))

    async def _quota(tenant: TenantFacts) -> QuotaRecord:
        found = await store.override(tenant.id)
        return QuotaRecord(
            tenant_id=tenant.id,
            tenant=tenant.name,
            plan=tenant.plan,
            max_devices=tenant.max_devices,
            devices=tenant.devices,
            max_users=tenant.max_users,
            users=tenant.users,
            max_keys=tenant.max_keys,
            keys=tenant.keys,
            max_routes=tenant.max_routes,
            routes=tenant.routes,
            max_requests=tenant.max_requests,
            overridden_until=None if found is None else moment(found.ends_at),
            former=None if found is None else dict(found.former),
        )

    bill, look, may = MAY[BILLING], MAY[BILLING] | MAY[READ_ONLY] | MAY[TENANT_ADMIN], MAY[ADMIN]
    at, tags = "/v1/tenants/{tenant}/quota", ("usage",)
    return [
        Operation(
            *("GET", "/v1/usage", "What tenants use, by hour, day or month.", look, usage),
            Page[UsageRecord],
            query=UsageAsked,
            also=(CSV,),
            tags=tags,
        ),
        Operation(
            *("GET", "/v1/prices", "The price list.", bill, prices, PricesRecord), versioned=True, tags=tags
        ),
        Operation(
            *("PUT", "/v1/prices", "Set the price list.", may, put_prices, PricesRecord),
            body=PricesAsked,
            tags=tags,
        ),
        Operation(
            *("GET", "/v1/invoices/{month}", "Lines of a month's invoices (2026-11).", bill, invoices),
            Page[LineRecord],
            query=InvoiceAsked,
            also=(CSV,),
            tags=tags,
        ),
        Operation(
            *("GET", at, "Limits of a tenant, and what is used of them.", look, quota, QuotaRecord), tags=tags
        ),
        Operation(
            *("PUT", f"{at}/override", "Other limits until a time.", may, override, QuotaRecord),
            body=OverrideAsked,
            tags=tags,
        ),
        Operation(
            *("DELETE", f"{at}/override", "The limits of before, now.", may, end_override, QuotaRecord),
            tags=tags,
        ),
    ]


def _epoch(asked: datetime | None, otherwise: float) -> float:
    if asked is None:
        return otherwise
    return (asked if asked.tzinfo is not None else asked.replace(tzinfo=UTC)).timestamp()


def _tenant(call: Call, asked: int | None) -> TenantId | None:
    """The tenant asked about; a tenant's own token asks about its own. Raises NotFound, Refused."""
    own = None if call.caller.token is None else call.caller.token.tenant_id
    if asked is None:
        if own is None and call.caller.token is not None and call.caller.token.scope == TENANT_ADMIN:
            raise Refused("this token names no tenant", code="scope")
        return own
    call.caller.check_tenant(asked)
    return TenantId(asked)


def _cursor(text: str) -> tuple[float, int]:
    """(time, tenant) after which a page begins. Raises BadRequest."""
    if not text:
        return 0.0, 0
    at, dot, tenant = text.partition(".")
    if (
        not (dot and at.isascii() and at.isdigit() and tenant.isascii() and tenant.isdigit())
        or len(text) > 32
    ):
        raise BadRequest(f"there is no page {text!r}", code="bad_cursor")
    if int(tenant) >= 2**63:
        raise BadRequest(f"there is no page {text!r}", code="bad_cursor")
    return float(at), int(tenant)


def _shown(row: UsageRow) -> UsageRecord:
    return UsageRecord(
        at=datetime.fromtimestamp(row.at, UTC),
        tenant_id=row.tenant_id,
        tenant=row.tenant,
        registered=row.registered,
        peak=row.peak,
        device_hours=round(row.device_hours, 6),
        map_bytes=row.map_bytes,
        registrations=row.registrations,
    )


def _table(record: type[BaseModel], rows: Sequence[BaseModel]) -> bytes:
    """As CSV. A text that a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(record.model_fields)
    for row in rows:
        values = row.model_dump(mode="json")
        writer.writerow([_harmless(values[name]) for name in record.model_fields])
    return out.getvalue().encode()


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
