"""Use case: webhooks are told. Signed, tried again with growing pauses, and put aside in the end.

`X-HS-Signature` is `v1=` and the HMAC-SHA256, in hex, of `<X-HS-Timestamp>.<body>` under the webhook's key. A
receiver checks it, refuses old timestamps, and knows a repetition by `X-HS-Delivery`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from app import __version__, log
from app.db.webhooks import Delivery, Webhooks

_log = log.get("webhooks")

ATTEMPT_DEADLINE_S = 10.0
#: Deliveries at a time, and of one run of the job.
MAX_AT_ONCE = 16
MAX_CLAIMED = 256
#: A delivery whose sender died is due again after this.
CLAIM_S = 120.0
#: The first pause doubles up to the longest; after so many attempts a delivery is dead: about a day later.
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 4 * 3600.0
MAX_ATTEMPTS = 17
#: What has ended is kept so long.
KEPT_S = 30 * 86400.0
MAX_ERROR = 300


def signing_key(deployment_key: bytes, nonce: bytes) -> str:
    """The key of a webhook, in hex: of the deployment's Noise key and its own nonce; stored nowhere."""
    derived = hmac.digest(deployment_key, b"headscale-cluster webhooks", hashlib.sha256)
    return hmac.digest(derived, nonce, hashlib.sha256).hex()


def signature(key: str, timestamp: str, body: bytes) -> str:
    """What stands in X-HS-Signature."""
    return "v1=" + hmac.digest(key.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hex()


def pause_s(attempts: int) -> float:
    """Seconds until the next attempt after so many."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempts - 1)))


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends what is due."""

    store: Webhooks
    deployment_key: bytes
    #: Epoch seconds.
    clock: Callable[[], float]

    async def deliver(self) -> str:
        """One round: everything that is due now, MAX_CLAIMED at most."""
        due = await self.store.claim_deliveries(CLAIM_S, MAX_CLAIMED)
        if not due:
            return "nothing is due"
        gate = asyncio.Semaphore(MAX_AT_ONCE)
        # Redirects are not followed: whoever made the webhook named the receiver.
        async with httpx.AsyncClient(timeout=ATTEMPT_DEADLINE_S, follow_redirects=False) as http:
            done = await asyncio.gather(*(self._guarded(http, gate, delivery) for delivery in due))
        return f"{sum(done)} of {len(due)} delivered"

    async def _guarded(self, http: httpx.AsyncClient, gate: asyncio.Semaphore, delivery: Delivery) -> bool:
        async with gate:
            error = await self._attempt(http, delivery)
        if error is None:
            await self.store.end_delivery(delivery.id, "delivered")
        elif delivery.attempts >= MAX_ATTEMPTS:
            _log.error("delivery_dead", delivery=delivery.id, attempts=delivery.attempts, reason=error)
            await self.store.end_delivery(delivery.id, "dead", error=error)
        else:
            _log.info("delivery_failed", delivery=delivery.id, attempts=delivery.attempts, reason=error)
            await self.store.end_delivery(
                delivery.id, "waiting", error=error, pause_s=pause_s(delivery.attempts)
            )
        return error is None

    async def _attempt(self, http: httpx.AsyncClient, delivery: Delivery) -> str | None:
        """None when the receiver took it, else why not."""
        body, timestamp = delivery.body.encode(), f"{self.clock():.0f}"
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"hs-acs/{__version__}",
            "X-HS-Event": delivery.event,
            "X-HS-Delivery": str(delivery.id),
            "X-HS-Timestamp": timestamp,
            "X-HS-Signature": signature(signing_key(self.deployment_key, delivery.nonce), timestamp, body),
        }
        try:
            async with (
                asyncio.timeout(ATTEMPT_DEADLINE_S),
                # The answer's body is nobody's business, however long it is.
                http.stream("POST", delivery.url, content=body, headers=headers) as response,
            ):
                return None if response.is_success else f"answers {response.status_code}"
        except TimeoutError:
            return f"no answer within {ATTEMPT_DEADLINE_S:g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return (str(error) or type(error).__name__)[:MAX_ERROR]
