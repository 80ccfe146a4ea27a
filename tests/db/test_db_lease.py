"""Leases: one owner, quick takeover, frozen is not lost, and a deposed owner cannot write."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from db_helpers import Proxy, as_role, until

from app.db.lease import Lease, LeaseState
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import LeaseLost, Refused, Unavailable, WrongCluster
from app.model import TenantId

ROOT = Path(__file__).resolve().parents[2]
#: Longer than any test, so that what takes over sooner did so ahead of the TTL.
LONG_TTL_S = 60.0

HOLDER = """
import asyncio, sys
from app.db.lease import Lease, LeaseState

async def main():
    lease = Lease(sys.argv[1], "cluster:a", "doomed", ttl_s=float(sys.argv[2]), renew_s=0.2)
    print(await lease.wait(), flush=True)
    print(await lease.wait_for(LeaseState.LOST), flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def proxy(prepared: Database) -> AsyncIterator[Proxy]:
    """A cable to the database that tests can cut or mute."""
    async with Proxy(prepared.dsn) as cable:
        yield cable


def lease(db: Database, instance: str, **options: float) -> Lease:
    return Lease(db.dsn, "cluster:a", instance, **options)  # type: ignore[arg-type]


async def test_eight_standbys_one_owner(prepared: Database) -> None:
    candidates = [lease(prepared, f"i{n}") for n in range(8)]
    epochs = await asyncio.gather(*(candidate.acquire() for candidate in candidates))
    assert sorted(epoch is not None for epoch in epochs) == [False] * 7 + [True]
    winner = next(c for c in candidates if c.epoch is not None)
    assert (winner.state, winner.epoch) == (LeaseState.OWNER, 1)
    for candidate in candidates:
        if candidate is not winner:
            assert candidate.state is LeaseState.STANDBY
            assert await candidate.acquire() is None
            holder = await candidate.holder()
            assert holder is not None
            assert (holder.instance, holder.epoch, holder.alive) == (winner.instance, 1, True)
            candidate.close()
    assert await winner.acquire() == 1
    assert await winner.release()


async def test_a_release_is_taken_up_and_fences(prepared: Database) -> None:
    first, second = lease(prepared, "one", ttl_s=LONG_TTL_S), lease(prepared, "two", ttl_s=LONG_TTL_S)
    old = await Scoped.open(
        prepared.dsn, cluster_id="a", instance="one", epoch=await first.wait(), pool_size=1
    )
    tenant = await old.tenant()
    await old.create_user(tenant.id, "alice")
    waiting = asyncio.create_task(second.wait())
    assert await first.release()
    assert first.state is LeaseState.LOST
    epoch = await waiting
    with pytest.raises(LeaseLost):
        await old.create_user(tenant.id, "bob")
    await old.close()
    new = await Scoped.open(prepared.dsn, cluster_id="a", instance="two", epoch=epoch, pool_size=1)
    await new.create_user(tenant.id, "bob")
    await new.close()
    assert not await first.release()
    await second.release()


async def test_killed_holder_is_replaced_ahead_of_the_ttl(prepared: Database) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, prepared.dsn, str(LONG_TTL_S), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"1\n"
    standby = lease(prepared, "standby", ttl_s=LONG_TTL_S)
    assert await standby.acquire() is None
    process.kill()
    await process.wait()
    async with asyncio.timeout(10):
        assert await standby.wait() == 2
    await standby.release()


async def test_stopped_holder_finds_out_when_it_goes_on(prepared: Database) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, prepared.dsn, "1", stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGSTOP)
        standby = lease(prepared, "standby", ttl_s=LONG_TTL_S)
        assert await standby.wait() == 2
        process.send_signal(signal.SIGCONT)
        assert await process.stdout.readline() == b"lost\n"
        assert await process.wait() == 0
    await standby.release()


async def test_a_cut_connection_is_renewed_over_a_new_one(prepared: Database) -> None:
    owner, standby = (lease(prepared, name, ttl_s=4, renew_s=0.2) for name in ("owner", "standby"))
    epoch = await owner.wait()
    waiting = asyncio.create_task(standby.wait())
    conn = await as_role(prepared.dsn, "hs_owner")
    select = "SELECT pid FROM leases WHERE name = 'cluster:a'"
    for _ in range(2):
        pid = await conn.fetchval(select)
        boss = await as_role(prepared.dsn, "none")
        assert await boss.fetchval("SELECT pg_terminate_backend($1)", pid)
        await boss.close()

        async def renewed(old: int = pid) -> bool:
            return await conn.fetchval(select) != old

        await until(renewed)
    await conn.close()
    assert (owner.state, owner.epoch) == (LeaseState.OWNER, epoch)
    assert not waiting.done()
    await owner.release()
    assert await waiting == epoch + 2
    await standby.release()


