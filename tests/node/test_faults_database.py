"""A real PostgreSQL stops, crashes and comes back under a serving process with connected devices."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from app.client.device import SimulatedDevice
from app.errors import Unavailable
from app.pg import EmbeddedPostgres
from node.register import FROZEN
from tests.node.kit import DatabaseGate, Recorder, fleet, in_process, joined, until
from tests.node.support import (
    DEADLINE_S,
    Administration,
    ServeProcess,
    admin,
    device,
    eventually,
    fresh_database,
)
from tests.node.test_serve_processes import becomes

#: Away longer than the lease lives (timing.lease_ttl 5 s).
AWAY_S = 8.0
LONG_AWAY_S = 60.0
#: A refusal while frozen: clients show it, and their users should not wait for it.
SENTENCE_DEADLINE_S = 5.0
SETTINGS = {"HS_TIMING__OFFLINE_GRACE": "300ms"}


async def kill_server(data_dir: Path) -> None:
    """All processes of a PostgreSQL end at once, without a word to clients or disk."""
    server = psutil.Process(int((data_dir / "postmaster.pid").read_text().split()[0]))
    family = [server, *server.children(recursive=True)]
    for process in family:
        process.send_signal(signal.SIGKILL)

    def dead(process: psutil.Process) -> bool:
        try:
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await until(lambda: all(dead(process) for process in family), "the database is dead")


class OwnServer:
    """A PostgreSQL of one test alone; synchronous commits, so that a crash may lose nothing."""

    def __init__(self, state_dir: Path) -> None:
        self._embedded = EmbeddedPostgres(state_dir)

    async def start(self) -> str:
        return await self._embedded.start()

    async def stop(self) -> None:
        await self._embedded.stop()

    async def crash(self) -> None:
        await kill_server(self._embedded.data_dir)


@pytest.fixture
async def own(enterable_dir: Path, request: pytest.FixtureRequest) -> AsyncIterator[OwnServer]:
    server = OwnServer(enterable_dir / f"own-{os.getpid()}-{abs(hash(request.node.name))}")
    yield server
    await server.stop()


async def told(one: Recorder) -> None:
    """Who registers now reads a sentence, and soon."""
    asked = time.monotonic()
    answer = await one.register()
    assert answer["Error"] == FROZEN
    assert not answer["MachineAuthorized"]
    assert time.monotonic() - asked < SENTENCE_DEADLINE_S


@pytest.mark.parametrize(
    "away_s",
    [
        pytest.param(AWAY_S, id="longer than the lease"),
        pytest.param(
            LONG_AWAY_S, id="a minute", marks=[pytest.mark.soak, pytest.mark.timeout(LONG_AWAY_S + 120)]
        ),
    ],
)
async def test_devices_hardly_notice_that_the_database_is_away(own: OwnServer, away_s: float) -> None:
    dsn = await own.start()
    async with ServeProcess(dsn, settings=SETTINGS) as serve:
        async with admin(dsn) as home:
            auth_key, key = await home.auth_key_row()
        async with (
            fleet(serve.url, key, 4) as (viewer, talker, leaver, quiet),
            Recorder(serve.url, key) as stranger,
        ):
            leaver_id = leaver.id
            await own.stop()
            gone_at = time.monotonic()
            await told(stranger)  # also before the process knows how bad it is

            async def frozen() -> bool:
                return "state=frozen" in serve.log()

            await eventually(frozen, "the owner is frozen")
            assert await serve.health() == 500
            await leaver.close()
            await viewer.sees(leaver_id, Online=False)
            if away_s >= LONG_AWAY_S:  # while nobody says anything
                await quiet.wait_for(lambda n: n.keepalives > 0, away_s)
            number = 0
            while time.monotonic() < gone_at + away_s:
                number += 1
                await talker.update(endpoints=[f"192.0.2.1:{number}"])
                await viewer.sees(talker.id, Endpoints=[f"192.0.2.1:{number}"])
                if number % 100 == 1:
                    await told(stranger)
                    talker.drop()  # its next poll gets a full map from memory
                    back = talker.polls + 1
                    await talker.wait_for(
                        lambda n, back=back: talker.polls == back and len(n.peers) == 3, DEADLINE_S
                    )
            shell = await serve.shell("nodes", "list")
            assert (shell.code, shell.out) == (3, "")
            assert len(shell.err.splitlines()) == 1
            assert serve.returncode is None
            asked = await serve.shell("health")
            assert (asked.code, "frozen" in asked.out) == (3, True)

            await own.start()
            await becomes(serve, "owner")
            async with admin(dsn) as home:

                async def stored() -> bool:
                    rows = {d.id: d for d in await home.devices()}
                    return (
                        rows[talker.id].endpoints == (f"192.0.2.1:{number}",)
                        and rows[talker.id].online
                        and not rows[leaver_id].online
                        and rows[leaver_id].last_seen is not None
                    )

                await eventually(stored, "what stood in line is written")
                await joined(stranger)
                for one in (viewer, quiet):
                    await one.sees(stranger.id, Online=True)
                # What others write now is heard again.
                await home.scoped.expire_device(home.tenant.id, leaver_id, time.time() - 1)
                await quiet.sees(leaver_id, Expired=True)
                assert await uses(home, auth_key.id) == 5
            # Streams outlived it all, without a poll more and without a wrong word.
            assert (viewer.polls, quiet.polls) == (1, 1)
            assert not viewer.violations + talker.violations + quiet.violations


async def uses(home: Administration, key_id: int) -> int:
    (key,) = [key for key in await home.scoped.list_auth_keys(home.tenant.id) if key.id == key_id]
    return key.uses


async def test_a_database_that_crashes_in_a_registration_storm_loses_no_answer(own: OwnServer) -> None:
    """kill -9 of the database; the process stays, everybody gets in by asking again."""
    count = 40
    dsn = await own.start()
    async with ServeProcess(dsn, settings=SETTINGS) as serve:
        async with admin(dsn) as home:
            auth_key, key = await home.auth_key_row()
        devices = [device(serve.url, key) for _ in range(count)]
        answered: set[str] = set()
        sentences: set[str] = set()
        crash = asyncio.Event()

        async def until_in(one: SimulatedDevice) -> None:
            while one.hostname not in answered:
                answer = await one.register()
                if answer.get("Error"):
                    sentences.add(answer["Error"])
                    await asyncio.sleep(0.1)  # as clients do
                    continue
                answered.add(one.hostname)
                if len(answered) == count // 4:
                    crash.set()

        async with asyncio.TaskGroup() as group:
            for one in devices:
                group.create_task(until_in(one))
            async with asyncio.timeout(DEADLINE_S):
                await crash.wait()
            await own.crash()
            promised = set(answered)
            assert len(promised) < count, "the storm was over before the crash"
            await own.start()
            async with admin(dsn) as home:
                assert promised <= {d.hostname for d in await home.devices()}
        assert sentences == {FROZEN}
        await becomes(serve, "owner")
        async with admin(dsn) as home:
            rows = await home.devices()
            assert sorted(row.hostname for row in rows) == sorted(one.hostname for one in devices)
            for name in ("ipv4", "ipv6", "node_key", "machine_key", "given_name"):
                assert len({getattr(row, name) for row in rows}) == count, name
            assert await uses(home, auth_key.id) == count
        for one in devices:
            await one.poll()
        for one in devices:
            await one.wait_for(lambda n: len(n.peers) == count - 1, DEADLINE_S)
            assert not one.violations
        for one in devices:
            await one.close()


async def test_an_embedded_database_that_dies_is_started_again(enterable_dir: Path) -> None:
    """Without settings nobody else would; devices and what they said are as they were."""
    place = enterable_dir / f"embedded-{os.getpid()}"
    serve = ServeProcess("", state_dir=place, settings={**SETTINGS, "HS_TIMING__LEASE_TTL": "2s"})
    del serve.env["PG_DSN"]
    place.mkdir(mode=0o711)
    async with serve:
        embedded = EmbeddedPostgres(place)
        async with admin(await embedded.start()) as home:
            key = await home.auth_key()
            async with fleet(serve.url, key, 2) as (viewer, talker), Recorder(serve.url, key) as stranger:
                await kill_server(embedded.data_dir)
                await talker.update(endpoints=["192.0.2.1:1"])
                await viewer.sees(talker.id, Endpoints=["192.0.2.1:1"])

                async def in_again() -> bool:
                    return not (await stranger.register()).get("Error")

                await eventually(in_again, "devices can join again")

                async def stored() -> bool:
                    rows = {d.id: d for d in await home.devices()}
                    return rows[talker.id].endpoints == ("192.0.2.1:1",)

                await eventually(stored, "what stood in line is written")
                assert (viewer.polls, talker.polls) == (1, 1)
        await embedded.stop()


async def test_a_frozen_owner_keeps_silent_streams_alive(
    pg_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.session.KEEPALIVE_S", 0.2)
    monkeypatch.setattr("node.session.KEEPALIVE_JITTER_S", 0.0)
    settings = {"HS_TIMING__LEASE_TTL": "2s"}
    async with (
        fresh_database(pg_server) as dsn,
        DatabaseGate(dsn) as gate,
        in_process(gate.dsn, tmp_path, settings) as server,
    ):
        async with admin(dsn) as home:
            key = await home.auth_key()
        async with Recorder(server.url, key) as one:
            await joined(one)
            gate.hang()
            await until(lambda: server.serving.state == "frozen", "the owner is frozen")
            before = one.netmap.keepalives
            await until(lambda: one.netmap.keepalives >= before + 3, "keep-alives go on")
            assert server.serving.state == "frozen"
            assert one.polls == 1
            await gate.open()
            await until(lambda: server.serving.state == "owner", "the owner is back")


async def test_a_picture_that_is_too_old_is_served_no_longer(pg_server: str, tmp_path: Path) -> None:
    async def serve_frozen(dsn: str, gate: DatabaseGate) -> None:
        async with in_process(gate.dsn, tmp_path, {"HS_TIMING__LEASE_TTL": "2s"}) as server:
            # Less than the settings allow, but a test has no hour.
            timing = server.serving.settings.timing.model_copy(update={"max_stale": 0.5})
            server.serving.settings = server.serving.settings.model_copy(update={"timing": timing})
            async with admin(dsn) as home:
                key = await home.auth_key()
            async with Recorder(server.url, key) as one:
                await joined(one)
                connection = one._connection
                assert connection is not None
                await gate.refuse()
                async with asyncio.timeout(DEADLINE_S):
                    await connection.wait_closed()

    async with fresh_database(pg_server) as dsn, DatabaseGate(dsn) as gate:
        with pytest.raises(ExceptionGroup) as ended:
            await serve_frozen(dsn, gate)
        (error,) = ended.value.exceptions
        assert isinstance(error, Unavailable)
        assert error.message == (
            "pg_dsn: the database was away for longer than timing.max_stale (0.5 s):"
            " this instance has stopped"
        )
