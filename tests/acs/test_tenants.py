"""Tenants over the API and the commands: placed once, kept, limited, suspended, deleted and restored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from app.api.client import AcsClient
from app.api.records import (
    ClusterChange,
    JoinAsked,
    JoinTokenAsked,
    PlanAsked,
    TenantAsked,
    TenantChange,
)
from app.errors import BadRequest, Conflict, NotFound, Refused
from tests.acs.support import Deployment, deployed, parsed
from tests.node.kit import Recorder, joined
from tests.node.support import eventually, run_sql


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(pg_server: str) -> AsyncIterator[Deployment]:
    async with deployed(pg_server, "east", "west") as found:
        yield found


@pytest.fixture
async def admin(deployment: Deployment) -> AsyncIterator[AcsClient]:
    async with deployment.acs.client() as client:
        yield client


async def test_d8_one_answer_for_many_callers_of_two_replicas(
    deployment: Deployment, admin: AcsClient
) -> None:
    async with deployment.second.client() as other:
        answers = await asyncio.gather(
            *(
                (admin if number % 2 else other).place(TenantAsked(name="asked by many"))
                for number in range(16)
            )
        )
    assert len({answer.tenant.id for answer in answers}) == 1
    assert len({answer.tenant.cluster for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    (created,) = [answer for answer in answers if answer.created]
    assert created.explanation[0].startswith(f"{created.tenant.cluster}: chosen")
    # And again, after a restart.
    await deployment.second.stop()
    await deployment.second.start()
    async with deployment.second.client() as other:
        assert (await other.place(TenantAsked(name="asked by many"))).tenant == answers[0].tenant


async def test_d9_constraints_are_kept_and_a_refusal_leaves_nothing(admin: AcsClient) -> None:
    await admin.change_cluster("east", ClusterChange(region="eu", labels={"tier": "gold"}))
    await admin.change_cluster("west", ClusterChange(region="us"))
    placed = await admin.place(TenantAsked(name="european", region="eu"))
    assert placed.tenant.cluster == "east"
    assert (await admin.place(TenantAsked(name="golden", labels={"tier": "gold"}))).tenant.cluster == "east"
    assert (await admin.place(TenantAsked(name="pinned", cluster="west"))).tenant.cluster == "west"
    with pytest.raises(Refused, match="its region is eu, wished for is asia"):
        await admin.place(TenantAsked(name="asian", region="asia"))
    with pytest.raises(NotFound, match="asian"):
        await admin.tenant("asian")
    explained = await admin.explain(TenantAsked(name="asian", region="asia"))
    assert explained.cluster is None
    assert len(explained.explanation) == 3


async def test_d10_d13_tenants_spread_and_a_drained_cluster_gets_none(admin: AcsClient) -> None:
    for number in range(12):
        await admin.place(TenantAsked(name=f"spread {number}"))
    reserved = {cluster.id: cluster.reserved for cluster in await admin.clusters()}
    assert abs(reserved["east"] - reserved["west"]) <= 50
    before = {tenant.id: tenant.cluster async for tenant in admin.tenants()}
    assert (await admin.cluster_verb("east", "drain")).state == "draining"
    try:
        for number in range(3):
            placed = await admin.place(TenantAsked(name=f"after draining {number}"))
            assert placed.tenant.cluster == "west"
        after = {tenant.id: tenant.cluster async for tenant in admin.tenants()}
        assert before.items() <= after.items(), "nobody moves by itself"
    finally:
        await admin.cluster_verb("east", "admit")


async def test_d11_exactly_the_answer_lets_a_device_join(deployment: Deployment, admin: AcsClient) -> None:
    token = await admin.create_join_token(JoinTokenAsked(tenant="new customer", user="alice", uses=2))
    async with AcsClient(deployment.acs.url) as nobody:
        joining = await nobody.join(JoinAsked(token=token.text))
        assert joining.login_server == deployment.nodes[joining.cluster_id].url
        assert joining.command == (
            f"tailscale up --login-server {joining.login_server} --auth-key {joining.auth_key}"
        )
        async with Recorder(joining.login_server, joining.auth_key) as device:
            await joined(device)
            profile = device.netmap.user_profiles[device.netmap.self_node["User"]]
            assert profile["LoginName"] == "alice"
        again = await nobody.join(JoinAsked(token=token.text))
        assert (again.tenant_id, again.cluster_id) == (joining.tenant_id, joining.cluster_id)
        assert again.auth_key != joining.auth_key
        with pytest.raises(Refused, match="used up"):
            await nobody.join(JoinAsked(token=token.text))
        with pytest.raises(Refused, match="needs a join token"):
            await nobody.join(JoinAsked(tenant="new customer"))
    dump = ""
    for table in ("join_tokens", "pre_auth_keys", "audit_log"):
        rows = await run_sql(deployment.acs.settings["PG_DSN"], f"SELECT t::text FROM hs.{table} t")
        dump += "".join(row[0] for row in rows)
    assert token.text.rsplit("-", 1)[1] not in dump
    assert joining.auth_key.rsplit("-", 1)[1] not in dump


async def test_plans_limit_devices_with_an_error_that_people_understand(
    deployment: Deployment, admin: AcsClient
) -> None:
    await admin.put_plan("small", PlanAsked(max_devices=1))
    tenant = (await admin.place(TenantAsked(name="on a small plan", plan="small"))).tenant
    assert tenant.max_devices == 1
    joining = await admin.join(JoinAsked(tenant="on a small plan", reusable=True))
    async with (
        Recorder(joining.login_server, joining.auth_key) as first,
        Recorder(joining.login_server, joining.auth_key) as second,
    ):
        await joined(first)
        assert "its limit is 1 devices" in (await second.register())["Error"]
        await admin.put_plan("small", PlanAsked(max_devices=2))
        await joined(second)
    with pytest.raises(NotFound, match="no plan 'golden'"):
        await admin.place(TenantAsked(name="elsewhere", plan="golden"))


async def test_suspended_tenants_let_nobody_in(deployment: Deployment, admin: AcsClient) -> None:
    tenant = (await admin.place(TenantAsked(name="owes money"))).tenant
    joining = await admin.join(JoinAsked(tenant="owes money", reusable=True))
    assert (await admin.tenant_verb(tenant.id, "suspend")).status == "suspended"
    with pytest.raises(Refused, match="suspended"):
        await admin.join(JoinAsked(tenant="owes money"))
    async with Recorder(joining.login_server, joining.auth_key) as device:
        assert "this tailnet is suspended" in (await device.register())["Error"]
        assert (await admin.tenant_verb(tenant.id, "resume")).status == "active"
        await joined(device)


async def test_a_deleted_tenant_can_be_restored(admin: AcsClient) -> None:
    tenant = (await admin.place(TenantAsked(name="short lived"))).tenant
    assert (await admin.delete_tenant(tenant.id, version=tenant.version)).deleted_at is not None
    with pytest.raises(Conflict, match="can still be restored"):
        await admin.place(TenantAsked(name="short lived"))
    assert tenant.id not in {one.id async for one in admin.tenants()}
    assert tenant.id in {one.id async for one in admin.tenants(deleted=True)}
    restored = await admin.tenant_verb(tenant.id, "restore")
    assert (restored.status, restored.deleted_at) == ("active", None)


async def test_versions_guard_against_lost_changes(admin: AcsClient) -> None:
    tenant = (await admin.place(TenantAsked(name="edited twice"))).tenant
    changed = await admin.change_tenant(tenant.id, TenantChange(max_devices=5), version=tenant.version)
    assert (changed.max_devices, changed.version) == (5, tenant.version + 1)
    with pytest.raises(Conflict, match="another version"):
        await admin.change_tenant(tenant.id, TenantChange(max_devices=6), version=tenant.version)
    assert (await admin.change_tenant(tenant.id, TenantChange(max_devices=-1))).max_devices is None
    with pytest.raises(Conflict):
        await admin.change_tenant(tenant.id, TenantChange(name="short lived 2"), version=999)
    (home,) = [one async for one in admin.tenants(cluster="east") if one.home]
    with pytest.raises(Refused, match="home tenant"):
        await admin.change_tenant(home.id, TenantChange(name="x"))


async def test_a_tenants_token_knows_of_no_other_tenant(deployment: Deployment, admin: AcsClient) -> None:
    own = (await admin.place(TenantAsked(name="own"))).tenant
    other = (await admin.place(TenantAsked(name="other"))).tenant
    async with deployment.acs.client("tenant-admin", "--tenant", str(own.id)) as client:
        assert (await client.tenant(own.id)).name == "own"
        with pytest.raises(NotFound, match=f"no tenant {other.id}"):
            await client.tenant(other.id)
        with pytest.raises(NotFound):
            await client.join(JoinAsked(tenant="other"))
        with pytest.raises(NotFound):
            await client.create_join_token(JoinTokenAsked(tenant="other"))
        assert (await client.join(JoinAsked())).tenant == "own"
        with pytest.raises(Refused, match="needs a token with scope admin"):
            await client.place(TenantAsked(name="third"))
        with pytest.raises(Refused):
            await client.delete_tenant(own.id)


async def test_bad_wishes_are_named(admin: AcsClient) -> None:
    with pytest.raises(BadRequest, match="name: String should have at most 255"):
        await admin.place(TenantAsked.model_construct(name="x" * 256, _fields_set={"name"}))
    with pytest.raises(NotFound, match="no cluster 'north'"):
        await admin.cluster_verb("north", "admit")


async def test_the_commands_say_the_same(deployment: Deployment) -> None:
    acs = deployment.acs
    token = await acs.token()
    made = parsed(await acs.shell("tenants", "create", "by command", "-o", "json", token=token))
    assert made["created"]
    name = made["tenant"]["name"]
    listed = parsed(await acs.shell("tenants", "list", "-o", "json", token=token))
    assert name in {tenant["name"] for tenant in listed}
    shown = parsed(await acs.shell("tenants", "show", name, "-o", "json", token=token))
    assert shown["cluster"] in deployment.nodes
    changed = parsed(
        await acs.shell("tenants", "change", name, "--max-devices", "3", "-o", "json", token=token)
    )
    assert changed["max_devices"] == 3
    told = await acs.shell("join", name, token=token)
    assert told.out.startswith("tailscale up --login-server http://127.0.0.1:")
    explained = await acs.shell("placement", "explain", "who", "--region", "mars", token=token)
    assert explained.out.splitlines()[0] == "no cluster fits"
    for verb in ("suspend", "resume", "delete", "restore"):
        assert (
            await acs.shell(
                "tenants", verb, name, *(["--yes"] if verb in ("suspend", "delete") else []), token=token
            )
        ).code == 0
    clusters = await acs.shell("clusters", "list", token=token)
    assert "east" in clusters.out
    nobody = await acs.shell("tenants", "list")
    assert (nobody.code, "acs.token" in nobody.err) == (2, True)


async def test_every_change_leaves_a_line_with_before_and_after(
    deployment: Deployment, admin: AcsClient
) -> None:
    tenant = (await admin.place(TenantAsked(name="audited"))).tenant
    await admin.change_tenant(tenant.id, TenantChange(max_devices=7))
    rows = await run_sql(
        deployment.acs.settings["PG_DSN"],
        "SELECT cluster_id, actor, action, before::text, after::text FROM hs.audit_log"
        " WHERE tenant_id = $1 ORDER BY id",
        tenant.id,
    )
    assert [row["action"] for row in rows] == ["tenant_create", "tenant_update"]
    assert {row["cluster_id"] for row in rows} == {tenant.cluster}
    assert all(row["actor"] == "token:test admin" for row in rows)
    assert (rows[1]["before"], rows[1]["after"]) == ('{"max_devices": null}', '{"max_devices": 7}')


async def test_a_served_cluster_is_told_from_one_that_is_not(
    deployment: Deployment, admin: AcsClient
) -> None:
    async def both_served() -> bool:
        return all(cluster.served and cluster.login_url for cluster in await admin.clusters())

    await eventually(both_served, "both are served")
    await run_sql(deployment.acs.settings["PG_DSN"], "INSERT INTO hs.clusters (cluster_id) VALUES ('empty')")
    (empty,) = [cluster for cluster in await admin.clusters() if cluster.id == "empty"]
    assert (empty.served, empty.login_url, empty.tenants) == (False, "", 0)
    explained = await admin.explain(TenantAsked(name="x", cluster="empty"))
    assert "empty: refused, nobody serves it now" in explained.explanation
