"""Memory of the node per registered and per connected device."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.load import Member, Sink, connected, quiet, registered
from bench.report import Table
from bench.system import Lab, Target, in_load_process, rss_bytes

CONNECTED_BUDGET_KB = 20


async def _steady(target: Target, sink: Sink) -> int:
    """RSS once nothing arrives any more and what was marked is stored."""
    await quiet(sink)
    await asyncio.sleep(2)
    return rss_bytes(target.pid)


async def _grow(target: Target, steps: list[int]) -> dict[str, Any]:
    """RSS after so many devices are registered, then after so many are connected, as one tenant."""
    sink = Sink()
    members: list[Member] = []
    registered_rss, connected_rss = [await _steady(target, sink)], []
    for step in steps:
        members += await registered(target, step - len(members), f"s{step}n")
        registered_rss.append(await _steady(target, sink))
    # The first map makes the shared blocks; they are no connection's.
    await connected(members[:1], sink)
    connected_rss.append(await _steady(target, sink))
    known = 1
    for step in steps:
        await connected(members[known:step], sink)
        known = step
        connected_rss.append(await _steady(target, sink))
    for member in members:
        member.abort()
    return {"registered": registered_rss, "connected": connected_rss}


def run(lab: Lab) -> Table:
    table = Table("memory", "resident memory of the node, one tenant")
    steps = [200, 600] if lab.quick else [500, 1_000, 1_500, 2_000]
    with lab.server("memory") as server:
        found = in_load_process(_grow, server.target, steps, deadline_s=300)
    counts = [0, *steps]
    made = _per_device(found["registered"][1:], steps)
    joined = _per_device(found["connected"][1:], steps)
    table.add(f"per registered device, {steps[0]:,} to {steps[-1]:,}", "KB", made)
    table.add(
        f"per connected device, {steps[0]:,} to {steps[-1]:,}", "KB", joined, budget=CONNECTED_BUDGET_KB
    )
    table.add("the process, nobody registered", "MB", [found["registered"][0] / 1e6])
    table.add(f"the process, {counts[-1]:,} connected", "MB", [found["connected"][-1] / 1e6])
    table.notes.append(
        "Growth of RSS between steps, divided by the devices of the step. A connected device was registered "
        "before, so its row is not counted again; what is: socket object, Noise, HTTP/2, session, and what "
        "the allocator keeps of the maps of that many joins. Kernel buffers are outside."
    )
    return table


def _per_device(rss: list[int], counts: list[int]) -> list[float]:
    """KB per device, step by step."""
    return [(rss[at + 1] - rss[at]) / (counts[at + 1] - counts[at]) / 1e3 for at in range(len(counts) - 1)]
