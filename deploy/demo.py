"""`make demo`: two clusters on one embedded database, forty simulated devices that come and go.

The devices speak the real protocol to two real `hs-node serve` processes. With a terminal the console
runs on top (live tables where it is not installed); with --headless the fleet is printed and all ends.
Everything lies in a temporary directory, or in DEMO_DIR, which is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app.client.device import SimulatedDevice
from app.database import database_dsn
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import HsError, Unavailable
from app.model import AuthKey, ClusterFacts, Device, Tenant, User
from app.settings import Settings, load
from app.simulation.fleet import Fleet
from app.simulation.full import FullDevice
from app.simulation.scenario import Churn, Spec, Step
from node.shell import Row, administration, cell, owner_of, show, when
from node.shell_clusters import cluster_row

CLUSTERS = ("east", "west")
SEED = 20
#: Who owns devices in each cluster: user or tag, whether they are ephemeral, the devices' names.
OWNERS = (
    ("alice", False, ("laptop", "phone", "tablet", "desktop", "watch", "camera")),
    ("bob", False, ("notebook", "pixel", "printer", "nas", "tv")),
    ("carol", True, ("runner-1", "runner-2", "runner-3", "runner-4")),
    ("tag:server", False, ("web-1", "web-2", "db-1", "cache-1", "mail-1")),
)
DEVICES_EACH = sum(len(names) for _, _, names in OWNERS)
SYSTEMS = ("linux", "macOS", "windows", "iOS", "android")

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 20.0
JOIN_DEADLINE_S = 30.0
#: The tables must say what the devices do within this.
SETTLE_DEADLINE_S = 30.0
REQUEST_DEADLINE_S = 5.0
POLL_S = 0.1
#: A lost device counts as online this long, so that the tables move while one watches.
OFFLINE_GRACE = "1s"
KEY_LIFE_S = 24 * 3600.0
#: Between two events of the fleet, with a terminal and without.
EVENT_S = 0.7
HEADLESS_EVENT_S = 0.05
HEADLESS_S = 3.0
FOREVER_S = 1e9
STORM_NEVER_S = 1e9
#: At least so many are away when the headless demo prints its tables.
AWAY_AT_LEAST = 4
REFRESH_S = 0.5
#: What fits into 80 columns of the live view; a device's name begins with its cluster.
LIVE_CLUSTER = ("cluster", "state", "epoch", "users", "devices", "connected", "lease_age_s")
LIVE_DEVICE = ("device", "owner", "address", "state", "endpoints")
EXIT_INTERRUPTED = 130
SHOWN_LOG_LINES = 20


class Progress:
    """Lines on stderr with the seconds since the start; silent while something else owns the terminal."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self.quiet = False

    def say(self, text: str) -> None:
        if not self.quiet:
            print(f"[{time.monotonic() - self._start_s:5.1f} s] {text}", file=sys.stderr, flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(state_dir: Path) -> dict[str, str]:
    """The caller's environment without settings of ours; no configuration file is read."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HS_") and name not in ("CLUSTER_ID", "PG_DSN", "DERP_MAP_URL")
    }
    return {
        **kept,
        "HS_STATE_DIR": str(state_dir),
        "HS_CONFIG": os.devnull,
        "HS_TIMING__OFFLINE_GRACE": OFFLINE_GRACE,
        "HS_LOG__LEVEL": "warning",
        "HS_DERP__SERVER__LISTEN_ADDR": "127.0.0.1:0",
        "HS_DERP__SERVER__STUN_LISTEN_ADDR": "127.0.0.1:0",
    }


# -- one cluster --------------------------------------------------------------------------------


class Server:
    """`hs-node serve` of one cluster, as a process of its own."""

    def __init__(self, cluster: str, state_dir: Path) -> None:
        self.cluster = cluster
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        self.log_path = state_dir / f"{cluster}.log"
        self.env = environment(state_dir) | {
            "CLUSTER_ID": cluster,
            "HS_LISTEN_ADDR": address,
            "HS_METRICS_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
        }
        self.settings: Settings = load(None, self.env, state_dir).settings
        self.process: subprocess.Popen[bytes] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From ready to ended. Raises Unavailable with the end of its log when it does not start."""
        with self.log_path.open("wb") as log:
            # A session of its own: Ctrl-C is for us, and we stop it in order.
            self.process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-m", "node.cli", "serve"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            await self._ready()
            yield
        finally:
            await self._stop()

    async def _ready(self) -> None:
        assert self.process is not None
        async with httpx.AsyncClient(timeout=REQUEST_DEADLINE_S, trust_env=False) as client:
            end_s = time.monotonic() + START_DEADLINE_S
            while self.process.poll() is None and time.monotonic() < end_s:
                try:
                    if (await client.get(f"{self.url}/health")).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass  # not listening yet
                await asyncio.sleep(POLL_S)
        lines = self.log_path.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:]
        raise Unavailable(f"cluster {self.cluster} does not start:\n" + "\n".join(lines))

    async def _stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            await asyncio.to_thread(self.process.wait, STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# -- devices ------------------------------------------------------------------------------------


def device_spec(server: Server, name: str, key: str, ephemeral: bool) -> Spec:
    """A full device; its keys are the same in every run, so that a kept DEMO_DIR sees it again."""
    hostname = f"{server.cluster}-{name}"
    return Spec(
        server.url,
        hostname,
        key,
        tenant=CLUSTERS.index(server.cluster),
        full=True,
        ephemeral=ephemeral,
        os=SYSTEMS[sum(hostname.encode()) % len(SYSTEMS)],
        seed=f"demo/{hostname}",
        usual=(),
    )


def simulated(fleet: Fleet) -> list[SimulatedDevice]:
    return [device.simulated for device in fleet.devices if isinstance(device, FullDevice)]


def away(fleet: Fleet) -> set[str]:
    """Hostnames of those that are not here, and shall not be."""
    return {device.spec.hostname for device in fleet.devices if not device.wanted}


async def choose_relays(fleet: Fleet) -> None:
    """Each device has a home relay, as if it had measured them."""
    for device in simulated(fleet):
        relays = sorted((device.netmap.derp_map or {}).get("Regions", {}))
        if relays:
            await device.update(home_derp=int(relays[len(device.hostname) % len(relays)]))


async def meet(fleet: Fleet) -> None:
    """Everybody sees everybody of the own cluster, and nobody else. Raises Unavailable."""
    for device in simulated(fleet):
        await device.wait_for(lambda netmap: len(netmap.peers) >= DEVICES_EACH - 1, JOIN_DEADLINE_S)
        cluster = device.hostname.partition("-")[0]
        seen = {row["Hostinfo"]["Hostname"] for row in device.netmap.peers.values()}
        strangers = [name for name in seen if name.partition("-")[0] != cluster]
        if strangers:
            raise Unavailable(f"{device.hostname} sees {sorted(strangers)}")


def churn(event_s: float) -> Churn:
    """Devices leave, come back and move: an event in `event_s` seconds, returns beside."""
    return Churn(
        DEVICES_EACH * len(CLUSTERS),
        ("endpoints", "online"),
        1 / (2 * event_s),
        STORM_NEVER_S,
        random.Random(SEED).random,  # noqa: S311 - the same events in every run
    )


async def happen(fleet: Fleet) -> None:
    """Some events, and some devices away at the end."""
    await fleet.live(churn(HEADLESS_EVENT_S), HEADLESS_S)
    for number, device in enumerate(fleet.devices):
        if len(away(fleet)) >= AWAY_AT_LEAST:
            break
        if device.here and not device.busy:
            await fleet.act(Step(0, "away", number))
            await asyncio.sleep(POLL_S)


async def people(scoped: Scoped, tenant: Tenant, server: Server) -> list[Spec]:
    """Users, a key for each owner, and the devices that will use it."""
    specs = []
    have = {user.name for user in await scoped.list_users(tenant.id)}
    for owner, ephemeral, names in OWNERS:
        tagged = owner.startswith("tag:")
        if not tagged and owner not in have:
            await scoped.create_user(tenant.id, owner, actor="demo")
        _, text = await scoped.create_auth_key(
            tenant.id,
            None if tagged else (await owner_of(scoped, tenant, owner)).id,
            reusable=True,
            ephemeral=ephemeral,
            tags=[owner] if tagged else [],
            expiration=time.time() + KEY_LIFE_S,
            actor="demo",
        )
        specs += [device_spec(server, name, text, ephemeral) for name in names]
    return specs


# -- what is shown ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    """The deployment as the database tells it."""

    clusters: list[ClusterFacts]
    users: list[tuple[str, User]]
    keys: list[tuple[str, AuthKey]]
    devices: list[tuple[str, Device]]

    def owner(self, cluster: str, device: Device) -> str:
        if device.tags:
            return ", ".join(device.tags)
        return next(user.name for place, user in self.users if place == cluster and user.id == device.user_id)

    def tables(self) -> list[tuple[str, list[Row]]]:
        return [
            ("Clusters", [cluster_row(cluster) for cluster in self.clusters]),
            ("Users", [self._user(cluster, user) for cluster, user in self.users]),
            ("Auth keys", [self._key(cluster, key) for cluster, key in self.keys]),
            ("Devices", [self.device(cluster, device) for cluster, device in self.devices]),
        ]

    def _user(self, cluster: str, user: User) -> Row:
        owned = [device for place, device in self.devices if place == cluster and device.user_id == user.id]
        return {"cluster": cluster, "user": user.name, "devices": len(owned), "created": when(user.created)}

    def _key(self, cluster: str, key: AuthKey) -> Row:
        owner = next((user.name for _, user in self.users if user.id == key.user_id), None)
        kind = "ephemeral" if key.ephemeral else "reusable" if key.reusable else "once"
        return {
            "cluster": cluster,
            "key": f"{key.prefix}...",
            "owner": owner or ", ".join(key.tags),
            "kind": kind,
            "uses": key.uses,
            "expires": when(key.expiration),
        }

    def device(self, cluster: str, device: Device) -> Row:
        return {
            "cluster": cluster,
            "device": device.given_name,
            "owner": self.owner(cluster, device),
            "address": device.ipv4,
            "state": "online" if device.online else "away",
            "last seen": when(device.last_seen),
            "endpoints": list(device.endpoints),
        }


async def look(database: Database, places: dict[str, tuple[Scoped, Tenant]]) -> Picture:
    users, keys, devices = [], [], []
    for cluster, (scoped, tenant) in places.items():
        users += [(cluster, user) for user in await scoped.list_users(tenant.id)]
        keys += [(cluster, key) for key in await scoped.list_auth_keys(tenant.id)]
        devices += [(cluster, device) for device in await scoped.list_devices(tenant.id)]
    return Picture(await database.clusters(), users, keys, devices)


async def settled(database: Database, places: dict[str, tuple[Scoped, Tenant]], fleet: Fleet) -> Picture:
    """The picture once it says of every device whether it is here. Raises Unavailable."""
    gone = away(fleet)
    end_s = time.monotonic() + SETTLE_DEADLINE_S
    while True:
        picture = await look(database, places)
        found = {device.hostname for _, device in picture.devices if not device.online}
        if found == gone:
            return picture
        if time.monotonic() > end_s:
            raise Unavailable(f"away are {sorted(gone)}, but the database says {sorted(found)}")
        await asyncio.sleep(POLL_S)


def live_view(picture: Picture, fleet: Fleet, height: int) -> Group:
    """Clusters, what happened, and as many devices as fit; those away first."""
    clusters = rich_table([pick(cluster_row(cluster), LIVE_CLUSTER) for cluster in picture.clusters])
    room = max(1, height - len(picture.clusters) - 8)
    rows = [
        pick(picture.device(cluster, device), LIVE_DEVICE)
        for cluster, device in sorted(picture.devices, key=lambda item: item[1].online)
    ]
    words = f"{happened(fleet)}; Ctrl-C ends the demo"
    return Group(clusters, Text(""), rich_table(rows[:room]), Text(""), Text(words))


def happened(fleet: Fleet) -> str:
    actions = fleet.world.tally.actions
    return f"{actions['away']} left, {actions['back']} came back, {actions['endpoints']} moved"


def pick(row: Row, names: tuple[str, ...]) -> Row:
    return {name: row[name] for name in names}


def rich_table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row.values()))
    return table


