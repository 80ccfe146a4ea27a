"""Registration: the decision table of DESIGN 6.5 and PROTOCOL 3.3, and its races."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from db_helpers import Home, as_role, join, machine_key, node_key, take_lease, wish

from app.db.base import MAX_HOSTINFO_BYTES
from app.db.registering import MAX_REQUEST_TAGS
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import BadRequest, LeaseLost
from app.names import MAX_HOSTNAME
from app.tokens import make_auth_token

PARALLEL = 50
NOW = 1_800_000_000.0


async def test_created_with_everything_in_one_answer(owner: Scoped, home: Home) -> None:
    result = await join(owner, home.reusable, hostinfo=b'{"OS": "linux",  "x":"\\u0000"}')
    assert (result.status, result.code, result.message) == ("created", "", "")
    assert result.tenant == home.tenant
    assert result.user == home.user
    device = result.device
    assert device is not None
    assert (device.ipv4, device.ipv6) == ("100.64.0.1", "fd7a:115c:a1e0::1")
    assert (device.given_name, device.hostname, device.expiry) == ("laptop", "Laptop", None)
    assert device.hostinfo == b'{"OS": "linux",  "x":"\\u0000"}'
    assert (await owner.load()).devices == (device,)


async def test_known_key_is_refreshed_and_the_auth_key_not_looked_at(owner: Scoped, home: Home) -> None:
    first = wish(home.single)
    created = await owner.register(first)
    for auth_key in (home.single, None, "nonsense"):
        again = wish(auth_key, machine_key=first.machine_key, node_key=first.node_key, capver=121)
        result = await owner.register(again)
        assert result.status == "refreshed"
        assert result.device is not None
        assert created.device is not None
        assert result.device.id == created.device.id
        assert result.device.capver == 121


async def test_node_key_of_another_machine(owner: Scoped, home: Home) -> None:
    first = wish(home.reusable)
    await owner.register(first)
    result = await join(owner, home.reusable, node_key=first.node_key)
    assert (result.status, result.code) == ("refused", "node_key_taken")
    assert "another device" in result.message


async def test_expired_then_rotated_in_place(owner: Scoped, admin: Scoped, home: Home) -> None:
    first = wish(home.reusable)
    created = (await owner.register(first)).device
    assert created is not None
    assert await admin.expire_device(home.tenant.id, created.id, NOW)
    late = await owner.register(first, now=NOW + 1)
    assert (late.status, late.code) == ("expired", "node_key_expired")
    new = wish(home.reusable, machine_key=first.machine_key, old_node_key=first.node_key, ephemeral=True)
    rotated = await owner.register(new, default_expiry_s=3600, now=NOW + 2)
    assert rotated.status == "rotated"
    device = rotated.device
    assert device is not None
    assert (device.id, device.ipv4, device.given_name) == (created.id, created.ipv4, created.given_name)
    assert (device.node_key, device.expiry, device.ephemeral) == (new.node_key, NOW + 2 + 3600, False)


async def test_tagged_key_converts_a_users_device(owner: Scoped, home: Home) -> None:
    first = wish(home.reusable)
    created = await owner.register(first, default_expiry_s=3600)
    result = await join(owner, home.tagged, machine_key=first.machine_key, old_node_key=first.node_key)
    assert result.status == "rotated"
    assert result.device is not None
    assert created.device is not None
    assert (result.device.id, result.device.user_id, result.device.tags, result.device.expiry) == (
        created.device.id,
        None,
        ("tag:web",),
        None,
    )
    assert result.user is None


async def test_another_owner_on_one_machine_is_another_device(
    owner: Scoped, admin: Scoped, home: Home
) -> None:
    bob = await admin.create_user(home.tenant.id, "bob")
    _, key = await admin.create_auth_key(home.tenant.id, bob.id)
    machine = machine_key()
    one = await join(owner, home.reusable, machine_key=machine)
    two = await join(owner, key, machine_key=machine)
    assert [one.status, two.status] == ["created", "created"]
    assert one.device is not None
    assert two.device is not None
    assert one.device.id != two.device.id
    assert (one.device.given_name, two.device.given_name) == ("laptop", "laptop-1")


async def test_expiry(owner: Scoped, home: Home) -> None:
    cases: list[tuple[float | None, float | None, bool, float | None]] = [
        (None, None, False, None),
        (None, 60.0, False, NOW + 60),
        (NOW + 30, 60.0, False, NOW + 30),
        (NOW + 90, 60.0, False, NOW + 60),
        (NOW + 30, None, False, NOW + 30),
        (NOW - 30, 60.0, False, NOW + 60),
        (NOW + 30, 60.0, True, None),
    ]
    for wanted, default, tagged, expected in cases:
        request = wish(home.tagged if tagged else home.reusable, expiry_wish=wanted)
        result = await owner.register(request, default_expiry_s=default, now=NOW)
        assert result.device is not None
        assert result.device.expiry == expected, (wanted, default, tagged)


async def test_a_later_wish_only_shortens(owner: Scoped, home: Home) -> None:
    first = wish(home.reusable)
    await owner.register(first, default_expiry_s=3600, now=NOW)
    for asked, expected in ((NOW + 7200, NOW + 3600), (NOW + 60, NOW + 60), (NOW + 600, NOW + 60)):
        again = wish(None, machine_key=first.machine_key, node_key=first.node_key, expiry_wish=asked)
        result = await owner.register(again, now=NOW)
        assert result.device is not None
        assert result.device.expiry == expected


async def test_what_a_refused_person_reads(
    prepared: Database, owner: Scoped, admin: Scoped, home: Home
) -> None:
    t, u = home.tenant.id, home.user.id
    revoked_key, revoked = await admin.create_auth_key(t, u)
    await admin.revoke_auth_key(t, revoked_key.id)
    _, expired = await admin.create_auth_key(t, u, expiration=1_795_255_200.0)
    assert (await join(owner, home.single)).status == "created"
    unknown, _ = make_auth_token(t, bytes(38))
    wrong_secret = home.reusable[:-4] + ("0000" if home.reusable[-4:] != "0000" else "1111")
    nobody, _ = make_auth_token(999_999, bytes(38))
    other = await prepared.create_tenant("b", "other")
    elsewhere, _ = make_auth_token(other, bytes(38))
    cases = [
        (None, {}, "needs_login", "needs_login", "log in"),
        (None, {"request_tags": ("tag:web",)}, "needs_login", "needs_login", "log in"),
        ("hunter2", {}, "refused", "auth_key_malformed", "complete"),
        (home.reusable + "0", {}, "refused", "auth_key_malformed", "complete"),
        (unknown, {}, "refused", "auth_key_unknown", "not known"),
        (wrong_secret, {}, "refused", "auth_key_unknown", "not known"),
        (nobody, {}, "refused", "auth_key_unknown", "not known"),
        (revoked, {}, "refused", "auth_key_revoked", "revoked: ask your administrator"),
        (
            expired,
            {},
            "refused",
            "auth_key_expired",
            "expired on 2026-11-21 10:00 UTC: ask your administrator",
        ),
        (home.single, {}, "refused", "auth_key_used", "already used"),
        (home.reusable, {"request_tags": ("tag:x",)}, "refused", "tags_not_permitted", "[tag:x] are invalid"),
        (elsewhere, {}, "wrong_cluster", "wrong_cluster", "another cluster"),
    ]
    for auth_key, changes, status, code, part in cases:
        result = await owner.register(wish(auth_key, **changes), now=NOW)
        assert (result.status, result.code) == (status, code)
        assert part in result.message
        assert result.device is None
    assert len((await owner.load()).devices) == 1


async def test_tags_of_the_key_win(owner: Scoped, home: Home) -> None:
    result = await join(owner, home.tagged, request_tags=("tag:other",))
    assert result.device is not None
    assert result.device.tags == ("tag:web",)


async def test_tenant_that_is_not_active(prepared: Database, owner: Scoped, home: Home) -> None:
    conn = await as_role(prepared.dsn, "hs_acs")
    for status in ("frozen", "suspended", "deleted"):
        await conn.execute("UPDATE tenants SET status = $1 WHERE tenant_id = $2", status, home.tenant.id)
        result = await join(owner, home.reusable)
        assert (result.status, result.code) == ("refused", f"tenant_{status}")
    await conn.close()


async def test_bad_input(owner: Scoped, home: Home) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"label": "Not A Label"}, "bad_label"),
        ({"label": ""}, "bad_label"),
        ({"label": "x" * 64}, "bad_label"),
        ({"hostname": "x" * (MAX_HOSTNAME + 1)}, "bad_hostname"),
        ({"hostname": "a\0b"}, "bad_hostname"),
        ({"hostinfo": b"{}" + b" " * MAX_HOSTINFO_BYTES}, "hostinfo_too_large"),
        ({"request_tags": ("tag:a",) * (MAX_REQUEST_TAGS + 1)}, "too_many_tags"),
        ({"hostinfo": b"{nonsense"}, "bad_value"),
        ({"hostinfo": b"\xff"}, "bad_hostinfo"),
        ({"hostname": "a\ud800"}, "bad_hostname"),
        ({"expiry_wish": float("inf")}, "bad_expiry"),
        ({"expiry_wish": float("nan")}, "bad_expiry"),
        ({"expiry_wish": 1e30}, "bad_value"),
        ({"machine_key": b"short"}, "bad_value"),
        ({"node_key": b"x" * 33}, "bad_value"),
        ({"capver": 2**40}, "bad_value"),
    ]
    for changes, code in cases:
        with pytest.raises(BadRequest) as raised:
            await owner.register(wish(home.reusable, **changes))
        assert raised.value.code == code, changes
    assert (await owner.load()).devices == ()


async def test_single_use_key_under_fifty_machines(owner: Scoped, home: Home) -> None:
    results = await asyncio.gather(*(join(owner, home.single) for _ in range(PARALLEL)))
    assert [r.status for r in results].count("created") == 1
    assert [r.code for r in results].count("auth_key_used") == PARALLEL - 1


async def test_one_device_fifty_times_with_a_single_use_key(owner: Scoped, home: Home) -> None:
    request = wish(home.single)
    results = await asyncio.gather(*(owner.register(request) for _ in range(PARALLEL)))
    statuses = [r.status for r in results]
    assert (statuses.count("created"), statuses.count("refreshed")) == (1, PARALLEL - 1)


async def test_one_machine_with_fifty_node_keys_stays_one_device(owner: Scoped, home: Home) -> None:
    machine = machine_key()
    results = await asyncio.gather(
        *(join(owner, home.reusable, machine_key=machine) for _ in range(PARALLEL))
    )
    statuses = [r.status for r in results]
    assert (statuses.count("created"), statuses.count("rotated")) == (1, PARALLEL - 1)
    assert len((await owner.load()).devices) == 1


async def test_one_node_key_from_fifty_machines(owner: Scoped, home: Home) -> None:
    stolen = node_key()
    results = await asyncio.gather(*(join(owner, home.reusable, node_key=stolen) for _ in range(PARALLEL)))
    assert [r.status for r in results].count("created") == 1
    assert [r.code for r in results].count("node_key_taken") == PARALLEL - 1


async def test_addresses_and_names_of_fifty_at_once(prepared: Database, owner: Scoped, home: Home) -> None:
    results = await asyncio.gather(*(join(owner, home.reusable) for _ in range(PARALLEL)))
    devices = [r.device for r in results if r.device is not None]
    assert {d.ipv4 for d in devices} == {f"100.64.0.{n}" for n in range(1, PARALLEL + 1)}
    assert len({d.ipv6 for d in devices}) == PARALLEL
    assert {d.given_name for d in devices} == {"laptop"} | {f"laptop-{n}" for n in range(1, PARALLEL)}
    assert await counters(prepared) == (PARALLEL, 1, 3)


async def test_quota_under_fifty_at_once(prepared: Database, owner: Scoped, home: Home) -> None:
    conn = await as_role(prepared.dsn, "hs_acs")
    await conn.execute("UPDATE tenants SET max_devices = 7 WHERE tenant_id = $1", home.tenant.id)
    await conn.close()
    results = await asyncio.gather(*(join(owner, home.reusable) for _ in range(PARALLEL)))
    assert [r.status for r in results].count("created") == 7
    refused = [r for r in results if r.status == "refused"]
    assert {r.code for r in refused} == {"quota_devices"}
    assert "limit is 7 devices" in refused[0].message
    kept = results[[r.status for r in results].index("created")].device
    assert kept is not None
    rotated = await join(owner, home.reusable, machine_key=kept.machine_key)
    assert rotated.status == "rotated"
    assert await counters(prepared) == (7, 1, 3)


async def test_addresses_left_out(prepared: Database, owner: Scoped, home: Home) -> None:
    cases = [
        (2359296, "100.100.1.0", "fd7a:115c:a1e0::24:100"),
        (2384896, "100.100.101.0", "fd7a:115c:a1e0::24:6500"),
        (3365888, "100.115.94.0", "fd7a:115c:a1e0::33:5e00"),
        (4194302, "100.127.255.254", "fd7a:115c:a1e0::3f:fffe"),
        (4194303, "100.64.0.1", "fd7a:115c:a1e0::1"),
    ]
    conn = await as_role(prepared.dsn, "hs_owner")
    for next_off, v4, v6 in cases:
        await conn.execute("UPDATE tenant_counters SET next_off = $1 WHERE cluster_id = 'a'", next_off)
        device = (await join(owner, home.reusable)).device
        assert device is not None
        assert (device.ipv4, device.ipv6) == (v4, v6), next_off
    await conn.close()


async def test_long_names_make_room_for_the_suffix(owner: Scoped, home: Home) -> None:
    label = "a" * 61 + "-b"
    names = []
    for _ in range(3):
        device = (await join(owner, home.reusable, label=label)).device
        assert device is not None
        names.append(device.given_name)
    assert names == [label, "a" * 61 + "-1", "a" * 61 + "-2"]


async def test_deposed_owner_registers_nobody(prepared: Database, owner: Scoped, home: Home) -> None:
    known = wish(home.reusable)
    await owner.register(known)
    await take_lease(prepared.dsn, "a", "other")
    for request in (wish(home.reusable), known):
        with pytest.raises(LeaseLost):
            await owner.register(request)


async def test_a_standby_registers_nobody(prepared: Database, home: Home) -> None:
    standby = await Scoped.open(prepared.dsn, cluster_id="a", instance="standby")
    try:
        with pytest.raises(LeaseLost):
            await join(standby, home.reusable)
    finally:
        await standby.close()


async def test_same_names_and_addresses_in_two_tenants(prepared: Database, owner: Scoped, home: Home) -> None:
    other = await prepared.create_tenant("a", "Other & Co")
    shell = await Scoped.open(prepared.dsn, cluster_id="a", role="hs_admin", pool_size=2)
    alice = await shell.create_user(other, "alice")
    _, key = await shell.create_auth_key(other, alice.id)
    await shell.close()
    one, two = await join(owner, home.reusable), await join(owner, key)
    assert one.device is not None
    assert two.device is not None
    assert two.tenant is not None
    assert (one.device.given_name, one.device.ipv4) == (two.device.given_name, two.device.ipv4)
    assert (two.tenant.dns_label, two.tenant.is_home) == ("other-co", False)


async def counters(prepared: Database) -> tuple[int, int, int]:
    conn: asyncpg.Connection = await as_role(prepared.dsn, "hs_owner")
    try:
        row = await conn.fetchrow(
            "SELECT c.devices, c.users, c.keys,"
            " (SELECT count(*) FROM nodes n WHERE n.tenant_id = c.tenant_id) AS rows"
            " FROM tenant_counters c WHERE c.cluster_id = 'a' ORDER BY c.tenant_id LIMIT 1"
        )
        assert row is not None
        assert row["devices"] == row["rows"]
        return row["devices"], row["users"], row["keys"]
    finally:
        await conn.close()
