"""Usage from the owner's memory to an invoice, and limits for a while; races for the last place."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import pytest_asyncio

from app.api.billing import OverrideAsked, PricesAsked
from app.api.client import AcsClient
from app.api.records import JoinAsked, PlanAsked, TenantAsked, TenantChange
from app.errors import NotFound, Refused
from tests.acs.support import Deployment, deployed, parsed
from tests.node.kit import Recorder, joined
from tests.node.support import eventually, run_sql

MONTH = datetime.now(UTC).strftime("%Y-%m")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(pg_server: str) -> AsyncIterator[Deployment]:
    async with deployed(pg_server, "east") as found:
        yield found


@pytest.fixture
async def admin(deployment: Deployment) -> AsyncIterator[AcsClient]:
    async with deployment.acs.client() as client:
        yield client


async def device_of(deployment: Deployment, admin: AcsClient, tenant: str) -> Recorder:
    answer = await admin.join(JoinAsked(tenant=tenant, user="alice", reusable=True))
    return Recorder(deployment.nodes["east"].url, answer.auth_key)


async def test_d43_usage_of_a_tenant_is_counted_exported_and_billed(
    deployment: Deployment, admin: AcsClient
) -> None:
    await admin.put_plan("gold", PlanAsked(max_devices=20))
    await admin.place(TenantAsked(name="=formula", plan="gold"))
    tenant = await admin.tenant("=formula")
    async with (
        await device_of(deployment, admin, "=formula") as one,
        await device_of(deployment, admin, "=formula") as two,
    ):
        await joined(one)
        await joined(two)
        await one.sees(peers=1)
        # An owner that stops in order loses nothing.
        assert await deployment.nodes["east"].stop() == 0
        await deployment.nodes["east"].start()
    (used,) = [row async for row in admin.usage({"tenant": tenant.id, "by": "month"})]
    assert (used.registered, used.peak, used.registrations) == (2, 2, 2)
    assert used.map_bytes > 500
    assert 0 < used.device_hours < 0.1
    rows = list(csv.reader(io.StringIO(await admin.csv("/v1/usage", {"by": "hour"}))))
    assert rows[0][:3] == ["at", "tenant_id", "tenant"]
    assert {row[2] for row in rows[1:]} >= {"'=formula"}, "no formula for a spreadsheet"
    with pytest.raises(NotFound, match="no price list"):
        await admin.invoices(MONTH)
    await run_sql(
        deployment.nodes["east"].dsn,
        f"UPDATE usage SET connected_s = 7200, map_bytes = 3000000000 WHERE tenant_id = {tenant.id}",
    )
    wanted = PricesAsked(currency="EUR", device_hour="0.25", gigabyte="0.10", plan_fees={"gold": "9.90"})
    await admin.put_prices(wanted)
    lines = {line.item: line.amount for line in await admin.invoices(MONTH) if line.tenant_id == tenant.id}
    hours = Decimal(len([row for row in rows[1:] if row[1] == str(tenant.id)]))
    assert lines == {
        "plan gold": Decimal("9.90"),
        "device hours": Decimal("0.50") * hours,
        "gigabytes of maps": Decimal("0.30") * hours,
    }
    billing = await deployment.acs.token("billing")
    told = await deployment.acs.shell("invoices", MONTH, "--csv", token=billing)
    assert "plan gold" in told.out
    assert (
        parsed(await deployment.acs.shell("prices", "show", "-o", "json", token=billing))["currency"] == "EUR"
    )


async def test_a_tenants_own_token_sees_its_own_usage_only(deployment: Deployment, admin: AcsClient) -> None:
    for name in ("mine", "theirs"):
        await admin.place(TenantAsked(name=name))
    mine, theirs = (await admin.tenant("mine")).id, (await admin.tenant("theirs")).id
    hour = "date_trunc('hour', now(), 'UTC')"
    for tenant in (mine, theirs):
        await run_sql(
            deployment.nodes["east"].dsn,
            f"INSERT INTO usage VALUES ('east', {tenant}, {hour}, 1, 1, 60, 1, 1)",
        )
    async with deployment.acs.client("tenant-admin", "--tenant", str(mine)) as client:
        assert {row.tenant_id async for row in client.usage({})} == {mine}
        with pytest.raises(NotFound):
            _ = [row async for row in client.usage({"tenant": theirs})]
        with pytest.raises(NotFound):
            await client.quota(theirs)
        assert (await client.quota(mine)).devices == 0
        with pytest.raises(Refused):
            await client.prices()


async def test_d42_a_limit_is_lifted_for_a_while(deployment: Deployment, admin: AcsClient) -> None:
    await admin.put_plan("tiny", PlanAsked(max_devices=1))
    await admin.place(TenantAsked(name="grows", plan="tiny"))
    tenant = await admin.tenant("grows")
    async with await device_of(deployment, admin, "grows") as one:
        await joined(one)
        async with await device_of(deployment, admin, "grows") as two:
            assert "its limit is 1 devices" in (await two.register())["Error"]
            token = await deployment.acs.token()
            lifted = await deployment.acs.shell(
                *("quota", "override", "grows", "--for", "1h", "--max-devices", "2", "-o", "json"),
                token=token,
            )
            assert parsed(lifted)["former"] == {"max_devices": 1}
            assert not (await two.register()).get("Error")
        quota = await admin.quota(tenant.id)
        assert (quota.devices, quota.max_devices) == (2, 2)
        assert quota.overridden_until is not None
        # Replaced by one that is about to end: what comes back is what was before both.
        soon = datetime.now(UTC) + timedelta(seconds=0.5)
        await admin.override(tenant.id, OverrideAsked(max_devices=5, max_users=None, until=soon))

        async def over() -> bool:
            return (await admin.quota(tenant.id)).overridden_until is None

        await eventually(over, "the override is over")
        assert (await admin.quota(tenant.id)).max_devices == 1
        async with await device_of(deployment, admin, "grows") as three:
            assert "its limit is 1 devices" in (await three.register())["Error"]


async def test_d42_a_tenant_that_asks_too_often_waits(deployment: Deployment, admin: AcsClient) -> None:
    """Its devices are told so in words, others go on, and without the limit so do these."""
    await admin.put_plan("quiet", PlanAsked(max_requests=6))
    await admin.place(TenantAsked(name="loud", plan="quiet"))
    await admin.place(TenantAsked(name="calm"))
    async with await device_of(deployment, admin, "loud") as one:
        await joined(one)

        async def refused() -> str:
            return str((await one.register()).get("Error", ""))

        assert "6 requests a minute" in await eventually(refused, "it has asked too often")
        async with await device_of(deployment, admin, "calm") as other:
            await joined(other)
        await admin.change_tenant((await admin.tenant("loud")).id, TenantChange(max_requests=-1))

        async def accepted() -> bool:
            return not (await one.register()).get("Error")

        await eventually(accepted, "the limit is gone")


async def test_d42_exactly_so_many_devices_get_in(deployment: Deployment, admin: AcsClient) -> None:
    """Keys from two replicas, all devices at once."""
    await admin.put_plan("five", PlanAsked(max_devices=5))
    await admin.place(TenantAsked(name="crowded", plan="five"))
    async with deployment.second.client() as other:
        answers = await asyncio.gather(
            *(
                client.join(JoinAsked(tenant="crowded", user="alice"))
                for client in (admin, other)
                for _ in range(6)
            )
        )
    devices = [Recorder(deployment.nodes["east"].url, answer.auth_key) for answer in answers]
    try:
        told = await asyncio.gather(*(device.register() for device in devices))
    finally:
        for device in devices:
            await device.close()
    assert sum(not answer.get("Error") for answer in told) == 5
    assert (await admin.tenant("crowded")).devices == 5
