"""Logins without an auth key: who may decide, what an approval is good for, and the bounds strangers meet."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from db_helpers import Home, as_role, machine_key, node_key, take_lease, wish

from app.db.logins import (
    LOGIN_ID_BYTES,
    LOGIN_LIFE_S,
    MAX_FACT,
    MAX_LOGINS,
    MAX_LOGINS_PER_NETWORK,
    is_login_id,
)
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import BadRequest, Conflict, LeaseLost, NotFound, WrongCluster
from app.model import Login, LoginAsk, Registration

NOW = 1_800_000_000.0


def ask(**changes: Any) -> LoginAsk:
    """A new device that asks, unless told otherwise."""
    fields: dict[str, Any] = {
        "machine_key": machine_key(),
        "node_key": node_key(),
        "hostname": "Laptop",
        "os": "linux 6.1",
        "version": "1.90.9",
        "capver": 130,
        "ephemeral": False,
        "address": "192.0.2.7",
        "network": "192.0.2.7",
    }
    return LoginAsk(**(fields | changes))


def fresh_id() -> str:
    return secrets.token_hex(LOGIN_ID_BYTES)


async def opened(scoped: Scoped, question: LoginAsk, now: float | None = NOW) -> str:
    return await scoped.open_login(question, fresh_id(), now=now)


async def only(scoped: Scoped, login_id: str, now: float | None = NOW) -> Login:
    (login,) = await scoped.logins([login_id], now=now)
    return login


def with_login(question: LoginAsk, login_id: str | None, **changes: Any) -> Registration:
    request = wish(None, machine_key=question.machine_key, node_key=question.node_key, **changes)
    return replace(request, login_id=login_id)


async def test_asked_approved_registered(owner: Scoped, admin: Scoped, home: Home) -> None:
    question = ask()
    login_id = await opened(owner, question)
    assert is_login_id(login_id)
    asked = await only(admin, login_id)
    assert (asked.state, asked.seen_in, asked.hostname, asked.os) == ("pending", "a", "Laptop", "linux 6.1")
    assert (asked.created, asked.expires) == (NOW, NOW + LOGIN_LIFE_S)
    assert (await owner.register(with_login(question, login_id), now=NOW)).status == "needs_login"
    await admin.approve_login(login_id, home.tenant.id, home.user.id, actor="shell:me", now=NOW + 800)
    approved = await only(admin, login_id)
    assert (approved.state, approved.user_id) == ("approved", home.user.id)
    assert approved.expires == NOW + 800 + LOGIN_LIFE_S
    request = with_login(question, login_id, ephemeral=True)
    result = await owner.register(request, default_expiry_s=60, now=NOW + 1000)
    assert (result.status, result.user, result.tenant) == ("created", home.user, home.tenant)
    assert result.device is not None
    assert (result.device.register_method, result.device.auth_key_id) == ("login", None)
    assert (result.device.ephemeral, result.device.expiry) == (True, NOW + 1060)
    assert (await only(admin, login_id)).device_id == result.device.id
    assert (await owner.register(request, now=NOW + 1001)).status == "refreshed"


async def test_an_approval_is_good_for_one_device_once(owner: Scoped, admin: Scoped, home: Home) -> None:
    question = ask()
    login_id = await opened(owner, question)
    await admin.approve_login(login_id, home.tenant.id, home.user.id, now=NOW)
    for other in (
        ask(),
        replace(question, machine_key=machine_key()),
        replace(question, node_key=node_key()),
    ):
        assert (await owner.register(with_login(other, login_id), now=NOW)).status == "needs_login"
    crowd = await asyncio.gather(*(owner.register(with_login(question, login_id), now=NOW) for _ in range(8)))
    assert sorted(result.status for result in crowd) == ["created"] + ["refreshed"] * 7
    (device_id,) = {result.device.id for result in crowd if result.device is not None}
    await admin.delete_device(home.tenant.id, device_id)
    assert (await owner.register(with_login(question, login_id), now=NOW)).status == "needs_login"
    assert await opened(owner, question) != login_id


async def test_the_same_keys_have_one_login(owner: Scoped, admin: Scoped) -> None:
    question = ask()
    login_id = await opened(owner, question)
    assert await opened(owner, question, NOW + LOGIN_LIFE_S - 1) == login_id
    await admin.deny_login(login_id, now=NOW)
    assert await opened(owner, question, NOW + LOGIN_LIFE_S - 1) == login_id
    assert (await only(admin, login_id)).state == "denied"
    assert await opened(owner, question, NOW + LOGIN_LIFE_S) != login_id


async def test_time_runs_out(owner: Scoped, admin: Scoped, home: Home) -> None:
    question = ask()
    login_id = await opened(owner, question)
    late = NOW + LOGIN_LIFE_S
    assert (await only(admin, login_id, late)).state == "expired"
    with pytest.raises(NotFound, match="15 minutes"):
        await admin.approve_login(login_id, home.tenant.id, home.user.id, now=late)
    await admin.approve_login(login_id, home.tenant.id, home.user.id, now=late - 1)
    assert (
        await owner.register(with_login(question, login_id), now=late - 1 + LOGIN_LIFE_S)
    ).status == "needs_login"
    assert await owner.trim_logins(now=late) == 0
    assert await owner.trim_logins(now=late + LOGIN_LIFE_S) == 1
    assert await admin.logins([login_id]) == []


async def test_decided_once(owner: Scoped, admin: Scoped, home: Home) -> None:
    for decide in ("approved", "denied"):
        login_id = await opened(owner, ask(), None)

        async def approve(login_id: str = login_id) -> None:
            await admin.approve_login(login_id, home.tenant.id, home.user.id)

        await (approve() if decide == "approved" else admin.deny_login(login_id))
        for again in (approve(), admin.deny_login(login_id)):
            with pytest.raises(Conflict, match=f"was {decide} already") as raised:
                await again
            # What the console shows to whoever came second.
            assert raised.value.facts["changed"] == {"state": ["pending", decide]}
    with pytest.raises(NotFound, match="no login"):
        await admin.deny_login(fresh_id())


async def test_decisions_are_in_the_audit_log_and_only_they(
    prepared: Database, owner: Scoped, admin: Scoped, home: Home
) -> None:
    first, second = await opened(owner, ask(), None), await opened(owner, ask(), None)
    await admin.approve_login(first, home.tenant.id, home.user.id, actor="shell:me")
    await admin.deny_login(second, actor="shell:me")
    with pytest.raises(Conflict):
        await admin.deny_login(second, actor="shell:me")
    conn = await as_role(prepared.dsn, "hs_owner")
    rows = await conn.fetch(
        "SELECT action, object, tenant_id FROM audit_log WHERE actor = 'shell:me' ORDER BY id"
    )
    await conn.close()
    assert [tuple(row) for row in rows] == [
        ("login_approve", f"login:{first}", home.tenant.id),
        ("login_deny", f"login:{second}", None),
    ]


async def test_who_may_approve(prepared: Database, owner: Scoped, admin: Scoped, home: Home) -> None:
    """A login seen in one cluster may be approved in another, but only for a user who lives there."""
    other = await Scoped.open(prepared.dsn, cluster_id="b", role="hs_admin", pool_size=1)
    place = await other.tenant()
    bob = await other.create_user(place.id, "bob")
    question = ask()
    login_id = await opened(owner, question, None)
    with pytest.raises(WrongCluster):
        await other.approve_login(login_id, home.tenant.id, home.user.id)
    with pytest.raises(NotFound, match="no such user"):
        await other.approve_login(login_id, place.id, home.user.id)
    await other.approve_login(login_id, place.id, bob.id)
    await other.close()
    result = await owner.register(with_login(question, login_id))
    assert (result.status, result.code) == ("wrong_cluster", "wrong_cluster")


async def test_a_deposed_owner_decides_nothing(prepared: Database, owner: Scoped, home: Home) -> None:
    first, second = await opened(owner, ask(), None), await opened(owner, ask(), None)
    await owner.approve_login(first, home.tenant.id, home.user.id)
    await take_lease(prepared.dsn, "a", "other")
    with pytest.raises(LeaseLost):
        await owner.deny_login(second)


async def test_a_deleted_users_approval_goes_with_him(
    prepared: Database, owner: Scoped, admin: Scoped, home: Home
) -> None:
    bob = await admin.create_user(home.tenant.id, "bob")
    question = ask()
    login_id = await opened(owner, question, None)
    await admin.approve_login(login_id, home.tenant.id, bob.id)
    conn = await as_role(prepared.dsn, "hs_admin", "a")
    await conn.execute("DELETE FROM users WHERE id = $1", bob.id)
    await conn.close()
    assert await admin.logins([login_id]) == []
    assert (await owner.register(with_login(question, login_id))).status == "needs_login"


async def test_nobody_touches_the_table_itself(prepared: Database, owner: Scoped) -> None:
    await opened(owner, ask(), None)
    for role, cluster in (("hs_node", "a"), ("hs_admin", "a"), ("hs_console", "")):
        conn = await as_role(prepared.dsn, role, cluster)
        statements = ["UPDATE pending_logins SET state = 'denied'", "DELETE FROM pending_logins"]
        if role == "hs_console":
            assert await conn.fetchval("SELECT count(*) FROM pending_logins") == 1
            statements.append("SELECT decide_login('a', 'x', 'denied', NULL, NULL, 1, NULL)")
        else:
            statements.append("SELECT * FROM pending_logins")
        for statement in statements:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
        await conn.close()


async def test_what_a_device_says_is_stored_or_refused(owner: Scoped) -> None:
    login = await only(owner, await opened(owner, ask(os="x" * 1000, version="a\0b")))
    assert (login.os, login.version) == ("x" * MAX_FACT, "a b")
    for hostname in ("a\0b", "x" * 256, "\ud800"):
        with pytest.raises(BadRequest):
            await opened(owner, ask(hostname=hostname))


async def test_an_address_has_so_many_and_its_oldest_gives_way(
    owner: Scoped, admin: Scoped, home: Home
) -> None:
    neighbour = await opened(owner, ask(network="198.51.100.1"), NOW - 1)
    approved = await opened(owner, ask(), NOW - 1)
    await admin.approve_login(approved, home.tenant.id, home.user.id, now=NOW)
    mine = [await opened(owner, ask(), NOW + at) for at in range(MAX_LOGINS_PER_NETWORK + 3)]
    left = {login.id for login in await admin.logins(now=NOW)}
    assert left == {neighbour, approved, *mine[3:]}


async def test_the_table_has_so_many_and_the_greediest_gives_way(
    prepared: Database, owner: Scoped, admin: Scoped
) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    await conn.execute(
        "INSERT INTO pending_logins (id, seen_in, machine_key, node_key, hostname, os, version, capver,"
        " ephemeral, address, network, created_at, expires_at)"
        " SELECT lpad(to_hex(i), 24, '0'), 'a', decode(lpad(to_hex(i), 64, '0'), 'hex'),"
        " decode(lpad(to_hex(i), 64, '0'), 'hex'), '', '', '', 1, false, '', 'n' || (i / 3),"
        " to_timestamp($2 + i), to_timestamp($2 + 100000) FROM generate_series(3, $1::integer + 1) i",
        MAX_LOGINS,
        NOW,
    )
    await conn.execute(
        "UPDATE pending_logins SET network = 'greedy' WHERE id IN ($1, $2)", f"{98:024x}", f"{200:024x}"
    )
    await conn.execute(
        "UPDATE pending_logins SET network = 'greedy' WHERE id IN ($1, $2)", f"{50:024x}", f"{301:024x}"
    )
    await conn.close()
    assert len(await admin.logins()) == MAX_LOGINS - 1
    last_free = await opened(owner, ask(), NOW)
    assert len(await admin.logins(now=NOW)) == MAX_LOGINS
    one_more = await opened(owner, ask(network="elsewhere"), NOW)
    left = {login.id for login in await admin.logins(now=NOW)}
    assert len(left) == MAX_LOGINS
    assert {last_free, one_more} <= left
    assert f"{50:024x}" not in left
