"""hs-acs as a process of its own, on a real database, for tests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from app.api.client import AcsClient
from tests.node.support import (
    ServeProcess,
    clean_environment,
    eventually,
    free_port,
    fresh_database,
)
from tests.programs import ShellResult, run_shell

STOP_DEADLINE_S = 15.0
START_DEADLINE_S = 30.0


class AcsProcess:
    """`hs-acs serve`, started on entry and told to end on exit. Bound to no event loop."""

    def __init__(
        self, dsn: str, *, settings: Mapping[str, str] | None = None, secret_key_file: Path | None = None
    ) -> None:
        """Processes of one deployment share a `secret_key_file`: pass the first one's to the others."""
        self.port, self.metrics_port = free_port(), free_port()
        self._dir = tempfile.TemporaryDirectory(prefix="hs-acs-")
        self.secret_key_file = secret_key_file or Path(self._dir.name) / "secret.key"
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {
            "PG_DSN": dsn,
            "HS_STATE_DIR": self._dir.name,
            "HS_SECRET_KEY_FILE": str(self.secret_key_file),
            "HS_ACS__LISTEN_ADDR": f"127.0.0.1:{self.port}",
            "HS_ACS__METRICS_LISTEN_ADDR": f"127.0.0.1:{self.metrics_port}",
            "HS_TIMING__LEASE_TTL": "2s",
            **(settings or {}),
        }
        self._log = Path(self._dir.name) / "log"
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.log()[-4000:])
        await self.stop()
        self._dir.cleanup()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - waited for in a thread
                [sys.executable, "-m", "acs.cli", "serve"],
                env=clean_environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await eventually(self._answers, "hs-acs answers", START_DEADLINE_S)

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def stop(self) -> int:
        """Told to end; its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        return await asyncio.to_thread(self._process.wait, STOP_DEADLINE_S)

    async def kill(self) -> None:
        """SIGKILL: no word to anybody."""
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.wait, STOP_DEADLINE_S)

    async def leads(self) -> None:
        """Waits until it runs the jobs."""
        async with AcsClient(self.url) as nobody:

            async def leads() -> bool:
                return (await nobody.service()).leads

            await eventually(leads, "it leads")

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    async def shell(self, *arguments: str, stdin: str = "", token: str = "") -> ShellResult:
        """An `hs-acs` command with this server's settings."""
        env = clean_environment({**self.settings, **({"HS_ACS__TOKEN": token} if token else {})})
        return await run_shell(env, *arguments, stdin=stdin, program="acs.cli")

    async def token(self, scope: str = "admin", *more: str) -> str:
        """The text of a new token."""
        result = await self.shell("tokens", "create", "--scope", scope, *more, f"test {scope}")
        assert result.code == 0, result.err
        return result.out.strip()

    @asynccontextmanager
    async def client(self, scope: str = "admin", *more: str) -> AsyncIterator[AcsClient]:
        """A client with a new token."""
        async with AcsClient(self.url, await self.token(scope, *more)) as client:
            yield client


@dataclass
class Deployment:
    """Some clusters and two hs-acs on one database."""

    nodes: dict[str, ServeProcess]
    acs: AcsProcess
    second: AcsProcess


@asynccontextmanager
async def deployed(
    pg_server: str,
    *clusters: str,
    node_settings: Mapping[str, str] | None = None,
    acs_settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Deployment]:
    """A deployment with a database of its own."""
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(fresh_database(pg_server))
        nodes: dict[str, ServeProcess] = {}
        secret: Path | None = None
        # Before any hs-acs: where one is in charge, clusters wait to be admitted.
        for name in clusters:
            node = ServeProcess(dsn, name, settings=node_settings, secret_key_file=secret)
            nodes[name] = await stack.enter_async_context(node)
            secret = node.secret_key_file
        acs = AcsProcess(dsn, settings=acs_settings, secret_key_file=secret)
        await stack.enter_async_context(acs)
        second = AcsProcess(dsn, settings=acs_settings, secret_key_file=secret)
        yield Deployment(nodes, acs, await stack.enter_async_context(second))


def parsed(result: ShellResult) -> Any:
    assert result.code == 0, result.err
    return orjson.loads(result.out)
