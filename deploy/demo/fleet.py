"""The devices of the demo, all in this process, and what happens to them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client.device import SimulatedDevice
from app.errors import Unavailable

SYSTEMS = ("linux", "macOS", "windows", "iOS", "android")
JOIN_DEADLINE_S = 30.0
JOINING_AT_ONCE = 8
#: Shares of the events; the rest are moves. Fewer leave than could come back, so that most are here.
COMES_BACK = 0.35
LEAVES = 0.3
#: At least so many are away when the headless demo prints its tables.
AWAY_AT_LEAST = 4


def private_key(*names: str) -> X25519PrivateKey:
    """The same key in every run, so that a kept DEMO_DIR sees its devices again."""
    return X25519PrivateKey.from_private_bytes(hashlib.sha256("/".join(names).encode()).digest())


@dataclass(slots=True)
class Fleet:
    """All devices of the demo, in this process, and what happens to them."""

    chance: random.Random
    devices: dict[str, list[SimulatedDevice]] = field(default_factory=dict)
    away: list[SimulatedDevice] = field(default_factory=list)
    left: int = 0
    came_back: int = 0
    moved: int = 0

    def all(self) -> list[SimulatedDevice]:
        return [device for devices in self.devices.values() for device in devices]

    def add(self, cluster: str, url: str, hostname: str, key: str, ephemeral: bool) -> None:
        device = SimulatedDevice(
            url,
            hostname=hostname,
            auth_key=key,
            machine_private=private_key("machine", cluster, hostname),
            node_private=private_key("node", cluster, hostname),
            ephemeral=ephemeral,
            os=self.chance.choice(SYSTEMS),
        )
        device.endpoints = (self._endpoint(),)
        self.devices.setdefault(cluster, []).append(device)

    def _endpoint(self) -> str:
        return f"192.0.2.{self.chance.randint(1, 254)}:{self.chance.randint(1024, 65535)}"

    async def join(self, joined: Callable[[int], None]) -> None:
        """All register and get their first map, some at a time. Raises HsError for a refusal."""
        gate = asyncio.Semaphore(JOINING_AT_ONCE)
        done = 0

        async def enter(device: SimulatedDevice) -> None:
            nonlocal done
            async with gate:
                answer = await device.register()
                if answer.get("Error"):
                    raise Unavailable(f"{device.hostname} may not join: {answer['Error']}")
                await device.poll()
                netmap = await device.wait_for(lambda netmap: netmap.messages > 0, JOIN_DEADLINE_S)
                relays = sorted((netmap.derp_map or {}).get("Regions", {}))
                if relays:
                    await device.update(home_derp=int(relays[len(device.hostname) % len(relays)]))
            done += 1
            joined(done)

        async with asyncio.TaskGroup() as group:
            for device in self.all():
                group.create_task(enter(device))

    async def meet(self) -> None:
        """Everybody sees everybody of the own cluster, and nobody else. Raises Unavailable."""
        for cluster, devices in self.devices.items():
            others = {device.hostname for device in devices}
            for device in devices:
                await device.wait_for(
                    lambda netmap, known=others: len(netmap.peers) >= len(known) - 1, JOIN_DEADLINE_S
                )
                seen = {row["Hostinfo"]["Hostname"] for row in device.netmap.peers.values()}
                if not seen <= others:
                    raise Unavailable(f"{device.hostname} of {cluster} sees {sorted(seen - others)}")

    async def event(self) -> None:
        """One device leaves, comes back, or is found elsewhere."""
        here = [device for device in self.all() if device not in self.away]
        what = self.chance.random()
        if self.away and (not here or what < COMES_BACK):
            device = self.away.pop(self.chance.randrange(len(self.away)))
            await device.poll()
            self.came_back += 1
        elif what < COMES_BACK + LEAVES:
            await self._leave(self.chance.choice(here))
        else:
            await self.chance.choice(here).update(endpoints=(self._endpoint(), self._endpoint()))
            self.moved += 1

    async def _leave(self, device: SimulatedDevice) -> None:
        await device.close()
        self.away.append(device)
        self.left += 1

    async def live(self, pause_s: float) -> None:
        """Events until cancelled."""
        while True:
            await self.event()
            await asyncio.sleep(pause_s)

    async def happen(self, events: int, pause_s: float) -> None:
        """So many events, and some devices away at the end."""
        for _ in range(events):
            await self.event()
            await asyncio.sleep(pause_s)
        here = [device for device in self.all() if device not in self.away]
        for device in self.chance.sample(here, max(0, AWAY_AT_LEAST - len(self.away))):
            await self._leave(device)

    async def close(self) -> None:
        await asyncio.gather(*(device.close() for device in self.all()))

    def violations(self) -> list[str]:
        return [f"{device.hostname}: {text}" for device in self.all() for text in device.violations]
