"""Devices after they joined: partial loads, updates, logout, presence, tombstones, routing facts."""

from __future__ import annotations

import asyncio
import time

import pytest
from db_helpers import Home, as_role, join, machine_key, node_key, rows_of, take_lease

from app.db import fleet as fleet_module
from app.db.base import MAX_HOSTINFO_BYTES
from app.db.devices import FLUSH_BATCH, MAX_ENDPOINTS
from app.db.fleet import Fleet
from app.db.reads import LOAD_BATCH
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import BadRequest, NotFound, Unavailable
from app.keys import DiscoKey
from app.model import Device, DeviceId, HotState, Instance


@pytest.fixture
async def device(owner: Scoped, home: Home) -> Device:
    found = (await join(owner, home.reusable)).device
    assert found is not None
    return found


async def reload(scoped: Scoped, device: Device) -> Device:
    found = await scoped.load_devices([(device.tenant_id, device.id)])
    assert len(found) == 1
    return found[0]


async def test_loads_agree(owner: Scoped, home: Home) -> None:
    devices = [(await join(owner, home.reusable)).device for _ in range(3)]
    tagged = (await join(owner, home.tagged)).device
    snapshot = await owner.load()
    assert snapshot.devices == (*devices, tagged)
    assert snapshot.users == (home.user,)
    assert snapshot.tenants == (home.tenant,)
    pairs = [(d.tenant_id, d.id) for d in snapshot.devices]
    assert sorted(await owner.load_devices(pairs), key=lambda d: d.id) == list(snapshot.devices)
    assert await owner.list_devices(home.tenant.id) == list(snapshot.devices)
    assert await owner.load_devices([]) == []
    assert await owner.load_users([(home.tenant.id, home.user.id)]) == [home.user]
    assert await owner.load_tenants([home.tenant.id]) == [home.tenant]
    assert (await owner.load()).generation == snapshot.generation


async def test_loading_more_than_a_batch(prepared: Database, owner: Scoped, home: Home) -> None:
    conn = await as_role(prepared.dsn, "hs_acs")
    await conn.execute(
        """
        WITH made AS (
            INSERT INTO nodes (tenant_id, cluster_id, user_id, machine_key, node_key, disco_key, ipv4, ipv6,
                               hostname, given_name)
            SELECT $1, 'a', $2, sha256(('m' || n)::bytea), sha256(('n' || n)::bytea), sha256('d'),
                   '100.64.0.0'::inet + n, 'fd7a:115c:a1e0::'::inet + n, 'h', 'h' || n
              FROM generate_series(1, $3::int) n RETURNING tenant_id, cluster_id, id)
        INSERT INTO node_state (tenant_id, cluster_id, node_id) SELECT * FROM made
        """,
        home.tenant.id,
        home.user.id,
        max(LOAD_BATCH, FLUSH_BATCH) + 1,
    )
    await conn.close()
    devices = (await owner.load()).devices
    assert len(devices) == max(LOAD_BATCH, FLUSH_BATCH) + 1
    assert len({d.id for d in devices}) == len(devices)
    states = [HotState(d.tenant_id, d.id, (), 1, True, 1.8e9) for d in devices]
    assert len(states) > FLUSH_BATCH
    assert await owner.flush_state(reversed(states)) == len(states)


async def test_update_writes_what_differs(owner: Scoped, device: Device) -> None:
    t, d = device.tenant_id, device.id
    disco = DiscoKey(bytes(range(32)))
    assert not await owner.update_device(t, d)
    assert await owner.update_device(t, d, disco_key=disco, capver=130, hostinfo=b'{"OS":"plan9"}')
    assert not await owner.update_device(t, d, disco_key=disco, capver=130, hostinfo=b'{"OS":"plan9"}')
    now = await reload(owner, device)
    assert (now.disco_key, now.capver, now.hostinfo) == (disco, 130, b'{"OS":"plan9"}')
    assert (now.hostname, now.given_name) == (device.hostname, device.given_name)
    assert not await owner.update_device(t, DeviceId(d + 1000), capver=1)


async def test_a_new_hostname_brings_a_free_label(owner: Scoped, home: Home, device: Device) -> None:
    other = (await join(owner, home.reusable, hostname="desk", label="desk")).device
    assert other is not None
    t, d = device.tenant_id, device.id
    for hostname, label, expected in (
        ("Laptop", "ignored-as-the-hostname-is-the-same", "laptop"),
        ("desk", "desk", "desk-1"),
        ("desk", "desk", "desk-1"),
        ("Laptop", None, "desk-1"),
        ("laptop!", "laptop", "laptop"),
    ):
        await owner.update_device(t, d, hostname=hostname, label=label)
        assert (await reload(owner, device)).given_name == expected


