"""The parts under test as real processes, and what they cost."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil  # type: ignore[import-untyped]
import uvloop

from app.client.serverkey import fetch_server_key
from app.db.scoped import Scoped
from app.pg import EmbeddedPostgres
from bench.report import ROOT

T = TypeVar("T")

CLUSTER = "bench"
READY_DEADLINE_S = 30.0
STOP_DEADLINE_S = 30.0
#: Longer than any scenario: devices of earlier steps going offline must not disturb later ones.
OFFLINE_GRACE_S = 300

_libc = ctypes.CDLL(None, use_errno=True)


def cpu_s(pid: int) -> float:
    """User and system CPU seconds of a process, all threads, to the nanosecond (clock_getcpuclockid)."""
    clock = ctypes.c_int()
    error = _libc.clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise ProcessLookupError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def rss_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def children_cpu_s(pid: int) -> float:
    """CPU seconds of the living children of a process."""
    total = 0.0
    for child in psutil.Process(pid).children(recursive=True):
        try:
            total += cpu_s(child.pid)
        except ProcessLookupError:
            continue
    return total


class Postgres:
    """A durable server of our own, with one database per scenario."""

    def __init__(self, parent: Path) -> None:
        self._embedded = EmbeddedPostgres(parent / "pg", durable=True)
        self.dsn = self._embedded.acquire()
        self.pid = int((self._embedded.data_dir / "postmaster.pid").read_text().split("\n")[0])
        self.version = str(self.value("SHOW server_version"))

    def value(self, statement: str, database: str = "") -> Any:
        """The first value of a fixed statement, in the server's own or another of its databases."""
        return asyncio.run(self._run(statement, database))

    async def _run(self, statement: str, database: str) -> Any:
        connection = await asyncpg.connect(self.dsn_of(database) if database else self.dsn, timeout=30)
        try:
            return await connection.fetchval(statement, timeout=60)
        finally:
            await connection.close(timeout=10)

    def new_database(self, name: str) -> str:
        """DSN of a fresh database; `name` is ours, never input."""
        self.value(f"CREATE DATABASE {name}")
        return self.dsn_of(name)

    def dsn_of(self, name: str) -> str:
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{name}"))

    def drop_database(self, name: str) -> None:
        self.value(f"DROP DATABASE {name} WITH (FORCE)")

    def cpu_s(self) -> float:
        return cpu_s(self.pid) + children_cpu_s(self.pid)

    def stop(self) -> None:
        self._embedded.release()


@dataclass(frozen=True, slots=True)
class Target:
    """What a load process must know of the server."""

    url: str
    server_key: bytes
    auth_key: str
    pid: int
    pg_pid: int


class Server:
    """A real `hs-node serve` on a database of its own."""

    def __init__(
        self,
        dsn: str,
        state_dir: Path,
        pg_pid: int,
        *,
        admin_dsn: str,
        module: str,
        twin: Server | None = None,
    ) -> None:
        """`dsn` is the way of the server itself to its database, `admin_dsn` ours. `twin`: the owner of the
        cluster, of which this one is the standby."""
        self._dsn, self._state_dir, self._module = dsn, state_dir, module
        self._log = state_dir / "server.log"
        listen = f"127.0.0.1:{_free_port()}"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HS_")},
            "PG_DSN": dsn,
            "CLUSTER_ID": CLUSTER,
            "HS_LISTEN_ADDR": listen,
            "HS_METRICS_LISTEN_ADDR": "",
            "HS_STATE_DIR": str(state_dir),
            "HS_SECRET_KEY_FILE": str((twin or self)._state_dir / "secret.key"),
            "HS_DERP__SERVER__LISTEN_ADDR": "127.0.0.1:0",
            "HS_DERP__SERVER__STUN_LISTEN_ADDR": "127.0.0.1:0",
            "HS_TIMING__OFFLINE_GRACE": f"{OFFLINE_GRACE_S}s",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, "serve"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid
        url = f"http://{listen}"
        try:
            self._wait_ready(url)
            if twin is None:
                server_key, auth_key = asyncio.run(_prepare(url, admin_dsn))
            else:
                server_key, auth_key = twin.target.server_key, twin.target.auth_key
        except BaseException:
            self.stop()
            raise
        self.target = Target(url, server_key, auth_key, self.pid, pg_pid)

    @contextmanager
    def standby(self) -> Iterator[Server]:
        """A second instance of the cluster, warm."""
        state_dir = Path(tempfile.mkdtemp(prefix="standby-", dir=self._state_dir))
        standby = Server(
            self._dsn, state_dir, self.target.pg_pid, admin_dsn=self._dsn, module=self._module, twin=self
        )
        try:
            yield standby
        finally:
            standby.stop()

    def _wait_ready(self, url: str) -> None:
        deadline = time.monotonic() + READY_DEADLINE_S
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server did not start:\n{self._log.read_text()[-3000:]}")
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_DEADLINE_S)

    def complaints(self) -> list[str]:
        """Warnings and errors of its log; a benchmark of a failing server is worth nothing."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line for line in lines if "[warning" in line or "[error" in line or "Traceback" in line]


async def _prepare(url: str, dsn: str) -> tuple[bytes, str]:
    """The server's key, and a reusable auth key of a new user."""
    server_key = await fetch_server_key(url, 130)
    admin = await Scoped.open(dsn, cluster_id=CLUSTER, role="hs_admin")
    try:
        tenant = await admin.tenant()
        user = await admin.create_user(tenant.id, "bench")
        _, auth_key = await admin.create_auth_key(tenant.id, user.id, reusable=True)
    finally:
        await admin.close()
    return server_key, auth_key


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Lab:
    """What scenarios get: a place for files, PostgreSQL, and how large to be."""

    directory: Path
    quick: bool
    _postgres: Postgres | None = None

    @property
    def postgres(self) -> Postgres:
        if self._postgres is None:
            self._postgres = Postgres(self.directory)
        return self._postgres

    @contextmanager
    def server(
        self, name: str, *, through: Callable[[str], str] | None = None, module: str = "node.cli"
    ) -> Iterator[Server]:
        """A fresh server on a fresh database. `through` turns the DSN into another way to it."""
        dsn = self.postgres.new_database(f"bench_{name}")
        state_dir = self.directory / name
        state_dir.mkdir()
        server = Server(
            through(dsn) if through else dsn, state_dir, self.postgres.pid, admin_dsn=dsn, module=module
        )
        try:
            yield server
        finally:
            server.stop()
            self.postgres.drop_database(f"bench_{name}")
        complaints = server.complaints()
        if complaints:
            print(f"!! {name}: the server's log has {len(complaints)} complaints, the first: {complaints[0]}")


@contextmanager
def lab(quick: bool) -> Iterator[Lab]:
    directory = Path(tempfile.mkdtemp(prefix="hs-bench-"))
    # PostgreSQL may run under an account of its own.
    directory.chmod(0o711)
    made = Lab(directory, quick)
    try:
        yield made
    finally:
        if made._postgres is not None:
            made._postgres.stop()
        shutil.rmtree(directory)


def _child(results: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    results.send(uvloop.run(work(*arguments)))
    results.close()


def in_load_process(work: Callable[..., Any], *arguments: Any, deadline_s: float) -> Any:
    """The result of `await work(*arguments)` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, work, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(deadline_s):
            raise TimeoutError(f"{work.__name__} did not end within {deadline_s:g} s")
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__} failed, see above") from None
    finally:
        process.kill()
        process.join()
