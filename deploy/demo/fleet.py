"""The devices of the demo, all in this process, and what happens to them: a fleet of app.simulation."""

from __future__ import annotations

import asyncio
import random

from app.client.device import SimulatedDevice
from app.errors import Unavailable
from app.simulation.fleet import Fleet
from app.simulation.full import FullDevice
from app.simulation.scenario import Churn, Spec, Step
from deploy.demo.policies import SUBNET

SYSTEMS = ("linux", "macOS", "windows", "iOS", "android")
SEED = 20
JOIN_DEADLINE_S = 30.0
#: At least so many are away when the headless demo prints its tables.
AWAY_AT_LEAST = 4
POLL_S = 0.1
FOREVER_S = 1e9
#: Names of devices -> what they announce.
ROUTERS = {"nas": [SUBNET], "server": [SUBNET], "desktop": ["0.0.0.0/0", "::/0"]}


def device_spec(url: str, cluster: str, name: str, key: str, ephemeral: bool) -> Spec:
    """A full device; its keys are the same in every run, so that a kept DEMO_DIR sees it again."""
    hostname = f"{cluster}-{name}"
    return Spec(
        url,
        hostname,
        key,
        full=True,
        ephemeral=ephemeral,
        os=SYSTEMS[sum(hostname.encode()) % len(SYSTEMS)],
        seed=f"demo/{hostname}",
        usual=(),
    )


def simulated(fleet: Fleet) -> list[SimulatedDevice]:
    """All devices with their netmaps."""
    return [device.simulated for device in fleet.devices if isinstance(device, FullDevice)]


def away(fleet: Fleet) -> set[str]:
    """Hostnames of those that are not here, and shall not be."""
    return {device.spec.hostname for device in fleet.devices if not device.wanted}


def happened(fleet: Fleet) -> str:
    """What did, in numbers."""
    actions = fleet.world.tally.actions
    return f"{actions['away']} left, {actions['back']} came back, {actions['endpoints']} moved"


def tailnet(device: SimulatedDevice) -> str:
    """The cluster whose home tenant it is in, or its customer."""
    return device.hostname.partition("-")[0]


async def choose_relays(fleet: Fleet) -> None:
    """Each device has a home relay, as if it had measured them."""
    for device in simulated(fleet):
        relays = sorted((device.netmap.derp_map or {}).get("Regions", {}))
        if relays:
            await device.update(home_derp=int(relays[len(device.hostname) % len(relays)]))


async def announce(fleet: Fleet) -> None:
    """Some carry a subnet, or the way out: the policy approves storages, the others wait for somebody."""
    for device in simulated(fleet):
        routes = ROUTERS.get(device.hostname.partition("-")[2])
        if routes:
            await device.update(hostinfo={"RoutableIPs": routes})


async def meet(fleet: Fleet) -> None:
    """Everybody sees everybody of the own tailnet, and nobody else. Raises Unavailable."""
    for device in simulated(fleet):
        friends = {other.hostname for other in simulated(fleet) if tailnet(other) == tailnet(device)}
        await device.wait_for(
            lambda netmap, known=friends: len(netmap.peers) >= len(known) - 1, JOIN_DEADLINE_S
        )
        seen = {row["Hostinfo"]["Hostname"] for row in device.netmap.peers.values()}
        if not seen <= friends:
            raise Unavailable(f"{device.hostname} sees {sorted(seen - friends)}")


async def live(fleet: Fleet, event_s: float, duration_s: float = FOREVER_S) -> None:
    """Devices leave and move, something every `event_s` seconds; who left comes back."""
    chance = random.Random(SEED).random  # noqa: S311 - the same events in every run
    kinds = ("endpoints", "online")
    churn = Churn(len(fleet.devices), kinds, 1 / (len(kinds) * event_s), FOREVER_S, chance)
    await fleet.live(churn, duration_s)


async def happen(fleet: Fleet, event_s: float, duration_s: float) -> None:
    """Some events, and some devices away at the end."""
    await live(fleet, event_s, duration_s)
    for number, device in enumerate(fleet.devices):
        if len(away(fleet)) >= AWAY_AT_LEAST:
            break
        if device.here and not device.busy:
            await fleet.act(Step(0, "away", number))
            await asyncio.sleep(POLL_S)
