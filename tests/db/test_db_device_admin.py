"""Steering devices and users: rename, tag, move, delete; and keys made elsewhere."""

from __future__ import annotations

import hashlib
import secrets

import pytest
from db_helpers import Home, join, rows_of, wish

from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import BadRequest, Conflict, NotFound, Refused
from app.model import Device, DeviceId, TenantId, UserId
from app.tokens import RANDOM_BYTES, make_auth_token


async def joined(owner: Scoped, key: str, **changes: object) -> Device:
    device = (await join(owner, key, **changes)).device
    assert device is not None
    return device


async def stored(scoped: Scoped, device: Device) -> Device:
    (found,) = await scoped.load_devices([(device.tenant_id, device.id)])
    return found


async def scopes(scoped: Scoped, position: str) -> set[str]:
    return {change.scope_key for change in (await scoped.changes(position))[1]}


async def test_rename_device(prepared: Database, admin: Scoped, owner: Scoped, home: Home) -> None:
    t = home.tenant.id
    device = await joined(owner, home.reusable)
    await joined(owner, home.reusable, hostname="Other", label="other")
    position = await admin.current_position()
    assert await admin.rename_device(t, device.id, "web-1", actor="root")
    assert await scopes(admin, position) == {f"device:{device.id}"}
    assert (await stored(admin, device)).given_name == "web-1"
    position = await admin.current_position()
    assert not await admin.rename_device(t, device.id, "web-1")
    assert await scopes(admin, position) == set()
    with pytest.raises(Conflict, match="another device of this tenant is called 'other'"):
        await admin.rename_device(t, device.id, "other")
    for name in ("", "Web", "a.b", "-a", "a-", "ä", "a b", "x" * 64):
        with pytest.raises(BadRequest) as raised:
            await admin.rename_device(t, device.id, name)
        assert raised.value.code == "bad_label", name
    with pytest.raises(NotFound, match="no device 999"):
        await admin.rename_device(t, DeviceId(999), "x")
    # What the client says of itself changes its hostname, not the name that was given.
    await owner.register(wish(None, machine_key=device.machine_key, node_key=device.node_key, hostname="New"))
    assert ((await stored(admin, device)).given_name, (await stored(admin, device)).hostname) == (
        "web-1", "New"
    )  # fmt: skip
    audit = (await rows_of(prepared.dsn, "a"))["audit_log"]
    assert sum(f",root,device_rename,device:{device.id}," in row for row in audit) == 1


async def test_equal_names_in_other_tenants(
    prepared: Database, admin: Scoped, owner: Scoped, home: Home
) -> None:
    t = await prepared.create_tenant("a", "second")
    user = await admin.create_user(t, "bob")
    _, key = await admin.create_auth_key(t, user.id)
    device = await joined(owner, key, hostname="Other", label="other")
    await joined(owner, home.reusable)
    assert await admin.rename_device(t, device.id, "laptop")
    # The id alone is not enough: it is another tenant's.
    with pytest.raises(NotFound):
        await admin.rename_device(home.tenant.id, device.id, "x")


async def test_tag_device(admin: Scoped, owner: Scoped, home: Home) -> None:
    t = home.tenant.id
    device = await joined(owner, home.reusable)
    await admin.expire_device(t, device.id, 2e9)
    position = await admin.current_position()
    assert await admin.set_device_tags(t, device.id, ["tag:web", "tag:db", "tag:web"], actor="root")
    assert await scopes(admin, position) == {f"device:{device.id}", "tag:web", "tag:db"}
    now = await stored(admin, device)
    assert (now.tags, now.user_id, now.expiry) == (("tag:db", "tag:web"), None, None)
    assert not await admin.set_device_tags(t, device.id, ["tag:db", "tag:web"])
    # A tagged device that an operator has expired stays so.
    await admin.expire_device(t, device.id, 1.9e9)
    assert await admin.set_device_tags(t, device.id, ["tag:db"])
    now = await stored(admin, device)
    assert (now.tags, now.expiry) == (("tag:db",), 1.9e9)
    with pytest.raises(BadRequest, match="cannot lose all its tags"):
        await admin.set_device_tags(t, device.id, [])
    for tags in (["web"], ["tag:1"], ["tag:a b"], [f"tag:t{n}" for n in range(65)]):
        with pytest.raises(BadRequest) as raised:
            await admin.set_device_tags(t, device.id, tags)
        assert raised.value.code == "bad_tag"
    with pytest.raises(NotFound):
        await admin.set_device_tags(t, DeviceId(999), ["tag:x"])


async def test_one_machine_is_not_tagged_twice(admin: Scoped, owner: Scoped, home: Home) -> None:
    tagged = await joined(owner, home.tagged)
    bob = await admin.create_user(home.tenant.id, "bob")
    own = await joined(owner, home.reusable, machine_key=tagged.machine_key, hostname="b", label="b")
    assert own.id != tagged.id
    with pytest.raises(Conflict, match="as a tagged device already"):
        await admin.set_device_tags(home.tenant.id, own.id, ["tag:x"])
    _, key = await admin.create_auth_key(home.tenant.id, bob.id)
    bobs = await joined(owner, key, machine_key=tagged.machine_key, hostname="c", label="c")
    with pytest.raises(Conflict, match="for that user already"):
        await admin.move_device_to_user(home.tenant.id, bobs.id, home.user.id)


