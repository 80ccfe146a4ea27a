"""The reader delivers every committed change exactly once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import asyncpg
import pytest
from db_helpers import as_role, join

from app.db.reads import split_position
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import BadRequest

WRITERS = 8
TRANSACTIONS = 25


class Undone(Exception):
    """Rolls a transaction back on purpose."""


async def test_committed_is_delivered_once(prepared: Database, admin: Scoped) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    before = await change_ids(prepared)
    snapshot = await admin.load()
    tenant = snapshot.tenants[0]
    delivered: Counter[int] = Counter()
    running = True

    async def read() -> None:
        position = snapshot.position
        while True:
            done = not running
            position, found = await admin.changes(position)
            for change in found:
                delivered[change.id] += 1
            if done:
                return
            await asyncio.sleep(0)

    async def write(number: int) -> None:
        conn = await as_role(prepared.dsn, "hs_acs")
        for turn in range(TRANSACTIONS):
            try:
                async with conn.transaction():
                    await conn.execute(
                        "INSERT INTO users (tenant_id, cluster_id, name) VALUES ($1, 'a', $2)",
                        tenant.id, f"{number}-{turn}",
                    )  # fmt: skip
                    await asyncio.sleep(rng.random() * 0.01)
                    if rng.random() < 0.2:
                        raise Undone
            except Undone:
                continue
        await conn.close()

    # An open transaction elsewhere on the server holds back xmin, not this reader.
    elsewhere = await asyncpg.connect(prepared.dsn)
    long = elsewhere.transaction()
    await long.start()
    await elsewhere.execute("SELECT pg_current_xact_id()")
    reader = asyncio.create_task(read())
    # The counters row serialises writers of one tenant; the region writer overlaps with all of them.
    await asyncio.gather(*(write(number) for number in range(WRITERS)), region_writer(prepared, rng))
    running = False
    await reader
    await long.rollback()
    await elsewhere.close()
    committed = await change_ids(prepared) - before
    assert delivered == Counter(committed)
    assert len(committed) > len(await admin.list_users(tenant.id)) > 0


async def change_ids(prepared: Database) -> set[int]:
    conn = await as_role(prepared.dsn, "hs_owner")
    try:
        return {row[0] for row in await conn.fetch("SELECT id FROM changes WHERE cluster_id = 'a'")}
    finally:
        await conn.close()


async def region_writer(prepared: Database, rng: random.Random) -> None:
    """Transactions without the tenant's lock: they overlap with all others."""
    conn = await as_role(prepared.dsn, "hs_acs")
    for _ in range(TRANSACTIONS):
        async with conn.transaction():
            await conn.execute(
                "INSERT INTO derp_regions (region_id, cluster_id, region) VALUES (900, 'b', '{}')"
                " ON CONFLICT (cluster_id) DO UPDATE SET region = to_jsonb($1::text)",
                str(rng.random()),
            )
            await asyncio.sleep(rng.random() * 0.02)
    await conn.close()


async def test_a_late_commit_with_an_early_id_is_not_lost(prepared: Database, admin: Scoped) -> None:
    tenant = await admin.tenant()
    late = await as_role(prepared.dsn, "hs_owner")
    columns = "cluster_id, tenant_id, kind, scope_key"
    insert = f"INSERT INTO changes ({columns}) VALUES ('a', $1, 'test', $2) RETURNING id"
    position = await admin.current_position()
    transaction = late.transaction()
    await transaction.start()
    early_id = await late.fetchval(insert, tenant.id, "late")
    other = await as_role(prepared.dsn, "hs_owner")
    later_id = await other.fetchval(insert, tenant.id, "first")
    position, found = await admin.changes(position)
    assert [c.id for c in found] == [later_id]
    position, found = await admin.changes(position)
    assert found == []
    await transaction.commit()
    position, found = await admin.changes(position)
    assert [(c.id, c.scope_key) for c in found] == [(early_id, "late")]
    assert early_id < later_id
    assert (await admin.changes(position))[1] == []
    await late.close()
    await other.close()


async def test_snapshot_and_position_belong_together(owner: Scoped, admin: Scoped, home: object) -> None:
    tenant = await admin.tenant()
    user = (await admin.list_users(tenant.id))[0]
    _, key = await admin.create_auth_key(tenant.id, user.id, reusable=True)

    async def joining() -> None:
        for _ in range(40):
            await join(owner, key)

    task = asyncio.create_task(joining())
    while not task.done():
        snapshot = await admin.load()
        position, found = await admin.changes(snapshot.position)
        here = {device.id for device in snapshot.devices}
        fresh = {int(change.scope_key.split(":")[1]) for change in found}
        assert not here & fresh
        final = await admin.load()
        _, rest = await admin.changes(position)
        later = {int(change.scope_key.split(":")[1]) for change in rest}
        assert {device.id for device in final.devices} <= here | fresh | later
    await task


async def test_trimming(admin: Scoped, home: object) -> None:
    assert (await admin.changes("1:1:"))[1]
    assert await admin.trim_changes(3600) == 0
    assert await admin.trim_changes(-1) > 0
    assert (await admin.changes("1:1:"))[1] == []


@pytest.mark.parametrize("text", ["", "1", "1:2", "1:2:3:4", "a:b:", "1:2:3,", "1:2:x", "-1:2:", "1:²:"])
def test_bad_positions(text: str) -> None:
    with pytest.raises(BadRequest):
        split_position(text)
