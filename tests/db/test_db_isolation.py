"""Two barriers between clusters: the predicate in every statement, and row level security."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from db_helpers import as_role, join, rows_of, take_lease, wish

from app.db.connect import server_settings
from app.db.requests import RequestDesk
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import LeaseLost, NotFound, WrongCluster
from app.keys import MachineKey, NodeKey
from app.model import Device, DeviceId, HotState, Instance, LoginAsk, RequestId, Tenant, User
from app.sql import QUERIES
from app.tokens import parse_auth_token

SQL = Path(__file__).resolve().parents[2] / "app" / "sql"

#: Statements without rows of a cluster in them, or deployment-wide by design.
NOT_SCOPED = {
    "be_patient", "snapshot_position", "current_position", "limit_lock_wait", "lock_regions", "list_regions",
    "taken_regions", "scope_check", "forget_scope", "read_secret", "put_secret", "generation", "heartbeat",
    "node_key_known", "route_machines", "put_route_hint", "cluster_of_device", "cluster_of_tenant",
    "cluster_ids", "cluster_owner", "get_request", "read_logins", "open_login",
    "trim_logins", "lease_state", "lease_acquire", "lease_renew", "lease_release", "notify_fleet",
}  # fmt: skip


#: Statements of hs-acs, which is in charge of all clusters and has a role of its own.
OF_ACS = {
    name
    for file in (
        "access.sql",
        "tenants.sql",
        "jobs.sql",
        "rebalances.sql",
        "usage.sql",
        "webhooks.sql",
        "acs_requests.sql",
        "alarms.sql",
    )
    for name in re.findall(r"(?m)^-- (\w+) --$", (SQL / file).read_text())
}


@dataclass(frozen=True)
class Bravo:
    """What lives in cluster `b`."""

    tenant: Tenant
    user: User
    device: Device
    key_id: int
    key_text: str
    login_id: str
    request_id: RequestId


@pytest.fixture
async def bravo(prepared: Database) -> Bravo:
    epoch = await take_lease(prepared.dsn, "b", "owner-b")
    tenant_id = await prepared.create_tenant("b", "bravo")
    shell = await Scoped.open(prepared.dsn, cluster_id="b", role="hs_admin", pool_size=1)
    user = await shell.create_user(tenant_id, "bravo-user", email="bravo@example.org")
    await shell.set_policy(tenant_id, "{} // bravo", author="bravo", note="bravo")
    key, text = await shell.create_auth_key(tenant_id, user.id, reusable=True)
    tenant = await shell.tenant("bravo")
    owner = await Scoped.open(prepared.dsn, cluster_id="b", instance="owner-b", epoch=epoch, pool_size=1)
    device = (await join(owner, text, hostname="bravo-host", label="bravo-host")).device
    doomed = (await join(owner, text, hostname="bravo-doomed", label="bravo-doomed")).device
    assert device is not None
    assert doomed is not None
    ask = LoginAsk(MachineKey(bytes(32)), NodeKey(bytes(32)), "bravo", "", "", 1, False, "", "")
    login_id = await owner.open_login(ask, "0" * 24)
    await owner.put_instance(Instance("bravo-instance"))
    await owner.put_own_region(900, {"RegionCode": "bravo-region"})
    await shell.delete_device(tenant_id, doomed.id)
    await shell.close()
    await owner.close()
    desk = await RequestDesk.open(prepared.dsn, pool_size=1)
    request_id = await desk.submit(
        "b", tenant_id, "device_delete", {"device_id": device.id}, actor="bravo", what="x", dedup="bravo"
    )
    await desk.close()
    return Bravo(tenant, user, device, key.id, text, login_id, request_id)


def arguments(text: str, cluster_id: str, bravo: Bravo) -> list[Any]:
    """Values for a statement's parameters by the names in its second line, all of them of `b`."""
    token = parse_auth_token(bravo.key_text)
    assert token is not None
    line = text.splitlines()[1]
    pairs = "pairs" in line or "_lists" in line
    values: dict[str, Any] = {
        "cluster_id": cluster_id, "tenant_ids": [bravo.tenant.id], "user_ids": [bravo.user.id],
        "device_ids": [bravo.device.id], "tenant_id": bravo.tenant.id, "device_id": bravo.device.id,
        "user_id": bravo.user.id, "auth_key_id": bravo.key_id, "auth_key_ids": [bravo.key_id],
        "old_xmax": "1", "old_in_progress": [],
        "max_age_s": -1.0, "auth": "key", "prefix": token.prefix if "register" in text else "other-prefix",
        "hash": token.hash, "machine_key": bravo.device.machine_key, "node_key": bravo.device.node_key,
        "old_node_key": None, "hostname": "stolen", "label": "stolen", "hostinfo": "{}", "capver": 1,
        "ephemeral": False, "tags": [], "wish": None, "default_expiry_s": None, "now": None,
        "disco_key": bytes(32), "at": 1.9e9, "endpoint_lists": ["192.0.2.1:1"], "home_derps": [9],
        "online_flags": [True], "last_seens": [1.9e9], "before": 4e9, "display_name": "", "email": "",
        "profile_pic_url": "", "reusable": True, "expiration": None, "actor": "a", "action": "a",
        "object": "a", "after": None, "instance_id": "bravo-instance", "kind": "node", "addr": "stolen",
        "internal_addr": "stolen", "advertise_addr": "stolen", "login_url": "stolen", "silent_s": 1e6,
        "version": "", "login_id": bravo.login_id, "decision": "approved", "life_s": 60.0,
        "request_kind": "device_delete", "args": "{}", "dedup": "bravo", "request_id": bravo.request_id,
        "resume": True, "result": "{}", "progress": "{}", "error": None,
        "announced": ["10.0.0.0/8"], "add_approved": ["10.0.0.0/8"], "routes": ["10.0.0.0/8"],
        "permits": None, "role": "owner", "limit": 9, "policy_version": 1, "policy_text": "stolen",
        "policy_hash": "0" * 64, "author": "a", "note": "", "region_id": 901, "region": "{}",
        "max_devices": None, "max_users": None, "max_keys": None, "max_routes": None,
        "max_requests": None, "span_s": 60.0, "connected": 1, "registered": 1, "changes": 1, "frames": 1,
        "bytes": 1, "cpu_s": 1.0, "rss": 1, "loop_lag_s": 1.0, "pool_used": 1, "pool_size": 1,
        "process_clock": 1.9e9,
    }  # fmt: skip
    named = {"load_tenants": {"name": None}, "find_tenant": {"name": "bravo"}, "list_users": {"name": None}}
    purpose = next(name for name, body in QUERIES.items() if body == text)
    values |= {"name": "stolen-name"} | named.get(purpose, {})
    if purpose == "write_audit":
        values["before"] = None
    names = re.findall(r"\$\d+ (\w+)", line)
    assert not pairs or "tenant_ids" in names
    return [values[name] for name in names]


