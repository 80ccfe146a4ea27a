"""`make demo`: three clusters and hs-acs on one embedded database, simulated devices that come and go.

The devices speak the real protocol to real `hs-node serve` and `hs-acs serve` processes: forty in the home
tenants of two clusters, and those of three customers that know nothing but hs-acs. With a terminal the
console runs on top; with --headless the fleet is printed and all ends. Everything lies in a temporary
directory, or in DEMO_DIR, which is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.api.client import AcsClient
from app.database import database_dsn
from app.db.setup import Database
from app.errors import HsError
from app.simulation.fleet import Fleet
from app.simulation.scenario import Spec
from deploy.demo.acs import Acs, customers, move_somebody
from deploy.demo.fleet import announce, choose_relays, happen, meet
from deploy.demo.people import people
from deploy.demo.picture import Places, report, settled
from deploy.demo.progress import Progress
from deploy.demo.server import Server
from deploy.demo.watching import watch
from node.shell import administration

CLUSTERS = ("east", "west", "north")
#: Whose home tenants have devices.
INHABITED = CLUSTERS[:2]
HEADLESS_EVENT_S = 0.05
HEADLESS_S = 3.0
EXIT_INTERRUPTED = 130


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


@dataclass(frozen=True, slots=True)
class Deployment:
    """The demo as it runs, its devices met."""

    servers: list[Server]
    api: AcsClient
    places: Places
    fleet: Fleet


@asynccontextmanager
async def deployment(state_dir: Path, progress: Progress) -> AsyncIterator[Deployment]:
    """Clusters, hs-acs and devices, from started to ended in order."""
    servers = [Server(cluster, state_dir) for cluster in CLUSTERS]
    async with AsyncExitStack() as stack:
        for server in servers:
            fresh = not (state_dir / "pg").exists()
            extra = "; PostgreSQL is initialised first" if fresh else ""
            progress.say(f"starting cluster {server.cluster} at {server.url}{extra}")
            await stack.enter_async_context(server.running())
        acs = Acs(state_dir)
        progress.say(f"starting hs-acs at {acs.url}")
        await stack.enter_async_context(acs.running())
        api = await stack.enter_async_context(acs.client())
        places: Places = {}
        specs: list[Spec] = []
        scopes = {
            server.cluster: await stack.enter_async_context(administration(server.settings))
            for server in servers
        }
        for server in servers:
            if server.cluster not in INHABITED:
                continue
            scoped = scopes[server.cluster]
            places[server.cluster] = scoped, await scoped.tenant()
            specs += await people(*places[server.cluster], server)
        specs += await customers(api, acs, scopes)
        fleet = await stack.enter_async_context(Fleet(specs))
        progress.say(f"{len(specs)} devices join")
        await fleet.join()
        progress.say(f"{fleet.joined} of {len(specs)} joined in {fleet.joining_s:.1f} s")
        await choose_relays(fleet)
        await announce(fleet)
        await meet(fleet)
        progress.say("every device sees the others of its tenant, and nobody else")
        yield Deployment(servers, api, places, fleet)


async def demo(state_dir: Path, headless: bool, progress: Progress) -> int:
    async with deployment(state_dir, progress) as made:
        fleet = made.fleet
        if headless:
            async with database_dsn(made.servers[0].settings) as dsn:
                database = Database(dsn)
                progress.say(f"for {HEADLESS_S:g} s devices leave, come back, or move")
                await happen(fleet, HEADLESS_EVENT_S, HEADLESS_S)
                progress.say(await move_somebody(made.api, CLUSTERS))
                await meet(fleet)
                report(await settled(database, made.places, made.api, fleet), fleet)
        else:
            progress.say("the console opens; q ends it and the demo")
            await watch(fleet, made.servers[0].env, progress)
        progress.say("stopping devices, clusters and database")
    violations = fleet.world.tally.violations
    for row in violations.rows():
        print(f"protocol violation: {row['what']}", file=sys.stderr)
    progress.say("done")
    return 1 if violations.total else 0


async def until_told(state_dir: Path, headless: bool, progress: Progress) -> int:
    """The demo, ended in order by the signals that end programs."""
    work = asyncio.create_task(demo(state_dir, headless, progress), name="demo")

    def stop() -> None:
        # Once: a second signal (a terminal that closes sends two) must not break off the stopping.
        if not work.cancelling():
            work.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        return await work
    except asyncio.CancelledError:
        progress.say("stopped")
        return 0 if not headless else EXIT_INTERRUPTED


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Three clusters, hs-acs, their devices, one embedded database."
    )
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
