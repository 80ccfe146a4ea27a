"""Addresses and names that devices get: unique, and names as people expect them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address, ip_network

import pytest

from tests.node.support import (
    Administration,
    ServeProcess,
    device,
    has_peers,
    join,
    new_tenant,
    own_id,
)

PARALLEL = 50
V4, V6 = ip_network("100.64.0.0/10"), ip_network("fd7a:115c:a1e0::/48")
LONG = "x" * 63


async def test_fifty_machines_at_once_get_addresses_and_names_of_their_own(
    serve: ServeProcess, place: Administration
) -> None:
    key = await place.auth_key()
    async with AsyncExitStack() as stack:
        crowd = [
            await stack.enter_async_context(device(serve.url, key, hostname="laptop"))
            for _ in range(PARALLEL)
        ]
        await asyncio.gather(*(join(one) for one in crowd))
        await asyncio.gather(*(has_peers(one, *(set(crowd) - {one})) for one in crowd))
        assert not [note for one in crowd for note in one.violations]
        rows = [one.netmap.self_node or {} for one in crowd]
    addresses = [row["Addresses"] for row in rows]
    assert all(ip_address(v4.removesuffix("/32")) in V4 for v4, _ in addresses)
    assert all(ip_address(v6.removesuffix("/128")) in V6 for _, v6 in addresses)
    assert len({v4 for v4, _ in addresses}) == len({v6 for _, v6 in addresses}) == PARALLEL
    assert len({row["ID"] for row in rows}) == PARALLEL
    assert {row["Name"].split(".")[0] for row in rows} == {
        "laptop",
        *(f"laptop-{number}" for number in range(1, PARALLEL)),
    }
    assert sorted(d.ipv4 for d in await place.devices()) == sorted(v4[:-3] for v4, _ in addresses)


NAMES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "plain": (["web"], ["web"]),
    "upper case": (["Alices-MacBook"], ["alices-macbook"]),
    "collisions": (["web", "web", "WEB", "web.local"], ["web", "web-1", "web-2", "web-3"]),
    "a collision with a suffix taken": (["web-1", "web", "web"], ["web-1", "web", "web-2"]),
    "empty": (["", ""], ["node", "node-1"]),
    "local suffixes": (["mac.local", "pc.localdomain", "tv.lan"], ["mac", "pc", "tv"]),
    "a full name": (["db.example.com"], ["db-example-com"]),
    "spaces": (["Alice's iPhone 15"], ["alice-s-iphone-15"]),
    "underscores": (["my_host_"], ["my-host"]),
    "other scripts": (["ноутбук", "電腦"], ["node", "node-1"]),
    "accents": (["café"], ["caf"]),
    "digits": (["42"], ["42"]),
    "as long as can be": ([LONG + "y", LONG], [LONG, LONG[:-2] + "-1"]),
    "cut at a dash": (["x" * 62 + "-y"], ["x" * 62]),
    "localhost": (["localhost"], ["localhost"]),
}


@pytest.mark.parametrize(("hostnames", "labels"), NAMES.values(), ids=NAMES.keys())
async def test_names_of_devices(
    serve: ServeProcess, place: Administration, hostnames: Sequence[str], labels: Sequence[str]
) -> None:
    key = await place.auth_key()
    for hostname, label in zip(hostnames, labels, strict=True):
        async with device(serve.url, key, hostname=hostname) as one:
            await join(one)
            assert one.netmap.self_node is not None
            assert one.netmap.self_node["Name"] == f"{label}.{place.tenant.dns_label}.hs.internal."
            assert one.netmap.domain == f"{place.tenant.dns_label}.hs.internal"
            assert not one.violations
    assert [row.given_name for row in await place.devices()] == list(labels)


async def test_a_deleted_devices_name_is_free_again_its_address_is_not_reused_at_once(
    serve: ServeProcess, place: Administration
) -> None:
    key = await place.auth_key()
    async with (
        device(serve.url, key, hostname="web") as first,
        device(serve.url, key, hostname="web") as second,
    ):
        await join(first)
        (old,) = await place.devices()
        await place.scoped.delete_device(place.tenant.id, own_id(first))
        await join(second)
        assert second.netmap.self_node is not None
        assert second.netmap.self_node["Name"].startswith("web.")
        (new,) = await place.devices()
    assert new.ipv4 != old.ipv4


async def test_two_tenants_use_the_same_names_and_addresses(
    serve: ServeProcess, place: Administration
) -> None:
    """And their devices do not see each other, nor share a full name."""
    key = await place.auth_key()
    async with new_tenant(serve) as other:
        other_key = await other.auth_key()
        async with (
            device(serve.url, key, hostname="web") as here,
            device(serve.url, other_key, hostname="web") as there,
            device(serve.url, key) as here_too,
            device(serve.url, other_key) as there_too,
        ):
            for one in (here, there, here_too, there_too):
                await join(one)
            await has_peers(here, here_too)
            await has_peers(there, there_too)
            mine, theirs = here.netmap.self_node or {}, there.netmap.self_node or {}
    assert mine["Addresses"] == theirs["Addresses"]
    assert mine["Name"] != theirs["Name"]
    assert mine["Name"].split(".")[0] == theirs["Name"].split(".")[0] == "web"
