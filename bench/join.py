"""What a join costs: connection, Noise, HTTP/2, registration, first map, and telling those who are there."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from app.errors import RemoteProtocolError
from bench import naive
from bench.data import DOMAIN, device, everybody
from bench.load import Member, Sink, connected, each, peers_of, quiet, registered
from bench.netmap import cpu_ms
from bench.report import Table
from bench.system import Lab, Target, cpu_s, in_load_process

BURST = 50
#: Budgets of DESIGN section 10: a registration, a map of 1,000 peers, a delta.
REGISTRATION_MS = 1.2
MAP_MS_PER_PEER = 1.0 / 1_000
DELTA_MS = 0.015


async def _joins(target: Target, sizes: list[int], singles: int, bursts: int) -> list[dict[str, Any]]:
    """For each size: joins beside so many registered devices, first unconnected, then connected."""
    found: list[dict[str, Any]] = []
    there: list[Member] = []
    sink = Sink()
    for size in sizes:
        there_new = await registered(target, size - len(there), f"s{size}n")
        await quiet(sink)
        alone = await _one_by_one(target, size, f"a{size}n", singles)
        await connected(there_new, sink)
        there += there_new
        await quiet(sink)
        watched = await _one_by_one(target, size, f"w{size}n", singles)
        crowds = [await _burst(target, f"b{size}c{burst}n", sink) for burst in range(bursts)]
        found.append({"size": size, "alone": alone, "watched": watched, "bursts": crowds})
    for member in there:
        member.drop()
    return found


async def _one_by_one(target: Target, least_peers: int, prefix: str, count: int) -> list[dict[str, float]]:
    found = []
    for number in range(count + 1):
        member = Member(target, f"{prefix}{number}")
        before, started = cpu_s(target.pid), time.monotonic()
        await member.register()
        message = await member.poll()
        elapsed = time.monotonic() - started
        # The map comes after the announcement; what is left is a few more lines of the same round.
        await asyncio.sleep(0.005)
        if number:
            found.append({"cpu_ms": (cpu_s(target.pid) - before) * 1000, "ms": elapsed * 1000})
        member.drop()
        if peers_of(message) < least_peers:
            raise RemoteProtocolError(f"a map of {peers_of(message)} peers instead of {least_peers}")
    return found


async def _burst(target: Target, prefix: str, sink: Sink) -> float:
    """CPU milliseconds per join when many join at the same time."""
    members = [Member(target, f"{prefix}{number}") for number in range(BURST)]

    async def join(member: Member) -> None:
        await member.register()
        await member.poll()

    before = cpu_s(target.pid)
    await each(members, join, BURST)
    await asyncio.sleep(0.05)
    spent = cpu_s(target.pid) - before
    for member in members:
        member.drop()
    await quiet(sink)
    return spent * 1000 / BURST


def run(lab: Lab) -> Table:
    table = Table("join", "a new device joins: connect, register, first map, announcement; CPU of the node")
    sizes = [100, 500] if lab.quick else [100, 500, 1_000]
    with lab.server("join") as server:
        found = in_load_process(
            _joins, server.target, sizes, 10 if lab.quick else 30, 1 if lab.quick else 5, deadline_s=240
        )
    for step in found:
        size = step["size"]
        own = REGISTRATION_MS + MAP_MS_PER_PEER * size
        naive_map, naive_told = _naive_join(size)
        table.add(
            f"{size:,} peers, none connected",
            "ms",
            [one["cpu_ms"] for one in step["alone"]],
            budget=own,
            naive=naive_map,
        )
        table.add(
            f"{size:,} peers connected, one join at a time",
            "ms",
            [one["cpu_ms"] for one in step["watched"]],
            budget=own + DELTA_MS * size,
            naive=[a + b for a, b in zip(naive_map, naive_told, strict=True)],
        )
        table.add(
            f"{size:,} peers connected, {BURST} joins at once, each",
            "ms",
            step["bursts"],
            budget=own + DELTA_MS * size,
        )
        table.add(
            f"{size:,} peers connected, dialling to first map", "ms", [one["ms"] for one in step["watched"]]
        )
    table.notes.append(
        "Budget: registration 1.2 ms + map 1 ms per 1,000 peers + 15 us per connected viewer that is told."
    )
    table.notes.append(
        "Naive is encoding alone: the newcomer's map, and with viewers the newcomer's row once per viewer; "
        "no connection, no registration, no sealing, no writing."
    )
    return table


def _naive_join(size: int) -> tuple[list[float], list[float]]:
    """Naive CPU milliseconds: the newcomer's map; the newcomer's row for every viewer."""
    devices = [device(number) for number in range(1, size + 2)]
    newcomer = devices[-1]
    nodes = {one.id: naive.node(one, DOMAIN) for one in devices}

    def tell_all() -> None:
        for _ in range(size):
            naive.encode({"PeersChanged": [nodes[newcomer.id]]}, thrifty=False)

    return (
        cpu_ms(lambda: naive.full_map(newcomer, devices, nodes, everybody, {}, thrifty=False), 7),
        cpu_ms(tell_all, 7),
    )
