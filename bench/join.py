"""What a join costs: connection, Noise, HTTP/2, registration, first map, and telling those who are there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from app.errors import RemoteProtocolError
from bench.load import Member, Sink, connected, each, quiet, registered
from bench.report import Table
from bench.system import Lab, Target, cpu_s, in_load_process

BURST = 50
#: Above so many devices all of them come back once, not several times.
MANY = 1_000
#: Budgets of DESIGN section 10: a registration, a map of 1,000 peers, a delta. PERFORMANCE 10: a connection.
REGISTRATION_MS = 1.2
CONNECT_MS = 0.65
MAP_MS_PER_PEER = 1.0 / 1_000
DELTA_MS = 0.015


async def _joins(target: Target, sizes: list[int], singles: int, bursts: int) -> list[dict[str, Any]]:
    """For each size: joins beside so many registered devices, first unconnected, then connected."""
    found: list[dict[str, Any]] = []
    there: list[Member] = []
    sink = Sink()
    for size in sizes:
        for member in there:
            member.abort()
        there += await registered(target, size - len(there), f"s{size}n")
        await quiet(sink)
        newcomers = [Member(target, f"a{size}n{number}") for number in range(singles + 1)]
        alone = await _one_by_one(target, newcomers, size, new=True)
        back = await _one_by_one(target, newcomers, size, new=False)
        await connected(there, sink)
        await quiet(sink)
        newcomers = [Member(target, f"w{size}n{number}") for number in range(singles + 1)]
        watched = await _one_by_one(target, newcomers, size, new=True)
        crowds = [await _burst(target, f"b{size}c{burst}n", sink) for burst in range(bursts)]
        storms = bursts if size <= MANY else 1
        storm = [await _storm(target, there, sink) for _ in range(storms)]
        found.append(
            {"size": size, "storm": storm, "alone": alone, "back": back, "watched": watched, "bursts": crowds}
        )
    for member in there:
        member.abort()
    return found


async def _one_by_one(
    target: Target, members: Sequence[Member], least_peers: int, *, new: bool
) -> list[dict[str, float]]:
    """What each of these costs that joins, or that comes back with the keys it has. The first warms up."""
    found = []
    for member in members:
        before, started = cpu_s(target.pid), time.monotonic()
        if new:
            await member.register()
        await member.poll()
        elapsed = time.monotonic() - started
        # The map comes after the announcement; what is left is a few more lines of the same round.
        await asyncio.sleep(0.005)
        found.append({"cpu_ms": (cpu_s(target.pid) - before) * 1000, "ms": elapsed * 1000})
        peers = member.peers
        member.abort()
        if peers < least_peers:
            raise RemoteProtocolError(f"a map of {peers} peers instead of {least_peers}")
    return found[1:]


async def _storm(target: Target, members: Sequence[Member], sink: Sink) -> float:
    """CPU milliseconds per device when a whole fleet loses its connections and comes back."""
    for member in members:
        member.abort()
    await quiet(sink)
    before = cpu_s(target.pid)
    await connected(members, sink)
    return (cpu_s(target.pid) - before) * 1000 / len(members)


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
        member.abort()
    await quiet(sink)
    return spent * 1000 / BURST


def run(lab: Lab) -> Table:
    table = Table("join", "a new device joins: connect, register, first map, announcement; CPU of the node")
    sizes = [100, 500] if lab.quick else [100, 1_000, 5_000]
    singles, bursts = (10, 1) if lab.quick else (30, 3)
    with lab.server("join") as server:
        ours = in_load_process(_joins, server.target, sizes, singles, bursts, deadline_s=600)
    with lab.other("join") as server:
        theirs = in_load_process(_joins, server.target, sizes[:2], singles // 3, 1, deadline_s=240)
    for step, naive in zip_longest(ours, theirs):
        size = step["size"]
        own = REGISTRATION_MS + MAP_MS_PER_PEER * size
        told = own + DELTA_MS * size
        for key, what, budget in (
            ("back", "a known device comes back", CONNECT_MS + MAP_MS_PER_PEER * size),
            ("alone", "none connected", own),
            ("watched", "all connected, one join at a time", told),
        ):
            table.add(
                f"{size:,} peers, {what}",
                "ms",
                [one["cpu_ms"] for one in step[key]],
                budget=budget,
                naive=naive and [one["cpu_ms"] for one in naive[key]],
            )
        table.add(
            f"{size:,} devices come back at once, each",
            "ms",
            step["storm"],
            budget=CONNECT_MS + MAP_MS_PER_PEER * size,
            naive=naive and naive["storm"],
        )
        table.add(
            f"{size:,} peers, all connected, {BURST} joins at once, each",
            "ms",
            step["bursts"],
            budget=told,
            naive=naive and naive["bursts"],
        )
        table.add(
            f"{size:,} peers, all connected, dialling to first map",
            "ms wall",
            [one["ms"] for one in step["watched"]],
            naive=naive and [one["ms"] for one in naive["watched"]],
        )
    table.notes.append(
        "Budget: registration 1.2 ms (coming back: connection 0.65 ms) + map 1 ms per 1,000 peers + 15 us "
        "per connected viewer that is told."
    )
    table.notes.append(
        "A join writes twice to the database: the registration, and the disco key that the first poll "
        "brings. Newcomers, and who comes back, gather for 20 ms before their round."
    )
    table.notes.append(
        "One device at a time has a round, a batch of presence and all wake-ups to itself. A profile with "
        "native frames (py-spy) of one that comes back beside 100 gives: event loop and tasks 17 %, Noise "
        "15 %, background jobs and presence 12 %, netmap 9 %, HTTP/2 9 %, accepting 8 %, records 7 %, tunnel "
        "and round 6 %, writes to sockets 5 %, reading requests 4 %."
    )
    table.beside(lab.other_label)
    return table