async def test_one_label_wanted_by_many_at_once(owner: Scoped, home: Home) -> None:
    devices = [(await join(owner, home.reusable, label=f"d{n}")).device for n in range(10)]
    renames = [
        owner.update_device(d.tenant_id, d.id, hostname="new", label="new") for d in devices if d is not None
    ]
    joins = [join(owner, home.reusable, label="new") for _ in range(10)]
    await asyncio.gather(*renames, *joins)
    names = {device.given_name for device in (await owner.load()).devices}
    assert names == {"new"} | {f"new-{n}" for n in range(1, 20)}


async def test_bad_updates(owner: Scoped, device: Device) -> None:
    cases: list[dict[str, object]] = [
        {"label": "-"},
        {"hostname": "x" * 256},
        {"hostname": "\0"},
        {"disco_key": b"x"},
        {"hostinfo": b"{"},
        {"hostinfo": b"\xff"},
        {"hostinfo": b" " * (MAX_HOSTINFO_BYTES + 1)},
    ]
    for changes in cases:
        with pytest.raises(BadRequest):
            await owner.update_device(device.tenant_id, device.id, **changes)  # type: ignore[arg-type]
    assert await reload(owner, device) == device


async def test_logout(owner: Scoped, home: Home, device: Device) -> None:
    t = device.tenant_id
    assert await owner.logout(t, device.id, node_key()) == "unknown"
    assert await owner.logout(t, device.id, device.node_key, now=1.9e9) == "expired"
    assert await owner.logout(t, device.id, device.node_key, now=1.95e9) == "expired"
    assert (await reload(owner, device)).expiry == 1.9e9
    guest = (await join(owner, home.reusable, ephemeral=True)).device
    assert guest is not None
    assert await owner.logout(t, guest.id, guest.node_key) == "deleted"
    assert await owner.load_devices([(t, guest.id)]) == []


async def test_expiry_is_set_and_cleared(owner: Scoped, device: Device) -> None:
    for at in (1.9e9, None):
        assert await owner.expire_device(device.tenant_id, device.id, at)
        assert not await owner.expire_device(device.tenant_id, device.id, at)
        assert (await reload(owner, device)).expiry == at
    with pytest.raises(BadRequest, match="nodes_expiry"):
        await owner.expire_device(device.tenant_id, device.id, 123.0)


async def test_presence(owner: Scoped, device: Device) -> None:
    t, d = device.tenant_id, device.id
    endpoints = ("192.0.2.1:41641", "[2001:db8::1]:41641")
    state = HotState(t, d, endpoints, 7, True, 1.8e9)
    assert await owner.flush_state([state]) == 1
    assert await owner.flush_state([state]) == 0
    now = await reload(owner, device)
    assert (now.endpoints, now.home_derp, now.online, now.last_seen) == (endpoints, 7, True, 1.8e9)
    assert await owner.flush_state([HotState(t, d, (), 0, False, None)]) == 1
    assert await reload(owner, device) == device
    assert await owner.flush_state([]) == 0
    many = tuple(f"192.0.2.1:{port}" for port in range(1, MAX_ENDPOINTS + 10))
    await owner.flush_state([HotState(t, d, many, 0, False, None)])
    assert (await reload(owner, device)).endpoints == many[:MAX_ENDPOINTS]


