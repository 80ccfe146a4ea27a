"""Real `hs-node serve` processes, their administration and devices, for tests over the wire."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from prometheus_client.parser import text_string_to_metric_families

from app.client.connection import ControlConnection
from app.client.device import SimulatedDevice
from app.client.netmap import ClientNetmap
from app.db.scoped import Scoped
from app.db.setup import Database
from app.keys import machine_key_text, node_key_text
from app.model import AuthKey, Device, DeviceId, Tenant, User
from tests.programs import ShellResult, run_shell

ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 20.0
#: How long a test waits for something that normally takes milliseconds.
DEADLINE_S = 15.0
POLL_S = 0.01
SHOWN_LOG_BYTES = 20_000
#: Settings of the caller's own environment that must not reach the tested process.
OWN_VARIABLES = ("CLUSTER_ID", "PG_DSN", "DERP_MAP_URL")
#: A lost device is offline soon, for tests that wait for it.
#: Ports are shared out among so many processes of pytest-xdist.
PORT_WORKERS = 8
QUICK = {"HS_TIMING__OFFLINE_GRACE": "300ms"}

#: Processes whose logs belong into the report of a failing test.
LIVE: list[ServeProcess] = []


def _ports() -> Iterator[int]:
    """Below those that the system gives to outgoing connections: one of these could be gone by then."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PORT_WORKERS
    share = range(10_000 + worker, 32_000, PORT_WORKERS)
    start = random.randrange(len(share))
    return itertools.cycle((*share[start:], *share[:start]))


_PORTS = _ports()


def free_port() -> int:
    """A port of this machine that no other test uses, and nobody listens on now."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there are ports for ever")


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment without the caller's settings, with these instead."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HS_") and name not in OWN_VARIABLES
    }
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **settings}


async def eventually(
    condition: Callable[[], Awaitable[Any]], what: str, deadline_s: float = DEADLINE_S
) -> Any:
    """The first true answer of `condition`, asked again and again. Fails at the deadline."""
    end_s = time.monotonic() + deadline_s
    while True:
        answer = await condition()
        if answer:
            return answer
        if time.monotonic() >= end_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what}; last answer {answer!r}")
        await asyncio.sleep(POLL_S)


@asynccontextmanager
async def fresh_database(pg_server: str) -> AsyncIterator[str]:
    """DSN of an empty database for any scope; the `database` fixture serves single tests."""
    name = f"hs_test_{secrets.token_hex(6)}"
    await run_sql(pg_server, f'CREATE DATABASE "{name}"')
    try:
        yield urlunsplit(urlsplit(pg_server)._replace(path=f"/{name}"))
    finally:
        await run_sql(pg_server, f'DROP DATABASE "{name}" WITH (FORCE)')


async def run_sql(dsn: str, sql: str, *args: Any) -> list[asyncpg.Record]:
    """One statement as the server's own login, as an operator with psql would."""
    connection = await asyncpg.connect(dsn, timeout=30, command_timeout=30)
    try:
        if args:
            return list(await connection.fetch(sql, *args))
        await connection.execute("SET search_path TO hs, public")
        return list(await connection.fetch(sql))
    finally:
        await connection.close(timeout=10)