# -- the demo -----------------------------------------------------------------------------------


@contextmanager
def directory() -> Iterator[Path]:
    """DEMO_DIR, or a directory that goes with us; the database's own account may enter it."""
    given = os.environ.get("DEMO_DIR")
    if given:
        path = Path(given).absolute()
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
        yield path
        return
    path = Path(tempfile.mkdtemp(prefix="hs-demo-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


async def demo(state_dir: Path, headless: bool, progress: Progress) -> int:
    servers = [Server(cluster, state_dir) for cluster in CLUSTERS]
    async with AsyncExitStack() as stack:
        for server in servers:
            fresh = not (state_dir / "pg").exists()
            extra = "; PostgreSQL is initialised first" if fresh else ""
            progress.say(f"starting cluster {server.cluster} at {server.url}{extra}")
            await stack.enter_async_context(server.running())
        places: dict[str, tuple[Scoped, Tenant]] = {}
        specs: list[Spec] = []
        for server in servers:
            scoped = await stack.enter_async_context(administration(server.settings))
            places[server.cluster] = scoped, await scoped.tenant()
            specs += await people(*places[server.cluster], server)
        fleet = await stack.enter_async_context(Fleet(specs))
        progress.say(f"{len(specs)} devices join")
        await fleet.join()
        progress.say(f"{fleet.joined} of {len(specs)} joined in {fleet.joining_s:.1f} s")
        await choose_relays(fleet)
        await meet(fleet)
        progress.say(f"every device sees its {DEVICES_EACH - 1} peers")
        database = Database(await stack.enter_async_context(database_dsn(servers[0].settings)))
        if headless:
            progress.say(f"for {HEADLESS_S:g} s devices leave, come back, or move")
            await happen(fleet)
            report(await settled(database, places, fleet), fleet)
        else:
            await watch(database, places, fleet, servers[0], progress)
        progress.say("stopping devices, clusters and database")
    violations = fleet.world.tally.violations
    for row in violations.rows():
        print(f"protocol violation: {row['what']}", file=sys.stderr)
    progress.say("done")
    return 1 if violations.total else 0


def report(picture: Picture, fleet: Fleet) -> None:
    for title, rows in picture.tables():
        print(f"\n{title}\n")
        show(rows, "table")
    online = sum(device.online for _, device in picture.devices)
    print(
        f"\n{len(picture.devices)} devices over {len(picture.clusters)} clusters: {online} online,"
        f" {len(picture.devices) - online} away; {happened(fleet)}\n",
        flush=True,
    )


async def watch(
    database: Database,
    places: dict[str, tuple[Scoped, Tenant]],
    fleet: Fleet,
    server: Server,
    progress: Progress,
) -> None:
    """The fleet goes on while somebody looks; ends with the console, or by Ctrl-C."""
    program = Path(sys.executable).with_name("hs-console")
    view = console(program, server.env) if program.exists() else tables(database, places, fleet)
    progress.quiet = True
    tasks = {
        asyncio.create_task(fleet.live(churn(EVENT_S), FOREVER_S), name="events"),
        asyncio.create_task(view, name="view"),
    }
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        progress.quiet = False
    for task in done:
        task.result()


async def console(program: Path, env: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(program, env=env)
    try:
        if await process.wait() != 0:
            raise Unavailable(f"{program.name} ended with {process.returncode}")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def tables(database: Database, places: dict[str, tuple[Scoped, Tenant]], fleet: Fleet) -> None:
    screen = Console()
    with Live(console=screen, screen=True, auto_refresh=False) as view:
        while True:
            view.update(live_view(await look(database, places), fleet, screen.height), refresh=True)
            await asyncio.sleep(REFRESH_S)


async def until_told(state_dir: Path, headless: bool, progress: Progress) -> int:
    """The demo, ended in order by the signals that end programs."""
    work = asyncio.create_task(demo(state_dir, headless, progress), name="demo")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        progress.say("stopped")
        return 0 if not headless else EXIT_INTERRUPTED


def main() -> int:
    parser = argparse.ArgumentParser(description="Two clusters, forty devices, one embedded database.")
    parser.add_argument("--headless", action="store_true", help="print the fleet, stop everything, exit")
    headless = parser.parse_args().headless
    progress = Progress()
    if not headless and not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        progress.say("this is no terminal: running as with HEADLESS=1")
        headless = True
    try:
        with directory() as state_dir:
            return asyncio.run(until_told(state_dir, headless, progress))
    except* HsError as errors:
        for error in errors.exceptions:
            print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
