"""DERP end to end: the published region admits this deployment's devices; maps from elsewhere are merged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from nacl.public import PrivateKey

from app.wire import derp
from tests.derp.derp_client import DerpClient
from tests.node.kit import Recorder, in_process, joined
from tests.node.support import DEADLINE_S, ServeProcess, admin, eventually


def regions(device: Recorder) -> dict[int, Any]:
    return {int(number): region for number, region in (device.netmap.derp_map or {})["Regions"].items()}


def derp_key(device: Recorder) -> PrivateKey:
    """A device speaks DERP under its node key."""
    return PrivateKey(device.node_private.private_bytes_raw())


async def test_the_own_region_serves_registered_devices_only(database: str) -> None:
    async with ServeProcess(database) as serve, admin(database) as home:
        key = await home.auth_key()
        async with Recorder(serve.url, key) as a, Recorder(serve.url, key) as b:
            await joined(a)
            await joined(b)
            ((region_id, region),) = regions(a).items()
            (node,) = region["Nodes"]
            assert (region_id, node["RegionID"]) == (900, 900)
            one = await DerpClient.connect(node["DERPPort"], derp_key(a))
            two = await DerpClient.connect(node["DERPPort"], derp_key(b))
            assert one.key == a.node_key
            # What clients check: the certificate presented is the one that the map pins.
            assert one.pin == node["CertName"]
            one.send(two.key, b"hello over the relay")
            assert await two.packet() == (one.key, b"hello over the relay")
            stranger = await DerpClient.dial(node["DERPPort"], PrivateKey.generate())
            await stranger.hello()
            stranger.send_client_info()
            assert derp.FrameType.SERVER_INFO not in {frame.type for frame in await stranger.closed()}
            for client in (one, two, stranger):
                await client.close()

            async def reported() -> dict[str, float] | None:
                series = await serve.metrics()
                return series if series.get("hs_relay_refused_admission_total") == 1 else None

            # The process' own figures, on the parent's page, for this cluster.
            series = await eventually(reported, "the relay's figures are on /metrics")
            assert series["hs_relay_up"] == 1
            assert series["hs_relay_restarts_total"] == 0
            assert series["hs_relay_accepted_total"] == 2
            assert series["hs_relay_packets_received_total"] == 1
            assert series["hs_relay_packets_sent_total"] == 1
            assert series["hs_relay_verify_asked_total"] >= 3
            async with httpx.AsyncClient(trust_env=False) as web_client:
                page = (await web_client.get(f"{serve.metrics_url}/metrics")).text
            relay_lines = [line for line in page.splitlines() if line.startswith("hs_relay_")]
            assert all('{cluster_id="default"}' in line for line in relay_lines)


async def test_a_killed_relay_is_counted(database: str) -> None:
    async with ServeProcess(database) as serve:
        (child,) = psutil.Process(serve.pid).children()
        assert "node.derp" in child.cmdline()
        child.kill()

        async def back() -> bool:
            series = await serve.metrics()
            return series["hs_relay_restarts_total"] == 1 and series["hs_relay_up"] == 1

        await eventually(back, "the relay runs again")


async def test_regions_of_all_clusters_are_in_every_map(database: str, tmp_path: Path) -> None:
    async with (
        ServeProcess(database, "east") as east,
        ServeProcess(database, "west", secret_key_file=east.secret_key_file) as west,
        admin(database, "east") as east_home,
        admin(database, "west") as west_home,
        Recorder(east.url, await east_home.auth_key()) as a,
        Recorder(west.url, await west_home.auth_key()) as b,
    ):
        await joined(a)
        await joined(b)
        for device in (a, b):
            await device.wait_for(lambda n: len((n.derp_map or {})["Regions"]) == 2, DEADLINE_S)
        assert regions(a) == regions(b)
        assert {r["RegionCode"] for r in regions(a).values()} == {"hs-east", "hs-west"}
        # The relay of one cluster admits the devices of the other.
        codes = {r["RegionCode"]: r["Nodes"][0] for r in regions(a).values()}
        at_home = await DerpClient.connect(codes["hs-west"]["DERPPort"], derp_key(b))
        guest = await DerpClient.connect(codes["hs-west"]["DERPPort"], derp_key(a))
        guest.send(at_home.key, b"from the east")
        assert await at_home.packet() == (guest.key, b"from the east")
        await guest.close()
        await at_home.close()


@asynccontextmanager
async def map_server(answers: dict[str, Any]) -> AsyncIterator[str]:
    """Serves whatever `answers["body"]` is at the moment."""

    async def give(_: web.Request) -> web.Response:
        if answers.get("status"):
            return web.Response(status=answers["status"])
        return web.json_response(answers["body"])

    app = web.Application()
    app.router.add_get("/derpmap.json", give)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/derpmap.json"
    finally:
        await runner.cleanup()


def derp_map(*numbers: int) -> dict[str, Any]:
    return {
        "Regions": {
            str(n): {
                "RegionID": n,
                "RegionCode": f"r{n}",
                "RegionName": f"region {n}",
                "Nodes": [{"Name": f"{n}a", "RegionID": n, "HostName": f"derp{n}.example.com"}],
            }
            for n in numbers
        }
    }


async def test_a_map_from_a_url_is_merged_and_its_changes_arrive(database: str, tmp_path: Path) -> None:
    answers: dict[str, Any] = {"body": derp_map(1)}
    async with map_server(answers) as url:
        settings = {"DERP_MAP_URL": url, "HS_DERP__SERVER__ENABLED": "true"}
        async with in_process(database, tmp_path, settings) as server, admin(database) as home:
            (job,) = [job for job in server.owner.jobs() if job.name == "refresh_derp_map"]
            assert job.every_s == 3 * 3600.0
            async with Recorder(server.url, await home.auth_key()) as device:
                await joined(device)
                assert set(regions(device)) == {1, 900}
                start = len(device.seen)
                await job.run()  # nothing new: nobody hears anything
                answers["body"] = derp_map(1, 2)
                await job.run()
                await device.wait_for(lambda n: len((n.derp_map or {})["Regions"]) == 3, DEADLINE_S)
                assert [set(message) for message in device.seen[start:]] == [{"DERPMap"}]
                # A source that fails keeps what it gave last.
                answers["status"] = 500
                await job.run()
                assert server.owner.derp_map.problems
                async with Recorder(server.url, await home.auth_key()) as newcomer:
                    await joined(newcomer)
                    assert set(regions(newcomer)) == {1, 2, 900}
                assert device.polls == 1


@pytest.mark.parametrize("body", [{"Regions": {"x": 1}}, [], {"Regions": {}}])
async def test_a_url_that_gives_nonsense_stops_nothing(database: str, tmp_path: Path, body: Any) -> None:
    async with map_server({"body": body}) as url:
        settings = {"DERP_MAP_URL": url, "HS_DERP__SERVER__ENABLED": "true"}
        async with in_process(database, tmp_path, settings) as server, admin(database) as home:
            device = Recorder(server.url, await home.auth_key(), node_private=X25519PrivateKey.generate())
            async with device, asyncio.timeout(DEADLINE_S):
                await joined(device)
                assert set(regions(device)) == {900}
