"""Records of the API of hs-acs about webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from app.api.records import Answered, Asked, PageAsked

Event = Annotated[str, Field(pattern=r"^(tenant|quota|cluster|rebalance|invoice)\.[a-z_]{1,40}$")]


class WebhookAsked(Asked):
    """Who shall be told of what: all events when none is named."""

    url: str = Field(
        pattern=r"^https?://[^\s/?#@\x00-\x1f\x7f]+([/?#][^\s\x00-\x1f\x7f]*)?$", max_length=2000
    )
    events: list[Event] = Field(default_factory=list, max_length=50)


class WebhookRecord(Answered):
    """Who is told of what, and how much waits for it or was given up."""

    id: int
    url: str
    events: list[str]
    created_by: str
    created_at: datetime
    waiting: int
    dead: int


class NewWebhook(Answered):
    """A webhook with its key, which is shown this once."""

    webhook: WebhookRecord
    key: str


class DeliveriesAsked(PageAsked):
    """Which deliveries."""

    state: Literal["waiting", "delivered", "dead"] = "dead"


class DeliveryRecord(Answered):
    """Something that is sent to a webhook."""

    id: int
    webhook: int
    event: str
    state: str
    attempts: int
    error: str | None
    created_at: datetime
