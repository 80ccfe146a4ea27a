"""What an instance knows of its cluster, whether it owns it or waits: loaded once, then kept by `changes`.

A standby follows with the very parts an owner has, so that a takeover costs a catch-up and not a load. Only
presence and endpoints are not followed: their owner keeps them in memory, and they are read at a takeover.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from app import __version__, log
from app.compression import compress
from app.db.lease import ROUTING_CHANNEL
from app.db.listen import CHANNEL_PREFIX, Listener, Resync, Wake
from app.db.scoped import Scoped
from app.errors import HsError, Unavailable
from app.load import LoadMeter
from app.model import Device, Instance, TenantId
from app.netmap.dns import DnsPlan
from app.settings import Settings
from node.derpmap import DerpMapSource
from node.fanout import RoundStats
from node.hub import Hub
from node.login import LOGIN_CHANNEL
from node.metrics import Metrics
from node.policies import TenantPolicies
from node.policy_file import PolicyFile
from node.refresh import Refresher

_log = log.get("follower")

#: How often a process says that it lives.
HEARTBEAT_S = 10.0
#: Between attempts of a standby to load its cluster while the database is away.
LOAD_AGAIN_S = 1.0


def control_time() -> str:
    """tailcfg.MapResponse.ControlTime."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class Follower:
    """The picture of the cluster, and what keeps it."""

    settings: Settings
    instance: str
    #: Reads only until this instance owns the cluster.
    scoped: Scoped
    derp_map: DerpMapSource
    hub: Hub
    refresher: Refresher
    listener: Listener
    policies: TenantPolicies
    load_meter: LoadMeter
    #: Whether the lease is held for certain at this moment.
    holds_lease: Callable[[], bool]
    #: Whether `scoped` is the owner's.
    owns: bool
    #: Where other entries reach this process, once it listens.
    internal_addr: str = ""
    is_loaded: bool = False
    #: Who stores presence and endpoints; nobody while another instance owns the cluster.
    store_hot: Callable[[Device], None] | None = field(default=None)
    #: Hears that something was done; an owner tells the fleet.
    touch: Callable[[], None] = field(default=lambda: None)
    #: Hears of bytes that went to devices of a tenant; an owner's usage.
    count_sent: Callable[[TenantId, int], None] = field(default=lambda *_: None)
    #: Hears `hs_routing`; the entry of this process.
    heard_routing: Callable[[str], None] = field(default=lambda _: None)

    @classmethod
    def build(
        cls,
        settings: Settings,
        *,
        instance: str,
        dsn: str,
        scoped: Scoped,
        metrics: Metrics,
        owns: bool,
        holds_lease: Callable[[], bool],
        policy_file: PolicyFile | None,
    ) -> Follower:
        """`policy_file`: the home tenant's policy, None when it lies in the database."""
        follower: Follower

        def on_round(tenant_id: TenantId, stats: RoundStats) -> None:
            metrics.round(stats)
            follower.load_meter.sent(stats.devices, stats.frames + stats.maps, stats.bytes + stats.map_bytes)
            follower.count_sent(tenant_id, stats.bytes + stats.map_bytes)
            follower.touch()

        def on_rows(count: int, lag_s: float) -> None:
            metrics.foreign_rows(count, lag_s)
            follower.touch()

        derp_map = DerpMapSource(
            settings.derp.urls, settings.derp.paths, lambda: follower.scoped.list_regions()
        )
        hub = Hub(
            compress=compress,
            dns=DnsPlan(
                settings.dns.base_domain,
                magic_dns=settings.dns.magic_dns,
                override_local_dns=settings.dns.override_local_dns,
                nameservers=settings.dns.nameservers.global_,
                search_domains=settings.dns.search_domains,
            ),
            derp_map=derp_map.current,
            clock=time.time,
            control_time=control_time,
            offline_grace_s=settings.timing.offline_grace,
            on_hot=lambda device: follower.heard_hot(device),
            on_round=on_round,
            follows=not owns,
        )

        async def refresh_derp() -> None:
            if await derp_map.refresh():
                hub.set_derp_map(derp_map.current)

        policies = TenantPolicies(
            scoped,
            hub,
            file=policy_file,
            may_write=lambda: follower.may_write(),
            on_invalid=metrics.policy_invalid,
        )
        refresher = Refresher(
            scoped,
            hub,
            policies,
            instance=instance,
            on_derp=refresh_derp,
            on_rows=on_rows,
            clock=time.time,
        )
        listener = Listener(
            dsn,
            [CHANNEL_PREFIX + settings.cluster_id, LOGIN_CHANNEL],
            cluster_id=settings.cluster_id,
            instance=instance,
            at_once={ROUTING_CHANNEL: lambda payload: follower.heard_routing(payload)},
        )
        load_meter = LoadMeter(
            lambda sample: follower.scoped.put_load(settings.cluster_id, instance, sample),
            lambda: follower.scoped.pool_use(),
            lambda: follower.devices(),
        )
        follower = cls(
            *(settings, instance, scoped, derp_map, hub, refresher, listener, policies, load_meter),
            *(holds_lease, owns),
        )
        return follower

    def devices(self) -> tuple[int, int]:
        """Connected and registered ones: none of them is a standby's."""
        _, registered, connected = self.hub.counts()
        return (connected, registered) if self.owns else (0, 0)

    def may_write(self) -> bool:
        """A standby reads with a session that may not write, also while it is becoming the owner."""
        return self.owns and self.holds_lease()

    def heard_hot(self, device: Device) -> None:
        if self.store_hot is not None:
            self.store_hot(device)

    async def load(self) -> None:
        """Everything, from one snapshot. Raises Unavailable, ConfigError for a DERP map without region."""
        await self.derp_map.refresh()
        self.hub.set_derp_map(self.derp_map.current)
        await self.refresher.load()
        # A failover between this load and the first LISTEN is another history too.
        self.listener.generation = self.refresher.generation
        self.is_loaded = True

    async def follow(self) -> None:
        """As a standby: load, and then everything that is committed, until cancelled."""
        while not self.is_loaded:
            try:
                await self.load()
            except HsError as error:
                # An owner that has not published its region yet, or a database that comes back.
                _log.warning("standby_not_loaded", reason=error.message)
                await asyncio.sleep(LOAD_AGAIN_S)
        tenants, devices, _ = self.hub.counts()
        _log.info("standby_ready", tenants=tenants, devices=devices)
        await self.refresher.run(self._events())

    async def _events(self) -> AsyncIterator[Wake | Resync]:
        async for event in self.listener:
            if isinstance(event, Resync) or event.channel != LOGIN_CHANNEL:
                yield event

    async def take_over(self, scoped: Scoped) -> None:
        """This instance owns the cluster: read on through `scoped`, and know what its last owner knew.

        Nobody else follows meanwhile. Raises Unavailable; may be done again.
        """
        self.refresher.source = self.policies.store = self.scoped = scoped
        self.owns = True
        if not self.is_loaded:
            await self.load()
        elif self.listener.generation != self.refresher.generation:
            await self.refresher.load()
        else:
            await self.refresher.catch_up()
        async for states in scoped.load_states():
            self.hub.put_states(states)
            await asyncio.sleep(0)

    async def say_alive(self) -> None:
        """Say in the database that this process lives, and where it is reached. Raises Unavailable."""
        await self.scoped.put_instance(
            Instance(
                self.instance,
                addr=self.settings.listen_addr,
                version=__version__,
                internal_addr=self.internal_addr,
                advertise_addr=self.settings.advertise_addr,
                login_url=self.settings.server_url,
                connected=self.devices()[0],
            )
        )

    async def keep_saying_alive(self) -> None:
        """Of a standby; an owner has a job for it."""
        while True:
            try:
                await self.say_alive()
            except Unavailable as error:
                _log.warning("heartbeat_missed", reason=error.message)
            await asyncio.sleep(HEARTBEAT_S)
