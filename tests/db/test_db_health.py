"""What the console and alarms say of keys that end soon, of limits, and of one tenant, from rows."""

from __future__ import annotations

import dataclasses

import pytest
from db_helpers import Home, as_role, join

from app.db.fleet import Fleet
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import NotFound
from app.fleet import CARD_SPANS, View
from app.model import Instance

#: Hours until a device's key ends, and whether it is told of.
DEVICES = ((12, True), (23.9, True), (24.1, False), (-1, False), (None, False))
#: Hours that a key was made for, hours of these gone, reusable, revoked; whether it is told of.
KEYS = (
    (25, 24, True, False, True),
    (2000, 1990, True, False, True),
    (2000, 10, True, False, False),
    (25, 26, True, False, False),
    (24, 20, True, False, False),  # made for a day: it was known that it ends
    (25, 24, False, False, False),
    (25, 24, True, True, False),
)


async def test_keys_that_end_soon_are_counted(prepared: Database, owner: Scoped, home: Home) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    for number, (hours, _) in enumerate(DEVICES):
        device = (await join(owner, home.reusable, label=f"d{number}")).device
        assert device is not None
        await conn.execute(
            "UPDATE nodes SET expiry = now() + $2 * interval '1 hour' WHERE id = $1", device.id, hours
        )
    for life, gone, reusable, revoked, _ in KEYS:
        key, _ = await owner.create_auth_key(home.tenant.id, home.user.id, reusable=reusable)
        await conn.execute(
            "UPDATE pre_auth_keys SET created_at = now() - $2::float8 * interval '1 hour', revoked = $4,"
            " expiration = now() + ($3::float8 - $2::float8) * interval '1 hour' WHERE id = $1",
            *(key.id, gone, life, revoked),
        )
    await conn.execute(
        "UPDATE tenants SET max_users = 1, max_devices = $2 WHERE tenant_id = $1",
        *(home.tenant.id, 2 * len(DEVICES)),
    )
    await conn.close()
    await owner.put_instance(Instance("owner-a", connected=3))
    fleet = await Fleet.open(prepared.dsn, read_only=True)
    try:
        facts = {cluster.cluster_id: cluster for cluster in (await fleet.facts()).clusters}
        page = await fleet.listing("tenants", View())
        processes = await fleet.listing("processes", View())
    finally:
        fleet.terminate()
    assert facts["a"].expiring_devices == sum(told for _, told in DEVICES)
    assert facts["a"].expiring_keys == sum(row[-1] for row in KEYS)
    # The fullest of all limits counts: one user of one, and half of the devices.
    assert (facts["a"].quota_share, facts["a"].near_quota) == (100, 1)
    # How many devices a process has is known before its first minute has been measured.
    assert [(row.name, row.connected, row.rss) for row in processes.rows] == [("owner-a", 3, None)]
    assert {row.name: row.used for row in page.rows} == {"a": 100, "b": None}
    other = facts["b"]
    assert (other.expiring_devices, other.expiring_keys, other.quota_share, other.near_quota) == (0, 0, 0, 0)


async def test_a_tenant_closely(prepared: Database, owner: Scoped, home: Home) -> None:
    await prepared.ensure_cluster("full")
    conn = await as_role(prepared.dsn, "hs_owner")
    # Two clusters wrote the hour of a move; what is older than a week is not told.
    for cluster, hours, registered in (("a", 1, 3), ("b", 1, 4), ("a", 30, 2), ("a", 200, 90)):
        await conn.execute(
            "INSERT INTO usage VALUES ($1, $2, date_trunc('hour', now() - $3 * interval '1 hour', 'UTC'),"
            " $4, 1, 7200, 500, 1)",
            *(cluster, home.tenant.id, hours, registered),
        )
    await conn.execute("UPDATE tenants SET max_routes = 5 WHERE tenant_id = $1", home.tenant.id)
    await conn.execute("UPDATE clusters SET state = 'draining' WHERE cluster_id = 'b'")
    await conn.close()
    fleet = await Fleet.open(prepared.dsn, read_only=True)
    try:
        (row,) = [row for row in (await fleet.listing("tenants", View())).rows if row.name == "a"]
        card = await fleet.tenant_card(row)
        with pytest.raises(NotFound, match="does not live in cluster b any more"):
            await fleet.tenant_card(dataclasses.replace(row, cluster_id="b"))
    finally:
        fleet.terminate()
    assert len(card.registered) == len(card.peaks) == CARD_SPANS
    assert [number for number in card.registered if number is not None] == [2, 4]
    assert (card.device_hours, card.map_bytes, card.registrations) == (6, 1500, 3)
    assert (card.routes, card.max_routes, card.override_ends, card.moved) == (0, 5, None, None)
    assert {verdict.cluster_id: verdict.refused for verdict in card.verdicts} == {
        "b": "it is draining",
        "full": "nobody serves it now",
    }
