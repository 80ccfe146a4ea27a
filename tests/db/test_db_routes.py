"""Routes of devices in the database, and what a registration may take of tags and routes."""

from __future__ import annotations

import asyncpg
import pytest
from db_helpers import Home, Watch, as_role, join, take_lease, wish
from test_db_policies import audits

from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import BadRequest, LeaseLost, NotFound, Refused
from app.model import Device, DeviceId, Permit, UserId

EXIT = ("0.0.0.0/0", "::/0")


async def test_announced_routes_and_sticky_approvals(owner: Scoped, router: Device, watch: Watch) -> None:
    t, d = router.tenant_id, router.id
    key = ("node", f"device:{d}", "owner-a")
    steps: list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], list[str]]] = [
        # announced, added, approved then, routes named beside the device
        (("10.0.0.0/8",), (), (), ["10.0.0.0/8"]),
        (("10.0.0.0/8",), ("10.0.0.0/8",), ("10.0.0.0/8",), ["10.0.0.0/8"]),
        (
            ("192.0.2.0/24",),
            ("192.0.2.0/24",),
            ("10.0.0.0/8", "192.0.2.0/24"),
            ["10.0.0.0/8", "192.0.2.0/24"],
        ),
        ((), (), ("10.0.0.0/8", "192.0.2.0/24"), ["192.0.2.0/24"]),
        ((), ("10.0.0.0/8",), ("10.0.0.0/8", "192.0.2.0/24"), []),
    ]
    for announced, added, approved, named in steps:
        device = await owner.set_device_routes(t, d, announced=announced, add_approved=added)
        assert (device.announced_routes, device.approved_routes) == (announced, approved)
        rows, heard = await watch.take()
        assert rows == ([key] if named else []) + [("node", f"route:{route}", "owner-a") for route in named]
        assert heard == []
    assert [device.id for device in await owner.routers(t)] == [d]


@pytest.mark.parametrize(
    "routes",
    [("nope",), ("10.0.0.1/8",), ("10.0.0.0",), ("FD00::/8",), ("192.0.2.0/24", "10.0.0.0/8"),
     ("10.0.0.0/8", "10.0.0.0/8"), tuple(sorted(f"10.{n // 250}.{n % 250}.0/24" for n in range(257)))],
    ids=["no route", "host bits", "an address", "upper case", "order", "twice", "many"],
)  # fmt: skip
async def test_routes_that_cannot_be_stored(
    owner: Scoped, router: Device, home: Home, routes: tuple[str, ...]
) -> None:
    t, d = router.tenant_id, router.id
    for values in ({"announced": routes}, {"announced": (), "add_approved": routes}):
        with pytest.raises(BadRequest):
            await owner.set_device_routes(t, d, **values)
    with pytest.raises(BadRequest):
        await owner.register(wish(home.reusable, announced_routes=routes))
    assert (await owner.load()).devices == (router,)


async def test_sql_cannot_store_what_is_no_route(prepared: Database, router: Device) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    for column in ("announced_routes", "approved_routes"):
        for text in ("nope", "10.0.0.1/8", ""):
            with pytest.raises(asyncpg.InvalidTextRepresentationError):
                await conn.execute(f"UPDATE nodes SET {column} = ARRAY[$1]", text)
    await conn.close()


async def test_administrators_approve(
    prepared: Database, owner: Scoped, admin: Scoped, router: Device
) -> None:
    t, d = router.tenant_id, router.id
    await owner.set_device_routes(t, d, announced=("0.0.0.0/0", "10.0.0.0/8", "fd00::/8"))
    steps: list[tuple[str, list[str], bool, tuple[str, ...]]] = [
        ("approve", ["10.0.0.0/8"], True, ("10.0.0.0/8",)),
        ("approve", [" 10.0.0.0/8 "], False, ("10.0.0.0/8",)),
        ("approve", ["::/0"], True, ("0.0.0.0/0", "10.0.0.0/8", "::/0")),
        ("unapprove", ["0.0.0.0/0"], True, ("10.0.0.0/8",)),
        ("unapprove", ["0.0.0.0/0", "fd00::/8"], False, ("10.0.0.0/8",)),
        ("approve", ["FD00::/8", "0.0.0.0/0"], True, ("0.0.0.0/0", "10.0.0.0/8", "::/0", "fd00::/8")),
        ("unapprove", ["10.0.0.0/8", "fd00::/8"], True, EXIT),
    ]
    for verb, routes, changes, approved in steps:
        call = admin.approve_routes if verb == "approve" else admin.unapprove_routes
        assert await call(t, d, routes, actor="ann") == changes, (verb, routes)
        (device,) = await owner.load_devices([(t, d)])
        assert device.approved_routes == approved, (verb, routes)
    log = await audits(prepared.dsn, "device_routes")
    assert len(log) == sum(step[2] for step in steps)
    assert log[0] == (
        "ann", f"device:{d}", '{"approved_routes": []}', '{"approved_routes": ["10.0.0.0/8"]}',
    )  # fmt: skip