class ServeProcess:
    """`hs-node serve` of one cluster. Bound to no event loop, so any fixture scope can hold it.

    `settings` are further environment variables. Processes of one deployment share a
    `secret_key_file` (pass the first one's to the others).
    """

    def __init__(
        self,
        dsn: str,
        cluster: str = "default",
        *,
        state_dir: Path | None = None,
        secret_key_file: Path | None = None,
        settings: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self._scratch = (
            tempfile.TemporaryDirectory(prefix="hs-serve-", ignore_cleanup_errors=True)
            if state_dir is None
            else None
        )
        self.state_dir = state_dir or Path(self._scratch.name)  # type: ignore[union-attr]
        self.secret_key_file = secret_key_file or self.state_dir / "secret.key"
        self.dsn = dsn
        self.cluster = cluster
        self.port, self.metrics_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.metrics_url = f"http://127.0.0.1:{self.metrics_port}"
        self.log_path = self.state_dir / f"serve-{self.port}.log"
        self.arguments = arguments
        self.env = clean_environment(
            {
                "PG_DSN": dsn,
                "CLUSTER_ID": cluster,
                "HS_LISTEN_ADDR": f"127.0.0.1:{self.port}",
                "HS_METRICS_LISTEN_ADDR": f"127.0.0.1:{self.metrics_port}",
                "HS_STATE_DIR": str(self.state_dir),
                "HS_SECRET_KEY_FILE": str(self.secret_key_file),
                "HS_DERP__SERVER__LISTEN_ADDR": "127.0.0.1:0",
                "HS_DERP__SERVER__STUN_LISTEN_ADDR": "127.0.0.1:0",
                **(settings or {}),
            }
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def log(self) -> str:
        """What all its runs wrote so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                await self.stop()
        finally:
            if self in LIVE:
                LIVE.remove(self)
            if error is not None:
                print(self.log()[-SHOWN_LOG_BYTES:])
            if self._scratch is not None:
                self._scratch.cleanup()

    async def start(self, *, wait: bool = True, settings: Mapping[str, str] | None = None) -> None:
        """Start, or start again at the same address; `wait=False` for a standby."""
        assert self.returncode is not None or self.process is None, "runs already"
        self.env.update(settings or {})
        if self not in LIVE:
            LIVE.append(self)
        with self.log_path.open("ab") as log:
            # Not asyncio's: the process may outlive the event loop of the test that starts it.
            self.process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-m", "node.cli", "serve", *self.arguments],
                env=self.env,
                cwd=self.state_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if wait:
            await self.wait_ready()

    async def wait_ready(self, deadline_s: float = START_DEADLINE_S) -> None:
        """Until /health on the clients' address says 200."""

        async def healthy() -> bool:
            if self.returncode is not None:
                raise AssertionError(f"serve ended with {self.returncode}:\n{self.log()}")
            return await self.health() == 200

        await eventually(healthy, f"serve is ready\n{self.log()}", deadline_s)

    async def health(self) -> int:
        """The status of /health, 0 when nobody answers."""
        try:
            async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
                return (await client.get(f"{self.url}/health")).status_code
        except httpx.TransportError:
            return 0

    async def stop(self, deadline_s: float = STOP_DEADLINE_S) -> int:
        """SIGTERM, and the exit code."""
        return await self._end(signal.SIGTERM, deadline_s)

    async def kill(self) -> int:
        """SIGKILL: no farewell of any kind."""
        return await self._end(signal.SIGKILL, STOP_DEADLINE_S)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def wait_ended(self, deadline_s: float = STOP_DEADLINE_S) -> int:
        """The exit code once it ends by itself; killed when it does not."""
        assert self.process is not None
        try:
            return await asyncio.to_thread(self.process.wait, deadline_s)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"serve did not end within {deadline_s:g} s:\n{self.log()}") from error

    async def _end(self, number: signal.Signals, deadline_s: float) -> int:
        self.send(number)
        return await self.wait_ended(deadline_s)

    async def metrics(self) -> dict[str, float]:
        """Series by name; labels besides cluster_id in braces: `hs_registrations_total{outcome=created}`."""
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            text = (await client.get(f"{self.metrics_url}/metrics")).text
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "cluster_id")
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    async def request(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Any request through a tunnel of a machine that nobody knows."""
        connection = await ControlConnection.open(
            self.url, machine_private=X25519PrivateKey.generate(), capver=130
        )
        try:
            return await connection.request(path, body)
        finally:
            await connection.close()

    async def shell(self, *arguments: str, cluster: str | None = None, stdin: str = "") -> ShellResult:
        """An `hs-node` command with this process's settings."""
        env = self.env if cluster is None else {**self.env, "CLUSTER_ID": cluster}
        return await run_shell(env, *arguments, stdin=stdin)


@dataclass(frozen=True, slots=True)
class Administration:
    """A cluster as hs_admin, in its home tenant unless another is chosen."""

    scoped: Scoped
    tenant: Tenant

    async def user(self, name: str, **facts: Any) -> User:
        """The user of this name, made when there is none."""
        found = await self.scoped.list_users(self.tenant.id, name)
        return found[0] if found else await self.scoped.create_user(self.tenant.id, name, **facts)

    async def auth_key(
        self,
        user: str | None = "alice",
        *,
        reusable: bool = True,
        ephemeral: bool = False,
        tags: tuple[str, ...] = (),
        expiration: float | None = None,
    ) -> str:
        """The text of a new auth key."""
        return (
            await self.auth_key_row(
                user, reusable=reusable, ephemeral=ephemeral, tags=tags, expiration=expiration
            )
        )[1]

    async def auth_key_row(self, user: str | None = "alice", **facts: Any) -> tuple[AuthKey, str]:
        owner = None if user is None else (await self.user(user)).id
        facts = {"reusable": True, "ephemeral": False, "tags": (), "expiration": None, **facts}
        return await self.scoped.create_auth_key(self.tenant.id, owner, **facts)

    async def devices(self) -> list[Device]:
        return await self.scoped.list_devices(self.tenant.id)

    async def device(self, hostname: str) -> Device:
        """The one device that calls itself so."""
        (found,) = [device for device in await self.devices() if device.hostname == hostname]
        return found


@asynccontextmanager
async def admin(
    dsn: str, cluster: str = "default", tenant: str | None = None
) -> AsyncIterator[Administration]:
    """Administration of a cluster that serves or has served; `tenant` by name, default its home."""
    scoped = await Scoped.open(dsn, cluster_id=cluster, role="hs_admin", pool_size=2)
    try:
        place = await scoped.tenant(tenant)
        yield Administration(scoped, place)
    finally:
        await scoped.close()


@asynccontextmanager
async def new_tenant(serve: ServeProcess) -> AsyncIterator[Administration]:
    """Administration of a tenant that nobody else uses."""
    name = f"tenant-{secrets.token_hex(4)}"
    await Database(serve.dsn).create_tenant(serve.cluster, name)
    async with admin(serve.dsn, serve.cluster, name) as administration:
        yield administration


def device(url: str, key: str | None, **options: Any) -> SimulatedDevice:
    """A device with a hostname of its own; `async with` it."""
    options.setdefault("hostname", f"device-{secrets.token_hex(4)}")
    return SimulatedDevice(url, auth_key=key, **options)


async def join(simulated: SimulatedDevice, *, poll: bool = True) -> dict[str, Any]:
    """Register, poll, and wait for the first map. Fails on any refusal."""
    answer = await simulated.register()
    assert not answer.get("Error"), answer
    assert not answer.get("NodeKeyExpired"), answer
    if poll:
        await simulated.poll()
        await simulated.wait_for(lambda netmap: netmap.messages > 0, DEADLINE_S)
    return answer


async def has_peers(simulated: SimulatedDevice, *others: SimulatedDevice) -> ClientNetmap:
    """Wait until these, and only these, are the peers, by their present node keys."""
    wanted = {node_key_text(other.node_key) for other in others}
    return await simulated.wait_for(
        lambda netmap: {row["Key"] for row in netmap.peers.values()} == wanted, DEADLINE_S
    )


def peer(simulated: SimulatedDevice, other: SimulatedDevice) -> dict[str, Any] | None:
    """How one device sees another now, by its machine."""
    machine = machine_key_text(other.machine_key)
    return next((row for row in simulated.netmap.peers.values() if row["Machine"] == machine), None)


def own_id(simulated: SimulatedDevice) -> DeviceId:
    assert simulated.netmap.self_node is not None
    return DeviceId(simulated.netmap.self_node["ID"])
