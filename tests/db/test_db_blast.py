"""How far a change would reach: the figures of every kind, counted in the console's role."""

from __future__ import annotations

import pytest
from db_helpers import Home, as_role, join, take_lease

from app.blast import Radius, Touched
from app.db.fleet import Fleet
from app.db.scoped import Scoped
from app.db.setup import Database
from app.model import DeviceId, HotState

NET, SHARED, EXITS = "10.7.0.0/16", "10.8.0.0/16", ("0.0.0.0/0", "::/0")


async def test_every_figure(prepared: Database, admin: Scoped, owner: Scoped, home: Home) -> None:
    """Two routers share a route; one of them alone carries another, and an exit that is not approved."""
    t = home.tenant.id
    ids: list[DeviceId] = []
    for number, key in enumerate((home.reusable, home.reusable, home.tagged)):
        made = (await join(owner, key, hostname=f"d{number}", label=f"d{number}")).device
        assert made is not None
        ids.append(made.id)
    first, second, tagged = ids
    await owner.set_device_routes(
        t, first, announced=tuple(sorted((*EXITS, NET, SHARED))), add_approved=(NET, SHARED)
    )
    await owner.set_device_routes(t, second, announced=(SHARED,), add_approved=(SHARED,))
    await owner.flush_state([HotState(t, device, (), 0, True, None) for device in (first, second)])
    for name in ("moves", "stays", "gone"):
        await prepared.create_tenant("a", name)
    bob = await admin.create_user(t, "bob")
    keys = {key.id: key for key in await admin.list_auth_keys(t)}
    reusable, single, of_tag = sorted(keys)
    await take_lease(prepared.dsn, "b", "owner-b")
    conn = await as_role(prepared.dsn, "hs_owner")
    await conn.execute("UPDATE tenants SET pinned = 'a' WHERE name = 'stays'")
    await conn.execute("UPDATE tenants SET status = 'deleted' WHERE name = 'gone'")
    plan = await conn.fetchval(
        "INSERT INTO rebalances (purpose, subject, why, dry_run, created_by)"
        " VALUES ('rebalance', '', '', '{}', 't') RETURNING id"
    )
    await conn.execute(
        "INSERT INTO rebalance_steps (rebalance_id, step, tenant_id, tenant, source, target, devices)"
        " VALUES ($1, 1, $2, 'x', 'a', 'b', 3)",
        *(plan, t),
    )
    await conn.close()
    of_two = (t, t)
    cases: list[tuple[Touched, Radius]] = [
        (Touched("devices", (t,), (first,)), Radius(1, 1, 1, others=2, carried=2, lost=(NET,))),
        (Touched("devices", of_two, (first, second)), Radius(2, 2, 2, 1, 2, lost=(NET, SHARED))),
        (Touched("devices", of_two, (tagged, 999)), Radius(1, 1, 0, others=2)),
        (Touched("routes", (t,), (first,), (SHARED,)), Radius(1, 3, 2)),
        (Touched("routes", (t,), (first,), (NET,)), Radius(1, 3, 2, lost=(NET,))),
        (Touched("routes", of_two, (first, second), (SHARED, SHARED)), Radius(2, 3, 2, lost=(SHARED,))),
        (Touched("users", of_two, (home.user.id, bob.id)), Radius(2, 2, 2, keys=2)),
        (Touched("keys", of_two, (reusable, single)), Radius(2, 2, 2, unused=1, reusable=1)),
        (Touched("keys", (t,), (of_tag,)), Radius(1, 1, 0, reusable=1)),
        (Touched("tenants", (t, 999)), Radius(1, 3, 2)),
        (Touched("tag", (t,), names=("tag:web",)), Radius(1, 1, 0)),
        (
            Touched("clusters", names=("a",)),
            Radius(1, 3, 2, leaving=1, pinned=1, targets=("b",)),
        ),
        (Touched("clusters", names=("b",)), Radius(1, 0, 0, targets=("a",))),
        (Touched("waiting", ids=(plan,)), Radius(1, 3, 2)),
        (Touched("done", ids=(plan,)), Radius(0, 0, 0)),
    ]
    fleet = await Fleet.open(prepared.dsn)
    try:
        for touched, expected in cases:
            assert await fleet.radius(touched) == expected, touched
        with pytest.raises(AssertionError):
            await fleet.radius(Touched("planets"))
    finally:
        fleet.terminate()