async def test_approvals_refused(admin: Scoped, owner: Scoped, router: Device) -> None:
    t, d = router.tenant_id, router.id
    await owner.set_device_routes(t, d, announced=("10.0.0.0/8",))
    cases: list[tuple[list[str], type[Exception], str]] = [
        (["192.0.2.0/24"], Refused, f"device {d} does not announce 192.0.2.0/24"),
        (["10.0.0.0/8", "::/0"], Refused, r"does not announce 0.0.0.0/0, ::/0"),
        (["10.1.0.0/16"], Refused, "does not announce"),
        (["nope"], BadRequest, "'nope' is no route"),
        (["10.0.0.1/8"], BadRequest, "host bits set: write 10.0.0.0/8"),
        ([], BadRequest, "at least one route"),
        ([f"10.{n // 250}.{n % 250}.0/24" for n in range(257)], BadRequest, "more than 256"),
    ]
    for routes, kind, message in cases:
        with pytest.raises(kind, match=message):
            await admin.approve_routes(t, d, routes)
    for call in (admin.approve_routes, admin.unapprove_routes):
        with pytest.raises(NotFound):
            await call(t, DeviceId(999), ["10.0.0.0/8"])
    (device,) = await owner.load_devices([(t, d)])
    assert device.approved_routes == ()


async def test_approvals_of_many_devices_in_one_write(owner: Scoped, home: Home, watch: Watch) -> None:
    t = home.tenant.id
    devices = [
        (await join(owner, home.reusable, announced_routes=("10.0.0.0/8", "::/0"))).device for _ in range(3)
    ]
    ids = [device.id for device in devices if device is not None]
    await watch.take()
    wanted = {ids[0]: ["10.0.0.0/8", "::/0"], ids[1]: ["::/0"], DeviceId(999): ["::/0"]}
    assert await owner.add_approvals(t, wanted) == ids[:2]
    rows, _ = await watch.take()
    assert {scope for _, scope, _ in rows} == {
        f"device:{ids[0]}", f"device:{ids[1]}", "route:10.0.0.0/8", "route:::/0",
    }  # fmt: skip
    assert await owner.add_approvals(t, wanted) == []
    assert await owner.add_approvals(t, {}) == []
    found = {device.id: device.approved_routes for device in await owner.list_devices(t)}
    assert found == {ids[0]: ("10.0.0.0/8", "::/0"), ids[1]: ("::/0",), ids[2]: ()}


async def test_writes_about_policies_and_routes_of_a_deposed_owner(
    prepared: Database, owner: Scoped, router: Device
) -> None:
    await take_lease(prepared.dsn, "a", "next")
    t, d = router.tenant_id, router.id
    for call in (
        owner.set_policy(t, "{}", author=""), owner.set_device_routes(t, d, announced=("::/0",)),
        owner.add_approvals(t, {d: ["::/0"]}), owner.set_user_role(t, router.user_id or UserId(0), "admin"),
    ):  # fmt: skip
        with pytest.raises(LeaseLost):
            await call


# -- what a registration may take -------------------------------------------------------------------


def permits(**who: Permit) -> dict[str, Permit]:
    return {name.replace("_", ":", 1): permit for name, permit in who.items()}


