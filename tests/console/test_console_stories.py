"""Three stories of docs/STORIES.md: what an operator presses, what the pane shows, what comes of it."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.api.records import JoinAsked, TenantAsked
from app.client.device import SimulatedDevice
from tests.acs.support import deployed
from tests.console.test_console_tmux import Pane, console, fleet_of
from tests.node.support import (
    QUICK,
    ServeProcess,
    admin,
    device,
    fresh_database,
    join,
    run_sql,
)

#: A lost lease is nobody's after this; the operator sees it within a second, a slow machine allowed for.
TTL_S, SEEN_S = 2.0, 1.5
NODE = {**QUICK, "HS_TIMING__LEASE_TTL": f"{TTL_S:g}s"}
FAST = {"HS_ACS__REBALANCE__WAVE": "1", "HS_ACS__REBALANCE__PAUSE": "50ms", "HS_ACS__REBALANCE__SETTLE": "1s"}
SUBNET = "10.20.0.0/16"

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux on this machine")


async def confirm(pane: Pane, title: str, typed: str = "") -> None:
    """Reads the dialog, then says yes in the way that it asks for."""
    await pane.sees(title + r"[\s\S]*?Cancel")
    if not typed:
        pane.keys("y")
        return
    await pane.sees(f"To go on type {typed}")
    pane.type(typed)
    pane.keys("Enter")


def reaches(laptop: SimulatedDevice, subnet: str) -> bool:
    return any(subnet in peer["AllowedIPs"] for peer in laptop.netmap.peers.values())


async def test_a_customer_cannot_reach_the_printer(pg_server: str, tmp_path: Path) -> None:
    async with (
        fresh_database(pg_server) as dsn,
        ServeProcess(dsn, "eu-1") as serve,
        AsyncExitStack() as stack,
    ):
        laptop, router = await fleet_of(serve, stack, ["laptop", "branch-gw"])
        await router.update(hostinfo={"RoutableIPs": [SUBNET]})
        async with console(dsn, tmp_path, size=(120, 36)) as pane:
            await pane.sees(r"eu-1 +● healthy +2 +2")
            pane.keys("2")
            await pane.sees("2 devices")  # of the overview: what follows is typed ahead
            pane.keys("/")
            pane.type("name:laptop")
            pane.keys("Enter")
            await pane.sees(r"1 device \|[\s\S]*?► ?laptop .*● online")
            pane.keys("Enter")
            await pane.sees(r"│  hostname laptop   tenant eu-1")
            pane.keys("5")
            await pane.sees(r"It went offline 0 times[\s\S]*● online  in cluster eu-1")
            pane.keys("Escape")
            await pane.sees(r"► ?laptop .*● online")
            # The device is well: it is the way to the subnet that waits.
            pane.keys("5")
            await pane.sees(r"10\.20\.0\.0/16 +subnet +branch-gw .*waiting")
            assert not reaches(laptop, SUBNET)
            pane.keys("a")
            await confirm(pane, r"Approve 10\.20\.0\.0/16 via branch-gw")
            await pane.sees(r"approve 10\.20\.0\.0/16 via branch-gw: done")
            await pane.sees(r"10\.20\.0\.0/16 +subnet +branch-gw .*● approved")
            await laptop.wait_for(lambda _: reaches(laptop, SUBNET), 20)
            pane.keys("q")
            await pane.sees("ended 0")


@pytest.mark.soak
async def test_a_cluster_is_hot(pg_server: str, tmp_path: Path) -> None:
    async with (
        deployed(pg_server, "east", "west", node_settings=QUICK, acs_settings=FAST) as made,
        made.acs.client() as api,
        AsyncExitStack() as stack,
    ):
        dsn = made.nodes["east"].dsn
        for name in ("east", "west"):
            await api.cluster_verb(name, "admit")
        for name in ("t1", "t2", "t3", "t4"):
            await api.place(TenantAsked(name=name, cluster="east"))
            joining = await api.join(JoinAsked(tenant=name, user="dana", reusable=True))
            await join(await stack.enter_async_context(device(made.acs.url, joining.auth_key)))
        # Placed by hand they are pinned; these are free to go.
        await run_sql(dsn, "UPDATE tenants SET pinned = NULL")
        async with console(dsn, tmp_path, size=(120, 36)) as pane:
            await pane.sees(r"east +● healthy +4 +4 [\s\S]*?west +● healthy +0 +0 ")
            pane.keys("8")
            await pane.sees("there is no plan yet")
            pane.keys("N")
            await confirm(pane, "Propose a plan")
            await pane.sees(r"► +\d+ +rebalance .*proposed .* 0/2")
            pane.keys("Enter")
            await pane.sees(r"2 moves[\s\S]*?t\d .*east +west .*waiting[\s\S]*?t\d .*east +west .*waiting")
            pane.keys("-")
            picture = await pane.sees(r"► +\d+ +rebalance .*proposed")
            number = picture.partition("►")[2].split()[0]
            pane.keys("A")
            await confirm(pane, f"Approve plan {number}", number)
            await pane.sees(r"rebalance .*● done .* 2/2")
            pane.keys("1")
            await pane.sees(r"east +● healthy +2 +2 [\s\S]*?west +● healthy +2 +2 ")
            pane.keys("q")
            await pane.sees("ended 0")


@pytest.mark.soak
async def test_a_node_died(pg_server: str, tmp_path: Path) -> None:
    async with deployed(pg_server, "eu-1", "eu-2", node_settings=NODE, acs_settings=FAST) as made:
        served, lonely = made.nodes["eu-1"], made.nodes["eu-2"]
        standby = ServeProcess(served.dsn, "eu-1", secret_key_file=served.secret_key_file, settings=NODE)
        async with standby, made.acs.client() as api, AsyncExitStack() as stack:
            await api.cluster_verb("eu-1", "admit")
            await api.cluster_verb("eu-2", "admit")
            async with admin(lonely.dsn, "eu-2") as shell:
                key = await shell.auth_key()
            await join(await stack.enter_async_context(device(lonely.url, key)))
            async with console(served.dsn, tmp_path, size=(120, 36)) as pane:
                await pane.sees(r"eu-1 +● healthy [\s\S]*?eu-2 +● healthy +1 +1 [\s\S]*?epoch 1")
                # Nobody stands by: the console says so, and that somebody must act.
                killed = time.monotonic()
                await lonely.kill()
                await pane.sees(r"eu-2 +✖ no owner")
                assert time.monotonic() - killed < TTL_S + SEEN_S
                pane.keys("j")
                await pane.sees(r"the lease ended .* ago and nobody has taken it")
                # Somebody stands by: it takes over by itself.
                await asyncio.gather(served.kill(), pane.sees(r"eu-2 +✖ no owner"))
                pane.keys("k")
                await pane.sees(r"eu-1 +● healthy[\s\S]*?owned by [\s\S]*?epoch 2")
                # No new tenants for the dead one until its node is back.
                pane.keys("j")
                await pane.sees(r"► ?eu-2 ")
                pane.keys("w")
                await confirm(pane, "Drain cluster eu-2", "eu-2")
                await pane.sees(r"drain eu-2: done")
                pane.keys("q")
                await pane.sees("ended 0")
