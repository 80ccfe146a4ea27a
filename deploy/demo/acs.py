"""hs-acs of the demo, and the customers it lets in: tenants on three clusters behind one URL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from app.api.client import AcsClient
from app.api.records import JoinAsked, MoveAsked, TenantChange
from app.db.scoped import Scoped
from app.errors import Unavailable
from app.model import TenantId
from app.simulation.scenario import Spec
from deploy.demo.fleet import device_spec
from deploy.demo.policies import CUSTOMER, give_policy
from deploy.demo.server import Process, environment, free_port

COMMAND_DEADLINE_S = 30.0
#: Tenants of their own, with the devices they may have (-1: any number); they know only the URL of hs-acs.
CUSTOMERS = {"acme": -1, "globex": 4, "initech": 20}
#: The devices of each.
NAMES = ("desk", "laptop", "phone", "server")


class Acs(Process):
    """`hs-acs serve`, as a process of its own."""

    def __init__(self, state_dir: Path) -> None:
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        env = environment(state_dir) | {
            "HS_ACS__LISTEN_ADDR": address,
            "HS_ACS__METRICS_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
            "HS_ACS__LOGIN_SERVER": self.url,
        }
        super().__init__("hs-acs", "acs.cli", env, state_dir / "hs-acs.log", f"{self.url}/v1/service")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AcsClient]:
        """Its API, with a token of an administrator."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "acs.cli", "tokens", "create", "--scope", "admin", "demo"],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"hs-acs makes no token: {done.stderr.strip()}")
        async with AcsClient(self.url, done.stdout.strip()) as client:
            yield client


async def customers(client: AcsClient, acs: Acs, scopes: Mapping[str, Scoped]) -> list[Spec]:
    """Places the customers; the devices that will join by hs-acs alone. `scopes`: by cluster."""
    specs = []
    for customer, limit in CUSTOMERS.items():
        joining = await client.join(JoinAsked(tenant=customer, user="dana", reusable=True))
        await client.change_tenant(joining.tenant_id, TenantChange(max_devices=limit))
        await give_policy(scopes[joining.cluster_id], TenantId(joining.tenant_id), CUSTOMER)
        specs += [device_spec(acs.url, customer, name, joining.auth_key, False) for name in NAMES]
    return specs


async def move_somebody(client: AcsClient, clusters: tuple[str, ...]) -> str:
    """The first customer moves to another cluster; a sentence about it."""
    tenant = await client.tenant(next(iter(CUSTOMERS)))
    target = clusters[(clusters.index(tenant.cluster) + 1) % len(clusters)]
    await client.move(MoveAsked(tenant=tenant.name, to=target, why="demo"))
    return (
        f"tenant {tenant.name} has moved from {tenant.cluster} to {target}, its {tenant.devices} devices too"
    )
