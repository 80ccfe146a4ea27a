"""The embedded server as other packages see it: start gives a DSN, stop gives it back."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path
from urllib.parse import quote

from app.pg import binaries, holders
from app.pg.account import check_reach, choose_account
from app.pg.layout import (
    ROOT_SHORT_PARENT,
    SOCKET_PORT,
    USER_SHORT_PARENT,
    Layout,
    default_state_dir,
    explain,
    layout_of,
    make_dir,
    make_state_dir,
)
from app.pg.server import DATABASE, SUPERUSER, Server

#: Another process may be creating the database files meanwhile.
MUTEX_TIMEOUT_S = 180.0
_serial = itertools.count()


def dsn(layout: Layout, password: str) -> str:
    """URL for asyncpg and libpq; the port is named so that PGPORT cannot change it."""
    host = quote(str(layout.socket_dir), safe="")
    return f"postgresql://{SUPERUSER}:{quote(password, safe='')}@/{DATABASE}?host={host}&port={SOCKET_PORT}"


class EmbeddedPostgres:
    """One use of this user's embedded server; the server runs while anybody uses it.

    `durable=False` gives up safety against power cuts, for throwaway databases only.
    """

    def __init__(self, state_dir: Path | None = None, *, durable: bool = True) -> None:
        """Raises ConfigError when the path cannot be used."""
        self.state_dir = Path(state_dir or default_state_dir(os.environ, os.geteuid())).absolute()
        short_parent = ROOT_SHORT_PARENT if os.geteuid() == 0 else USER_SHORT_PARENT
        self._layout = layout_of(self.state_dir, os.geteuid(), short_parent)
        self._durable = durable
        self._holder: holders.Holder | None = None
        self._server: Server | None = None

    @property
    def data_dir(self) -> Path:
        return self._layout.data

    @property
    def log_file(self) -> Path:
        return self._layout.log

    async def start(self) -> str:
        """The DSN of the running server, started if need be. Raises ConfigError, Unavailable."""
        thread = asyncio.create_task(asyncio.to_thread(self.acquire), name="pg start")
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            await asyncio.wait({thread})
            if thread.exception() is None:
                await asyncio.to_thread(self.release)
            raise

    async def stop(self) -> None:
        """Give up this use; the last one out stops the server. Harmless when not started."""
        await asyncio.to_thread(self.release)

    def acquire(self) -> str:
        """`start`, blocking."""
        layout = self._layout
        make_state_dir(self.state_dir)
        try:
            make_dir(layout.pg_dir, 0o711 if os.geteuid() == 0 else 0o700)
            make_dir(layout.holders, 0o700)
            with holders.mutex(layout.lock, MUTEX_TIMEOUT_S):
                if self._holder is None:
                    self._holder = holders.Holder(layout.holders, f"{os.getpid()}-{next(_serial)}")
                try:
                    self._ensure_running()
                    return dsn(layout, layout.password.read_text())
                except BaseException:
                    self._holder.release()
                    self._holder = None
                    raise
        except OSError as error:
            raise explain(error, layout.pg_dir) from error

    def _ensure_running(self) -> None:
        layout = self._layout
        account = choose_account(layout.data)
        check_reach(account, layout.pg_dir)
        programs = binaries.copied(layout.pg_dir) if account.switch else binaries.wheel_root()
        server = self._server = Server(layout, account, programs, self._durable)
        if server.answers():
            server.wait_ready()
            return
        server.check_version()
        binaries.drop_old_copies(layout.pg_dir, programs)
        server.initialise()
        server.start()

    def release(self) -> None:
        """`stop`, blocking."""
        if self._holder is None or self._server is None:
            return
        with holders.mutex(self._layout.lock, MUTEX_TIMEOUT_S):
            self._holder.release()
            self._holder = None
            if holders.alive(self._layout.holders) == 0:
                self._server.stop()
