"""Whoever writes reaches the clients: plain SQL of a superuser, seen in the maps of connected devices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from app.client.device import SimulatedDevice
from app.client.netmap import ClientNetmap
from app.keys import node_key_text
from app.model import TAGGED_DEVICES_USER_ID
from tests.node.support import (
    DEADLINE_S,
    Administration,
    ServeProcess,
    device,
    eventually,
    has_peers,
    join,
    own_id,
    peer,
    run_sql,
)

MANY = 100


@dataclass(frozen=True, slots=True)
class Pair:
    """A device that is written about and one that watches, both connected."""

    one: SimulatedDevice
    watcher: SimulatedDevice
    place: Administration

    def row(self) -> dict[str, Any]:
        return peer(self.watcher, self.one) or {}


@pytest.fixture
async def pair(serve: ServeProcess, place: Administration) -> AsyncIterator[Pair]:
    key = await place.auth_key("alice")
    async with device(serve.url, key) as one, device(serve.url, key) as watcher:
        await join(one)
        await join(watcher)
        await has_peers(one, watcher)
        await has_peers(watcher, one)
        yield Pair(one, watcher, place)
        assert watcher.polls == 1, "seen in a delta, not by a new poll"
        assert not watcher.violations
        # The farewell of a live poll names no peers: it stands alone, for polls that begin with it.
        assert not [note for note in one.violations if "empty Peers" not in note]


@dataclass(frozen=True, slots=True)
class Write:
    """A statement about a device, and what its row becomes for the watcher and, if it says so, for itself."""

    sql: str
    test: Callable[[dict[str, Any]], bool]
    for_itself: bool = True


DEVICE_WRITES = {
    "expiry": Write(
        "UPDATE nodes SET expiry = '2031-01-01T00:00:00Z' WHERE id = {id}",
        lambda row: row.get("KeyExpiry") == "2031-01-01T00:00:00Z",
    ),
    "expiry in the past": Write(
        "UPDATE nodes SET expiry = now() WHERE id = {id}", lambda row: row.get("Expired") is True
    ),
    "name": Write(
        "UPDATE nodes SET given_name = 'renamed' WHERE id = {id}",
        lambda row: row["Name"].startswith("renamed."),
    ),
    "address": Write(
        "UPDATE nodes SET ipv4 = '100.99.1.2' WHERE id = {id}",
        lambda row: "100.99.1.2/32" in row["Addresses"] and "100.99.1.2/32" in row["AllowedIPs"],
    ),
    "tags": Write(
        "UPDATE nodes SET tags = '{{tag:sql}}', user_id = NULL WHERE id = {id}",
        lambda row: row.get("Tags") == ["tag:sql"] and row["User"] == TAGGED_DEVICES_USER_ID,
    ),
    "Hostinfo": Write(
        'UPDATE nodes SET host_info = \'{{"OS": "plan9"}}\' WHERE id = {id}',
        lambda row: row["Hostinfo"] == {"OS": "plan9"},
        for_itself=False,
    ),
    "owner": Write(
        "WITH bob AS (INSERT INTO users (tenant_id, cluster_id, name) VALUES ({tenant}, 'default', 'bob')"
        " RETURNING id) UPDATE nodes SET user_id = bob.id FROM bob WHERE nodes.id = {id}",
        lambda row: row["User"] != 0,
    ),
}


@pytest.mark.parametrize("write", DEVICE_WRITES.values(), ids=DEVICE_WRITES.keys())
async def test_an_update_of_a_device(serve: ServeProcess, pair: Pair, write: Write) -> None:
    owner = pair.row()["User"]
    await run_sql(serve.dsn, write.sql.format(id=own_id(pair.one), tenant=pair.place.tenant.id))
    await pair.watcher.wait_for(lambda _: write.test(pair.row()), DEADLINE_S)
    if write.for_itself:
        await pair.one.wait_for(lambda n: n.self_node is not None and write.test(n.self_node), DEADLINE_S)
    if "bob" in write.sql:
        await pair.watcher.wait_for(lambda _: pair.row()["User"] != owner, DEADLINE_S)
        assert pair.watcher.netmap.user_profiles[pair.row()["User"]]["LoginName"] == "bob"


async def test_a_new_node_key_ends_the_poll_of_the_old_one(serve: ServeProcess, pair: Pair) -> None:
    """What happens when a machine was registered elsewhere, behind this server's back."""
    await run_sql(
        serve.dsn,
        f"UPDATE nodes SET node_key = decode(repeat('5a', 32), 'hex') WHERE id = {own_id(pair.one)}",
    )
    await pair.watcher.wait_for(lambda _: pair.row().get("Key") == "nodekey:" + "5a" * 32, DEADLINE_S)
    await pair.one.wait_for(lambda _: bool(pair.one.failures), DEADLINE_S)
    assert "404" in pair.one.failures[-1].message


async def test_a_deletion(serve: ServeProcess, pair: Pair) -> None:
    await run_sql(serve.dsn, f"DELETE FROM nodes WHERE id = {own_id(pair.one)}")
    await has_peers(pair.watcher)
    await pair.one.wait_for(lambda n: bool(n.self_node and n.self_node.get("Expired")), DEADLINE_S)