async def test_move_device(admin: Scoped, owner: Scoped, home: Home) -> None:
    t = home.tenant.id
    device = await joined(owner, home.reusable)
    bob = await admin.create_user(t, "bob")
    assert await admin.move_device_to_user(t, device.id, bob.id, actor="root")
    assert (await stored(admin, device)).user_id == bob.id
    assert not await admin.move_device_to_user(t, device.id, bob.id)
    with pytest.raises(NotFound, match="no user 999"):
        await admin.move_device_to_user(t, device.id, UserId(999))
    with pytest.raises(NotFound, match="no device 999"):
        await admin.move_device_to_user(t, DeviceId(999), bob.id)
    tagged = await joined(owner, home.tagged, hostname="t", label="t")
    with pytest.raises(Refused, match="belongs to its tags"):
        await admin.move_device_to_user(t, tagged.id, bob.id)


async def test_a_user_of_another_tenant_gets_no_device(
    prepared: Database, admin: Scoped, owner: Scoped, home: Home
) -> None:
    other = await admin.create_user(await prepared.create_tenant("a", "second"), "bob")
    device = await joined(owner, home.reusable)
    with pytest.raises(NotFound):
        await admin.move_device_to_user(home.tenant.id, device.id, other.id)


async def test_rename_user(admin: Scoped, home: Home) -> None:
    t = home.tenant.id
    await admin.create_user(t, "bob")
    position = await admin.current_position()
    assert await admin.rename_user(t, home.user.id, "carol", actor="root")
    assert await scopes(admin, position) == {f"user:{home.user.id}"}
    assert (await admin.user(t, "carol")).id == home.user.id
    assert not await admin.rename_user(t, home.user.id, "carol")
    with pytest.raises(Conflict, match="there is already a user 'bob'"):
        await admin.rename_user(t, home.user.id, "bob")
    for name in ("", " x", "a\nb"):
        with pytest.raises(BadRequest):
            await admin.rename_user(t, home.user.id, name)
    with pytest.raises(NotFound, match="no user 999"):
        await admin.rename_user(t, UserId(999), "x")


async def test_delete_user(prepared: Database, admin: Scoped, owner: Scoped, home: Home) -> None:
    t = home.tenant.id
    device = await joined(owner, home.reusable)
    bob = await admin.create_user(t, "bob")
    with pytest.raises(Refused, match=r"user 'alice' still has devices \(1\)") as raised:
        await admin.delete_user(t, home.user.id)
    assert raised.value.code == "user_has_devices"
    assert len(await admin.list_auth_keys(t)) == 3
    # The device came by one of alice's keys, which go with her.
    await admin.move_device_to_user(t, device.id, bob.id)
    await admin.delete_user(t, home.user.id, actor="root")
    assert await admin.list_users(t) == [bob]
    assert [key.user_id for key in await admin.list_auth_keys(t)] == [None]
    moved = await stored(admin, device)
    assert (moved.user_id, moved.auth_key_id) == (bob.id, None)
    assert (await owner.register(wish(home.reusable))).code == "auth_key_unknown"
    with pytest.raises(NotFound):
        await admin.delete_user(t, home.user.id)
    counters = (await rows_of(prepared.dsn, "a"))["tenant_counters"]
    assert counters == [f"({t},a,1,1,1,2)"]


async def test_delete_auth_key(admin: Scoped, owner: Scoped, home: Home) -> None:
    t = home.tenant.id
    device = await joined(owner, home.reusable)
    assert device.auth_key_id is not None
    await admin.delete_auth_key(t, device.auth_key_id, actor="root")
    assert len(await admin.list_auth_keys(t)) == 2
    assert (await stored(admin, device)).auth_key_id is None
    assert (await owner.register(wish(home.reusable))).code == "auth_key_unknown"
    with pytest.raises(NotFound, match="no auth key"):
        await admin.delete_auth_key(t, device.auth_key_id)


async def test_a_key_made_elsewhere(admin: Scoped, owner: Scoped, home: Home) -> None:
    t: TenantId = home.tenant.id
    text, token = make_auth_token(t, secrets.token_bytes(RANDOM_BYTES))
    key = await admin.insert_auth_key(
        t, token.prefix, token.hash, home.user.id, reusable=True, expiration=2e9
    )
    assert (key.prefix, key.user_id, key.reusable, key.expiration) == (token.prefix, home.user.id, True, 2e9)
    assert (await joined(owner, text)).auth_key_id == key.id
    with pytest.raises(Conflict):
        await admin.insert_auth_key(t, token.prefix, token.hash, home.user.id)
    digest = hashlib.sha256(b"x").digest()
    for prefix, hashed in (
        ("", digest),
        ("A" * 12, digest),
        ("0" * 13, digest),
        ("0" * 12, b"x"),
        ("ä" * 12, digest),
    ):
        with pytest.raises(BadRequest) as raised:
            await admin.insert_auth_key(t, prefix, hashed, home.user.id)
        assert raised.value.code == "bad_auth_key"
