"""One URL for all clusters: devices that know nothing but an hs-acs, and what they notice of changes."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from app.api.client import AcsClient
from app.api.records import JoinAsked, TenantAsked
from app.db.admission import Admission
from app.model import TenantId
from node.derp.certificate import CERTIFICATE_FILE, TLS_KEY_FILE, load_or_create_certificate
from tests.acs.support import AcsProcess, Deployment, deployed
from tests.node.kit import SOME_DERP_MAP, Recorder, joined
from tests.node.support import QUICK, eventually, run_sql

CLUSTERS = ("east", "west", "north")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(pg_server: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    path = tmp_path_factory.mktemp("derp") / "derp.yaml"
    await asyncio.to_thread(path.write_text, SOME_DERP_MAP)
    settings = {"HS_DERP__SERVER__ENABLED": "false", "HS_DERP__PATHS": str(path), **QUICK}
    async with deployed(pg_server, *CLUSTERS, node_settings=settings) as found:
        yield found


@pytest.fixture
async def admin(deployment: Deployment) -> AsyncIterator[AcsClient]:
    async with deployment.acs.client() as client:
        yield client


async def join(
    stack: AsyncExitStack, admin: AcsClient, entry: AcsProcess, tenant: str, size: int = 2
) -> tuple[str, list[Recorder]]:
    """The cluster of a tenant, and so many devices of it that dialled an hs-acs."""
    answer = await admin.join(JoinAsked(tenant=tenant, user="alice", reusable=True))
    devices = [await stack.enter_async_context(Recorder(entry.url, answer.auth_key)) for _ in range(size)]
    await asyncio.gather(*map(joined, devices))
    for device in devices:
        await device.sees(peers=size - 1)
    return answer.cluster_id, devices


async def relayed(entry: AcsProcess) -> float:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{entry.metrics_port}/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("hs_acs_entry_relayed ")]
    return float(line.split()[1])


async def test_devices_that_know_an_hs_acs_only_are_where_their_tenants_are(
    deployment: Deployment, admin: AcsClient
) -> None:
    """D11, D12, D18: spread over the clusters; each in its own tailnet with the first address of it."""
    async with AsyncExitStack() as stack:
        found = await asyncio.gather(
            *(
                join(stack, admin, (deployment.acs, deployment.second)[number % 2], f"spread {number}")
                for number in range(6)
            )
        )
        assert Counter(cluster for cluster, _ in found) == dict.fromkeys(CLUSTERS, 2)
        for cluster, devices in found:
            ids = ",".join(str(device.id) for device in devices)
            rows = await run_sql(
                deployment.nodes[cluster].dsn, f"SELECT cluster_id FROM nodes WHERE id IN ({ids})"
            )
            assert [row[0] for row in rows] == [cluster] * 2
        addresses = [sorted(str(d.netmap.self_node["Addresses"]) for d in devices) for _, devices in found]  # type: ignore[index]
        assert addresses.count(addresses[0]) == 6, "tailnets have the same addresses"
        assert await relayed(deployment.acs) == await relayed(deployment.second) == 6


async def test_d10_thirty_tenants_spread_over_three_clusters(
    deployment: Deployment, admin: AcsClient
) -> None:
    """Of equal weight and limits: no cluster has more than one tenant above another, by two replicas."""
    async with deployment.second.client() as other:
        before = Counter([t.cluster async for t in admin.tenants() if not t.home])
        placed = await asyncio.gather(
            *((admin, other)[number % 2].place(TenantAsked(name=f"thirty {number}")) for number in range(30))
        )
    after = before + Counter(answer.tenant.cluster for answer in placed)
    assert sum(after.values()) == sum(before.values()) + 30
    assert max(after.values()) - min(after.values()) <= 1


async def test_an_entry_hands_its_devices_back_and_they_return(
    deployment: Deployment, admin: AcsClient
) -> None:
    async with AsyncExitStack() as stack:
        _, devices = await join(stack, admin, deployment.second, "restarted", 4)
        polls = [device.polls for device in devices]
        assert await deployment.second.stop() == 0
        await deployment.second.start()
        for device, before in zip(devices, polls, strict=True):
            await eventually(_polls(device, before), "it is back")
        assert not any(device.violations for device in devices)


async def test_a_tenant_moves_under_devices_behind_entries(deployment: Deployment, admin: AcsClient) -> None:
    async with AsyncExitStack() as stack:
        cluster, one = await join(stack, admin, deployment.acs, "moves", 2)
        tenant = (await admin.place(TenantAsked(name="moves"))).tenant
        admission = await Admission.open(deployment.nodes[cluster].dsn, pool_size=1)
        stack.push_async_callback(admission.close)
        _, two = await join_more(stack, deployment.second, one, admin)
        devices = [*one, *two]
        own = [device.netmap.self_node["Addresses"] for device in devices]  # type: ignore[index]
        for target in [name for name in CLUSTERS if name != cluster] + [cluster]:
            polls = [device.polls for device in devices]
            source = (await admin.tenant(tenant.id)).cluster
            await admission.move_tenant(TenantId(tenant.id), source, target, actor="test")
            for device, before in zip(devices, polls, strict=True):
                await eventually(_polls(device, before), "it polls its new owner")
                await device.sees(peers=3)
        assert [device.netmap.self_node["Addresses"] for device in devices] == own  # type: ignore[index]
        assert not any(device.violations for device in devices)


async def join_more(
    stack: AsyncExitStack, entry: AcsProcess, there: list[Recorder], admin: AcsClient
) -> tuple[str, list[Recorder]]:
    answer = await admin.join(JoinAsked(tenant="moves", user="bob", reusable=True))
    devices = [await stack.enter_async_context(Recorder(entry.url, answer.auth_key)) for _ in range(2)]
    for device in devices:
        await joined(device)
    for device in [*there, *devices]:
        await device.sees(peers=3)
    return answer.cluster_id, devices


async def test_while_nobody_serves_a_cluster_its_devices_are_parked(
    deployment: Deployment, admin: AcsClient
) -> None:
    async with AsyncExitStack() as stack:
        cluster, devices = await join(stack, admin, deployment.acs, "parked", 3)
        polls = [device.polls for device in devices]
        await deployment.nodes[cluster].kill()
        await deployment.nodes[cluster].start()
        for device, before in zip(devices, polls, strict=True):
            await eventually(_polls(device, before), "it is back")
        assert not any(device.violations for device in devices)


async def test_an_entry_with_tls(deployment: Deployment, admin: AcsClient, tmp_path: Path) -> None:
    """TLS ends at the entry, for the API and for tunnels; the hop behind it is plain."""
    load_or_create_certificate(tmp_path, ["127.0.0.1"], datetime.now(UTC))
    cert, key = tmp_path / CERTIFICATE_FILE, tmp_path / TLS_KEY_FILE
    secret = deployment.acs.secret_key_file
    settings = {"HS_TLS_CERT_PATH": str(cert), "HS_TLS_KEY_PATH": str(key)}
    trusting = ssl.create_default_context(cafile=str(cert))
    trusting.check_hostname = False
    answer = await admin.join(JoinAsked(tenant="over tls", user="alice", reusable=True))
    dsn = deployment.acs.settings["PG_DSN"]
    async with AcsProcess(dsn, settings=settings, secret_key_file=secret) as entry, AsyncExitStack() as stack:
        url = entry.url.replace("http://", "https://")
        one, two = [
            await stack.enter_async_context(Recorder(url, answer.auth_key, ssl=trusting)) for _ in range(2)
        ]
        await joined(one)
        await joined(two)
        await one.sees(two.id, Online=True)
        async with httpx.AsyncClient(verify=trusting, timeout=5, trust_env=False) as http:
            assert (await http.get(f"{url}/v1/service")).status_code == 200


async def test_pages_of_an_entry(deployment: Deployment) -> None:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        keys = [
            (await http.get(f"{url}/key", params={"v": "130"})).json()["publicKey"]
            for url in (deployment.acs.url, deployment.second.url, deployment.nodes["east"].url)
        ]
        assert len(set(keys)) == 1
        refused = await http.get(f"{deployment.acs.url}/key")
        assert (refused.status_code, refused.json()["title"]) == (400, "bad request")
        assert (await http.get(f"{deployment.acs.url}/v1/docs")).status_code == 200
        async with Recorder(deployment.nodes["east"].url, None) as device:
            url = (await device.register())["AuthURL"]
        page = await http.get(deployment.acs.url + "/register/" + url.rpartition("/")[2])
        assert (page.status_code, device.hostname in page.text) == (200, True)


def _polls(device: Recorder, before: int):  # type: ignore[no-untyped-def]
    async def more() -> bool:
        return device.polls > before

    return more
