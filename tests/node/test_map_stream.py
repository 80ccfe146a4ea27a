"""The map poll of real devices against a real process: first map, deltas, lite updates, replacement."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from app.client.mapblob import decode_blob
from app.client.netmap import ClientNetmap
from app.keys import node_key_text
from app.wire import mapstream
from tests.node.kit import RawPoll, Recorder, fleet, joined, own_tenant
from tests.node.support import DEADLINE_S, Administration, ServeProcess, eventually, fresh_database

#: Without a policy: from everything that may be a device's address to everything.
ALLOW_ALL_RULE = {
    "SrcIPs": ["100.115.94.0-100.127.255.255", "100.64.0.0-100.115.91.255", "fd7a:115c:a1e0::/48"],
    "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}],
}
GRACE = {"HS_TIMING__OFFLINE_GRACE": "300ms"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve(pg_server: str) -> AsyncIterator[ServeProcess]:
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn, settings=GRACE) as process:
        yield process


@pytest.fixture
async def tenant(serve: ServeProcess) -> AsyncIterator[Administration]:
    async with own_tenant(serve.dsn) as place:
        yield place


@pytest.mark.parametrize("compress", ["zstd", ""])
async def test_the_first_message_is_complete(
    serve: ServeProcess, tenant: Administration, compress: str
) -> None:
    key = await tenant.auth_key()
    async with (
        Recorder(serve.url, key, hostname="first") as a,
        Recorder(serve.url, key, hostname="second", compress=compress) as b,
    ):
        await joined(a)
        await joined(b)
        first = b.seen[0]
        label = f"{tenant.tenant.dns_label}.hs.internal"
        assert first["Node"]["Name"] == f"second.{label}."
        assert first["Node"]["Key"] == node_key_text(b.node_key)
        assert first["Node"]["MachineAuthorized"] is True
        assert len(first["Node"]["Addresses"]) == 2
        assert [(p["Name"], p["Key"], p["Online"]) for p in first["Peers"]] == [
            (f"first.{label}.", node_key_text(a.node_key), True)
        ]
        assert first["Domain"] == label
        assert first["DNSConfig"]["Proxied"] is True
        assert label in first["DNSConfig"]["Domains"]
        assert first["PacketFilters"] == {"*": None, "base": [ALLOW_ALL_RULE]}
        assert {p["LoginName"] for p in first["UserProfiles"]} == {"alice"}
        assert first["Node"]["User"] in {p["ID"] for p in first["UserProfiles"]}
        (region,) = first["DERPMap"]["Regions"].values()
        assert region["RegionCode"] == "hs-default"
        assert first["CollectServices"] is False
        assert first["Debug"] == {"DisableLogTail": True}
        assert "ControlTime" in first
        assert not a.violations + b.violations
        assert not a.netmap.check_invariants() + b.netmap.check_invariants()


async def test_changes_travel_as_narrow_deltas(serve: ServeProcess, tenant: Administration) -> None:
    async with fleet(serve.url, await tenant.auth_key(), 3) as (a, b, c):
        c_id = c.id
        start = len(a.seen)
        await c.update(endpoints=["192.0.2.7:41641", "[2001:db8::7]:41641"])
        await a.sees(c_id, Endpoints=["192.0.2.7:41641", "[2001:db8::7]:41641"])
        await c.update(home_derp=900)
        await a.sees(c_id, HomeDERP=900)
        patches = a.seen[start:]
        assert all(set(m) == {"PeersChangedPatch"} for m in patches), patches
        assert all(p["NodeID"] == c_id for m in patches for p in m["PeersChangedPatch"])

        start = len(a.seen)
        await c.update(hostinfo={"OSVersion": "42", "Services": [{"Proto": "peerapi4", "Port": 1}]})
        await a.wait_for(lambda n: bool(n.peers[c_id]["Hostinfo"].get("Services")), DEADLINE_S)
        (whole,) = a.seen[start:]
        assert set(whole) == {"PeersChanged"}
        assert [row["ID"] for row in whole["PeersChanged"]] == [c_id]

        start = len(a.seen)
        await tenant.scoped.delete_device(tenant.tenant.id, c_id)
        await a.lost(c_id)
        await b.lost(c_id)
        assert [m["PeersRemoved"] for m in a.seen[start:]] == [[c_id]]
        assert not a.violations + b.violations
        assert not a.netmap.check_invariants() + b.netmap.check_invariants()


async def test_zstd_and_plain_viewers_know_the_same(serve: ServeProcess, tenant: Administration) -> None:
    key = await tenant.auth_key()
    async with (
        fleet(serve.url, key, 3) as (*_, c),
        Recorder(serve.url, key, compress="zstd") as packed,
        Recorder(serve.url, key, compress="") as plain,
    ):
        await joined(packed)
        await joined(plain)
        await packed.sees(peers=4)
        await plain.sees(peers=4)
        await c.update(endpoints=["192.0.2.9:9"], home_derp=900, hostinfo={"Services": []})
        await packed.sees(c.id, Endpoints=["192.0.2.9:9"], HomeDERP=900)
        await plain.sees(c.id, Endpoints=["192.0.2.9:9"], HomeDERP=900)

        def common(netmap: ClientNetmap) -> dict[str, Any]:
            own = {packed.id, plain.id}
            return {
                "peers": {i: row for i, row in netmap.peers.items() if i not in own},
                "profiles": netmap.user_profiles,
                "derp": netmap.derp_map,
                "dns": netmap.dns_config,
                "filters": netmap.filters,
                "domain": netmap.domain,
            }

        assert common(packed.netmap) == common(plain.netmap)
        assert all(blob.startswith(b"{") for blob in plain.blobs)
        assert all(blob.startswith(b"\x28\xb5\x2f\xfd") for blob in packed.blobs)


@pytest.mark.parametrize("lite_first", [True, False])
async def test_a_lite_update_leaves_the_poll_alone(
    serve: ServeProcess, tenant: Administration, lite_first: bool
) -> None:
    key = await tenant.auth_key()
    async with Recorder(serve.url, key) as viewer, Recorder(serve.url, key) as device:
        await joined(viewer)
        await device.register()
        device.endpoints = ("192.0.2.1:1",)
        lite = device._map_request(stream=False)
        if lite_first:
            assert await device.request("/machine/map", lite) == (200, b"")
        await device.poll()
        await device.sees(peers=1)
        if not lite_first:
            assert await device.request("/machine/map", lite) == (200, b"")
        await viewer.sees(device.id, Endpoints=["192.0.2.1:1"], Online=True)
        for number in range(5):
            await device.update(endpoints=[f"192.0.2.1:{2 + number}"])
        await viewer.sees(device.id, Endpoints=["192.0.2.1:6"])
        await viewer.update(endpoints=["192.0.2.2:2"])
        await device.sees(viewer.id, Endpoints=["192.0.2.2:2"])
        assert device.polls == 1
        assert not device.failures
        assert not any(news.get("Online") is False for news in viewer.news_of(device.id)[1:])


async def test_a_lite_update_with_peers_wanted_gets_one_map(
    serve: ServeProcess, tenant: Administration
) -> None:
    async with fleet(serve.url, await tenant.auth_key(), 2) as (a, b):
        body = a._map_request(stream=False) | {"OmitPeers": False, "Compress": ""}
        status, answer = await a.request("/machine/map", body)
        (blob,) = mapstream.Reader().feed(answer)
        message = orjson.loads(blob)
        assert (status, [p["ID"] for p in message["Peers"]]) == (200, [b.id])
        assert a.polls == 1


async def test_a_read_only_fetch_changes_nothing(serve: ServeProcess, tenant: Administration) -> None:
    key = await tenant.auth_key()
    async with Recorder(serve.url, key) as viewer, Recorder(serve.url, key) as device:
        await joined(viewer)
        await device.register()
        await viewer.sees(peers=1)
        (device_id,) = viewer.netmap.peers
        before, start = dict(viewer.netmap.peers[device_id]), len(viewer.seen)
        body = device._map_request(stream=False) | {
            "OmitPeers": False,
            "ReadOnly": True,
            "Endpoints": ["192.0.2.66:66"],
            "DiscoKey": "discokey:" + "77" * 32,
            "Hostinfo": {"Hostname": "other", "NetInfo": {"PreferredDERP": 900}},
        }
        for _ in range(2):
            status, answer = await device.request("/machine/map", body)
            assert status == 200
        (blob,) = mapstream.Reader().feed(answer)
        message = decode_blob(blob, zstd=True)
        assert message["Node"]["ID"] == device_id
        assert [p["ID"] for p in message["Peers"]] == [viewer.id]
        # Whatever the fetch had done would have been said before this.
        await tenant.scoped.expire_device(tenant.tenant.id, device_id, time.time() - 1)
        await viewer.sees(device_id, Expired=True)
        after = viewer.netmap.peers[device_id]
        for name in ("Endpoints", "HomeDERP", "DiscoKey", "Online", "Name"):
            assert after.get(name) == before.get(name), name
        assert len(viewer.seen) == start + 1


async def test_updates_that_say_nothing_new_reach_nobody(serve: ServeProcess, tenant: Administration) -> None:
    async with fleet(serve.url, await tenant.auth_key(), 3) as (a, b, c):
        await a.update(endpoints=["192.0.2.1:1"], home_derp=900)
        for viewer in (b, c):
            await viewer.sees(a.id, Endpoints=["192.0.2.1:1"], HomeDERP=900)
        counts = [len(d.seen) for d in (a, b, c)]
        for _ in range(10):
            await a.update()
        await b.update(endpoints=["192.0.2.2:2"])
        await c.sees(b.id, Endpoints=["192.0.2.2:2"])
        await a.sees(b.id, Endpoints=["192.0.2.2:2"])
        assert [len(a.seen) - counts[0], len(c.seen) - counts[2]] == [1, 1]


async def test_a_second_poll_replaces_the_first_without_a_flicker(
    serve: ServeProcess, tenant: Administration
) -> None:
    key = await tenant.auth_key()
    async with Recorder(serve.url, key) as viewer, Recorder(serve.url, key) as device:
        await joined(viewer)
        await device.register()
        first = await RawPoll.open(device)
        assert (await first.message() or {})["Node"]["Key"] == node_key_text(device.node_key)
        device_id = next(iter((await viewer.sees(peers=1)).peers))
        await viewer.sees(device_id, Online=True)
        second = await RawPoll.open(device)
        assert (await second.message() or {})["Node"]["ID"] == device_id
        while await first.message() is not None:
            continue
        # The old connection ends late; a bystander that leaves afterwards is a clock for the grace.
        await first.close()
        async with Recorder(serve.url, key) as bystander:
            await joined(bystander)
            bystander_id = bystander.id
            await viewer.sees(bystander_id, Online=True)
        await viewer.sees(bystander_id, Online=False)
        assert viewer.netmap.peers[device_id]["Online"] is True
        said = [news["Online"] for news in viewer.news_of(device_id) if "Online" in news]
        assert said[said.index(True) :] == [True] * (len(said) - said.index(True))
        # Now it really leaves: offline after the grace, with the time it was last seen.
        await second.close()
        await viewer.sees(device_id, Online=False)
        (gone,) = [n for n in viewer.news_of(device_id) if n.get("Online") is False and "LastSeen" in n]
        assert set(gone) == {"NodeID", "Online", "LastSeen"}


async def test_a_device_back_within_the_grace_was_never_away(
    serve: ServeProcess, tenant: Administration
) -> None:
    async with fleet(serve.url, await tenant.auth_key(), 2) as (viewer, device):
        device_id, start = device.id, len(viewer.seen)
        for expected in (2, 3):
            device.drop()
            await device.wait_for(lambda n, e=expected: device.polls == e and n.messages > 0, DEADLINE_S)
        await device.update(endpoints=["192.0.2.5:5"])
        await viewer.sees(device_id, Endpoints=["192.0.2.5:5"])
        assert [m for m in viewer.seen[start:] if set(m) != {"PeersChangedPatch"}] == []
        assert all("Online" not in news for news in viewer.news_of(device_id)[1:] if "NodeID" in news)


async def test_a_node_key_counts_only_in_a_tunnel_of_its_machine(
    serve: ServeProcess, tenant: Administration
) -> None:
    """Anyone may open a tunnel; another machine's node key is unknown in it, for every kind of request."""
    key = await tenant.auth_key()
    async with fleet(serve.url, key, 2) as (victim, peer), Recorder(serve.url, None) as thief:
        thief.node_key = victim.node_key
        for members in (
            {"Stream": True},
            {"Stream": False, "OmitPeers": True, "Endpoints": ["192.0.2.66:66"]},
            {"Stream": False, "OmitPeers": False, "ReadOnly": True},
        ):
            assert await thief.request("/machine/map", thief.map_request(**members)) == (
                404,
                b"node not found\n",
            )
        answer = await thief.register()
        assert "belongs to another machine" in answer["Error"]
        assert (await thief.logout())["Error"]
        await victim.update(endpoints=["192.0.2.1:1"])
        await peer.sees(victim.id, Endpoints=["192.0.2.1:1"], Online=True)
        assert victim.polls == 1
        assert not any("192.0.2.66:66" in str(news) for news in peer.news_of(victim.id))


