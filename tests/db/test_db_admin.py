"""Users, auth keys, relay regions: quotas, refusals, audit; and no secret in a dump."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path

import asyncpg
import pytest
from db_helpers import Home, as_role, join, rows_of, take_lease

from app.db.admin import MAX_REGION_ID
from app.db.admission import Admission
from app.db.scoped import Scoped
from app.db.setup import Database
from app.db.users import MAX_NAME
from app.deployment import load_or_create_noise_key
from app.errors import BadRequest, Conflict, HsError, NotFound, Refused
from app.model import TenantId, UserId
from app.names import MAX_TAGS
from app.tokens import parse_auth_token


async def test_users(prepared: Database, admin: Scoped, home: Home) -> None:
    t = home.tenant.id
    bob = await admin.create_user(t, "bob", display_name="Bob", email="bob@example.org", actor="root")
    assert (bob.name, bob.display_name, bob.email) == ("bob", "Bob", "bob@example.org")
    assert await admin.list_users(t) == [home.user, bob]
    assert await admin.user(t, "bob") == bob
    with pytest.raises(NotFound, match="'carol'"):
        await admin.user(t, "carol")
    with pytest.raises(Conflict, match="already a user"):
        await admin.create_user(t, "bob")
    audit = (await rows_of(prepared.dsn, "a"))["audit_log"]
    assert any(f"user_create,user:{bob.id}" in row and ",root," in row for row in audit)


async def test_bad_user_names(admin: Scoped, home: Home) -> None:
    for name in ("", " x", "x ", "a\nb", "a\0b", "\x1b[31m", "x" * (MAX_NAME + 1)):
        with pytest.raises(BadRequest) as raised:
            await admin.create_user(home.tenant.id, name)
        assert raised.value.code == "bad_user_name", repr(name)


async def test_auth_keys(admin: Scoped, owner: Scoped, home: Home) -> None:
    t = home.tenant.id
    key, text = await admin.create_auth_key(
        t, home.user.id, reusable=True, ephemeral=True, tags=["tag:b", "tag:a", "tag:b"], expiration=1.9e9
    )
    assert (key.tags, key.expiration, key.used, key.uses, key.revoked) == (
        ("tag:a", "tag:b"), 1.9e9, False, 0, False
    )  # fmt: skip
    assert text.startswith(f"hskey-auth-{t}-{key.prefix}-")
    device = (await join(owner, text)).device
    assert device is not None
    assert (device.ephemeral, device.tags, device.auth_key_id) == (True, ("tag:a", "tag:b"), key.id)
    await join(owner, text)
    listed = {k.id: k for k in await admin.list_auth_keys(t)}
    assert (listed[key.id].used, listed[key.id].uses) == (True, 2)
    revoked = await admin.revoke_auth_key(t, key.id)
    assert revoked.revoked
    assert len(await owner.list_devices(t)) == 2
    with pytest.raises(NotFound):
        await admin.revoke_auth_key(t, 999)


async def test_bad_tags(admin: Scoped, home: Home) -> None:
    too_many = [f"tag:t{n}" for n in range(MAX_TAGS + 1)]
    for tags in (["web"], ["tag:"], ["tag:1x"], ["tag:a b"], ["tag:ä"], ["tag:" + "a" * 64], too_many):
        with pytest.raises(BadRequest) as raised:
            await admin.create_auth_key(home.tenant.id, None, tags=tags)
        assert raised.value.code == "bad_tag", tags


async def test_bad_auth_keys(admin: Scoped, home: Home) -> None:
    with pytest.raises(BadRequest, match="user or tags"):
        await admin.create_auth_key(home.tenant.id, None)
    with pytest.raises(Conflict):
        await admin.create_auth_key(home.tenant.id, UserId(999))
    with pytest.raises(BadRequest, match="expiration"):
        await admin.create_auth_key(home.tenant.id, home.user.id, expiration=0.0)


async def test_quotas_hold_under_parallel_calls(prepared: Database, admin: Scoped) -> None:
    t = await prepared.create_tenant("a", "small", max_users=3, max_keys=2)
    users = await asyncio.gather(*(admin.create_user(t, f"u{n}") for n in range(10)), return_exceptions=True)
    made = [user for user in users if not isinstance(user, BaseException)]
    assert len(made) == 3
    assert {getattr(u, "code", None) for u in users if isinstance(u, Refused)} == {"quota_users"}
    keys = await asyncio.gather(
        *(admin.create_auth_key(t, made[0].id) for _ in range(10)), return_exceptions=True
    )
    assert sum(not isinstance(key, BaseException) for key in keys) == 2
    refused = next(key for key in keys if isinstance(key, Refused))
    assert (refused.code, "at most 2 auth keys" in refused.message) == ("quota_keys", True)


async def test_an_audit_row_and_its_change_stand_or_fall_together(prepared: Database, home: Home) -> None:
    conn = await asyncpg.connect(prepared.dsn)
    await conn.execute(
        "ALTER TABLE hs.audit_log ADD CONSTRAINT full_disk CHECK (action <> 'user_create') NOT VALID"
    )
    await conn.close()
    scoped = await Scoped.open(prepared.dsn, cluster_id="a", role="hs_admin", pool_size=1)
    with pytest.raises(BadRequest):
        await scoped.create_user(home.tenant.id, "bob")
    assert await scoped.list_users(home.tenant.id) == [home.user]
    await scoped.close()


async def test_relay_regions(prepared: Database, owner: Scoped) -> None:
    region = {"RegionCode": "x", "Nodes": [{"Name": "1a", "RegionID": 1}, {"Name": "1b"}]}
    own = await owner.put_own_region(900, region)
    assert (own.region_id, own.cluster_id) == (900, "a")
    epoch = await take_lease(prepared.dsn, "b", "owner-b")
    other = await Scoped.open(prepared.dsn, cluster_id="b", instance="owner-b", epoch=epoch, pool_size=1)
    assert (await other.put_own_region(900, region)).region_id == 901
    assert (await other.put_own_region(901, region)).region_id == 901
    assert (await owner.put_own_region(900, region)).region_id == 900
    listed = await owner.list_regions()
    assert [(r.region_id, r.cluster_id) for r in listed] == [(900, "a"), (901, "b")]
    assert listed == await other.list_regions()
    assert b'"RegionID": 901' in listed[1].region
    assert listed[1].region.count(b'"RegionID": 901') == 3
    assert (await other.put_own_region(MAX_REGION_ID, {})).region_id == MAX_REGION_ID
    with pytest.raises(Refused) as raised:
        await owner.put_own_region(MAX_REGION_ID, {})
    assert raised.value.code == "no_free_region_id"
    for wrong in (0, -1, MAX_REGION_ID + 1):
        with pytest.raises(BadRequest):
            await owner.put_own_region(wrong, {})
    await other.close()


async def test_a_dump_holds_no_usable_secret(
    prepared: Database, admin: Scoped, home: Home, tmp_path: Path
) -> None:
    secret_file = tmp_path / "secret.key"
    noise = await load_or_create_noise_key(prepared, secret_file)
    conn = await as_role(prepared.dsn, "hs_owner")
    tables = [row[0] for row in await conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'hs'")]
    rows = [row[0] for table in tables for row in await conn.fetch(f"SELECT t::text FROM {table} t")]
    dump = "\n".join(rows).lower()
    await conn.close()
    token = parse_auth_token(home.reusable)
    assert token is not None
    assert token.prefix in dump
    assert token.hash.hex() in dump
    for text in (home.reusable, home.single, home.tagged):
        secret = text.rpartition("-")[2]
        assert secret not in dump
        assert hashlib.sha256(bytes.fromhex(secret)).hexdigest() in dump
    assert noise.hex() not in dump
    assert secret_file.read_text().strip() not in dump


async def test_an_override_is_stored_with_what_comes_after_it_or_not_at_all(prepared: Database) -> None:
    tenant_id = TenantId(await prepared.create_tenant("a", "small", max_devices=3))
    admission = await Admission.open(prepared.dsn, pool_size=1)
    try:
        with pytest.raises(HsError):
            await admission.put_override(tenant_id, {"max_devices": 9}, float("nan"), actor="t")
        assert (await admission.tenant(tenant_id)).max_devices == 3
        assert await admission.override(tenant_id) is None
        await admission.put_override(tenant_id, {"max_devices": 9}, time.time() + 60, actor="t")
        now, after = await admission.tenant(tenant_id), await admission.override(tenant_id)
        assert after is not None
        assert (now.max_devices, after.former) == (9, {"max_devices": 3})
    finally:
        await admission.close()