async def test_tags_asked_for(owner: Scoped, admin: Scoped, home: Home) -> None:
    mine = Permit(users=frozenset({home.user.id, UserId(999)}))
    other = Permit(users=frozenset({UserId(999)}), tags=frozenset({"tag:other"}))
    cases: list[tuple[tuple[str, ...], dict[str, Permit], tuple[str, ...]]] = [
        # asked, permits, refused
        (("tag:a",), {}, ("tag:a",)),
        (("tag:a",), permits(tag_a=mine), ()),
        (("tag:b", "tag:a", "tag:b"), permits(tag_a=mine, tag_b=Permit(anyone=True)), ()),
        (("tag:a", "tag:b"), permits(tag_a=mine, tag_b=other), ("tag:b",)),
        (("tag:b", "tag:a"), permits(tag_b=other), ("tag:a", "tag:b")),
        (("tag:a",), permits(tag_a=Permit()), ("tag:a",)),
        (("nonsense",), permits(tag_a=mine), ("nonsense",)),
    ]
    for asked, may, refused in cases:
        before = len((await owner.load()).devices)
        result = await join(owner, home.reusable, request_tags=asked, permits=may)
        if refused:
            assert (result.status, result.code) == ("refused", "tags_not_permitted")
            assert result.message == f"requested tags [{' '.join(refused)}] are invalid or not permitted"
            assert len((await owner.load()).devices) == before
            continue
        assert result.status == "created"
        assert result.device is not None
        assert (result.device.tags, result.device.user_id) == (tuple(sorted(set(asked))), None)
        assert (result.user, result.device.expiry) == (None, None)
    refused_key = [key for key in await admin.list_auth_keys(home.tenant.id) if not key.reusable]
    assert not refused_key[0].used
    assert (await join(owner, home.single, request_tags=("tag:a",))).status == "refused"
    assert (await join(owner, home.single)).status == "created"


async def test_long_refusals_are_cut(owner: Scoped, home: Home) -> None:
    result = await join(owner, home.reusable, request_tags=tuple(f"tag:{'x' * 60}{n}" for n in range(60)))
    assert result.message.endswith("...] are invalid or not permitted")
    assert len(result.message) < 500


async def test_a_device_follows_what_it_registers_with(owner: Scoped, admin: Scoped, home: Home) -> None:
    """One machine from user to tags, other tags, and back; always the same device."""
    mine = Permit(users=frozenset({home.user.id}))
    by_tag = permits(tag_b=Permit(tags=frozenset({"tag:a"})))
    first = wish(home.reusable)
    steps: list[tuple[str, tuple[str, ...], dict[str, Permit], tuple[str, ...] | None]] = [
        # key, tags asked for, permits, tags then (None: refused)
        (home.reusable, (), {}, ()),
        (home.reusable, ("tag:a",), {}, None),
        (home.reusable, ("tag:a",), permits(tag_a=mine), ("tag:a",)),
        (home.reusable, ("tag:b",), by_tag, ("tag:b",)),
        (home.reusable, ("tag:b",), by_tag, None),  # tag:a is gone
        (home.reusable, ("tag:a", "tag:c"), permits(tag_a=mine, tag_c=mine), ("tag:a", "tag:c")),
        (home.tagged, ("tag:z",), {}, ("tag:web",)),
        (home.reusable, (), {}, ()),
        (home.tagged, (), {}, ("tag:web",)),
    ]
    known, ids = first.node_key, set()
    for key, asked, may, tags in steps:
        request = wish(
            key, machine_key=first.machine_key, old_node_key=known, request_tags=asked, permits=may
        )
        result = await owner.register(request, default_expiry_s=3600)
        if tags is None:
            assert result.code == "tags_not_permitted", (asked, may)
            continue
        device = result.device
        assert device is not None, result
        assert device.tags == tags
        assert (device.user_id, device.expiry is None) == (None if tags else home.user.id, bool(tags))
        known = device.node_key
        ids.add(device.id)
    assert len(ids) == 1
    assert len((await owner.load()).devices) == 1


async def test_a_user_takes_no_tagged_device_over_without_its_key(owner: Scoped, home: Home) -> None:
    tagged = (await join(owner, home.tagged)).device
    assert tagged is not None
    result = await join(owner, home.reusable, machine_key=tagged.machine_key)
    assert result.status == "created"
    assert {d.tags for d in (await owner.load()).devices} == {("tag:web",), ()}


async def test_tags_take_no_device_of_another_user(owner: Scoped, admin: Scoped, home: Home) -> None:
    bob = await admin.create_user(home.tenant.id, "bob")
    _, key = await admin.create_auth_key(home.tenant.id, bob.id)
    alices = (await join(owner, home.reusable)).device
    assert alices is not None
    may = permits(tag_a=Permit(anyone=True))
    result = await join(owner, key, machine_key=alices.machine_key, request_tags=("tag:a",), permits=may)
    assert result.status == "created"
    assert [d.user_id for d in await owner.list_devices(home.tenant.id)] == [home.user.id, None]


