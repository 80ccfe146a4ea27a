"""What the commands of `hs-acs webhooks` do."""

from __future__ import annotations

from collections.abc import Sequence

from acs.shell import api, row
from app.api.webhooks import WebhookAsked
from app.output import show
from app.settings import Settings


async def create(settings: Settings, url: str, events: Sequence[str], output: str) -> None:
    async with api(settings) as client:
        made = await client.create_webhook(WebhookAsked(url=url, events=list(events)))
    show({"id": made.webhook.id, "url": made.webhook.url, "key": made.key}, output, upright=True)


async def list_all(settings: Settings, output: str) -> None:
    async with api(settings) as client:
        show([row(hook) for hook in await client.webhooks()], output)


async def delete(settings: Settings, webhook_id: int) -> None:
    async with api(settings) as client:
        await client.delete_webhook(webhook_id)


async def deliveries(settings: Settings, state: str, output: str) -> None:
    async with api(settings) as client:
        show([row(found) async for found in client.deliveries(state)], output)


async def retry(settings: Settings, delivery_id: int) -> None:
    async with api(settings) as client:
        await client.retry_delivery(delivery_id)
