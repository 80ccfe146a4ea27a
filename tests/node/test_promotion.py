"""The database fails over to a real streaming replica under a serving owner and its connected devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest

from app.pg import EmbeddedPostgres
from app.pg.layout import layout_of, make_dir
from app.pg.server import Server
from tests.node.kit import DatabaseGate, Recorder, fleet, joined
from tests.node.support import DEADLINE_S, ServeProcess, admin, eventually, run_sql


class Pair:
    """A primary, and a replica that follows it until it is promoted."""

    def __init__(self, parent: Path) -> None:
        self._embedded = EmbeddedPostgres(parent / "primary", durable=False)
        self.dsn = self._embedded.acquire()
        primary = self._embedded._server
        assert primary is not None
        self.primary = primary
        short = Path("/run" if os.geteuid() == 0 else "/tmp")
        layout = layout_of(parent / "replica", os.geteuid(), short)
        self.replica = Server(layout, primary.account, primary.programs, False)
        for place in (parent / "replica", layout.pg_dir):
            make_dir(place, 0o711, primary.account.owner)
        self.replica_dsn = _with_host(self.dsn, layout.socket_dir)
        copied = primary._run(
            *("pg_basebackup", f"--pgdata={layout.data}", f"--dbname={self.dsn}", "--wal-method=stream"),
            *("--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
            timeout_s=60,
        )
        assert copied.returncode == 0, copied.stderr
        self.replica.start()

    async def caught_up(self) -> None:
        (row,) = await run_sql(self.dsn, "SELECT pg_current_wal_insert_lsn()::text")

        async def there() -> bool:
            answer = await run_sql(
                self.replica_dsn, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn AS ok", row[0]
            )
            return bool(answer[0]["ok"])

        await eventually(there, "the replica has it all")

    def promote(self) -> None:
        done = self.replica._run(
            *("pg_ctl", "promote", "--wait", f"--pgdata={self.replica.layout.data}"), timeout_s=60
        )
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        self.replica.stop()
        self._embedded.release()


def _with_host(dsn: str, directory: Path) -> str:
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query)) | {"host": str(directory)}
    return urlunsplit(parts._replace(query=urlencode(query)))


@pytest.fixture
def pair(enterable_dir: Path) -> Iterator[Pair]:
    made = Pair(enterable_dir / "pair")
    yield made
    made.stop()


async def test_after_a_promotion_the_map_is_what_the_replica_holds(pair: Pair) -> None:
    async with (
        DatabaseGate(pair.dsn) as gate,
        ServeProcess(gate.dsn, settings={"HS_TIMING__LEASE_TTL": "5s"}) as serve,
        admin(pair.dsn) as home,
        fleet(serve.url, await home.auth_key(), 3) as devices,
    ):
        a, b, c = devices
        await run_sql(pair.dsn, "UPDATE hs.nodes SET given_name = 'kept' WHERE id = $1", b.id)
        await a.wait_for(lambda netmap: netmap.peers[b.id]["Name"].startswith("kept."), DEADLINE_S)
        await pair.caught_up()
        # What is committed from here on never reaches the replica, and is lost by the failover.
        pair.replica.stop()
        await run_sql(pair.dsn, "UPDATE hs.nodes SET given_name = 'lost' WHERE id = $1", c.id)
        await a.wait_for(lambda netmap: netmap.peers[c.id]["Name"].startswith("lost."), DEADLINE_S)
        await gate.refuse()
        pair.primary.stop()
        pair.replica.start()
        pair.promote()
        gate.lead_to(pair.replica_dsn)
        await gate.open()
        # The loss is told as any change is; nobody's poll ended for it.
        await a.wait_for(lambda netmap: not netmap.peers[c.id]["Name"].startswith("lost."), DEADLINE_S)
        assert a.netmap.peers[b.id]["Name"].startswith("kept.")
        assert all(device.polls == 1 for device in devices)
        # And from there on: changes of others, and writes of this owner.
        await run_sql(pair.replica_dsn, "UPDATE hs.nodes SET given_name = 'new' WHERE id = $1", b.id)
        await a.wait_for(lambda netmap: netmap.peers[b.id]["Name"].startswith("new."), DEADLINE_S)
        async with admin(pair.replica_dsn) as there, Recorder(serve.url, await there.auth_key()) as newcomer:
            await joined(newcomer)
            await a.wait_for(lambda netmap: newcomer.id in netmap.peers, DEADLINE_S)
