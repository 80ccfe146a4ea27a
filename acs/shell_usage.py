"""What the commands about usage, prices, invoices and quotas do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from acs.shell import api, row
from app.api.billing import OverrideAsked, PricesAsked
from app.output import show
from app.settings import Settings


async def usage(
    settings: Settings, tenant: str | None, asked: Mapping[str, Any], as_csv: bool, output: str
) -> None:
    query = {name: value for name, value in asked.items() if value is not None}
    async with api(settings) as client:
        if tenant is not None:
            query["tenant"] = (await client.tenant(tenant)).id
        if as_csv:
            click.echo(await client.csv("/v1/usage", query), nl=False)
            return
        found = [row(used) async for used in client.usage(query)]
    show(found, output)


async def prices(settings: Settings, output: str) -> None:
    async with api(settings) as client:
        show(row(await client.prices()), output, upright=True)


async def set_prices(settings: Settings, asked: Mapping[str, Any], output: str) -> None:
    async with api(settings) as client:
        show(row(await client.put_prices(PricesAsked.model_validate(asked))), output, upright=True)


async def invoices(settings: Settings, month: str, as_csv: bool, output: str) -> None:
    async with api(settings) as client:
        if as_csv:
            click.echo(await client.csv(f"/v1/invoices/{month}", {}), nl=False)
            return
        show([row(line) for line in await client.invoices(month)], output)


async def quota(settings: Settings, tenant: str, output: str) -> None:
    async with api(settings) as client:
        show(row(await client.quota((await client.tenant(tenant)).id)), output, upright=True)


async def override(
    settings: Settings, tenant: str, limits: Mapping[str, int | None], until: datetime, output: str
) -> None:
    async with api(settings) as client:
        asked = OverrideAsked.model_validate({**limits, "until": until})
        show(row(await client.override((await client.tenant(tenant)).id, asked)), output, upright=True)


async def end_override(settings: Settings, tenant: str, output: str) -> None:
    async with api(settings) as client:
        show(row(await client.end_override((await client.tenant(tenant)).id)), output, upright=True)
