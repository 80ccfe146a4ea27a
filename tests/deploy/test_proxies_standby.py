"""A cluster's owner and standby behind one proxy, with the samples' lines for a standby put in force."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from tests.deploy.behind import CAPVER, behind
from tests.deploy.proxies import COMMANDS
from tests.node.kit import joined
from tests.node.support import ServeProcess, admin, eventually, free_port

#: Takeover, the proxy's own opinion of dead servers (nginx: 10 s), and the devices' growing pause.
BACK_DEADLINE_S = 45.0


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.chaos] * (name != "nginx")) for name in COMMANDS]
)
async def test_devices_of_a_killed_owner_find_its_standby(name: str, pg_server: str, tmp_path: Path) -> None:
    port = free_port()
    async with behind(name, pg_server, tmp_path, standby_port=port) as place:
        second = ServeProcess(
            place.serve.dsn,
            place.serve.cluster,
            secret_key_file=place.serve.secret_key_file,
            settings={"HS_LISTEN_ADDR": f"127.0.0.1:{port}", "HS_SERVER_URL": place.at.url},
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_exit(second)  # not entered: that would wait until it serves
            await second.start(wait=False)
            home = await stack.enter_async_context(admin(place.serve.dsn))

            async def stands_by() -> bool:
                return "waiting as its standby" in second.log()

            await eventually(stands_by, "there is a standby")
            key = await home.auth_key()
            async with place.device(key) as one, place.device(key, websocket=True) as other:
                await joined(one)
                await joined(other)
                await one.sees(peers=1)
                before = one.id, other.id
                assert (await place.get(f"/key?v={CAPVER}")).status_code == 200
                began = time.monotonic()
                await place.serve.kill()
                for device in (one, other):
                    await device.wait_for(
                        lambda n, d=device: d.polls >= 2 and len(n.peers) == 1, BACK_DEADLINE_S
                    )
                print(f"{name}: owner killed to both back at the standby: {time.monotonic() - began:.1f} s")
                assert (one.id, other.id) == before
                await other.update(endpoints=["192.0.2.3:3"])
                await one.sees(other.id, Endpoints=["192.0.2.3:3"], Online=True)
                assert not one.violations + other.violations
