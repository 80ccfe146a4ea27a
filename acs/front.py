"""Where connections arrive in an hs-acs: API and pages are answered, tunnels go to their cluster's owner.

An hs-acs serves no cluster. A machine that nobody knows goes to the cluster that would be filled least; its
owner sends it on as soon as it has shown a key (DESIGN.md section 6).
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from acs.metrics import Metrics
from app.db.admission import ROLE, Admission
from app.db.lease import ROUTING_CHANNEL
from app.db.listen import Listener
from app.entry.exchange import Exchange
from app.entry.hop import hop_key
from app.entry.limits import ConnectionLimits
from app.entry.listener import Entry, Handshake, Outlet, Tunnel
from app.entry.machines import Machines
from app.entry.pages import add_key_pages, add_login_page
from app.errors import LocalProtocolError
from app.listen import WEB_KEEPALIVE_S, WEB_STOP_S, listen_raw, tls_context
from app.model import Login
from app.placement import Wish, place
from app.settings import Settings

#: For how long the emptiest cluster is taken for the emptiest.
SOMEWHERE_S = 5.0
#: The same while no cluster takes anybody.
NOWHERE_S = 0.5


@dataclass(slots=True)
class Front:
    """The clients' address, open."""

    address: str
    limits: ConnectionLimits
    exchange: Exchange
    listener: Listener

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings,
        *,
        instance: str,
        dsn: str,
        admission: Admission,
        noise_key: X25519PrivateKey,
        app: web.Application,
    ) -> AsyncIterator[Front]:
        """Listens. `app` answers whatever is no tunnel. Raises ConfigError when the address cannot be had."""
        add_key_pages(
            app,
            noise_public=noise_key.public_key().public_bytes_raw(),
            legacy_public=X25519PrivateKey.generate().public_key().public_bytes_raw(),
        )

        async def login(login_id: str) -> Login | None:
            found = await admission.logins([login_id])
            return found[0] if found else None

        add_login_page(app, login)
        exchange = Exchange(
            instance=instance,
            key=hop_key(noise_key.private_bytes_raw()),
            facts=lambda: admission,
            machines=Machines(admission.route_machines),
            somewhere=_Emptiest(admission).cluster,
        )
        listener = Listener(dsn, [], role=ROLE, instance=instance, at_once={ROUTING_CHANNEL: exchange.heard})
        async with AsyncExitStack() as stack:
            runner = web.AppRunner(
                app, access_log=None, keepalive_timeout=WEB_KEEPALIVE_S, shutdown_timeout=WEB_STOP_S
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            http = runner.server
            assert http is not None
            entry = Entry(
                private_key=noise_key,
                public_key=noise_key.public_key().public_bytes_raw(),
                make_tunnel=_no_tunnel,
                make_web=lambda: http(),
                limits=ConnectionLimits(),
                exchange=exchange,
                trusted_proxies=[ipaddress.ip_network(text) for text in settings.trusted_proxies],
            )
            server = await listen_raw(
                "acs.listen_addr", settings.acs.listen_addr, entry.protocol, tls_context(settings)
            )
            stack.push_async_callback(exchange.close)
            stack.callback(server.close)
            host, port = server.sockets[0].getsockname()[:2]
            yield cls(f"{host}:{port}", entry.limits, exchange, listener)

    def set_gauges(self, metrics: Metrics) -> None:
        pool = self.exchange.pool
        metrics.entry(
            half_open=self.limits.half_open,
            refused=self.limits.refused,
            parked=pool.parked,
            relayed=pool.flowing,
            relayed_bytes=pool.relayed_bytes,
        )


class _Emptiest:
    """The cluster that would be filled least, looked up again after SOMEWHERE_S."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._known: tuple[str | None, float] = (None, 0.0)
        #: Of many strangers at once, one asks.
        self._asking = asyncio.Lock()

    async def cluster(self) -> str | None:
        async with self._asking:
            cluster, until = self._known
            if time.monotonic() >= until:
                cluster = place(Wish(), await self._admission.cluster_loads()).chosen
                pause_s = SOMEWHERE_S if cluster is not None else NOWHERE_S
                self._known = cluster, time.monotonic() + pause_s
            return cluster


def _no_tunnel(handshake: Handshake, outlet: Outlet, preface: bytes) -> Tunnel:
    raise LocalProtocolError("an hs-acs serves no cluster")