async def test_fifty_joiners_at_once_share_their_announcements(pg_server: str) -> None:
    count = 50
    async with (
        fresh_database(pg_server) as dsn,
        ServeProcess(dsn) as serve,
        own_tenant(dsn) as tenant,
    ):
        key = await tenant.auth_key()
        async with contextlib.AsyncExitStack() as stack:
            devices = [await stack.enter_async_context(Recorder(serve.url, key)) for _ in range(count)]
            await asyncio.gather(*(joined(device) for device in devices))
            for device in devices:
                await device.sees(peers=count - 1)
                assert not device.violations
                assert not device.netmap.check_invariants()
                assert device.polls == 1

            async def settled() -> bool:
                return all(
                    row.get("Online") and row.get("DiscoKey")
                    for device in devices
                    for row in device.netmap.peers.values()
                )

            await eventually(settled, "everybody knows everybody as online")
            metrics = await serve.metrics()
            # Told one by one there would be 50 * 49 / 2 announcements, and as many again for disco keys.
            assert metrics["hs_delta_frames_total"] <= count * 12
            assert metrics["hs_full_maps_total"] == count
            assert metrics["hs_late_announcements_total"] == 0
            assert metrics["hs_sessions"] == metrics["hs_devices"] == metrics["hs_tunnels"] == count