def cells(rows: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for row in rows:
        for cell in row:
            found.extend(cell if isinstance(cell, list) else [cell])
    return found


def is_of_bravo(cell: object, bravo: Bravo) -> bool:
    if isinstance(cell, bytes):
        return cell in (bravo.device.machine_key, bravo.device.node_key)
    return isinstance(cell, str) and "bravo" in cell


async def untouched(prepared: Database) -> dict[str, list[str]]:
    """Rows of `b`; every cluster is told of every relay region, so those changes do not count."""
    rows = await rows_of(prepared.dsn, "b")
    return rows | {"changes": [row for row in rows["changes"] if ",derp,derp," not in row]}


#: The console's reads show all clusters, by design; its role cannot write.
SCOPED_STATEMENTS = sorted(
    name for name in set(QUERIES) - NOT_SCOPED - OF_ACS if not name.startswith("fleet_")
)


async def test_what_is_the_admission_services_is_nobody_elses(prepared: Database) -> None:
    assert len(OF_ACS) > 15
    for role in ("hs_node", "hs_admin"):
        conn = await as_role(prepared.dsn, role, cluster_id="a")
        for table in ("api_tokens", "idempotent_answers", "plans", "join_tokens", "jobs"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetch(f"SELECT * FROM {table}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("UPDATE clusters SET weight = 2")
        await conn.close()


async def test_every_statement_through_both_barriers(prepared: Database, bravo: Bravo) -> None:
    await take_lease(prepared.dsn, "a", "owner-a")
    before = await untouched(prepared)
    assert all(
        before[table]
        for table in (
            "nodes",
            "users",
            "pre_auth_keys",
            "deleted_devices",
            "instances",
            "requests",
            "policies",
        )
    )
    # Row security: a session of `a` asks for `b`. Predicate: a session that sees all asks for `a`.
    for role, scope, asked in (("hs_admin", "a", "b"), ("hs_node", "a", "b"), ("hs_owner", "", "a")):
        conn = await as_role(prepared.dsn, role, scope)
        for name in SCOPED_STATEMENTS:
            if asked == "a" and name in ("create_tenant", "ensure_cluster", "cluster_exists"):
                continue
            text = QUERIES[name]
            transaction = conn.transaction()
            await transaction.start()
            try:
                rows = await conn.fetch(text, *arguments(text, asked, bravo))
            except asyncpg.PostgresError as error:
                if error.sqlstate not in ("42501", "HS403", "HS409", "23505", "23503"):
                    pytest.fail(f"{name}: {error!r}")
                rows = []
                await transaction.rollback()
            else:
                if name == "read_changes":
                    rows = [row[1:] for row in rows]
                await transaction.commit()
            stolen = [cell for cell in cells(rows) if is_of_bravo(cell, bravo)]
            assert not stolen, f"{name} as {role} shows {stolen}"
        await conn.close()
        assert await untouched(prepared) == before, f"something changed rows of b as {role}"


@pytest.mark.parametrize("role", ["hs_node", "hs_admin"])
async def test_every_table_and_verb(prepared: Database, bravo: Bravo, role: str) -> None:
    before = await rows_of(prepared.dsn, "b")
    epoch = await take_lease(prepared.dsn, "a", "owner-a")
    settings = server_settings(role, cluster_id="a", instance="owner-a", epoch=epoch)
    conn = await asyncpg.connect(prepared.dsn, server_settings=settings)
    for table in before:
        if table != "derp_regions":
            seen = await conn.fetchval(f"SELECT count(*) FROM {table} WHERE cluster_id <> 'a'")
            assert seen == 0, table
        for verb in (
            f"UPDATE {table} SET cluster_id = 'a' WHERE cluster_id = 'b'",
            f"DELETE FROM {table} WHERE cluster_id = 'b'",
        ):
            try:
                assert (await conn.execute(verb)).endswith(" 0"), verb
            except asyncpg.InsufficientPrivilegeError:
                continue
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(f"TRUNCATE {table}")
    assert await rows_of(prepared.dsn, "b") == before

    home = await conn.fetchval("SELECT tenant_id FROM tenants WHERE cluster_id = 'a'")
    user = await conn.fetchval(
        "INSERT INTO users (tenant_id, cluster_id, name) VALUES ($1, 'a', 'x') RETURNING id", home
    )
    refusals = [
        ("42501", "INSERT INTO users (tenant_id, cluster_id, name) VALUES ($1, 'b', 'y')", bravo.tenant.id),
        ("42501", "UPDATE users SET cluster_id = 'b' WHERE id = $1", user),
        ("23503", "INSERT INTO users (tenant_id, cluster_id, name) VALUES ($1, 'a', 'y')", bravo.tenant.id),
        (
            "23503",
            "INSERT INTO pre_auth_keys (tenant_id, cluster_id, prefix, hash, user_id)"
            f" VALUES ({home}, 'a', 'p', decode(repeat('00', 32), 'hex'), $1)",
            bravo.user.id,
        ),
    ]
    for state, statement, value in refusals:
        with pytest.raises(asyncpg.PostgresError) as raised:
            await conn.execute(statement, value)
        assert raised.value.sqlstate == state, statement
    await conn.close()


async def test_no_scope_sees_nothing(prepared: Database, bravo: Bravo) -> None:
    for role in ("hs_node", "hs_admin"):
        conn = await as_role(prepared.dsn, role)
        for table in await rows_of(prepared.dsn, "b"):
            if table != "derp_regions":
                assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 0, table
        assert await conn.fetchval("SELECT count(*) FROM leases") == 0
        await conn.close()


async def test_console_reads_all_and_writes_only_the_audit_log_and_requests(
    prepared: Database, bravo: Bravo
) -> None:
    conn = await as_role(prepared.dsn, "hs_console")
    assert await conn.fetchval("SELECT count(DISTINCT cluster_id) FROM tenants") == 2
    assert await conn.fetchval("SELECT count(*) FROM nodes") == 1
    await conn.execute(
        "INSERT INTO audit_log (cluster_id, actor, action, object) VALUES ('b', 'ops', 'look', 'device:1')"
    )
    for statement in (
        "UPDATE users SET name = 'x'", "DELETE FROM nodes", "INSERT INTO clusters (cluster_id) VALUES ('z')",
        "UPDATE audit_log SET actor = ''", "DELETE FROM audit_log", "UPDATE requests SET state = 'queued'",
        "DELETE FROM requests", "SELECT trim_requests('b', 0)", "SELECT * FROM deployment",
        "SELECT lease_acquire('cluster:b', 'x', 1, false)", "SELECT create_tenant('b','x','x',false,1,1,1)",
    ):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)
    await conn.close()


async def test_scope_survives_release_and_acquire(owner: Scoped) -> None:
    async def setting() -> tuple[str, str]:
        async with owner._pool.acquire() as conn:
            row = await conn.fetchrow("SELECT current_setting('hs.cluster_id'), current_setting('role')")
            assert row is not None
            return row[0], row[1]

    for _ in range(3):
        assert set(await asyncio.gather(*(setting() for _ in range(20)))) == {("a", "hs_node")}


async def test_scoped_methods_with_ids_of_another_cluster(owner: Scoped, admin: Scoped, bravo: Bravo) -> None:
    t, d = bravo.tenant.id, bravo.device.id
    assert await owner.load_devices([(t, d)]) == []
    assert await owner.load_users([(t, bravo.user.id)]) == []
    assert await owner.load_tenants([t]) == []
    assert await owner.list_devices(t) == []
    assert not await owner.update_device(t, d, hostname="stolen")
    assert await owner.logout(t, d, bravo.device.node_key) == "unknown"
    assert await owner.flush_state([HotState(t, d, ("192.0.2.1:1",), 1, True, 1.0)]) == 0
    assert await owner.find_tombstone(bravo.device.node_key, bravo.device.machine_key) is None
    with pytest.raises(NotFound):
        await admin.tenant("bravo")
    for call in (
        admin.create_user(t, "x"), admin.create_auth_key(t, bravo.user.id), admin.delete_device(t, d),
        admin.expire_device(t, d, None), admin.revoke_auth_key(t, bravo.key_id), owner.delete_device(t, d),
        admin.rename_device(t, d, "stolen"), admin.set_device_tags(t, d, ["tag:x"]),
        admin.move_device_to_user(t, d, bravo.user.id), admin.rename_user(t, bravo.user.id, "stolen"),
        admin.delete_user(t, bravo.user.id), admin.delete_auth_key(t, bravo.key_id),
        admin.approve_login(bravo.login_id, t, bravo.user.id), admin.set_policy(t, "{}", author=""),
        admin.set_user_role(t, bravo.user.id, "owner"), admin.approve_routes(t, d, ["::/0"]),
        admin.unapprove_routes(t, d, ["::/0"]),
    ):  # fmt: skip
        with pytest.raises(WrongCluster):
            await call


async def test_writes_of_a_deposed_owner(prepared: Database, owner: Scoped, admin: Scoped) -> None:
    tenant = await admin.tenant()
    user = await owner.create_user(tenant.id, "alice")
    _, key = await owner.create_auth_key(tenant.id, user.id, reusable=True)
    device = (await owner.register(wish(key))).device
    assert device is not None
    await take_lease(prepared.dsn, "a", "next")
    state = HotState(tenant.id, device.id, ("192.0.2.1:1",), 1, True, 1.0)
    for call in (
        owner.create_user(tenant.id, "bob"), owner.create_auth_key(tenant.id, user.id),
        owner.update_device(tenant.id, device.id, hostname="x"), owner.flush_state([state]),
        owner.logout(tenant.id, device.id, device.node_key), owner.delete_device(tenant.id, device.id),
        owner.put_own_region(900, {}), owner.expire_device(tenant.id, device.id, 2e9),
        owner.rename_device(tenant.id, device.id, "x"), owner.rename_user(tenant.id, user.id, "x"),
        owner.set_device_tags(tenant.id, device.id, ["tag:x"]), owner.claim_request(),
        owner.finish_request(RequestId(1), error="x"),
    ):  # fmt: skip
        with pytest.raises(LeaseLost):
            await call
    # Who steers from the shell is not fenced, but captured.
    assert await admin.update_device(tenant.id, device.id, hostname="x")


async def test_takeover_waits_for_a_writer_under_way(prepared: Database, owner: Scoped) -> None:
    async with owner._pool.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE tenant_counters SET next_off = next_off WHERE cluster_id = 'a'")
        takeover = asyncio.create_task(take_lease(prepared.dsn, "a", "next"))
        watcher = await as_role(prepared.dsn, "hs_owner")

        async def blocked() -> bool:
            count: int = await watcher.fetchval(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            return count > 0

        async with asyncio.timeout(10):
            while not await blocked():
                assert not takeover.done()
        await watcher.close()
        await conn.execute("UPDATE tenant_counters SET next_off = next_off WHERE cluster_id = 'a'")
        assert not takeover.done()
    assert await takeover > 1
    with pytest.raises(LeaseLost):
        await owner.logout((await owner.tenant()).id, DeviceId(1), b"x" * 32)  # type: ignore[arg-type]


async def test_owner_may_not_write_at_another_isolation_level(owner: Scoped) -> None:
    async with owner._pool.acquire() as conn:
        with pytest.raises(asyncpg.PostgresError) as raised:
            async with conn.transaction(isolation="repeatable_read"):
                await conn.execute("UPDATE tenant_counters SET next_off = 1 WHERE cluster_id = 'a'")
        assert raised.value.sqlstate == "HS409"
