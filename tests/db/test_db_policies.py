"""Policies, roles and routes in the database: versions, races, capture, moves."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import asyncpg
import pytest
from db_helpers import Home, Watch, as_role, join

from app.db.policies import MAX_NOTE
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import BadRequest, Conflict, NotFound, WrongCluster
from app.model import Device, TenantId, UserId
from app.policy.hujson import MAX_POLICY_CHARS
from app.policy.people import ROLES

PARALLEL = 20
EXIT = ("0.0.0.0/0", "::/0")


async def audits(dsn: str, action: str) -> list[tuple[str, str, Any, Any]]:
    conn = await as_role(dsn, "hs_owner")
    try:
        found = await conn.fetch(
            "SELECT actor, object, before::text, after::text FROM audit_log WHERE action = $1 ORDER BY id",
            action,
        )
        return [tuple(row) for row in found]  # type: ignore[misc]
    finally:
        await conn.close()


# -- policies ---------------------------------------------------------------------------------------


async def test_versions(prepared: Database, owner: Scoped, admin: Scoped, home: Home) -> None:
    t = home.tenant.id
    assert await owner.load_policy(t) is None
    assert await owner.policy_history(t) == []
    assert (await owner.load()).policies == ()
    first = await admin.set_policy(t, "{}", author="ann", note="a start", expected_version=0)
    assert (first.tenant_id, first.version, first.text, first.author, first.note) == (
        t,
        1,
        "{}",
        "ann",
        "a start",
    )
    assert first.hash == hashlib.sha256(b"{}").hexdigest()
    second = await admin.set_policy(t, '{"acls": []} // ü', author="bob", expected_version=1)
    third = await owner.set_policy(t, "{}", author="")
    assert [p.version for p in (first, second, third)] == [1, 2, 3]
    assert await owner.load_policy(t) == third
    assert await owner.policy_history(t) == [third, second, first]
    assert await owner.policy_history(t, 2) == [third, second]
    assert await owner.policy_version(t, 2) == second
    assert (await owner.load()).policies == (third,)
    for version in (0, -1, 4, 1 << 31, 1 << 70):
        with pytest.raises(NotFound, match=f"version {version}"):
            await owner.policy_version(t, version)
    for limit in (0, 1001):
        with pytest.raises(BadRequest):
            await owner.policy_history(t, limit)
    log = await audits(prepared.dsn, "policy_set")
    assert [line[:2] for line in log] == [("ann", "policy"), ("bob", "policy"), ("", "policy")]
    assert (log[0][2], '"version": 2' in log[1][3], first.hash in log[1][2]) == (None, True, True)


async def test_another_version_in_force_is_a_conflict(admin: Scoped, home: Home) -> None:
    t = home.tenant.id
    with pytest.raises(Conflict, match="there is none yet, this one was made from version 1"):
        await admin.set_policy(t, "{}", author="", expected_version=1)
    await admin.set_policy(t, "{}", author="")
    with pytest.raises(Conflict, match="version 1 is in force, this one was meant to be the first") as raised:
        await admin.set_policy(t, "{}", author="", expected_version=0)
    assert (raised.value.code, raised.value.facts["version"]) == ("policy_changed", 1)
    assert len(await admin.policy_history(t)) == 1


async def test_policies_set_at_once(admin: Scoped, home: Home) -> None:
    t = home.tenant.id
    every = await asyncio.gather(*(admin.set_policy(t, f'"{n}"', author="") for n in range(PARALLEL)))
    assert sorted(p.version for p in every) == list(range(1, PARALLEL + 1))
    guarded = await asyncio.gather(
        *(admin.set_policy(t, f'"{n}"', author="", expected_version=PARALLEL) for n in range(PARALLEL)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, Conflict) for outcome in guarded) == PARALLEL - 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"text": "x" * (MAX_POLICY_CHARS + 1)}, "policy_too_large"),
        ({"text": "{}\0"}, "bad_policy_text"),
        ({"text": "\ud800"}, "bad_policy_text"),
        ({"note": "x" * (MAX_NOTE + 1)}, "bad_note"),
        ({"author": "x" * 256}, "bad_note"),
        ({"note": "\0"}, "bad_policy_text"),
    ],
    ids=["long", "nul", "surrogate", "long note", "long author", "nul in note"],
)
async def test_a_policy_that_cannot_be_stored(
    admin: Scoped, home: Home, fields: dict[str, str], code: str
) -> None:
    values = {"text": "{}", "author": "", "note": ""} | fields
    with pytest.raises(BadRequest) as raised:
        await admin.set_policy(home.tenant.id, values.pop("text"), **values)  # type: ignore[arg-type]
    assert raised.value.code == code
    assert await admin.load_policy(home.tenant.id) is None


async def test_the_longest_policy_is_stored(admin: Scoped, home: Home) -> None:
    text = "ü" * MAX_POLICY_CHARS
    await admin.set_policy(home.tenant.id, text, author="")
    stored = await admin.load_policy(home.tenant.id)
    assert stored is not None
    assert stored.text == text


@pytest.mark.parametrize("role", ["hs_node", "hs_admin", "hs_acs", "hs_console", "hs_owner"])
async def test_versions_never_change(prepared: Database, admin: Scoped, home: Home, role: str) -> None:
    await admin.set_policy(home.tenant.id, "{}", author="ann")
    conn = await as_role(prepared.dsn, role, "a")
    for column in ("text = '{ }'", "author = 'x'", "note = 'x'", "version = 7", "created_at = now()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(f"UPDATE policies SET {column}")
    await conn.close()


async def test_a_policy_of_another_cluster(prepared: Database, owner: Scoped, admin: Scoped) -> None:
    other = await prepared.create_tenant("b", "other")
    for scoped in (owner, admin):
        with pytest.raises(WrongCluster):
            await scoped.set_policy(other, "{}", author="")
    with pytest.raises(WrongCluster):
        await admin.set_policy(TenantId(999), "{}", author="")


async def test_a_policy_leaves_one_change_and_wakes(
    owner: Scoped, admin: Scoped, home: Home, watch: Watch
) -> None:
    await admin.set_policy(home.tenant.id, "{}", author="")
    assert await watch.take() == ([("policy", "policy", "")], [("a", "policy")])
    await owner.set_policy(home.tenant.id, "{}", author="")
    assert await watch.take() == ([("policy", "policy", "owner-a")], [])
    with pytest.raises(Conflict):
        await admin.set_policy(home.tenant.id, "{}", author="", expected_version=7)
    assert await watch.take() == ([], [])
    assert watch.conn is not None
    await watch.conn.execute("DELETE FROM policies WHERE version = 2")
    assert await watch.take() == ([("policy", "policy", "")], [("a", "policy")])


async def test_a_move_takes_policies_roles_and_routes_along(
    prepared: Database, owner: Scoped, admin: Scoped, home: Home, router: Device, watch: Watch
) -> None:
    t = home.tenant.id
    policies = [await admin.set_policy(t, text, author="ann") for text in ("{}", "{ }")]
    await admin.set_user_role(t, home.user.id, "owner")
    routes = ("10.0.0.0/8",)
    device = await owner.set_device_routes(t, router.id, announced=routes, add_approved=routes)
    await watch.take()
    conn = await as_role(prepared.dsn, "hs_acs")
    await conn.execute("UPDATE tenants SET is_home = false, cluster_id = 'b' WHERE tenant_id = $1", t)
    await conn.close()
    assert (await watch.take())[0] == [("tenant-out", "tenant", "")]
    assert (await owner.load()).policies == ()
    assert await owner.load_policy(t) is None
    new = await Scoped.open(prepared.dsn, cluster_id="b", role="hs_admin", pool_size=1)
    try:
        assert await new.policy_history(t) == policies[::-1]
        snapshot = await new.load()
        assert snapshot.policies == (policies[1],)
        assert [user.role for user in snapshot.users] == ["owner"]
        assert snapshot.devices == (device,)
    finally:
        await new.close()


# -- roles ------------------------------------------------------------------------------------------


async def test_roles(prepared: Database, admin: Scoped, owner: Scoped, home: Home, watch: Watch) -> None:
    t, user = home.tenant.id, home.user
    assert user.role == "member"
    for role in ROLES:
        assert await admin.set_user_role(t, user.id, role, actor="ann")
        assert (await admin.user(t, user.name)).role == role
        assert [u.role for u in await owner.load_users([(t, user.id)])] == [role]
        assert await watch.take() == ([("user", f"user:{user.id}", "")], [("a", f"user:{user.id}")])
    assert not await admin.set_user_role(t, user.id, ROLES[-1])
    assert await watch.take() == ([], [])
    for wrong in ("", "Owner", "autogroup:owner", "tagged"):
        with pytest.raises(BadRequest, match="there are owner, admin"):
            await admin.set_user_role(t, user.id, wrong)
        with pytest.raises(asyncpg.CheckViolationError):
            await watch.conn.execute("UPDATE users SET role = $1", wrong)
    with pytest.raises(NotFound):
        await admin.set_user_role(t, UserId(999), "owner")
    log = await audits(prepared.dsn, "user_role")
    assert log[0] == ("ann", f"user:{user.id}", '{"role": "member"}', '{"role": "owner"}')


async def test_a_registration_brings_role_and_routes(owner: Scoped, admin: Scoped, home: Home) -> None:
    await admin.set_user_role(home.tenant.id, home.user.id, "admin")
    routes = ("10.0.0.0/8", "192.0.2.0/24")
    result = await join(owner, home.reusable, announced_routes=routes)
    assert result.user is not None
    assert result.user.role == "admin"
    assert result.device is not None
    assert (result.device.announced_routes, result.device.approved_routes) == (routes, ())
    assert (await owner.load()).devices == (result.device,)
