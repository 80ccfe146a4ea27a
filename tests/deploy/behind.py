"""A real `hs-node serve` behind a real proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from app.client.serverkey import fetch_server_key
from app.db.setup import Database
from app.keys import MachineKey
from tests.clients.process import Process
from tests.deploy.proxies import ADDRESS, Certificate, Place, program, spawn
from tests.node.kit import Recorder
from tests.node.support import Administration, ServeProcess, admin, eventually, free_port, fresh_database

START_DEADLINE_S = 15.0
CLUSTER = "default"
CAPVER = 130


class Behind:
    """The proxy and what is behind it; the proxy can be stopped and started again."""

    def __init__(self, name: str, at: Place, serve: ServeProcess) -> None:
        self.name = name
        self.at = at
        self.serve = serve
        self.tls = at.certificate.context()
        self.server_key: MachineKey | None = None
        self._process: Process | None = None

    def log(self) -> str:
        path = self.at.home / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def process(self) -> Process:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    async def start(self) -> None:
        process = self._process = spawn(self.name, self.at)

        async def passes() -> bool:
            assert process.running, f"{process!r}:\n{process.tail()}"
            return (await self.get(f"/key?v={CAPVER}")).status_code == 200

        try:
            await eventually(passes, f"{self.name} leads to the server", START_DEADLINE_S)
        except BaseException:
            process.destroy()
            raise
        self.server_key = await fetch_server_key(self.at.url, CAPVER, ssl=self.tls)

    async def stop(self) -> None:
        """SIGTERM; both end at once then and cut all connections."""
        process, self._process = self.process, None
        try:
            await asyncio.to_thread(process.stop)
        finally:
            process.destroy()

    async def get(self, path: str, *, plain: bool = False, source: str = ADDRESS) -> httpx.Response:
        """A page by way of the proxy, asked for from a loopback address; status 0 without an answer."""
        return await self.ask("GET", path, plain=plain, source=source)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        plain: bool = False,
        source: str = ADDRESS,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(verify=self.tls, local_address=source)
        url = (self.at.plain_url if plain else self.at.url) + path
        async with httpx.AsyncClient(transport=transport, timeout=5) as client:
            try:
                return await client.request(method, url, headers=headers)
            except httpx.TransportError:
                return httpx.Response(0)

    def device(self, key: str | None, *, plain: bool = False, **options: Any) -> Recorder:
        """A device that knows only the proxy. With `plain` its tunnel goes over port 80, never `/key`."""
        if plain:
            return Recorder(self.at.plain_url, key, server_key=self.server_key, **options)
        return Recorder(self.at.url, key, ssl=self.tls, **options)

    @asynccontextmanager
    async def tenant(self, name: str) -> AsyncIterator[Administration]:
        """A tenant of its own, so that other tests' devices are no peers."""
        await Database(self.serve.dsn).create_tenant(CLUSTER, name)
        async with admin(self.serve.dsn, CLUSTER, name) as made:
            yield made


@asynccontextmanager
async def behind(name: str, pg_server: str, home: Path, *, standby_port: int = 0) -> AsyncIterator[Behind]:
    """A running server and proxy of this kind; skips where the proxy is not installed."""
    program(name)
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(fresh_database(pg_server))
        serve = ServeProcess(dsn, CLUSTER)
        at = Place(home, free_port(), free_port(), serve.port, Certificate.make(home), standby_port)
        serve.env |= {"HS_SERVER_URL": at.url, "HS_TRUSTED_PROXIES": ADDRESS}
        await stack.enter_async_context(serve)
        made = Behind(name, at, serve)
        await made.start()
        try:
            yield made
        finally:
            if made._process is not None:
                made._process.destroy()
