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
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil  # type: ignore[import-untyped]
import uvloop

from app.client.serverkey import fetch_server_key
from app.db.scoped import Scoped
from app.db.setup import Database
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
        cluster: str = CLUSTER,
        beside: Server | None = None,
    ) -> None:
        """`dsn` is the way of the server itself to its database, `admin_dsn` ours. `twin`: the owner of the
        cluster, of which this one is the standby. `beside`: a server of another cluster of the deployment."""
        first = twin or beside or self
        self._cluster = cluster
        self._dsn, self._state_dir, self._module = dsn, state_dir, module
        self._log = state_dir / "server.log"
        listen, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.metrics_url = f"http://{metrics}/metrics"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HS_")},
            "PG_DSN": dsn,
            "CLUSTER_ID": cluster,
            "HS_LISTEN_ADDR": listen,
            "HS_METRICS_LISTEN_ADDR": metrics,
            "HS_STATE_DIR": str(state_dir),
            "HS_SECRET_KEY_FILE": str(first._state_dir / "secret.key"),
            "HS_DERP__SERVER__LISTEN_ADDR": "127.0.0.1:0",
            "HS_DERP__SERVER__STUN_LISTEN_ADDR": "127.0.0.1:0",
            "HS_TIMING__OFFLINE_GRACE": f"{OFFLINE_GRACE_S}s",
        }
        self._admin_dsn = admin_dsn
        #: Figures of a server that breaks rules are worth nothing, if it is ours.
        self.ours = module == "node.cli"
        self._url = f"http://{listen}"
        self._command = [sys.executable, "-m", module, "serve"]
        self._environment = environment
        self._pg_pid = pg_pid
        self._start()
        try:
            if twin is None:
                server_key, auth_key = asyncio.run(_prepare(self._url, admin_dsn, cluster))
            else:
                server_key, auth_key = twin.target.server_key, twin.target.auth_key
        except BaseException:
            self.stop()
            raise
        self.target: Target = Target(self._url, server_key, auth_key, self.pid, pg_pid)

    @property
    def admin_dsn(self) -> str:
        return self._admin_dsn

    @property
    def cluster(self) -> str:
        return self._cluster

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid
        try:
            self._wait_ready(self._url)
        except BaseException:
            self.stop()
            raise

    def restart(self) -> float:
        """Stop in order, start again at the same address; returns when it answers. `pid` is another.

        The seconds until the old process had ended.
        """
        started = time.monotonic()
        self.stop()
        ended = time.monotonic()
        self._start()
        self.target = replace(self.target, pid=self.pid)
        return ended - started

    def auth_keys(self, tenants: int) -> list[str]:
        """A reusable key of each of so many tenants; the first is the home tenant."""
        return [self.target.auth_key, *asyncio.run(_tenants(self._admin_dsn, self._cluster, tenants - 1))]

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

    def series(self, *names: str) -> list[float]:
        """The sum of each of these series on its /metrics, over their labels, in one reading."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as page:
            lines = page.read().decode().splitlines()
        return [
            sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))
            for name in names
        ]

    def complaints(self) -> list[str]:
        """Warnings and errors of its log; a benchmark of a failing server is worth nothing."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line for line in lines if "[warning" in line or "[error" in line or "Traceback" in line]


async def _prepare(url: str, dsn: str, cluster: str) -> tuple[bytes, str]:
    """The server's key, and a reusable auth key of a new user."""
    server_key = await fetch_server_key(url, 130)
    admin = await Scoped.open(dsn, cluster_id=cluster, role="hs_admin")
    try:
        tenant = await admin.tenant()
        user = await admin.create_user(tenant.id, "bench")
        _, auth_key = await admin.create_auth_key(tenant.id, user.id, reusable=True)
    finally:
        await admin.close()
    return server_key, auth_key


async def _tenants(dsn: str, cluster: str, count: int) -> list[str]:
    """Auth keys of so many new tenants."""
    keys = []
    for number in range(count):
        await Database(dsn).create_tenant(cluster, f"{cluster}-{number}")
    admin = await Scoped.open(dsn, cluster_id=cluster, role="hs_admin")
    try:
        for number in range(count):
            tenant = await admin.tenant(f"{cluster}-{number}")
            user = await admin.create_user(tenant.id, "bench")
            keys.append((await admin.create_auth_key(tenant.id, user.id, reusable=True))[1])
    finally:
        await admin.close()
    return keys


@dataclass(slots=True)
class Foreign:
    """Somebody else's control server, to be put beside ours. It is measured, never stopped."""

    url: str
    pid: int
    keys: list[str]
    #: Restarts it; its last word is the new process id.
    restart_command: str | None = None
    ours: bool = False

    def restart(self) -> float:
        """As Server.restart, all of it counted as stopping. Raises RuntimeError without a command."""
        if self.restart_command is None:
            raise RuntimeError("give --restart-with COMMAND, which restarts it and prints its pid")
        started = time.monotonic()
        done = subprocess.run(
            self.restart_command, shell=True, stdout=subprocess.PIPE, text=True, timeout=120, check=True
        )
        self.pid = int(done.stdout.split()[-1])
        return time.monotonic() - started

    def auth_keys(self, tenants: int) -> list[str]:
        """As many as were given, at most."""
        return self.keys[:tenants]

    @property
    def target(self) -> Target:
        return Target(self.url, asyncio.run(fetch_server_key(self.url, 130)), self.keys[0], self.pid, 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Lab:
    """What scenarios get: a place for files, PostgreSQL, and how large to be."""

    directory: Path
    quick: bool
    foreign: Foreign | None = None
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
    def clusters(self, name: str, count: int) -> Iterator[list[Server]]:
        """So many servers, one of each cluster, on one fresh database."""
        dsn = self.postgres.new_database(f"bench_{name}")
        servers: list[Server] = []
        try:
            for number in range(count):
                place = self.directory / f"{name}{number}"
                place.mkdir()
                servers.append(
                    Server(
                        dsn, place, self.postgres.pid, admin_dsn=dsn, module="node.cli",
                        cluster=f"bench{number}", beside=servers[0] if servers else None,
                    )
                )  # fmt: skip
            yield servers
        finally:
            for server in servers:
                server.stop()
            self.postgres.drop_database(f"bench_{name}")

    @property
    def other_label(self) -> str:
        return "naive" if self.foreign is None else "theirs"

    @contextmanager
    def other(self, name: str) -> Iterator[Server | Foreign]:
        """What stands beside ours: the naive server, or the foreign one that was given."""
        if self.foreign is not None:
            yield self.foreign
            return
        with self.server(f"{name}_naive", module="bench.naive_server") as server:
            yield server


@contextmanager
def lab(quick: bool, foreign: Foreign | None = None) -> Iterator[Lab]:
    directory = Path(tempfile.mkdtemp(prefix="hs-bench-"))
    # PostgreSQL may run under an account of its own.
    directory.chmod(0o711)
    made = Lab(directory, quick, foreign)
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
