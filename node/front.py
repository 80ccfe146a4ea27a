"""Where connections arrive in this process, owner or not: from clients, and from other entries.

Pages are answered by any instance. Tunnels are served here while this instance owns the cluster, else they
are relayed to the owner, or wait for one (app.entry.relays).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.entry.exchange import Exchange, OwnCluster
from app.entry.hop import hop_key
from app.entry.inner import InnerDoor
from app.entry.limits import HANDSHAKE_DEADLINE_S, ConnectionLimits
from app.entry.listener import Entry, Handshake, Outlet, Tunnel
from app.entry.machines import Machines
from app.entry.relays import Relays
from app.errors import ConfigError
from app.listen import WEB_STOP_S, reason_of, split_listen, tls_context
from app.settings import Settings
from node.follower import Follower
from node.metrics import Metrics
from node.owner import Owner, public_bytes
from node.web import Facts, client_app

#: Connections the kernel may hold before they are accepted; a fleet comes back all at once.
BACKLOG = 4096
WEB_KEEPALIVE_S = 30.0


@dataclass(slots=True)
class Front:
    """Both addresses, open. `serve` says that this instance serves the cluster from now on."""

    limits: ConnectionLimits
    exchange: Exchange
    door: InnerDoor
    internal_addr: str
    _servers: list[asyncio.Server]
    _post: _Post

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, follower: Follower, noise_key: X25519PrivateKey, facts: Facts
    ) -> AsyncIterator[Front]:
        """Listens on both addresses. Raises ConfigError when one cannot be had."""
        post = _Post()
        key = hop_key(noise_key.private_bytes_raw())

        exchange = Exchange(
            instance=follower.instance,
            key=key,
            facts=lambda: follower.scoped,
            machines=Machines(lambda keys: follower.scoped.route_machines(keys)),
            own=OwnCluster(
                settings.cluster_id,
                serves=lambda: post.owner is not None,
                knows=follower.hub.knows_machine,
            ),
        )
        follower.heard_routing = exchange.heard
        async with AsyncExitStack() as stack:
            runner = web.AppRunner(
                client_app(
                    facts,
                    noise_public=public_bytes(noise_key),
                    legacy_public=public_bytes(X25519PrivateKey.generate()),
                ),
                access_log=None,
                keepalive_timeout=WEB_KEEPALIVE_S,
                shutdown_timeout=WEB_STOP_S,
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            http = runner.server
            assert http is not None
            entry = Entry(
                private_key=noise_key,
                public_key=public_bytes(noise_key),
                make_tunnel=post.make_tunnel,
                make_web=lambda: http(),
                limits=ConnectionLimits(),
                exchange=exchange,
                trusted_proxies=[ipaddress.ip_network(text) for text in settings.trusted_proxies],
            )
            door = InnerDoor(entry, key, settings.cluster_id, lambda: post.epoch)
            inner = await _listen("internal_addr", settings.internal_addr, door.protocol)
            stack.callback(inner.close)
            host = settings.internal_addr.rpartition(":")[0]
            follower.internal_addr = f"{host}:{inner.sockets[0].getsockname()[1]}"
            outer = await _listen("listen_addr", settings.listen_addr, entry.protocol, settings)
            stack.callback(outer.close)
            yield cls(entry.limits, exchange, door, follower.internal_addr, [outer, inner], post)

    def serve(self, owner: Owner, epoch: int) -> None:
        """This instance serves the cluster: connections that wait are taken in."""
        self._post.owner, self._post.epoch = owner, epoch
        self.own.changed()

    @property
    def own(self) -> Relays:
        """The relays to the cluster of this process."""
        assert self.exchange.own is not None
        return self.exchange.own

    async def close(self) -> None:
        """No new connections; what is relayed is handed back. Those served here are their owner's."""
        for server in self._servers:
            server.close()
        await self.exchange.close()

    def set_gauges(self, metrics: Metrics) -> None:
        metrics.entry(
            half_open=self.limits.half_open,
            displaced=self.limits.displaced,
            refused=self.limits.refused,
            parked=self.exchange.pool.parked,
            relayed=self.exchange.pool.flowing,
            relayed_bytes=self.exchange.pool.relayed_bytes,
            hops=self.door.hops,
        )


@dataclass(slots=True)
class _Post:
    """Who serves tunnels here, and under which epoch; nobody while another instance owns the cluster."""

    owner: Owner | None = None
    epoch: int | None = None

    def make_tunnel(self, handshake: Handshake, outlet: Outlet, preface: bytes) -> Tunnel:
        assert self.owner is not None
        return self.owner.make_tunnel(handshake, outlet, preface)


async def _listen(
    key: str, address: str, factory: Callable[[], asyncio.Protocol], tls_of: Settings | None = None
) -> asyncio.Server:
    host, port = split_listen(address)
    tls = None if tls_of is None else tls_context(tls_of)
    try:
        return await asyncio.get_running_loop().create_server(
            factory,
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_DEADLINE_S,
            backlog=BACKLOG,
        )
    except OSError as error:
        raise ConfigError(f"{key}: cannot listen on {address}: {reason_of(error)}") from error