async def test_frozen_then_owner_again(proxy: Proxy) -> None:
    states: list[LeaseState] = []
    owner = Lease(proxy.dsn, "cluster:a", "owner", ttl_s=1, renew_s=0.1, on_state=states.append)
    await owner.wait()
    proxy.mute()
    await owner.wait_for(LeaseState.FROZEN)
    proxy.unmute()
    await owner.wait_for(LeaseState.OWNER)
    assert states == [LeaseState.OWNER, LeaseState.FROZEN, LeaseState.OWNER]
    await owner.release()


async def test_frozen_then_lost_when_another_took_over(prepared: Database, proxy: Proxy) -> None:
    states: list[LeaseState] = []
    owner = Lease(proxy.dsn, "cluster:a", "owner", ttl_s=1, renew_s=0.1, on_state=states.append)
    epoch = await owner.wait()
    proxy.mute()
    await owner.wait_for(LeaseState.FROZEN)
    standby = lease(prepared, "standby", ttl_s=1, renew_s=0.1)
    async with asyncio.timeout(10):
        assert await standby.wait() == epoch + 1
    proxy.unmute()
    await owner.wait_for(LeaseState.LOST)
    assert states == [LeaseState.OWNER, LeaseState.FROZEN, LeaseState.LOST]
    assert await owner.acquire() is None
    owner.close()
    await standby.release()


async def test_waiting_through_an_outage(proxy: Proxy) -> None:
    standby = Lease(proxy.dsn, "cluster:a", "standby")
    proxy.cut()
    with pytest.raises(Unavailable):
        await standby.acquire()
    waiting = asyncio.create_task(standby.wait())
    proxy.mend()
    async with asyncio.timeout(10):
        assert await waiting == 1
    await standby.release()


async def test_without_statistics_rights_a_live_backend_counts_as_alive(prepared: Database) -> None:
    owner, standby = lease(prepared, "owner", ttl_s=LONG_TTL_S), lease(prepared, "standby")
    await owner.wait()
    conn = await as_role(prepared.dsn, "hs_owner")
    assert await conn.fetchval("SELECT backend_alive(pg_backend_pid(), NULL)")
    assert not await conn.fetchval("SELECT backend_alive(-1, NULL)")
    assert not await conn.fetchval("SELECT backend_alive(NULL, NULL)")
    await conn.close()
    assert await standby.acquire() is None
    standby.close()
    await owner.release()


async def test_leases_of_others_are_out_of_reach(prepared: Database) -> None:
    conn = await as_role(prepared.dsn, "hs_node", "a")
    for statement in (
        "SELECT lease_acquire('cluster:b', 'x', 5, false)", "SELECT lease_acquire('acs', 'x', 5, false)",
        "SELECT * FROM lease_state('cluster:b')", "SELECT lease_renew('cluster:b', 'x', 1, 5)",
        "SELECT lease_release('cluster:b', 'x', 1)", "SELECT lock_tenant('b', 1)",
        "SELECT trim_changes('b', 0)", "SELECT trim_tombstones('b', 0)",
        "SELECT ensure_cluster('c', '', 'c')",
    ):  # fmt: skip
        with pytest.raises(Exception, match="this session") as raised:
            await conn.execute(statement)
        assert getattr(raised.value, "sqlstate", None) == "HS403"
    await conn.close()
    scoped = await Scoped.open(prepared.dsn, cluster_id="a", role="hs_admin", pool_size=1)
    with pytest.raises((Refused, WrongCluster)):
        await scoped.create_user(TenantId(-1), "x")
    await scoped.close()


async def test_acs_has_a_lease_of_its_own(prepared: Database) -> None:
    one, two = Lease(prepared.dsn, "acs", "one"), Lease(prepared.dsn, "acs", "two")
    assert [await one.acquire(), await two.acquire()] == [1, None]
    await one.release()
    assert await two.acquire() == 3
    await two.release()
