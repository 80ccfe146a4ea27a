"""`hs-acs serve`: prepare the database, open the API, ask for the lead, end in order."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import orjson
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from acs.api import openapi
from acs.api.edge import Edge, problem
from acs.api.limits import RateLimits
from acs.front import Front
from acs.jobs import JobRunner
from acs.leader import Leader
from acs.metrics import Metrics
from acs.pages import Pages
from acs.presence import Presence
from acs.service import Service
from app import __version__, log
from app.database import database_dsn
from app.db.access import NO_CLUSTER
from app.db.admission import Admission
from app.db.setup import Database
from app.deployment import load_or_create_noise_key
from app.entry.head import FORWARDED_FOR, forwarded_client
from app.entry.pages import SECURITY_HEADERS
from app.errors import HsError, Unavailable
from app.listen import listening
from app.load import LoadMeter
from app.model import Instance
from app.pg import make_state_dir
from app.runtime import Daemon
from app.settings import Settings
from app.settings_values import mask_dsn
from app.stall import watch_loop

_log = log.get("serve")

#: For the database's answer to a health check.
HEALTH_DEADLINE_S = 1.0


@dataclass(slots=True)
class Serving:
    """One process from its start to its end."""

    daemon: Daemon
    settings: Settings
    tell: Callable[[str], None]
    program: str = "hs-acs"

    async def run(self) -> None:
        """Until told to stop. Raises HsError with the sentence for the operator."""
        settings = self.settings
        instance = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        make_state_dir(settings.state_dir)
        async with AsyncExitStack() as stack:
            dsn = await stack.enter_async_context(database_dsn(settings))
            try:
                database = await Database.prepare(dsn)
            except Unavailable as error:
                raise Unavailable(f"pg_dsn: {mask_dsn(dsn)}: {error.message}") from error
            noise_key = X25519PrivateKey.from_private_bytes(
                await load_or_create_noise_key(database, settings.secret_key_file)
            )
            admission = await Admission.open(
                dsn, instance=instance, pool_size=settings.database.postgres.max_open_conns
            )
            stack.push_async_callback(admission.close)
            metrics = Metrics()
            service = Service(settings, instance, admission, time.time, noise_key.private_bytes_raw())
            service.leader = leader = Leader(
                dsn,
                instance,
                ttl_s=settings.timing.lease_ttl,
                runner=lambda: JobRunner(
                    *(admission, instance, service.jobs()),
                    leads=lambda: leader.leads,
                    on_run=metrics.job,
                    also=[service.requests().by_the_clock()],
                ),
                on_change=metrics.leads,
            )
            front = await stack.enter_async_context(
                Front.open(
                    settings,
                    instance=instance,
                    dsn=dsn,
                    admission=admission,
                    noise_key=noise_key,
                    app=api_app(service, metrics),
                )
            )
            presence = Presence(
                admission.presence(), Instance(instance, kind="acs", addr=front.address, version=__version__)
            )
            meter = LoadMeter(
                lambda sample: admission.put_load(NO_CLUSTER, instance, sample), admission.pool_use
            )
            if settings.acs.metrics_listen_addr:
                await stack.enter_async_context(_metrics_listener(settings, metrics, admission, front))
            tasks = [
                self.daemon.spawn("listen", front.listener.run()),
                self.daemon.spawn("routes", front.exchange.run()),
                self.daemon.spawn("presence", presence.run()),
                self.daemon.spawn("load", meter.run()),
                self.daemon.spawn("loop watch", watch_loop(meter.stalled)),
                self.daemon.spawn("leader", leader.run()),
            ]
            try:
                _log.info("serving", listen=front.address, version=__version__)
                self._greet()
                await self.daemon.stopping.wait()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await presence.goodbye()

    def _greet(self) -> None:
        self.tell(
            f"""hs-acs {__version__} answers at {self.settings.acs.url}/v1/docs

To use it:
  {self.program} tokens create --scope admin first"""
        )


def api_app(service: Service, metrics: Metrics) -> web.Application:
    """Everything hs-acs answers over HTTP."""
    operations = service.operations()
    described = orjson.dumps(openapi.document(operations, __version__))
    page = openapi.page(operations, __version__)

    async def description(request: web.Request) -> web.Response:
        return web.Response(body=described, content_type="application/json")

    async def docs(request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    @web.middleware
    async def count(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
        except HsError as error:
            response = problem(error)
        response.headers.update(SECURITY_HEADERS)
        route = request.match_info.route.resource
        metrics.call(f"{request.method} {route.canonical if route else '?'}", response.status)
        return response

    app = web.Application(middlewares=[count])
    app.router.add_get("/v1/openapi.json", description)
    app.router.add_get("/v1/docs", docs)
    limits = RateLimits(per_token=service.settings.acs.requests_per_minute, clock=time.monotonic)
    trusted = [ipaddress.ip_network(text) for text in service.settings.trusted_proxies]

    def address_of(request: web.Request) -> str:
        forwarded = ",".join(request.headers.getall(FORWARDED_FOR, []))
        return forwarded_client(forwarded, request.remote or "", trusted)

    Pages(service.joiner(), limits, address_of).add(app)
    Edge(service.admission, limits, address_of).add(app, operations)
    return app


@asynccontextmanager
async def _metrics_listener(
    settings: Settings, metrics: Metrics, admission: Admission, front: Front
) -> AsyncIterator[str]:
    async def text(request: web.Request) -> web.Response:
        front.set_gauges(metrics)
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(HEALTH_DEADLINE_S):
                await admission.answers()
            passes = True
        except (HsError, TimeoutError):
            passes = False
        return web.Response(
            body=orjson.dumps({"status": "pass" if passes else "fail"}),
            status=200 if passes else 500,
            content_type="application/health+json",
        )

    app = web.Application()
    app.router.add_get("/metrics", text)
    app.router.add_get("/health", health)
    async with listening(app, "acs.metrics_listen_addr", settings.acs.metrics_listen_addr) as address:
        yield address
