"""Operations on webhooks and what is sent to them."""

from __future__ import annotations

import secrets
from typing import Any

from acs.api.operation import ADMIN, MAY, READ_ONLY, Call, Operation, Reply, cursor_id
from acs.api.tokens import moment
from acs.webhooks import signing_key
from app.api.records import Nothing, Page
from app.api.webhooks import DeliveriesAsked, DeliveryRecord, NewWebhook, WebhookAsked, WebhookRecord
from app.db.webhooks import DeliveryFacts, Webhook, Webhooks

NONCE_BYTES = 32


def operations(store: Webhooks, deployment_key: bytes) -> list[Operation[Any]]:
    """What the API offers about webhooks."""

    async def create(call: Call) -> Reply:
        asked: WebhookAsked = call.body
        nonce = secrets.token_bytes(NONCE_BYTES)
        webhook_id = await store.create_webhook(asked.url, asked.events, nonce, actor=call.caller.actor)
        (made,) = [hook for hook in await store.webhooks() if hook.id == webhook_id]
        return Reply(NewWebhook(webhook=_shown(made), key=signing_key(deployment_key, nonce)), status=201)

    async def webhooks(call: Call) -> Reply:
        return Reply(Page[WebhookRecord](items=[_shown(hook) for hook in await store.webhooks()]))

    async def delete(call: Call) -> Reply:
        await store.delete_webhook(call.id("webhook"), actor=call.caller.actor)
        return Reply(Nothing())

    async def deliveries(call: Call) -> Reply:
        query: DeliveriesAsked = call.query
        found = await store.deliveries(query.state, cursor_id(query.cursor), query.limit)
        following = str(found[-1].id) if len(found) == query.limit else None
        items = [_delivery(facts) for facts in found]
        return Reply(Page[DeliveryRecord](items=items, next=following))

    async def retry(call: Call) -> Reply:
        await store.retry_delivery(call.id("delivery"))
        return Reply(Nothing())

    at, may, look, tags = "/v1/webhooks", MAY[ADMIN], MAY[READ_ONLY], ("webhooks",)
    return [
        Operation(
            *("POST", at, "Have somebody told of tenants, quotas, clusters and plans.", may, create),
            NewWebhook,
            body=WebhookAsked,
            status=201,
            tags=tags,
        ),
        Operation("GET", at, "All webhooks.", look, webhooks, Page[WebhookRecord], tags=tags),
        Operation(
            *("DELETE", f"{at}/{{webhook}}", "Tell somebody no more.", may, delete, Nothing), tags=tags
        ),
        Operation(
            *("GET", "/v1/deliveries", "What was sent, waits, or was given up.", look, deliveries),
            Page[DeliveryRecord],
            query=DeliveriesAsked,
            tags=tags,
        ),
        Operation(
            *("POST", "/v1/deliveries/{delivery}/retry", "Send what was given up again.", may, retry),
            Nothing,
            tags=tags,
        ),
    ]


def _shown(hook: Webhook) -> WebhookRecord:
    created_at = moment(hook.created_at)
    assert created_at is not None
    return WebhookRecord(
        id=hook.id,
        url=hook.url,
        events=list(hook.events),
        created_by=hook.created_by,
        created_at=created_at,
        waiting=hook.waiting,
        dead=hook.dead,
    )


def _delivery(facts: DeliveryFacts) -> DeliveryRecord:
    created_at = moment(facts.created_at)
    assert created_at is not None
    return DeliveryRecord(
        id=facts.id,
        webhook=facts.webhook_id,
        event=facts.event,
        state=facts.state,
        attempts=facts.attempts,
        error=facts.error,
        created_at=created_at,
    )
