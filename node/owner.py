"""The part of a process that owns its cluster: everything between taking the lease and giving it back."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app import log
from app.compression import compress
from app.db.listen import REQUEST_PAYLOAD, Listener, Resync, Wake
from app.db.scoped import Scoped
from app.entry.limits import ConnectionLimits
from app.entry.listener import Handshake, Outlet
from app.errors import HsError
from app.jobs import Job
from app.settings import Settings
from app.wire import records
from app.wire.dialplan import dial_plan
from node.c2n import ClientQueries
from node.collector import COLLECT_EVERY_S, collect
from node.derp.process import DerpConfig, Supervisor, region_json
from node.derpmap import DerpMapSource
from node.elsewhere import Elsewhere
from node.follower import HEARTBEAT_S, Follower, control_time
from node.hotstate import HotState
from node.hub import Hub
from node.login import LoginFlow, Waiters
from node.machine import MachineApi
from node.metrics import Metrics
from node.news import FleetNews
from node.policies import TenantPolicies
from node.rates import TenantRates
from node.refresh import Refresher
from node.register import Registrar
from node.requests import RequestRunner
from node.session import SessionState
from node.ticks import Ticks
from node.tunnel import TunnelProtocol
from node.usage import SAMPLE_EVERY_S, UsageMeter

_log = log.get("owner")

#: First of the region ids for private relays (PROTOCOL.md 8.1).
FIRST_REGION_ID = 900
EXPIRY_CHECK_S = 1.0
EPHEMERAL_CHECK_S = 5.0
TRIM_S = 3600.0
#: How often it is looked who may be dialled, and how long an instance counts that says nothing.
DIAL_PLAN_S = 2.0
SILENT_INSTANCE_S = 30.0
#: Statistics are refreshed whenever the fleet has doubled since, from this size on.
STATISTICS_S = 2.0
STATISTICS_FROM = 50
#: Change rows are of no use to anybody after this.
CHANGES_KEPT_S = 24 * 3600.0
#: Sessions handed back at a time when the process stops, and the pause between.
DRAIN_WAVE = 200
DRAIN_PAUSE_S = 0.05


def public_bytes(private: X25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


@dataclass(slots=True)
class Owner:
    """All parts that live as long as the lease, wired to each other."""

    settings: Settings
    instance: str
    scoped: Scoped
    follower: Follower
    metrics: Metrics
    limits: ConnectionLimits
    derp_map: DerpMapSource
    hub: Hub
    hot: HotState
    queries: ClientQueries
    api: MachineApi
    policies: TenantPolicies
    refresher: Refresher
    requests: RequestRunner
    listener: Listener
    login_waiters: Waiters
    news: FleetNews
    usage: UsageMeter
    may_write: Callable[[], bool]
    relay: Supervisor | None = None
    _counted: int = 0
    _published: dict[str, Any] | None = None
    _told_plan: dict[str, Any] | None = None
    _tunnels: set[TunnelProtocol] = field(default_factory=set)
    _ticks: Ticks = field(default_factory=Ticks)
    #: Nobody proves a node key here (PROTOCOL.md 1.5), so one challenge does for all tunnels.
    _early_payload: bytes = field(
        default_factory=lambda: records.early_payload(public_bytes(X25519PrivateKey.generate()))
    )

    @classmethod
    def build(
        cls,
        settings: Settings,
        *,
        follower: Follower,
        scoped: Scoped,
        metrics: Metrics,
        limits: ConnectionLimits,
        relay: Supervisor | None,
        may_write: Callable[[], bool],
        hand_over: Callable[[], None],
        learn: Callable[[bytes, str, float], None],
    ) -> Owner:
        """`may_write`: whether the lease is held for certain at this moment. `relay`: runs already.

        `hand_over`: ends this process, so that a standby takes the cluster.
        `learn`: where a machine was sent, for the entry (app.entry.machines).
        """
        hub, refresher = follower.hub, follower.refresher
        news = FleetNews(scoped.notify_fleet, may_write)
        follower.touch = news.touch

        def on_request(kind: str, outcome: str) -> None:
            metrics.operator_request(kind, outcome)
            news.touch()

        hot = HotState(scoped, hub.device, may_write, news.touch, hub.put_approvals)
        follower.store_hot = hot.mark
        queries = ClientQueries(compress)
        waiters = Waiters(scoped.logins)
        elsewhere = Elsewhere(scoped, settings.cluster_id, learn, metrics.map_request)
        rates = TenantRates(time.monotonic)
        usage = UsageMeter(hub.usage, scoped.put_usage, may_write=may_write, clock=time.time)
        follower.count_sent = usage.sent
        registrar = Registrar(
            scoped,
            hub,
            LoginFlow(scoped, waiters, settings.server_url, secrets.token_bytes),
            elsewhere,
            clock=time.time,
            key_lifetime_s=settings.node.expiry or None,
            count=metrics.registration,
            on_registered=usage.registered,
            may_write=may_write,
            rates=rates,
        )
        api = MachineApi(
            hub,
            registrar,
            hot,
            queries,
            elsewhere,
            find_tombstone=scoped.find_tombstone,
            compress=compress,
            clock=time.time,
            rates=rates,
            control_time=control_time,
            count=metrics.map_request,
        )

        requests = RequestRunner(
            scoped,
            hub,
            refresher,
            may_write=may_write,
            count=on_request,
            on_rebuild=metrics.rebuilt,
            hand_over=hand_over,
            file_rules=settings.policy.file is not None,
        )
        return cls(
            settings=settings,
            instance=follower.instance,
            scoped=scoped,
            follower=follower,
            metrics=metrics,
            limits=limits,
            derp_map=follower.derp_map,
            hub=hub,
            hot=hot,
            queries=queries,
            api=api,
            policies=follower.policies,
            refresher=refresher,
            requests=requests,
            listener=follower.listener,
            login_waiters=waiters,
            news=news,
            usage=usage,
            may_write=may_write,
            relay=relay,
        )

    async def events(self) -> AsyncIterator[Wake | Resync]:
        """What the listener hears, for the refresher; waiting logins and the runner of requests beside it."""
        async for event in self.listener:
            if self.login_waiters.heard(event):
                continue
            # A wake-up without payload stands for any.
            if isinstance(event, Resync) or event.payload in ("", REQUEST_PAYLOAD):
                self.requests.wake()
            yield event

    def make_tunnel(self, handshake: Handshake, outlet: Outlet, preface: bytes) -> TunnelProtocol:
        """A client's tunnel (app.entry.listener.TunnelFactory)."""
        tunnel = TunnelProtocol(
            handshake,
            outlet,
            preface,
            # WebSocket clients get none (tailscale controlhttpserver acceptWebsocket).
            b"" if handshake.is_websocket else self._early_payload,
            self.api.dispatch,
            self._tunnel_closed,
            self._ticks,
        )
        self._tunnels.add(tunnel)
        self.metrics.tunnel_opened()
        return tunnel

    def _tunnel_closed(self, tunnel: TunnelProtocol) -> None:
        self._tunnels.discard(tunnel)
        self.metrics.tunnel_closed()

    # -- relay ----------------------------------------------------------------------------------

    async def publish_region(self) -> None:
        """Write the own region when it is not what was last written; a relay may return on other ports."""
        if self.relay is None or self.relay.ready is None:
            return
        facts = region_json(self.relay.config, self.relay.ready)
        if facts == self._published:
            return
        region = await self.scoped.put_own_region(self.relay.config.region_id, facts)
        self._published = facts
        ready = self.relay.ready
        _log.info(
            "relay_ready", region=region.region_id, derp_port=ready.derp_port, stun_port=ready.stun_port
        )

    # -- by the clock ---------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        settings = self.settings
        jobs = [
            Job("expire_keys", EXPIRY_CHECK_S, self._expire_keys),
            Job("delete_ephemeral", EPHEMERAL_CHECK_S, self._delete_ephemeral),
            Job("heartbeat", HEARTBEAT_S, self.heartbeat),
            Job("trim", TRIM_S, self._trim),
            Job("usage", SAMPLE_EVERY_S, self.usage.run_once),
            Job("dial_plan", DIAL_PLAN_S, self.tell_dial_plan),
            Job("statistics", STATISTICS_S, self._refresh_statistics),
            Job("collect", COLLECT_EVERY_S, collect),
        ]
        if settings.derp.auto_update_enabled and (settings.derp.urls or settings.derp.paths):
            jobs.append(Job("refresh_derp_map", settings.derp.update_frequency, self._refresh_derp_map))
        return jobs

    async def _expire_keys(self) -> None:
        while expired := self.hub.expire_due():
            _log.info("keys_expired", devices=expired)
            await asyncio.sleep(0)

    async def _delete_ephemeral(self) -> None:
        if not self.may_write():
            return
        for device in self.hub.inactive_ephemeral(self.settings.node.ephemeral.inactivity_timeout):
            await self.scoped.delete_device(device.tenant_id, device.id, actor="ephemeral clean-up")
            self.hub.remove_device(device.id)
            _log.info("ephemeral_deleted", device=device.id, hostname=device.hostname)

    async def heartbeat(self) -> None:
        """Say in the database that this process lives, and where its relay is."""
        await self.publish_region()
        await self.follower.say_alive()

    async def tell_dial_plan(self) -> None:
        """Tell clients the addresses of this instance and its standbys, if it knows its own."""
        own = self.settings.advertise_addr
        if not own or not self.may_write():
            return
        known = await self.scoped.advertised_instances(SILENT_INSTANCE_S)
        plan = dial_plan([own, *(addr for name, addr in known if name != self.instance)])
        if plan != self._told_plan:
            self._told_plan = plan
            self.hub.set_dial_plan(orjson.dumps(plan))

    async def _refresh_statistics(self) -> None:
        devices = self.hub.counts()[1]
        if self.may_write() and devices >= STATISTICS_FROM and devices >= 2 * self._counted:
            await self.scoped.refresh_statistics()
            self._counted = devices

    async def _trim(self) -> None:
        await self.scoped.trim_changes(CHANGES_KEPT_S)
        await self.scoped.trim_tombstones()
        await self.scoped.trim_presence()
        await self.scoped.trim_logins()
        await self.scoped.trim_requests()
        await self.scoped.trim_load(self.settings.cluster_id)

    async def _refresh_derp_map(self) -> None:
        if await self.derp_map.refresh():
            self.hub.set_derp_map(self.derp_map.current)

    def set_gauges(self) -> None:
        tenants, devices, sessions = self.hub.counts()
        open_sessions = self.hub.sessions()
        states = Counter(session.state for session in open_sessions)
        self.metrics.gauges(
            tenants=tenants,
            devices=devices,
            sessions=sessions,
            waiting=self.hot.waiting,
            sessions_lagging=states[SessionState.LAGGING],
            sessions_waiting=states[SessionState.WAITING],
            unsent_bytes=sum(session.unsent for session in open_sessions),
            tasks=len(asyncio.all_tasks()),
        )

    # -- the end --------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Hand the clients back, write what stands in line."""
        self.usage.sample()
        await self.hub.drain(wave=DRAIN_WAVE, pause_s=DRAIN_PAUSE_S)
        for tunnel in list(self._tunnels):
            tunnel.close()
        await self.usage.flush()
        await self.follower.load_meter.flush()
        try:
            await self.hot.flush()
        except HsError as error:
            _log.warning("last_flush_failed", waiting=self.hot.waiting, reason=error.message)


def relay_config(settings: Settings, verify_url: str) -> DerpConfig:
    """The own relay as the settings want it."""
    server = settings.derp.server
    host, _, port = server.listen_addr.rpartition(":")
    stun_host, _, stun_port = server.stun_listen_addr.rpartition(":")
    name = server.hostname or urlsplit(settings.server_url).hostname or "127.0.0.1"
    return DerpConfig(
        data_dir=str(Path(settings.state_dir) / "derp" / settings.cluster_id),
        hostname=name,
        region_id=server.region_id or FIRST_REGION_ID,
        region_code=server.region_code or f"hs-{settings.cluster_id}",
        region_name=server.region_name or f"cluster {settings.cluster_id}",
        cluster_id=settings.cluster_id,
        listen_host=host.strip("[]") or "0.0.0.0",
        listen_port=int(port),
        stun_host=stun_host.strip("[]") or "0.0.0.0",
        stun_port=int(stun_port),
        ipv4=server.ipv4,
        ipv6=server.ipv6 or ("" if _is_v6(name) else "none"),
        log_level=settings.log.level,
        log_format=settings.log.format,
        verify_url=verify_url if server.verify_clients else "",
    )


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
