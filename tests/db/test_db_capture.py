"""Change capture and wake-ups: which write leaves which rows, and who is woken."""

from __future__ import annotations

import asyncpg
import pytest
from db_helpers import Home, Watch, as_role, join, wish

from app.db.scoped import Scoped
from app.db.setup import Database
from app.model import Device, HotState

#: A cached nested loop over the transition tables would need 20 s; this is a deadline, not a measurement.
BULK_DEADLINE = "8s"
BULK_ROWS = 10_000


@pytest.fixture
async def device(owner: Scoped, home: Home) -> Device:
    found = (await join(owner, home.reusable)).device
    assert found is not None
    return found


async def test_owners_own_writes_wake_nobody(
    prepared: Database, owner: Scoped, device: Device, watch: Watch, home: Home
) -> None:
    t, d, key = device.tenant_id, device.id, f"device:{device.id}"
    mine = "owner-a"
    assert await owner.update_device(t, d, hostname="new", label="new")
    assert await watch.take() == ([("node", key, mine)], [])
    assert not await owner.update_device(t, d, hostname="new", label="new", capver=device.capver)
    assert await watch.take() == ([], [])
    assert await owner.flush_state([HotState(t, d, ("192.0.2.1:1",), 3, True, 1.8e9)]) == 1
    assert await owner.flush_state([HotState(t, d, ("192.0.2.1:1",), 3, True, 1.8e9)]) == 0
    assert await watch.take() == ([], [])
    await owner.register(wish(home.reusable, machine_key=device.machine_key, node_key=device.node_key))
    rows, heard = await watch.take()
    assert (rows, heard) == ([("node", key, mine)], [])
    await owner.register(wish(home.tagged, machine_key=device.machine_key, old_node_key=device.node_key))
    assert await watch.take() == ([("node", key, mine), ("node", "tag:web", mine)], [])
    await owner.delete_device(t, d)
    assert await watch.take() == ([("node-delete", key, mine)], [])
    await owner.create_user(t, "bob")
    rows, heard = await watch.take()
    assert [(kind, scope.split(":")[0]) for kind, scope, _ in rows] == [("user", "user")]
    assert heard == []


async def test_foreign_writes_wake_once_per_transaction(
    prepared: Database, admin: Scoped, device: Device, watch: Watch
) -> None:
    key = f"device:{device.id}"
    assert await admin.update_device(device.tenant_id, device.id, hostname="by the shell")
    assert await watch.take() == ([("node", key, "")], [("a", key)])
    boss = await asyncpg.connect(prepared.dsn, server_settings={"search_path": "hs"})
    async with boss.transaction():
        for number in range(5):
            await boss.execute("UPDATE users SET display_name = $1", str(number))
        await boss.execute("UPDATE nodes SET tags = '{tag:db}', user_id = NULL")
        await boss.execute("UPDATE nodes SET tags = '{tag:x,tag:db}'")
    rows, heard = await watch.take()
    assert [row[:2] for row in rows[5:]] == [
        ("node", key), ("node", "tag:db"), ("node", key), ("node", "tag:x")
    ]  # fmt: skip
    assert {row[0] for row in rows[:5]} == {"user"}
    assert len(heard) == 1
    assert heard[0][1].startswith("user:")
    await boss.close()


async def test_rollback_and_savepoints(prepared: Database, device: Device, watch: Watch) -> None:
    conn = await as_role(prepared.dsn, "hs_acs")
    rename = "UPDATE nodes SET hostname = $1"
    await undone(conn, rename, "x")
    assert await watch.take() == ([], [])
    async with conn.transaction():
        await undone(conn, rename, "inner")
        await conn.execute(rename, "outer")
    rows, heard = await watch.take()
    assert rows == [("node", f"device:{device.id}", "")]
    assert heard == [("a", f"device:{device.id}")]
    await conn.close()


async def undone(conn: asyncpg.Connection, statement: str, value: str) -> None:
    """Runs a statement in a transaction, or savepoint, that is rolled back."""
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute(statement, value)
    await transaction.rollback()


async def test_tenants_and_moves(prepared: Database, owner: Scoped, device: Device, watch: Watch) -> None:
    extra = await prepared.create_tenant("a", "extra")
    assert await watch.take() == ([("tenant", "tenant", "")], [("a", "tenant")])
    conn = await as_role(prepared.dsn, "hs_acs")
    await conn.execute("UPDATE tenants SET max_users = 5 WHERE tenant_id = $1", extra)
    assert await watch.take() == ([], [])
    await conn.execute("UPDATE tenants SET status = 'suspended' WHERE tenant_id = $1", extra)
    assert await watch.take() == ([("tenant", "tenant", "")], [("a", "tenant")])
    # A move takes all rows of the tenant along and says so once on each side.
    await conn.execute(
        "UPDATE tenants SET is_home = false, cluster_id = 'b' WHERE tenant_id = $1", device.tenant_id
    )
    rows, heard = await watch.take()
    assert rows == [("tenant-out", "tenant", "")]
    assert sorted(heard) == [("a", "tenant"), ("b", "tenant")]
    assert await conn.fetchval("SELECT cluster_id FROM nodes WHERE id = $1", device.id) == "b"
    assert await owner.load_devices([(device.tenant_id, device.id)]) == []
    await conn.close()


