"""Suspended and deleted tenants: their devices are cut off, stay logged in, and come back as they were."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from app.api.client import AcsClient
from app.api.records import JoinAsked, JoinTokenAsked, TenantAsked, TenantChange
from app.errors import NotFound, Refused
from app.keys import node_key_text
from tests.acs.support import AcsProcess, parsed
from tests.node.kit import Recorder, fleet, joined
from tests.node.support import DEADLINE_S, ServeProcess, eventually, fresh_database, run_sql


@dataclass
class Deployment:
    node: ServeProcess
    acs: AcsProcess


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(pg_server: str) -> AsyncIterator[Deployment]:
    """One cluster; what is deleted can be restored until the test says otherwise."""
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(fresh_database(pg_server))
        node = await stack.enter_async_context(ServeProcess(dsn, "one"))
        acs = AcsProcess(dsn, secret_key_file=node.secret_key_file)
        yield Deployment(node, await stack.enter_async_context(acs))


@pytest.fixture
async def admin(deployment: Deployment) -> AsyncIterator[AcsClient]:
    async with deployment.acs.client() as client:
        yield client


async def status_of_a_poll(device: Recorder) -> tuple[int, str]:
    status, body = await device.request("/machine/map", device.map_request(Stream=False, OmitPeers=True))
    return status, body.decode()


def identity(device: Recorder) -> tuple[int, list[str], str]:
    node = device.netmap.self_node
    assert node is not None
    return node["ID"], node["Addresses"], node["Key"]


@pytest.mark.parametrize(
    ("cut", "back"), [("suspend", "resume"), pytest.param("delete", "restore", marks=pytest.mark.chaos)]
)
async def test_devices_are_cut_off_and_come_back_as_they_were(
    deployment: Deployment, admin: AcsClient, cut: str, back: str
) -> None:
    tenant = (await admin.place(TenantAsked(name=f"to {cut}"))).tenant
    others = await admin.join(JoinAsked(tenant="neighbours", reusable=True))
    joining = await admin.join(JoinAsked(tenant=tenant.name, reusable=True))
    sentence = {
        "suspend": "this tailnet is suspended: ask your administrator",
        "delete": "this tailnet does not exist any more: ask your administrator",
    }[cut]
    async with (
        Recorder(others.login_server, others.auth_key) as neighbour,
        fleet(joining.login_server, joining.auth_key, 3) as devices,
        Recorder(joining.login_server, joining.auth_key, ephemeral=True) as passing,
        Recorder(joining.login_server, joining.auth_key) as newcomer,
        httpx.AsyncClient() as http,
    ):
        for device in (neighbour, passing):
            await joined(device)
        await devices[0].sees(peers=3)
        before = [identity(device) for device in (*devices, passing)]
        calm = len(neighbour.seen)
        await (admin.delete_tenant(tenant.id) if cut == "delete" else admin.tenant_verb(tenant.id, cut))
        for device in devices:
            await device.wait_for(lambda netmap: netmap.messages > 0 and not netmap.peers, DEADLINE_S)
            last = device.seen[-1]
            assert {one for one, _, _ in before} == set(last["PeersRemoved"])
            assert "Node" not in last, "nothing is said of its own key"
        # Whoever comes back is told why, and is not logged out.
        assert await status_of_a_poll(devices[0]) == (403, sentence + "\n")
        for device in (devices[0], newcomer):
            answer = await device.register()
            assert answer["Error"] == sentence
            assert not answer.get("NodeKeyExpired")
        verify = f"{deployment.node.url}/verify"
        asked = {"NodePublic": node_key_text(devices[0].node_key), "Source": "192.0.2.1"}
        assert (await http.post(verify, json=asked)).json() == {"Allow": False}
        assert len(neighbour.seen) == calm, "nobody else hears of it"
        # A restart of the cluster's owner changes nothing.
        await deployment.node.stop()
        await deployment.node.start()
        assert (await status_of_a_poll(devices[1]))[0] == 403
        await admin.tenant_verb(tenant.id, back)
        for device in (*devices, passing):
            await device.sees(peers=3)
        assert [identity(device) for device in (*devices, passing)] == before
        assert (await http.post(verify, json=asked)).json() == {"Allow": True}
        for device in (*devices, neighbour):
            assert device.violations == []


async def test_a_deleted_tenant_is_purged_after_its_grace_and_its_audit_stays(
    deployment: Deployment, admin: AcsClient
) -> None:
    acs, dsn = deployment.acs, deployment.node.dsn
    old = (await admin.place(TenantAsked(name="gone for good"))).tenant
    young = (await admin.place(TenantAsked(name="may come back"))).tenant
    token = await admin.create_join_token(JoinTokenAsked(tenant=old.name))
    joining = await admin.join(JoinAsked(token=token.text, reusable=True))
    kept = await admin.join(JoinAsked(tenant=young.name))
    await run_sql(
        dsn,
        "INSERT INTO hs.policies (tenant_id, cluster_id, version, text, hash, author)"
        " VALUES ($1, 'one', 1, '{}', repeat('0', 64), 'x') RETURNING 1",
        old.id,
    )

    async def rows_of(tenant_id: int) -> dict[str, int]:
        tables = await run_sql(
            dsn,
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relnamespace = 'hs'::regnamespace AND c.relkind = 'r' AND a.attname = 'tenant_id'",
        )
        return {
            name: (await run_sql(dsn, f"SELECT count(*) FROM hs.{name} WHERE tenant_id = $1", tenant_id))[0][
                0
            ]
            for (name,) in tables
        }

    async with (
        acs.client("tenant-admin", "--tenant", str(old.id)) as owner,
        fleet(joining.login_server, joining.auth_key, 2),
        Recorder(kept.login_server, kept.auth_key) as device,
    ):
        await joined(device)
        assert (await owner.tenant(old.id)).devices == 2
        for tenant in (old, young):
            await admin.delete_tenant(tenant.id)
        before, untouched = await rows_of(old.id), await rows_of(young.id)
        assert all(before[table] for table in ("nodes", "node_state", "users", "policies", "api_tokens"))
        past = "UPDATE hs.tenants SET deleted_at = deleted_at - interval '31 days' WHERE tenant_id = $1"
        await run_sql(dsn, past, old.id)
        await acs.leads()
        told = parsed(await acs.shell("jobs", "run", "purge-tenants", "-o", "json", token=await acs.token()))
        assert told["result"] == "purged gone for good"
    left = await rows_of(old.id)
    assert {table for table, rows in left.items() if rows} <= {"audit_log", "changes"}
    now = await rows_of(young.id)
    # Its device went away meanwhile, and that is written down.
    for grows in ("changes", "presence"):
        del now[grows], untouched[grows]
    assert now == untouched
    (line,) = await run_sql(
        dsn,
        "SELECT actor, before::text FROM hs.audit_log WHERE action = 'tenant_purge' AND tenant_id = $1",
        old.id,
    )
    assert line[0].startswith("job:")
    assert line[1] == '{"keys": 1, "name": "gone for good", "users": 1, "devices": 2}'

    async def forgotten() -> bool:
        alive = await run_sql(dsn, "SELECT count(*) FROM hs.tenants WHERE cluster_id = 'one'")
        return (await deployment.node.metrics())["hs_tenants"] == alive[0][0]

    await eventually(forgotten, "the cluster's owner knows it no more")
    with pytest.raises(NotFound):
        await admin.tenant(old.id)
    with pytest.raises(Refused, match="unknown, expired, revoked or used up"):
        await admin.join(JoinAsked(token=token.text))
    assert (await admin.tenant_verb(young.id, "restore")).status == "active"


async def test_join_tokens_go_with_the_name_of_their_tenant_and_end_when_revoked(
    deployment: Deployment, admin: AcsClient
) -> None:
    tenant = (await admin.place(TenantAsked(name="first name"))).tenant
    other = (await admin.place(TenantAsked(name="somebody else"))).tenant
    made = await admin.create_join_token(JoinTokenAsked(tenant="first name", user="alice", uses=5))
    await admin.change_tenant(tenant.id, TenantChange(name="second name"))
    joining = await admin.join(JoinAsked(token=made.text))
    assert (joining.tenant_id, joining.tenant) == (tenant.id, "second name")
    acs = deployment.acs
    async with acs.client("tenant-admin", "--tenant", str(tenant.id)) as own:
        (shown,) = [token async for token in own.join_tokens()]
        assert (shown.id, shown.tenant, shown.user, shown.uses_left) == (made.id, "second name", "alice", 4)
    async with acs.client("tenant-admin", "--tenant", str(other.id)) as stranger:
        assert [token async for token in stranger.join_tokens()] == []
        with pytest.raises(NotFound, match=f"no join token {made.id}"):
            await stranger.revoke_join_token(made.id)
    text = await acs.token()
    listed = parsed(await acs.shell("join-tokens", "list", "-o", "json", token=text))
    assert made.id in {token["id"] for token in listed}
    assert (await acs.shell("join-tokens", "revoke", str(made.id), "--yes", token=text)).code == 0
    with pytest.raises(Refused, match="revoked"):
        await admin.join(JoinAsked(token=made.text))
    created = await acs.shell("join-tokens", "create", "second name", "--uses", "1", token=text)
    assert created.err == f"for people: {acs.url}/join#{created.out}"
