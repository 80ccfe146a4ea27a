"""`hs-node serve`: prepare, wait for the cluster, own it, hand the clients back."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app import __version__, log
from app.database import database_dsn
from app.db.lease import CLUSTER_PREFIX, Lease, LeaseState
from app.db.scoped import Scoped
from app.db.setup import Database
from app.deployment import load_or_create_noise_key
from app.entry.limits import HANDSHAKE_DEADLINE_S
from app.errors import ConfigError, HsError, LeaseLost, LeaseTaken, Unavailable
from app.keys import NodeKey
from app.model import Login
from app.pg import make_state_dir
from app.runtime import Daemon
from app.settings import Settings
from app.settings_values import mask_dsn
from node.debug_pages import debug_routes
from node.derpmap import DerpMapSource
from node.jobs import schedule
from node.listen import reason_of, split_listen, tls_context
from node.metrics import Metrics
from node.owner import Owner, public_bytes
from node.policy_file import PolicyFile
from node.stall import watch_loop
from node.web import Facts, client_app, metrics_app, verify_app

_log = log.get("serve")

#: Connections the kernel may hold before they are accepted; a fleet comes back all at once.
BACKLOG = 4096
HEALTH_DEADLINE_S = 1.0
WEB_KEEPALIVE_S = 30.0
#: Between two looks at an embedded server that does not answer.
REVIVE_PAUSE_S = 1.0
#: Pages under way get so long when the process stops.
WEB_STOP_S = 2.0


@dataclass(slots=True)
class Serving:
    """One process from its start to its end."""

    daemon: Daemon
    settings: Settings
    waits: bool
    tell: Callable[[str], None]
    program: str = "hs-node"
    lease: Lease | None = None
    owner: Owner | None = None
    was_deposed: bool = False
    policy_file: PolicyFile | None = None
    was_stale: bool = False

    @property
    def state(self) -> str:
        return "starting" if self.lease is None else self.lease.state.value

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
            if await database.ensure_cluster(settings.cluster_id):
                self.tell(f"created cluster {settings.cluster_id!r} with its home tenant")
            noise_key = X25519PrivateKey.from_private_bytes(
                await load_or_create_noise_key(database, settings.secret_key_file)
            )
            metrics = Metrics(settings.cluster_id)
            if settings.metrics_listen_addr:
                await stack.enter_async_context(self._metrics_listener(metrics))
            epoch = await self._take_cluster(dsn, instance)
            if epoch is None:
                return
            try:
                await self._own(stack, dsn, instance, epoch, noise_key, metrics)
            finally:
                await self._give_cluster_back()
        if self.was_deposed:
            raise LeaseLost(
                f"another instance has taken cluster {settings.cluster_id!r} over: this one has stopped"
            )
        if self.was_stale:
            raise Unavailable(
                f"pg_dsn: the database was away for longer than timing.max_stale"
                f" ({self.settings.timing.max_stale:g} s): this instance has stopped"
            )

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
        if self.owner is not None:
            await self.owner.policies.reload_file()
        elif self.policy_file is not None:
            self.policy_file.try_again()

    # -- ownership ------------------------------------------------------------------------------

    async def _take_cluster(self, dsn: str, instance: str) -> int | None:
        """The epoch under which this process owns the cluster; None when told to stop meanwhile."""
        cluster_id = self.settings.cluster_id
        self.lease = Lease(
            dsn,
            CLUSTER_PREFIX + cluster_id,
            instance,
            ttl_s=self.settings.timing.lease_ttl,
            on_state=self._lease_changed,
        )
        epoch = await self.lease.acquire()
        if epoch is None:
            holder = await self.lease.holder()
            by = holder.instance if holder is not None else "another instance"
            sentence = f"cluster {cluster_id!r} is served by instance {by}"
            if not self.waits:
                raise LeaseTaken(f"{sentence}: stop it, choose another CLUSTER_ID, or leave --no-standby out")
            self.tell(f"{sentence}; waiting as its standby")
            waiting = asyncio.ensure_future(self.lease.wait())
            stopping = asyncio.ensure_future(self.daemon.stopping.wait())
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not waiting.done():
                waiting.cancel()
                return None
            epoch = waiting.result()
        _log.info("cluster_owned", instance=instance, epoch=epoch)
        return epoch

    def _lease_changed(self, state: LeaseState) -> None:
        if self.daemon.stopping.is_set():
            return
        level = logging.WARNING if state in (LeaseState.FROZEN, LeaseState.LOST) else logging.INFO
        _log.log(level, "lease_state", state=state.value)
        if state is LeaseState.LOST:
            self.was_deposed = True
            self.daemon.stopping.set()

    async def _give_cluster_back(self) -> None:
        assert self.lease is not None
        try:
            await self.lease.release()
        except HsError as error:
            _log.warning("lease_not_released", reason=error.message)
            self.lease.close()

    async def _own(
        self,
        stack: AsyncExitStack,
        dsn: str,
        instance: str,
        epoch: int,
        noise_key: X25519PrivateKey,
        metrics: Metrics,
    ) -> None:
        settings = self.settings
        scoped = await Scoped.open(
            dsn,
            cluster_id=settings.cluster_id,
            role="hs_node",
            instance=instance,
            epoch=epoch,
            pool_size=settings.database.postgres.max_open_conns,
            pool_idle_s=settings.database.postgres.conn_max_idle_time_secs,
        )
        stack.push_async_callback(scoped.close)
        derp_map = DerpMapSource(settings.derp.urls, settings.derp.paths, scoped.list_regions)
        owner = Owner.build(
            settings,
            instance=instance,
            dsn=dsn,
            scoped=scoped,
            noise_key=noise_key,
            metrics=metrics,
            derp_map=derp_map,
            may_write=lambda: self.lease is not None and self.lease.state is LeaseState.OWNER,
            policy_file=self.policy_file,
        )
        self.owner = owner
        tasks: list[asyncio.Task[None]] = []
        try:
            if settings.derp.server.enabled:
                verify_url = await stack.enter_async_context(self._verify_listener(metrics))
                await owner.start_relay(verify_url)
            await derp_map.refresh()
            owner.hub.set_derp_map(derp_map.current)
            await owner.refresher.load()
            # A failover between this load and the first LISTEN is another history too.
            owner.listener.generation = owner.refresher.generation
            await owner.heartbeat()
            owner.news.touch()
            for name, work in (
                ("listen", owner.listener.run()),
                ("refresh", owner.refresher.run(owner.events())),
                ("logins", owner.login_waiters.run()),
                ("requests", owner.requests.run()),
                ("hot state", owner.hot.run()),
                ("loop watch", watch_loop(owner.metrics.loop_stall)),
                ("news", owner.news.run()),
                ("stale watch", self._end_when_stale()),
                ("embedded database", self._revive_database()),
            ):
                tasks.append(self.daemon.spawn(name, work))
            scheduler = schedule(owner.jobs())
            stack.callback(scheduler.shutdown, wait=False)
            async with self._client_listener(owner, noise_key):
                self._greet(owner)
                await self.daemon.stopping.wait()
            await owner.stop()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if owner.relay is not None:
                await owner.relay.stop()
            self.owner = None

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

    @asynccontextmanager
    async def _client_listener(self, owner: Owner, noise_key: X25519PrivateKey) -> AsyncIterator[None]:
        facts = self._facts(owner.metrics)
        app = client_app(
            facts,
            noise_public=public_bytes(noise_key),
            legacy_public=public_bytes(X25519PrivateKey.generate()),
        )
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=WEB_KEEPALIVE_S, shutdown_timeout=WEB_STOP_S
        )
        await runner.setup()
        http = runner.server
        assert http is not None
        host, port = split_listen(self.settings.listen_addr)
        tls = tls_context(self.settings)
        try:
            server = await asyncio.get_running_loop().create_server(
                owner.entry(lambda: http()).protocol,
                host,
                port,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_DEADLINE_S,
                backlog=BACKLOG,
            )
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(
                f"listen_addr: cannot listen on {self.settings.listen_addr}: {reason_of(error)}"
            ) from error
        try:
            yield
        finally:
            server.close()
            await runner.cleanup()

    @asynccontextmanager
    async def _metrics_listener(self, metrics: Metrics) -> AsyncIterator[None]:
        facts = self._facts(metrics)
        app = metrics_app(facts)
        debug_routes(app, lambda: self.owner)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=WEB_STOP_S)
        await runner.setup()
        host, port = split_listen(self.settings.metrics_listen_addr)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            address = self.settings.metrics_listen_addr
            raise ConfigError(
                f"metrics_listen_addr: cannot listen on {address}: {reason_of(error)}"
            ) from error
        try:
            yield
        finally:
            await runner.cleanup()

    @asynccontextmanager
    async def _verify_listener(self, metrics: Metrics) -> AsyncIterator[str]:
        """Where the relay process asks whether a device may use it; works whatever TLS clients need."""
        runner = web.AppRunner(verify_app(self._facts(metrics)), access_log=None, shutdown_timeout=WEB_STOP_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}/verify"
        finally:
            await runner.cleanup()

    def _facts(self, metrics: Metrics) -> Facts:
        asking: asyncio.Task[bool] | None = None

        async def ask_database() -> bool:
            try:
                if self.owner is not None:
                    await self.owner.scoped.current_position()
                elif self.lease is not None:
                    await self.lease.holder()
            except HsError:
                return False
            return True

        async def database_answers() -> bool:
            """One question at a time: a driver may be unable to give up one that hangs."""
            nonlocal asking
            if asking is None or asking.done():
                asking = asyncio.create_task(ask_database(), name="health")
            question = asking
            done, _ = await asyncio.wait({question}, timeout=HEALTH_DEADLINE_S)
            return bool(done) and question.result()

        async def node_key_known(key: bytes) -> bool:
            if self.owner is None:
                return False
            if self.owner.hub.device_by_node_key(key) is not None:
                return True
            return await self.owner.scoped.node_key_known(NodeKey(key))

        async def login(login_id: str) -> Login | None:
            if self.owner is None:
                raise Unavailable("this instance does not own its cluster")
            found = await self.owner.scoped.logins([login_id])
            return found[0] if found else None

        def metrics_text() -> bytes:
            return metrics.text() if self.owner is None else self.owner.metrics_text()

        return Facts(
            self.settings.cluster_id,
            lambda: self.state,
            database_answers,
            node_key_known,
            login,
            metrics_text,
        )

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
