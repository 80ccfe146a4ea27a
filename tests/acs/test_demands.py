"""Demands of HEADSCALE.md section D that no other file here is named after."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from app.api.client import AcsClient
from app.api.records import ClusterChange, JoinAsked, TenantAsked
from tests.acs.support import Deployment, deployed
from tests.node.kit import SOME_DERP_MAP, Recorder, joined
from tests.node.support import QUICK, eventually, run_sql


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(pg_server: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    path = tmp_path_factory.mktemp("derp") / "derp.yaml"
    await asyncio.to_thread(path.write_text, SOME_DERP_MAP)
    settings = {"HS_DERP__SERVER__ENABLED": "false", "HS_DERP__PATHS": str(path), **QUICK}
    async with deployed(pg_server, "eu-1", "us-1", node_settings=settings) as found:
        yield found


@pytest.fixture
async def admin(deployment: Deployment) -> AsyncIterator[AcsClient]:
    async with deployment.acs.client() as client:
        yield client


async def test_d12_a_machine_sticks_to_its_cluster(deployment: Deployment, admin: AcsClient) -> None:
    """Whatever URL it dials, and however often: the other cluster's owner never has a session of it."""
    await admin.place(TenantAsked(name="sticky", cluster="us-1"))
    answer = await admin.join(JoinAsked(tenant="sticky", user="alice", reusable=True))
    entries = (deployment.acs.url, deployment.second.url, deployment.nodes["eu-1"].url)
    async with Recorder(entries[0], answer.auth_key) as device:
        await joined(device)
        for number in range(9):
            device.url = entries[number % 3]
            polls = device.polls
            device.drop()
            await eventually(_polls(device, polls), "it is back")
        assert not device.violations
    assert (await deployment.nodes["eu-1"].metrics()).get("hs_map_requests_total{kind=poll}", 0) == 0


async def test_d14_everything_that_hs_acs_is_for_is_in_its_api(deployment: Deployment) -> None:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        paths = (await http.get(f"{deployment.acs.url}/v1/openapi.json")).json()["paths"]
    for path in (
        *("/v1/join", "/v1/tenants", "/v1/clusters/{cluster}/admit", "/v1/clusters/{cluster}/drain"),
        *("/v1/usage", "/v1/invoices/{month}", "/v1/tenants/{tenant}/quota", "/v1/moves", "/v1/rebalances"),
    ):
        assert path in paths, path


async def test_d16_a_key_for_one_lets_one_of_many_in_and_addresses_differ(
    deployment: Deployment, admin: AcsClient
) -> None:
    """Through two entries and an owner at once."""
    await admin.place(TenantAsked(name="race", cluster="us-1"))
    once = (await admin.join(JoinAsked(tenant="race", user="alice"))).auth_key
    many = (await admin.join(JoinAsked(tenant="race", user="alice", reusable=True))).auth_key
    urls = (deployment.acs.url, deployment.second.url, deployment.nodes["us-1"].url)
    racers = [Recorder(urls[number % 3], once, hostname="same") for number in range(9)]
    others = [Recorder(urls[number % 3], many, hostname="same") for number in range(9)]
    try:
        answers = await asyncio.gather(*(device.register() for device in [*racers, *others]))
    finally:
        for device in [*racers, *others]:
            await device.close()
    errors = [answer.get("Error") for answer in answers]
    assert sum(not error for error in errors[:9]) == 1
    assert not any(errors[9:])
    tenant = await admin.tenant("race")
    (row,) = await run_sql(
        deployment.nodes["us-1"].dsn,
        "SELECT count(*), count(DISTINCT ipv4), count(DISTINCT given_name) FROM nodes"
        f" WHERE tenant_id = {tenant.id}",
    )
    assert tuple(row) == (10, 10, 10)


async def test_d17_logs_series_and_audit_name_the_cluster(deployment: Deployment, admin: AcsClient) -> None:
    await admin.place(TenantAsked(name="audited", cluster="eu-1"))
    for cluster, node in deployment.nodes.items():
        events = [line for line in node.log().splitlines() if re.match(r"\d{4}-\d\d-\d\dT", line)]
        assert events
        assert all(f"cluster_id={cluster}" in line for line in events)
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
            text = (await http.get(f"{node.metrics_url}/metrics")).text
        series = [line for line in text.splitlines() if line.startswith("hs_")]
        assert all(f'cluster_id="{cluster}"' in line for line in series), cluster
    rows = await run_sql(
        deployment.nodes["eu-1"].dsn,
        "SELECT cluster_id, tenant_id FROM audit_log WHERE action = 'tenant_create' ORDER BY id DESC LIMIT 1",
    )
    assert tuple(rows[0]) == ("eu-1", (await admin.tenant("audited")).id)


async def test_d30_tenants_are_placed_by_region(deployment: Deployment, admin: AcsClient) -> None:
    await admin.change_cluster("eu-1", ClusterChange(region="eu"))
    await admin.change_cluster("us-1", ClusterChange(region="us"))
    for number, region in enumerate(("eu", "us", "eu", "us")):
        placed = await admin.place(TenantAsked(name=f"regional {number}", region=region))
        assert placed.tenant.cluster == f"{region}-1"


def _polls(device: Recorder, before: int):  # type: ignore[no-untyped-def]
    async def more() -> bool:
        return device.polls > before

    return more
