"""What a registration costs the database: one round trip, and rows that do not grow with the fleet."""

from __future__ import annotations

import json

import asyncpg
from db_helpers import Home, as_role, join

from app.db.scoped import Scoped
from app.db.setup import Database
from app.model import Permit

#: Enough rows that reading them all is dearer than an index.
FLEET = 400
#: Look-ups of hs.register(), hs.free_*() and of alarms, and the index each has to use.
LOOKUPS = {
    "nodes_by_node_key": "cluster_id = $1 AND node_key = $2::bytea",
    "nodes_by_machine_key": "cluster_id = $1 AND tenant_id = 1 AND machine_key = $2::bytea"
    " AND COALESCE(user_id, 0) = 1",
    "nodes_given_name": "cluster_id = $1 AND tenant_id = 1 AND given_name = encode($2::bytea, 'hex')"
    " AND id <> 1",
    # What the leading hs-acs looks at every 2 s.
    "nodes_expiring": "cluster_id = $1 AND expiry > now() AND expiry < now() + length($2) * interval '1 s'",
    "nodes_ipv4": "cluster_id = $1 AND tenant_id = 1 AND ipv4 = '100.64.0.0'::inet + length($2::bytea)",
}


async def plan(conn: asyncpg.Connection, where: str) -> str:
    await conn.execute("SET plan_cache_mode = force_generic_plan")
    await conn.execute(f"PREPARE look (text, bytea) AS SELECT id FROM nodes WHERE {where}")
    text = await conn.fetchval("EXPLAIN (FORMAT JSON) EXECUTE look ('a', 'x')")
    await conn.execute("DEALLOCATE look")
    node = json.loads(text)[0]["Plan"]
    while "Index Name" not in node and node.get("Plans"):
        node = node["Plans"][0]  # below the filter that row security puts on top
    return str(node.get("Index Name") or node["Node Type"])


async def test_look_ups_use_their_own_index_once_statistics_are_there(
    prepared: Database, owner: Scoped, home: Home
) -> None:
    for number in range(FLEET):
        await join(owner, home.reusable, label=f"device-{number}", hostname=f"device-{number}")
    await owner.refresh_statistics()
    conn = await as_role(prepared.dsn, "hs_node", "a")
    try:
        assert {index: await plan(conn, where) for index, where in LOOKUPS.items()} == {i: i for i in LOOKUPS}
    finally:
        await conn.close()


async def test_a_registration_is_one_round_trip(prepared: Database, owner: Scoped, home: Home) -> None:
    """The last thing the server was asked is the registration itself: no reset came after. Also with
    tags and routes to be judged."""
    may = {"tag:a": Permit(users=frozenset({home.user.id})), "10.0.0.0/8": Permit(tags=frozenset({"tag:a"}))}
    wanted = {"request_tags": ("tag:a",), "announced_routes": ("10.0.0.0/8",), "permits": may}
    device = (await join(owner, home.reusable, **wanted)).device
    assert device is not None
    assert (device.tags, device.approved_routes) == (("tag:a",), ("10.0.0.0/8",))
    conn = await asyncpg.connect(prepared.dsn)
    try:
        asked = await conn.fetch(
            "SELECT query, state, xact_start FROM pg_stat_activity"
            " WHERE application_name LIKE '%hs_node a owner-a%' AND query <> ''"
        )
    finally:
        await conn.close()
    assert [row["state"] for row in asked if "register(" in row["query"]] == ["idle"]
    assert not [row["query"] for row in asked if "unlock_all" in row["query"]]


async def test_a_pool_connection_left_in_a_transaction_is_reset(owner: Scoped) -> None:
    async with owner._connection() as conn:
        await conn.execute("BEGIN")
        await conn.execute("SET LOCAL lock_timeout = '1ms'")
    async with owner._connection() as conn:
        assert not conn.is_in_transaction()
        assert await conn.fetchval("SHOW lock_timeout") == "5s"
