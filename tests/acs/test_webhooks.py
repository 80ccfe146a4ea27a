"""Webhooks against a real receiver: signed, tried again, given up, and sent again at somebody's word."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from aiohttp import web

from acs.webhooks import FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_ATTEMPTS, pause_s, signing_key
from app.api.billing import PricesAsked
from app.api.client import AcsClient
from app.api.records import JoinAsked, PlanAsked, TenantAsked
from app.api.webhooks import DeliveryRecord, WebhookAsked
from app.errors import BadRequest, NotFound
from tests.acs.support import AcsProcess
from tests.node.support import ServeProcess, eventually, run_sql


@dataclass
class Receiver:
    """Takes deliveries, or answers with another status."""

    status: int = 204
    url: str = ""
    taken: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.status >= 300:
            return web.Response(status=self.status, headers={"Location": self.url})
        self.taken.append((dict(request.headers), body))
        return web.Response(status=self.status)

    def events(self) -> list[str]:
        return [json.loads(body)["event"] for _, body in self.taken]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    made.url = f"http://{host}:{port}/hook"
    yield made
    await runner.cleanup()


@pytest.fixture
async def cluster(acs: AcsProcess) -> AsyncIterator[None]:
    """Somewhere for tenants."""
    serve = ServeProcess(acs.settings["PG_DSN"], "hooked", secret_key_file=acs.secret_key_file)
    async with serve:
        yield


async def test_what_is_committed_is_told_signed_and_again_until_it_is_taken(
    acs: AcsProcess, admin: AcsClient, receiver: Receiver, cluster: None
) -> None:
    await admin.cluster_verb("hooked", "admit")
    made = await admin.create_webhook(
        WebhookAsked(url=receiver.url, events=["tenant.create", "tenant.suspend"])
    )
    receiver.status = 302  # a redirect is a refusal
    tenant = (await admin.place(TenantAsked(name="told of"))).tenant

    async def refused() -> bool:
        return [row.attempts async for row in admin.deliveries("waiting") if row.error] == [1]

    await eventually(refused, "it is tried, and what came of it is recorded")
    receiver.status = 204
    await run_sql(acs.settings["PG_DSN"], "UPDATE webhook_deliveries SET next_at = now()")
    await admin.tenant_verb(tenant.id, "suspend")
    await admin.tenant_verb(tenant.id, "resume")  # nobody asked for that

    async def both() -> list[DeliveryRecord]:
        rows = [row async for row in admin.deliveries("delivered")]
        return rows if len(rows) == 2 else []

    found = await eventually(both, "both are taken")
    assert sorted(receiver.events()) == ["tenant.create", "tenant.suspend"]
    for headers, body in receiver.taken:
        expected = hmac.new(
            made.key.encode(), headers["X-HS-Timestamp"].encode() + b"." + body, hashlib.sha256
        )
        assert headers["X-HS-Signature"] == "v1=" + expected.hexdigest()
        assert json.loads(body)["tenant"] == tenant.id
    assert {row.event: row.attempts for row in found}["tenant.create"] == 2
    # Given up, seen, and sent again at somebody's word.
    receiver.status = 500
    await admin.tenant_verb(tenant.id, "suspend")
    await eventually(refused, "it is tried, and what came of it is recorded")
    await run_sql(
        acs.settings["PG_DSN"],
        f"UPDATE webhook_deliveries SET attempts = {MAX_ATTEMPTS - 1}, next_at = now()"
        " WHERE state = 'waiting'",
    )

    async def dead() -> list[int]:
        return [row.id async for row in admin.deliveries("dead")]

    (given_up,) = await eventually(dead, "it is given up", 20.0)
    assert (await admin.webhooks())[-1].dead == 1
    receiver.status = 200
    told = await acs.shell("webhooks", "retry", str(given_up), token=await acs.token())
    assert told.code == 0, told.err

    async def taken() -> bool:
        return len(receiver.taken) == 3

    await eventually(taken, "it is taken after all")
    with pytest.raises(NotFound):
        await admin.retry_delivery(given_up)
    await admin.delete_webhook(made.webhook.id)
    with pytest.raises(NotFound):
        await admin.delete_webhook(made.webhook.id)


async def test_who_reaches_a_limit_and_invoices_that_are_ready_are_told_of(
    acs: AcsProcess, admin: AcsClient, receiver: Receiver, cluster: None
) -> None:
    await admin.cluster_verb("hooked", "admit")
    made = await admin.create_webhook(
        WebhookAsked(url=receiver.url, events=["quota.reached", "invoice.ready"])
    )
    await admin.put_plan("one-key", PlanAsked(max_keys=1))
    tenant = (await admin.place(TenantAsked(name="reaches", plan="one-key"))).tenant
    await admin.join(JoinAsked(tenant="reaches", user="alice"))
    await admin.put_prices(PricesAsked(currency="EUR", device_hour=Decimal(1), gigabyte=Decimal(0)))
    last_month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(
        hours=1
    )
    await run_sql(
        acs.settings["PG_DSN"],
        f"INSERT INTO usage VALUES ('hooked', {tenant.id}, '{last_month.isoformat()}', 1, 1, 3600, 1, 1)",
    )
    for _ in range(2):  # said once, however often it is looked
        before = (await admin.job("invoices")).runs
        await admin.run_job("invoices")

        async def ran(before: int = before) -> bool:
            job = await admin.job("invoices")
            return job.state == "done" and job.runs > before

        await eventually(ran, "the job has run")

    async def both() -> list[DeliveryRecord]:
        rows = [row async for row in admin.deliveries("delivered") if row.webhook == made.webhook.id]
        return rows if len(rows) == 2 else []

    await eventually(both, "both are taken")
    told = {body["event"]: body for body in (json.loads(body) for _, body in receiver.taken)}
    assert told["quota.reached"]["tenant"] == tenant.id
    assert told["quota.reached"]["after"] == {"what": "keys", "used": 1, "limit": 1}
    assert told["invoice.ready"]["after"] == {
        "month": f"{last_month:%Y-%m}", "currency": "EUR", "tenants": 1,
    }  # fmt: skip
    await admin.delete_webhook(made.webhook.id)


@pytest.mark.parametrize(
    "url", ["", "ftp://x/", "http://", "https://user@host/", "http://a b/", "http://host/\n", "javascript:1"]
)
async def test_other_urls_are_refused(admin: AcsClient, url: str) -> None:
    with pytest.raises(BadRequest):
        await admin.call("POST", "/v1/webhooks", _Anything, _Anything(url=url))


class _Anything(WebhookAsked):
    url: str


def test_pauses_double_up_to_the_longest() -> None:
    pauses = [pause_s(attempt) for attempt in range(1, MAX_ATTEMPTS)]
    assert pauses[0] == FIRST_PAUSE_S
    assert all(b in (2 * a, LONGEST_PAUSE_S) for a, b in pairwise(pauses))
    assert 20 * 3600 < sum(pauses) < 30 * 3600, "about a day"


def test_keys_differ_by_deployment_and_webhook() -> None:
    keys = {signing_key(bytes([a]) * 32, bytes([b]) * 32) for a in (1, 2) for b in (1, 2)}
    assert len(keys) == 4
    assert all(len(key) == 64 for key in keys)
