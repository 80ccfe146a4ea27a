"""Where connections arrive in this process, owner or not: from clients, and from other entries.

Pages are answered by any instance. Tunnels are served here while this instance owns the cluster, else they
are relayed to the owner, or wait for one (app.entry.relays).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.entry.exchange import Exchange, OwnCluster
from app.entry.hop import hop_key
from app.entry.inner import InnerDoor
from app.entry.limits import ConnectionLimits
from app.entry.listener import Entry, Handshake, Outlet, Tunnel
from app.entry.machines import Machines
from app.entry.relays import Relays
from app.listen import WEB_KEEPALIVE_S, WEB_STOP_S, listen_raw, tls_context
from app.settings import Settings
from node.follower import Follower
from node.metrics import Metrics
from node.owner import Owner, public_bytes
from node.web import Facts, client_app


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
            inner = await listen_raw("internal_addr", settings.internal_addr, door.protocol)
            stack.callback(inner.close)
            host = settings.internal_addr.rpartition(":")[0]
            follower.internal_addr = f"{host}:{inner.sockets[0].getsockname()[1]}"
            outer = await listen_raw(
                "listen_addr", settings.listen_addr, entry.protocol, tls_context(settings)
            )
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