async def test_a_relay_region_is_told_to_every_cluster(
    owner: Scoped, watch: Watch, prepared: Database
) -> None:
    await owner.put_own_region(900, {"RegionCode": "x"})
    assert await watch.take() == ([("derp", "derp", "owner-a")], [("b", "derp")])
    await owner.put_own_region(900, {"RegionCode": "x"})
    assert await watch.take() == ([], [])


@pytest.mark.parametrize(("count", "expected"), [(64, 64), (65, 1)])
async def test_many_scope_keys_become_one(
    prepared: Database, owner: Scoped, home: Home, watch: Watch, count: int, expected: int
) -> None:
    conn = await as_role(prepared.dsn, "hs_acs")
    await many_devices(conn, home, count)
    rows, heard = await watch.take()
    assert len(rows) == expected
    await conn.execute("UPDATE nodes SET capver = 5")
    rows, heard = await watch.take()
    assert len(rows) == expected
    assert (rows[0][1] == "tenant") == (expected == 1)
    assert len(heard) == 1
    await conn.execute("DELETE FROM nodes")
    rows, _ = await watch.take()
    assert len(rows) == expected
    assert (
        await conn.fetchval("SELECT devices FROM tenant_counters WHERE tenant_id = $1", home.tenant.id) == 0
    )
    assert await conn.fetchval("SELECT count(*) FROM deleted_devices") == count
    await conn.close()


async def test_one_row_then_ten_thousand_on_one_connection(
    prepared: Database, owner: Scoped, home: Home, watch: Watch
) -> None:
    conn = await as_role(prepared.dsn, "hs_acs")
    await many_devices(conn, home, BULK_ROWS)
    await watch.take()
    await conn.execute(f"SET statement_timeout = '{BULK_DEADLINE}'")
    for low, high in ((1, 1), (1, BULK_ROWS)):
        await conn.execute(
            "UPDATE nodes SET capver = capver + 1, hostname = $3 WHERE ipv4 BETWEEN"
            " '100.64.0.0'::inet + $1::int AND '100.64.0.0'::inet + $2::int",
            low, high, f"{low}-{high}",
        )  # fmt: skip
        rows, _ = await watch.take()
        assert [row[0] for row in rows] == ["node"]
        assert rows[0][1].startswith("device:" if high == 1 else "tenant")
    await conn.close()


async def test_counters_after_random_inserts_and_deletes(prepared: Database, home: Home) -> None:
    conn = await as_role(prepared.dsn, "hs_acs")
    await many_devices(conn, home, 30)
    await conn.execute("DELETE FROM nodes WHERE id % 3 = 0")
    await conn.execute(
        "INSERT INTO users (tenant_id, cluster_id, name) VALUES ($1, 'a', 'x')", home.tenant.id
    )
    await conn.execute("DELETE FROM pre_auth_keys WHERE reusable")
    row = await conn.fetchrow(
        "SELECT c.devices = (SELECT count(*) FROM nodes n WHERE n.tenant_id = c.tenant_id),"
        " c.users = (SELECT count(*) FROM users u WHERE u.tenant_id = c.tenant_id),"
        " c.keys = (SELECT count(*) FROM pre_auth_keys k WHERE k.tenant_id = c.tenant_id), c.users, c.keys"
        " FROM tenant_counters c WHERE c.tenant_id = $1",
        home.tenant.id,
    )
    assert row is not None
    assert tuple(row) == (True, True, True, 2, 1)
    await conn.close()


async def many_devices(conn: asyncpg.Connection, home: Home, count: int) -> None:
    await conn.execute(
        """
        INSERT INTO nodes (tenant_id, cluster_id, user_id, machine_key, node_key, disco_key, ipv4, ipv6,
                           hostname, given_name)
        SELECT $1, 'a', $2, sha256(('m' || n)::bytea), sha256(('n' || n)::bytea), sha256(('d' || n)::bytea),
               '100.64.0.0'::inet + n, 'fd7a:115c:a1e0::'::inet + n, 'h', 'h' || n
          FROM generate_series(1, $3::int) n
        """,
        home.tenant.id,
        home.user.id,
        count,
    )