async def test_who_came_and_went_is_kept_for_a_while(
    prepared: Database, owner: Scoped, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    t, d = device.tenant_id, device.id
    seen = time.time() - 50
    for online, last_seen in ((True, None), (True, seen), (False, seen), (False, seen), (True, seen)):
        await owner.flush_state([HotState(t, d, (), int(seen) % 7, online, last_seen)])
    await owner.rename_device(t, d, "renamed")
    fleet = await Fleet.open(prepared.dsn, read_only=True)
    try:
        events = await fleet.events("a", t, d)
        names = [event.event for event in events]
        assert [name for name in names if name.endswith("line")] == ["online", "online", "offline"]
        assert "change of node" in names
        assert next(event.at for event in events if event.event == "offline") == pytest.approx(seen, abs=1)
        assert await fleet.events("a", t, DeviceId(d + 1)) == []
        monkeypatch.setattr(fleet_module, "EVENT_LINES", 2)
        assert await fleet.events("a", t, d) == events[:2]
        monkeypatch.undo()
        await owner.trim_presence(20)
        left = [event.event for event in await fleet.events("a", t, d)]
        assert [name for name in left if name.endswith("line")] == ["online", "online"]
    finally:
        fleet.terminate()


async def test_a_flush_gives_way_and_comes_back(prepared: Database, owner: Scoped, device: Device) -> None:
    conn = await as_role(prepared.dsn, "hs_acs")
    state = HotState(device.tenant_id, device.id, (), 1, True, 1.8e9)
    blocker = conn.transaction()
    await blocker.start()
    await conn.execute("UPDATE node_state SET online = online WHERE node_id = $1", device.id)
    with pytest.raises(Unavailable) as raised:
        await owner.flush_state([state])
    assert raised.value.code == "busy"
    flush = asyncio.create_task(owner.flush_state([state]))
    await blocker.rollback()
    assert await flush == 1
    await conn.close()


async def test_deleted_devices_leave_proof(
    prepared: Database, owner: Scoped, admin: Scoped, device: Device
) -> None:
    await owner.delete_device(device.tenant_id, device.id, actor="me")
    with pytest.raises(NotFound):
        await owner.delete_device(device.tenant_id, device.id)
    grave = await owner.find_tombstone(device.node_key, device.machine_key)
    assert grave is not None
    assert (grave.tenant_id, grave.device_id) == (device.tenant_id, device.id)
    assert await owner.find_tombstone(device.node_key, machine_key()) is None
    assert await owner.find_tombstone(node_key(), device.machine_key) is None
    assert await owner.trim_tombstones() == 0
    assert await owner.trim_tombstones(-1) == 1
    assert await owner.find_tombstone(device.node_key, device.machine_key) is None
    audit = (await rows_of(prepared.dsn, "a"))["audit_log"]
    assert any("device_delete" in row and ",me," in row for row in audit)


async def test_expired_ephemeral(owner: Scoped, home: Home, device: Device) -> None:
    t = home.tenant.id
    guests = [(await join(owner, home.reusable, ephemeral=True)).device for _ in range(3)]
    ids = [guest.id for guest in guests if guest is not None]
    await owner.flush_state(
        [
            HotState(t, ids[0], (), 0, False, 1.7e9),
            HotState(t, ids[1], (), 0, True, 1.7e9),
            HotState(t, device.id, (), 0, False, 1.7e9),
        ]
    )
    assert await owner.expired_ephemeral(1.7e9) == []
    assert await owner.expired_ephemeral(1.7e9 + 1) == [(t, ids[0])]
    assert await owner.expired_ephemeral(4e9) == [(t, ids[0]), (t, ids[2])]


async def test_routing_facts_cross_clusters(prepared: Database, owner: Scoped, device: Device) -> None:
    epoch = await take_lease(prepared.dsn, "b", "owner-b")
    other = await Scoped.open(prepared.dsn, cluster_id="b", instance="owner-b", epoch=epoch, pool_size=1)
    tenant = await other.tenant()
    user = await other.create_user(tenant.id, "alice")
    _, key = await other.create_auth_key(tenant.id, user.id)
    there = (await join(other, key, machine_key=device.machine_key)).device
    assert there is not None
    assert (there.ipv4, there.given_name) == (device.ipv4, device.given_name)
    await owner.flush_state([HotState(device.tenant_id, device.id, (), 0, True, 4.0e9)])
    assert await other.route_machines([device.machine_key]) == {device.machine_key: "a"}
    await other.flush_state([HotState(there.tenant_id, there.id, (), 0, True, 4.1e9)])
    assert await owner.route_machines([machine_key(), device.machine_key]) == {device.machine_key: "b"}
    assert await owner.node_key_known(there.node_key)
    assert not await owner.node_key_known(node_key())
    await other.close()


async def test_instances(prepared: Database, owner: Scoped) -> None:
    await owner.put_instance(Instance("i1", addr="192.0.2.1:8080", version="1"))
    await owner.put_instance(Instance("i1", addr="192.0.2.2:8080", version="2"))
    rows = (await rows_of(prepared.dsn, "a"))["instances"]
    assert len(rows) == 1
    assert "192.0.2.2:8080" in rows[0]
    await owner.delete_instance("i1")
    assert (await rows_of(prepared.dsn, "a"))["instances"] == []