async def test_an_expired_tagged_device_vouches_for_nothing(owner: Scoped, admin: Scoped, home: Home) -> None:
    tagged = (await join(owner, home.tagged)).device
    assert tagged is not None
    may = permits(tag_a=Permit(tags=frozenset({"tag:web"})))
    again = wish(home.reusable, machine_key=tagged.machine_key, request_tags=("tag:a",), permits=may)
    await admin.expire_device(home.tenant.id, tagged.id, 1.0e9)
    assert (await owner.register(again)).code == "tags_not_permitted"
    await admin.expire_device(home.tenant.id, tagged.id, None)
    result = await owner.register(again)
    assert result.device is not None
    assert (result.device.id, result.device.tags) == (tagged.id, ("tag:a",))


async def test_routes_that_need_no_approval(owner: Scoped, home: Home) -> None:
    """With the registration itself, by user and by tag, on a new device and on known ones; never fewer."""
    user, tag = Permit(users=frozenset({home.user.id})), Permit(tags=frozenset({"tag:web"}))
    may = {"10.0.0.0/8": user, "10.1.0.0/16": Permit(anyone=True), "192.0.2.0/24": tag}
    announced = tuple(sorted({*may, "198.51.100.0/24"}))
    first = wish(home.reusable, announced_routes=announced, permits=may)
    device = (await owner.register(first)).device
    assert device is not None
    assert (device.announced_routes, device.approved_routes) == (announced, ("10.0.0.0/8", "10.1.0.0/16"))
    other = (await join(owner, home.tagged, announced_routes=announced, permits=may)).device
    assert other is not None
    assert other.approved_routes == ("192.0.2.0/24",)
    steps: list[tuple[tuple[str, ...], dict[str, Permit], tuple[str, ...]]] = [
        (("10.0.0.0/8",), {}, ("10.0.0.0/8", "10.1.0.0/16")),
        ((), {}, ("10.0.0.0/8", "10.1.0.0/16")),
        (announced, {"198.51.100.0/24": user}, ("10.0.0.0/8", "10.1.0.0/16", "198.51.100.0/24")),
    ]
    for routes, permit, approved in steps:
        again = wish(
            None,
            machine_key=first.machine_key,
            node_key=first.node_key,
            announced_routes=routes,
            permits=permit,
        )
        result = await owner.register(again)
        assert result.status == "refreshed"
        assert result.device is not None
        assert (result.device.announced_routes, result.device.approved_routes) == (routes, approved)
    rotated = await join(
        owner, home.reusable, machine_key=first.machine_key, announced_routes=("192.0.2.0/24",), permits=may
    )
    assert rotated.device is not None
    assert rotated.device.approved_routes == ("10.0.0.0/8", "10.1.0.0/16", "198.51.100.0/24")


async def test_no_more_approved_routes_than_a_tenant_may_have(
    prepared: Database, admin: Scoped, owner: Scoped, home: Home
) -> None:
    """By hand it is refused; what a policy would give is left out; who had more keeps it."""
    offers = tuple(f"10.{n}.0.0/16" for n in range(5))
    one = (await join(owner, home.reusable, announced_routes=offers)).device
    two = (await join(owner, home.reusable, announced_routes=offers)).device
    assert one is not None
    assert two is not None
    t = one.tenant_id
    conn = await as_role(prepared.dsn, "hs_owner")
    await conn.execute("UPDATE tenants SET max_routes = 3 WHERE tenant_id = $1", t)
    assert await admin.approve_routes(t, one.id, offers[:2])
    with pytest.raises(Refused, match="no more approved routes: 1 too many") as refused:
        await admin.approve_routes(t, two.id, offers[:2])
    assert refused.value.code == "quota_routes"
    automatic = await owner.set_device_routes(t, two.id, announced=offers, add_approved=offers)
    assert automatic.approved_routes == offers[:1]
    await owner.add_approvals(t, {one.id: offers})
    given = {device.id: device.approved_routes for device in (await owner.load()).devices}
    assert given == {one.id: offers[:2], two.id: offers[:1]}
    told = await conn.fetch("SELECT after FROM audit_log WHERE action = 'quota_reached' ORDER BY id")
    assert {row[0] for row in told} == {'{"used": 3, "what": "routes", "limit": 3}'}
    await conn.execute("UPDATE tenants SET max_routes = 1 WHERE tenant_id = $1", t)
    await conn.close()
    assert await admin.unapprove_routes(t, one.id, offers[:1])
    kept = {device.id: device.approved_routes for device in (await owner.load()).devices}
    assert kept == {one.id: offers[1:2], two.id: offers[:1]}
