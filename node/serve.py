"""`hs-node serve`: prepare, wait for the cluster, own it, hand the clients back."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app import __version__, log
from app.database import database_dsn
from app.db.lease import CLUSTER_PREFIX, Holder, Lease, LeaseState
from app.db.scoped import Scoped
from app.db.setup import Database
from app.deployment import load_or_create_noise_key
from app.errors import HsError, LeaseLost, LeaseTaken, Unavailable
from app.jobs import Job, schedule
from app.listen import listening
from app.pg import make_state_dir
from app.runtime import Daemon
from app.settings import Settings
from app.settings_values import mask_dsn
from app.stall import watch_loop
from node.collector import Collector
from node.debug_pages import debug_routes
from node.derp.metrics import RelayCollector
from node.derp.process import DerpConfig, Supervisor
from node.follower import HEARTBEAT_S, Follower
from node.front import Front
from node.loading import take_over
from node.metrics import Metrics
from node.owner import Owner, relay_config
from node.policy_file import PolicyFile
from node.vitals import STARTING, facts_of
from node.web import metrics_app, verify_app

_log = log.get("serve")

#: Between two looks at an embedded server that does not answer.
REVIVE_PAUSE_S = 1.0
#: Between attempts of a takeover while the database blinks.
TAKEOVER_PAUSE_S = 0.2
#: The pool of a standby: it follows, and answers pages.
STANDBY_CONNECTIONS = 3
#: For taking this process from the list of instances; one that is left is overlooked soon anyway.
GOODBYE_DEADLINE_S = 2.0
#: State of a cluster that an hs-acs has not admitted yet.
JOINING = "joining"

T = TypeVar("T")


@dataclass(slots=True)
class Serving:
    """One process from its start to its end."""

    daemon: Daemon
    settings: Settings
    waits: bool
    tell: Callable[[str], None]
    program: str = "hs-node"
    lease: Lease | None = None
    follower: Follower | None = None
    front: Front | None = None
    #: Set while this process serves the cluster.
    owner: Owner | None = None
    relay: Supervisor | None = None
    _relay_config: DerpConfig | None = None
    was_deposed: bool = False
    was_handed_over: bool = False
    policy_file: PolicyFile | None = None
    was_stale: bool = False

    @property
    def state(self) -> str:
        if self.owner is not None and self.lease is not None:
            return self.lease.state.value
        if self.follower is None or not self.follower.is_loaded:
            return STARTING
        return LeaseState.STANDBY.value

    async def run(self) -> None:
        """Until told to stop. Raises HsError with the sentence for the operator."""
        settings = self.settings
        instance = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        make_state_dir(settings.state_dir)
        async with AsyncExitStack() as stack:
            self._follow_policy_file(stack)
            dsn = await stack.enter_async_context(database_dsn(settings))
            try:
                database = await Database.prepare(dsn)
            except Unavailable as error:
                raise Unavailable(f"pg_dsn: {mask_dsn(dsn)}: {error.message}") from error
            state = await database.ensure_cluster(settings.cluster_id)
            if state is not None:
                self.tell(f"created cluster {settings.cluster_id!r} with its home tenant")
            if state == JOINING:
                self.tell(
                    f"it gets other tenants once it is admitted: hs-acs clusters admit {settings.cluster_id}"
                )
            noise_key = X25519PrivateKey.from_private_bytes(
                await load_or_create_noise_key(database, settings.secret_key_file)
            )
            metrics = Metrics(settings.cluster_id)
            stack.enter_context(Collector(metrics.gc_pause))
            if settings.metrics_listen_addr:
                await stack.enter_async_context(self._metrics_listener(metrics))
            epoch = await self._ask_for_cluster(dsn, instance)
            try:
                await self._live(stack, dsn, instance, epoch, noise_key, metrics)
            finally:
                await self._give_cluster_back()
        if self.was_deposed:
            raise LeaseLost(
                f"another instance has taken cluster {settings.cluster_id!r} over: this one has stopped"
            )
        if self.was_handed_over:
            raise LeaseLost(f"cluster {settings.cluster_id!r} was handed over at an operator's word")
        if self.was_stale:
            raise Unavailable(
                f"pg_dsn: the database was away for longer than timing.max_stale"
                f" ({self.settings.timing.max_stale:g} s): this instance has stopped"
            )

    async def _live(
        self,
        stack: AsyncExitStack,
        dsn: str,
        instance: str,
        epoch: int | None,
        noise_key: X25519PrivateKey,
        metrics: Metrics,
    ) -> None:
        """Follow the cluster and let clients in: as a standby if need be, then as the owner."""
        settings = self.settings
        scoped = await self._open_scope(stack, dsn, instance, epoch)
        self.follower = follower = Follower.build(
            settings,
            instance=instance,
            dsn=dsn,
            scoped=scoped,
            metrics=metrics,
            owns=epoch is not None,
            holds_lease=lambda: self.lease is not None and self.lease.state is LeaseState.OWNER,
            policy_file=self.policy_file,
        )
        self.front = front = await stack.enter_async_context(
            Front.open(settings, follower, noise_key, facts_of(self, metrics))
        )
        if settings.derp.server.enabled:
            address = await stack.enter_async_context(self._verify_listener(metrics))
            self._relay_config = relay_config(settings, f"http://{address}/verify")
            metrics.registry.register(RelayCollector(settings.cluster_id, lambda: self.relay))
        await follower.say_alive()
        tasks = [
            self.daemon.spawn("listen", follower.listener.run()),
            self.daemon.spawn("routes", front.exchange.run()),
            self.daemon.spawn("loop watch", watch_loop(metrics.loop_stall, follower.load_meter.stalled)),
            self.daemon.spawn("load", follower.load_meter.run()),
        ]
        try:
            if epoch is None:
                epoch = await self._stand_by(follower)
                if epoch is None:
                    return
                scoped = await self._retried(lambda: self._open_scope(stack, dsn, instance, epoch))
            await self._own(follower, front, scoped, epoch, metrics)
        finally:
            await front.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.relay is not None:
                await self.relay.stop()
            self.owner = None
            await self._say_goodbye(follower)

    async def _open_scope(self, stack: AsyncExitStack, dsn: str, instance: str, epoch: int | None) -> Scoped:
        postgres = self.settings.database.postgres
        scoped = await Scoped.open(
            dsn,
            cluster_id=self.settings.cluster_id,
            role="hs_node",
            instance=instance,
            epoch=epoch,
            pool_size=STANDBY_CONNECTIONS if epoch is None else postgres.max_open_conns,
            pool_idle_s=postgres.conn_max_idle_time_secs,
        )
        stack.push_async_callback(scoped.close)
        return scoped

    # -- policy file ----------------------------------------------------------------------------

    def _follow_policy_file(self, stack: AsyncExitStack) -> None:
        """Take the file, if there is to be one, and again on SIGHUP. Raises ConfigError."""
        path = self.settings.policy.file
        if path is None:
            return
        self.policy_file = PolicyFile(path)
        self.policy_file.take()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(
            signal.SIGHUP, lambda: self.daemon.spawn("policy file", self._reload_policy_file())
        )
        stack.callback(loop.remove_signal_handler, signal.SIGHUP)

    async def _reload_policy_file(self) -> None:
        if self.follower is not None:
            await self.follower.policies.reload_file()
        elif self.policy_file is not None:
            self.policy_file.try_again()

    # -- ownership ------------------------------------------------------------------------------

    async def _ask_for_cluster(self, dsn: str, instance: str) -> int | None:
        """The epoch under which this process owns the cluster; None when another one does."""
        cluster_id = self.settings.cluster_id
        self.lease = Lease(
            dsn,
            CLUSTER_PREFIX + cluster_id,
            instance,
            ttl_s=self.settings.timing.lease_ttl,
            on_state=self._lease_changed,
            on_holder=self._heard_holder,
        )
        epoch = await self.lease.acquire()
        if epoch is None:
            holder = await self.lease.holder()
            by = holder.instance if holder is not None else "another instance"
            sentence = f"cluster {cluster_id!r} is served by instance {by}"
            if not self.waits:
                raise LeaseTaken(f"{sentence}: stop it, choose another CLUSTER_ID, or leave --no-standby out")
            self.tell(f"{sentence}; waiting as its standby")
        return epoch

    async def _stand_by(self, follower: Follower) -> int | None:
        """Follow until the cluster is ours: its epoch, or None when told to stop meanwhile."""
        assert self.lease is not None
        following = [
            self.daemon.spawn("follow", follower.follow()),
            self.daemon.spawn("say alive", follower.keep_saying_alive()),
            self.daemon.spawn("start relay", self._start_relay()),
        ]
        waiting = asyncio.ensure_future(self.lease.wait())
        stopping = asyncio.ensure_future(self.daemon.stopping.wait())
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in following[:2]:
            task.cancel()
        if not waiting.done():
            waiting.cancel()
        # A relay that is about to be ready is waited for; another start would take longer.
        await asyncio.gather(*following, waiting, return_exceptions=True)
        return None if waiting.cancelled() else waiting.result()

    def _lease_changed(self, state: LeaseState) -> None:
        if self.daemon.stopping.is_set():
            return
        level = logging.WARNING if state in (LeaseState.FROZEN, LeaseState.LOST) else logging.INFO
        _log.log(level, "lease_state", state=state.value)
        if state is LeaseState.LOST:
            self.was_deposed = True
            self.daemon.stopping.set()

    def _heard_holder(self, holder: Holder | None) -> None:
        if self.front is not None:
            self.front.own.heard(*(("", 0) if holder is None else (holder.instance, holder.epoch)))

    async def _retried(self, step: Callable[[], Awaitable[T]]) -> T:
        """A step of a takeover: a database that blinks must not cost the cluster its only instance."""
        assert self.lease is not None
        while True:
            try:
                return await step()
            except Unavailable as error:
                if self.daemon.stopping.is_set() or self.lease.state is LeaseState.LOST:
                    raise
                _log.warning("takeover_delayed", reason=error.message)
                await asyncio.sleep(TAKEOVER_PAUSE_S)

    def _hand_over(self) -> None:
        """An operator wants a standby to have the cluster: end in order, and give the lease back."""
        _log.warning("cluster_handed_over")
        self.was_handed_over = True
        self.daemon.stopping.set()

    async def _give_cluster_back(self) -> None:
        assert self.lease is not None
        try:
            await self.lease.release()
        except HsError as error:
            _log.warning("lease_not_released", reason=error.message)
            self.lease.close()

    async def _say_goodbye(self, follower: Follower) -> None:
        try:
            async with asyncio.timeout(GOODBYE_DEADLINE_S):
                await follower.scoped.delete_instance(follower.instance)
        except (HsError, TimeoutError) as error:
            _log.warning("instance_not_deleted", reason=str(error) or "no answer")

    async def _own(
        self, follower: Follower, front: Front, scoped: Scoped, epoch: int, metrics: Metrics
    ) -> None:
        _log.info("cluster_owned", instance=follower.instance, epoch=epoch)
        began_s = asyncio.get_running_loop().time()
        takes_over = scoped is not follower.scoped
        if self.relay is None:
            await self._start_relay(must=not takes_over)
        owner = Owner.build(
            self.settings,
            follower=follower,
            scoped=scoped,
            metrics=metrics,
            limits=front.limits,
            relay=self.relay,
            may_write=follower.may_write,
            hand_over=self._hand_over,
            learn=front.exchange.machines.learn,
        )
        if takes_over:
            former = follower.scoped
            await self._retried(lambda: follower.take_over(scoped))
            await former.close()
            await self._retried(owner.publish_region)
            # Nobody waits for a distant URL now.
            await follower.derp_map.refresh(own_only=True)
            follower.hub.set_derp_map(follower.derp_map.current)
        else:
            await owner.publish_region()
            await follower.load()
        await owner.heartbeat()
        owner.news.touch()
        await owner.tell_dial_plan()
        await take_over(follower.hub)
        tasks = [
            self.daemon.spawn(name, work)
            for name, work in (
                ("refresh", owner.refresher.run(owner.events())),
                ("logins", owner.login_waiters.run()),
                ("requests", owner.requests.run()),
                ("hot state", owner.hot.run()),
                ("news", owner.news.run()),
                ("stale watch", self._end_when_stale()),
                ("embedded database", self._revive_database()),
            )
        ]
        scheduler = schedule([*owner.jobs(), Job("relay", HEARTBEAT_S, lambda: self._relay_again(owner))])
        try:
            self.owner = owner
            front.serve(owner, epoch)
            took_ms = round((asyncio.get_running_loop().time() - began_s) * 1000)
            _log.info("cluster_served", took_ms=took_ms, waiting=front.exchange.pool.parked)
            self._greet(owner)
            await self.daemon.stopping.wait()
            await front.close()
            await owner.stop()
        finally:
            scheduler.shutdown(wait=False)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- relay ----------------------------------------------------------------------------------

    async def _start_relay(self, *, must: bool = False) -> None:
        """Start the relay process; a standby's runs already when it takes over.

        On one host its ports may be the owner's as long as that lives: only a first owner `must` have it.
        """
        if self._relay_config is None:
            return
        relay = Supervisor(self._relay_config)
        try:
            await relay.start()
        except HsError as error:
            if must:
                raise
            _log.warning("relay_not_started", reason=error.message)
            return
        self.relay = relay

    async def _relay_again(self, owner: Owner) -> None:
        if self.relay is None and self._relay_config is not None:
            await self._start_relay()
            owner.relay = self.relay

    async def _end_when_stale(self) -> None:
        """A frozen owner serves from memory, but not for ever."""
        assert self.lease is not None
        while True:
            await self.lease.wait_for(LeaseState.FROZEN, LeaseState.LOST)
            if self.lease.state is LeaseState.LOST:
                return
            try:
                async with asyncio.timeout(self.settings.timing.max_stale):
                    await self.lease.wait_for(LeaseState.OWNER, LeaseState.LOST)
            except TimeoutError:
                _log.error("frozen_too_long", max_stale_s=self.settings.timing.max_stale)
                self.was_stale = True
                self.daemon.stopping.set()
                return

    async def _revive_database(self) -> None:
        """An embedded server that died has nobody else to start it again."""
        assert self.lease is not None
        while self.settings.pg_dsn is None:
            await self.lease.wait_for(LeaseState.FROZEN)
            try:
                async with database_dsn(self.settings):
                    pass  # one user more makes sure that it runs
            except HsError as error:
                _log.error("embedded_database_not_started", reason=error.message)
            await asyncio.sleep(REVIVE_PAUSE_S)

    # -- listeners ------------------------------------------------------------------------------

    def _metrics_listener(self, metrics: Metrics) -> AbstractAsyncContextManager[str]:
        app = metrics_app(facts_of(self, metrics))
        debug_routes(app, lambda: self.owner)
        return listening(app, "metrics_listen_addr", self.settings.metrics_listen_addr)

    def _verify_listener(self, metrics: Metrics) -> AbstractAsyncContextManager[str]:
        """Where the relay process asks whether a device may use it; works whatever TLS clients need."""
        return listening(verify_app(facts_of(self, metrics)), "derp.server.verify_clients", "127.0.0.1:0")

    def _greet(self, owner: Owner) -> None:
        settings = self.settings
        tenants, devices, _ = owner.hub.counts()
        _log.info(
            "serving", listen=settings.listen_addr, version=__version__, tenants=tenants, devices=devices
        )
        self.tell(
            f"""hs-node {__version__} serves cluster {settings.cluster_id!r} at {settings.server_url}

To let a device in:
  {self.program} users create alice
  {self.program} preauthkeys create --user alice
  tailscale up --login-server {settings.server_url} --auth-key <the key>"""
        )