COLUMNS = "tenant_id, user_id, machine_key, node_key, disco_key, ipv4, ipv6, hostname, given_name"
INSERT = f"INSERT INTO nodes ({COLUMNS}) "
INSERT_ONE = INSERT + (
    "VALUES ({tenant}, {user}, decode(repeat('a1', 32), 'hex'), decode(md5('{tenant}') || md5('b'), 'hex'),"
    " decode(repeat('00', 32), 'hex'), '100.77.0.1', 'fd7a:115c:a1e0::77', 'Inserted', 'inserted')"
)


async def test_an_insert(serve: ServeProcess, pair: Pair) -> None:
    """One statement is enough: what else a device needs is there by itself."""
    place = pair.place
    user = await place.user("alice")
    await run_sql(serve.dsn, INSERT_ONE.format(tenant=place.tenant.id, user=user.id))
    for one in (pair.one, pair.watcher):
        await one.wait_for(
            lambda n: any(row["Name"].startswith("inserted.") for row in n.peers.values()), DEADLINE_S
        )
    assert "inserted" in [row.given_name for row in await place.devices()]


async def test_an_update_of_a_user(serve: ServeProcess, pair: Pair) -> None:
    user = await pair.place.user("alice")
    await run_sql(
        serve.dsn,
        f"UPDATE users SET display_name = 'Alice \"A\" L.', email = 'a@example.com' WHERE id = {user.id}",
    )

    def told(netmap: ClientNetmap) -> bool:
        profile = netmap.user_profiles[user.id]
        return (profile["DisplayName"], profile["LoginName"]) == ("Alice 'A' L.", "a@example.com")

    for one in (pair.one, pair.watcher):
        await one.wait_for(told, DEADLINE_S)


async def test_a_deleted_auth_key_lets_nobody_in_from_then_on(serve: ServeProcess, pair: Pair) -> None:
    row, text = await pair.place.auth_key_row()
    await run_sql(serve.dsn, f"DELETE FROM pre_auth_keys WHERE id = {row.id}")
    async with device(serve.url, text) as late:
        assert "not known" in (await late.register())["Error"]


async def test_a_hundred_rows_in_one_statement(serve: ServeProcess, pair: Pair) -> None:
    """More than the trigger names one by one: the tenant is read again."""
    place = pair.place
    user = await place.user("alice")
    await run_sql(
        serve.dsn,
        f"{INSERT}SELECT {place.tenant.id}, {user.id}, sha256(('m' || i)::bytea),"
        f" sha256(('n{place.tenant.id}-' || i)::bytea), sha256('d'), '100.80.0.0'::inet + i,"
        f" 'fd7a:115c:a1e0:80::'::inet + i, 'many', 'many-' || i FROM generate_series(1, {MANY}) i",
    )
    for one in (pair.one, pair.watcher):
        await one.wait_for(lambda n: len(n.peers) == MANY + 1, DEADLINE_S)
    await run_sql(
        serve.dsn,
        "UPDATE nodes SET given_name = replace(given_name, 'many', 'more')"
        f" WHERE tenant_id = {place.tenant.id} AND hostname = 'many'",
    )
    for one in (pair.one, pair.watcher):
        await one.wait_for(
            lambda n: sum(row["Name"].startswith("more-") for row in n.peers.values()) == MANY, DEADLINE_S
        )
    await run_sql(serve.dsn, f"DELETE FROM nodes WHERE tenant_id = {place.tenant.id} AND hostname = 'many'")
    await has_peers(pair.watcher, pair.one)
    await has_peers(pair.one, pair.watcher)


async def test_a_transaction_is_seen_when_it_commits_and_never_when_it_does_not(
    serve: ServeProcess, pair: Pair
) -> None:
    with pytest.raises(Exception, match="division by zero"):
        await run_sql(
            serve.dsn,
            f"WITH u AS (UPDATE nodes SET given_name = 'never' WHERE id = {own_id(pair.one)} RETURNING 1)"
            " SELECT 1 / (count(*) - 1) FROM u",
        )
    await run_sql(serve.dsn, f"UPDATE nodes SET given_name = 'then' WHERE id = {own_id(pair.one)}")
    await pair.watcher.wait_for(lambda _: pair.row()["Name"].startswith("then."), DEADLINE_S)


async def test_a_write_that_changes_nothing_wakes_nobody(serve: ServeProcess, pair: Pair) -> None:
    """Proof by the next write: between the two no row was read and no frame went out."""
    before = await serve.metrics()
    await run_sql(serve.dsn, f"UPDATE nodes SET given_name = given_name WHERE id = {own_id(pair.one)}")
    await run_sql(serve.dsn, f"UPDATE nodes SET given_name = 'once' WHERE id = {own_id(pair.one)}")
    await pair.watcher.wait_for(lambda _: pair.row()["Name"].startswith("once."), DEADLINE_S)

    async def counted() -> float:
        return (await serve.metrics())["hs_foreign_changes_total"] - before["hs_foreign_changes_total"]

    await eventually(counted, "the row is counted")
    assert await counted() == 1


async def test_presence_of_devices_is_no_capture(serve: ServeProcess, pair: Pair) -> None:
    """Endpoints and presence go to a table of their own; what is in memory wins."""
    before = pair.row()["Online"]
    await run_sql(serve.dsn, f"UPDATE node_state SET online = false WHERE node_id = {own_id(pair.one)}")
    await run_sql(serve.dsn, f"UPDATE nodes SET given_name = 'here' WHERE id = {own_id(pair.one)}")
    await pair.watcher.wait_for(lambda _: pair.row()["Name"].startswith("here."), DEADLINE_S)
    assert pair.row()["Online"] is before is True
    assert pair.row()["Key"] == node_key_text(pair.one.node_key)
