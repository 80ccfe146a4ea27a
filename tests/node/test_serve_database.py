"""The database goes away and comes back while clients are served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.keys import node_key_text
from node.register import FROZEN
from tests.node.kit import DatabaseGate, Recorder, fleet, joined
from tests.node.support import DEADLINE_S, ServeProcess, admin, eventually, run_sql
from tests.node.test_serve_processes import state

SETTINGS = {"HS_TIMING__LEASE_TTL": "2s", "HS_TIMING__OFFLINE_GRACE": "300ms"}


@pytest.fixture
async def gate(database: str) -> AsyncIterator[DatabaseGate]:
    async with DatabaseGate(database) as way:
        yield way


@pytest.fixture
async def serve(gate: DatabaseGate) -> AsyncIterator[ServeProcess]:
    """A process that reaches the database through the gate only."""
    async with ServeProcess(gate.dsn, settings=SETTINGS) as process:
        yield process
        await gate.open()


async def test_terminated_connections_heal_and_nobody_loses_the_poll(
    serve: ServeProcess, database: str
) -> None:
    async with admin(database) as home:
        key = await home.auth_key()
        async with fleet(serve.url, key, 3) as devices:
            a, b, c = devices
            for round_number in range(3):
                await run_sql(
                    database,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                    "AND application_name LIKE '%hs_node%'",
                )
                # Written by somebody else while nobody may be listening.
                await home.scoped.expire_device(
                    home.tenant.id, c.id, None if round_number % 2 else time.time() - 1
                )
                await a.sees(c.id, Expired=None if round_number % 2 else True)
                await b.update(endpoints=[f"192.0.2.1:{round_number + 1}"])
                await a.sees(b.id, Endpoints=[f"192.0.2.1:{round_number + 1}"])
            assert (a.polls, b.polls) == (1, 1)
            async with Recorder(serve.url, key) as newcomer:
                await joined(newcomer)
                await a.sees(newcomer.id, Online=True)
            assert await state(serve) == "owner"
            assert not a.violations + b.violations


@pytest.mark.parametrize("how", [pytest.param("refuse", marks=pytest.mark.chaos), "hang"])
async def test_without_database_polls_go_on_and_registrations_are_told(
    serve: ServeProcess, gate: DatabaseGate, database: str, how: str
) -> None:
    async with admin(database) as home:
        key = await home.auth_key()
        async with (
            fleet(serve.url, key, 3) as (a, b, c),
            Recorder(serve.url, key) as known,
            Recorder(serve.url, key) as stranger,
        ):
            await joined(known)
            await known.close()
            known_id = known.id
            await a.sees(known_id, Online=False)
            await (gate.refuse() if how == "refuse" else asyncio.sleep(0))
            if how == "hang":
                gate.hang()

            async def frozen() -> bool:
                return "state=frozen" in serve.log()

            await eventually(frozen, "the owner is frozen")
            # Endpoints, relays and presence go on from memory.
            await b.update(endpoints=["192.0.2.5:5"], home_derp=900)
            await a.sees(b.id, Endpoints=["192.0.2.5:5"], HomeDERP=900)
            c_id = c.id
            await c.close()
            await a.sees(c_id, Online=False)
            # A device that returns as it was gets its full map.
            b.drop()
            await b.wait_for(lambda n: b.polls == 2 and len(n.peers) == 3, DEADLINE_S)
            # So does one that was restarted, though its new disco key cannot be stored now.
            again = Recorder(
                serve.url,
                None,
                hostname=known.hostname,
                machine_private=known.machine_private,
                node_private=known.node_private,
            )
            async with again:
                await again.poll()
                await again.sees(peers=3)
                await a.sees(known_id, Online=True)
                # Whoever registers is told why not, in words, and soon.
                answer = await stranger.register()
                assert answer["Error"] == FROZEN
                assert not answer["MachineAuthorized"]
                # A restarted client registers its known key first; it is told to wait, not logged out.
                answer = await again.register()
                assert answer["Error"] == FROZEN
                assert not answer.get("NodeKeyExpired")
                assert await serve.health() == 500
                # Changed by somebody else meanwhile.
                await home.scoped.expire_device(home.tenant.id, c_id, time.time() - 1)
                assert a.netmap.peers[c_id].get("Expired") is None

                await gate.open()
                await a.sees(c_id, Expired=True)

                async def flushed() -> bool:
                    rows = {d.id: d for d in await home.devices()}
                    return (
                        rows[b.id].endpoints == ("192.0.2.5:5",)
                        and rows[b.id].home_derp == 900
                        and not rows[c_id].online
                        and rows[c_id].last_seen is not None
                        and rows[known_id].online
                        and rows[known_id].disco_key == again.disco_key
                    )

                await eventually(flushed, "what stood in line is written")
                await eventually(lambda: owner_again(serve), "the owner is no longer frozen")
                assert not (await stranger.register()).get("Error")
            assert a.polls == 1
            assert not a.violations + b.violations
            metrics = await serve.metrics()
            assert metrics["hs_registrations_total{outcome=unavailable}"] == 2


async def owner_again(serve: ServeProcess) -> bool:
    return await state(serve) == "owner"


async def test_a_logout_counts_although_the_client_hung_up(serve: ServeProcess, database: str) -> None:
    """Clients that log out often exit at once: what is committed must be known here too."""
    async with admin(database) as home:
        key = await home.auth_key()
        async with fleet(serve.url, key, 2) as (viewer, leaver):
            leaver_id, leaver_key = leaver.id, leaver.node_key
            lock = await asyncpg.connect(database, timeout=10)
            try:
                async with lock.transaction():
                    await lock.execute("SELECT 1 FROM hs.nodes WHERE id = $1 FOR UPDATE", leaver_id)
                    logout = asyncio.create_task(
                        leaver.request(
                            "/machine/register",
                            {
                                "Version": 130,
                                "NodeKey": node_key_text(leaver_key),
                                "Expiry": "1970-01-01T00:02:03Z",
                            },
                        )
                    )

                    async def waits() -> bool:
                        rows = await run_sql(
                            database, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                        )
                        return bool(rows)

                    await eventually(waits, "the logout waits for the row")
                    await leaver.close()
                    await asyncio.gather(logout, return_exceptions=True)

                    async def hung_up() -> bool:
                        return (await serve.metrics())["hs_tunnels"] == 1

                    await eventually(hung_up, "the server saw the client go")
            finally:
                await lock.close(timeout=10)

            async def stored() -> bool:
                (row,) = [d for d in await home.devices() if d.id == leaver_id]
                return row.expiry is not None

            await eventually(stored, "the logout is committed")
            await viewer.sees(leaver_id, Expired=True)


async def test_psql_changes_reach_clients_also_without_notification(
    serve: ServeProcess, database: str
) -> None:
    async with admin(database) as home, fleet(serve.url, await home.auth_key(), 2) as (a, b):
        b_id = b.id
        await run_sql(database, "UPDATE hs.nodes SET given_name = 'by-psql' WHERE id = $1", b_id)
        await a.wait_for(lambda n: n.peers[b_id]["Name"] == "by-psql.hs.internal.", DEADLINE_S)
        rows = await run_sql(database, "SELECT count(*) FROM hs.changes")
        assert rows[0][0] > 0
