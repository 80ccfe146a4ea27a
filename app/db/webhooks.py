"""Webhooks: who wants to know of what, and what has been sent. The outbox is filled by a trigger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.db.access import NO_CLUSTER
from app.db.base import PoolBase, write_audit
from app.errors import NotFound
from app.sql import QUERIES


@dataclass(frozen=True, slots=True)
class Webhook:
    """`events`: those it wants, all when empty. Times are epoch seconds."""

    id: int
    url: str
    events: tuple[str, ...]
    created_by: str
    created_at: float
    waiting: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """Something to send to a webhook now; `attempts` counts this one."""

    id: int
    event: str
    body: str
    attempts: int
    url: str
    nonce: bytes


@dataclass(frozen=True, slots=True)
class DeliveryFacts:
    """What became of something to send."""

    id: int
    webhook_id: int
    event: str
    state: str
    attempts: int
    error: str | None
    created_at: float


class Webhooks(PoolBase):
    """The part of Admission about webhooks."""

    async def create_webhook(self, url: str, events: Sequence[str], nonce: bytes, *, actor: str) -> int:
        async with self._connection() as conn, conn.transaction():
            webhook_id: int = await conn.fetchval(QUERIES["create_webhook"], url, list(events), nonce, actor)
            after = {"url": url, "events": list(events)}
            await write_audit(
                conn, NO_CLUSTER, None, actor, "webhook_create", f"webhook:{webhook_id}", None, after
            )
        return webhook_id

    async def webhooks(self) -> list[Webhook]:
        found = await self._fetch(QUERIES["list_webhooks"])
        return [Webhook(row[0], row[1], tuple(row[2]), *row[3:]) for row in found]

    async def delete_webhook(self, webhook_id: int, *, actor: str) -> None:
        """With all that waits for it. Raises NotFound."""
        async with self._connection() as conn, conn.transaction():
            if await conn.execute(QUERIES["delete_webhook"], webhook_id) == "DELETE 0":
                raise NotFound(f"there is no webhook {webhook_id}")
            await write_audit(
                conn, NO_CLUSTER, None, actor, "webhook_delete", f"webhook:{webhook_id}", None, None
            )

    async def claim_deliveries(self, again_s: float, limit: int) -> list[Delivery]:
        """What is due, for this caller alone; due again after `again_s` should it die."""
        return [Delivery(*row) for row in await self._fetch(QUERIES["claim_deliveries"], again_s, limit)]

    async def end_delivery(
        self, delivery_id: int, state: str, *, error: str | None = None, pause_s: float = 0.0
    ) -> None:
        """`delivered`, `dead`, or `waiting` for another attempt after a pause."""
        await self._execute(QUERIES["end_delivery"], delivery_id, state, error, pause_s)

    async def deliveries(self, state: str, before_id: int, limit: int) -> list[DeliveryFacts]:
        """The newest first."""
        found = await self._fetch(QUERIES["list_deliveries"], state, before_id, limit)
        return [DeliveryFacts(*row) for row in found]

    async def retry_delivery(self, delivery_id: int) -> None:
        """Raises NotFound unless it is dead."""
        if not await self._execute(QUERIES["retry_delivery"], delivery_id):
            raise NotFound(f"there is no dead delivery {delivery_id}")

    async def trim_deliveries(self, kept_s: float) -> int:
        gone: int = await self._fetchval(QUERIES["trim_deliveries"], kept_s)
        return gone
