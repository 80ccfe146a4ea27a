"""One device's endpoints change, everybody hears of it: CPU per viewer, and how long it takes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from app.client.device import SimulatedDevice
from app.errors import RemoteProtocolError
from bench import naive
from bench.data import device, everybody, moved
from bench.load import DEADLINE_S, Member, Sink, connected, endpoints, quiet, registered, witnesses
from bench.netmap import cpu_ms
from bench.report import Figure, Table, percentile
from bench.system import Lab, Target, cpu_s, in_load_process

WITNESSES = 3
#: Changes come when the tenant is idle: rounds keep up to 0.5 s of distance.
PAUSE_S = 0.55
DELTA_BUDGET_US = 15
LATENCY_BUDGET_MS = 50


async def _deltas(target: Target, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """For each number of viewers: CPU, time and bytes of each round."""
    found = []
    there: list[Member] = []
    sink = Sink()
    async with witnesses(target, WITNESSES) as (changer, *watching):
        for size in sizes:
            more = await registered(target, size - len(there) - len(watching), f"s{size}n")
            await connected(more, sink)
            there += more
            await quiet(sink)
            steps = [await _round(target, changer, sink, len(there), salt) for salt in range(rounds + 2)]
            found.append({"size": size, "rounds": steps[2:]})
            await _check(changer, watching)
        idle_from = cpu_s(target.pid)
        await asyncio.sleep(3)
        idle = (cpu_s(target.pid) - idle_from) / 3
        found.append({"size": sizes[-1], "idle": idle})
    for member in there:
        member.drop()
    return found


async def _round(
    target: Target, changer: SimulatedDevice, sink: Sink, viewers: int, salt: int
) -> dict[str, float]:
    await asyncio.sleep(PAUSE_S)
    arrival = sink.expect(viewers)
    cpu, started = cpu_s(target.pid), time.monotonic()
    await changer.update(endpoints=endpoints(viewers * 100 + salt))
    async with asyncio.timeout(DEADLINE_S):
        last = await arrival
    # The last frame is out; a few lines of the same round are left.
    await asyncio.sleep(0.005)
    return {
        "cpu_us": (cpu_s(target.pid) - cpu) * 1e6,
        "ms": (last - started) * 1000,
        "bytes": sink.bytes / viewers,
    }


async def _check(changer: SimulatedDevice, watching: list[SimulatedDevice]) -> None:
    """The witnesses know the newest endpoints."""
    wanted = list(changer.endpoints)
    for witness in watching:
        await witness.wait_for(
            lambda netmap: any(peer["Endpoints"] == wanted for peer in netmap.peers.values()), DEADLINE_S
        )
        if notes := witness.netmap.check_invariants():
            raise RemoteProtocolError(f"{witness}: {notes[:3]}")


def run(lab: Lab) -> Table:
    table = Table("delta", "one endpoint change to connected viewers, tenant otherwise idle")
    sizes = [100, 500] if lab.quick else [100, 1_000, 2_000]
    with lab.server("delta") as server:
        found = in_load_process(_deltas, server.target, sizes, 8 if lab.quick else 40, deadline_s=360)
    slow, pairwise = _naive_us(1_000)
    idle = found.pop()
    for step in found:
        size, rounds = step["size"], step["rounds"]
        cpu = [one["cpu_us"] / size for one in rounds]
        table.add(f"{size:,} viewers: CPU per viewer, all in", "us", cpu, budget=DELTA_BUDGET_US, naive=slow)
        table.add(
            f"{size:,} viewers: change sent to last frame, p50",
            "ms",
            [percentile([r["ms"] for r in rounds], 0.5)],
        )
        table.add(
            f"{size:,} viewers: change sent to last frame, p99",
            "ms",
            [percentile([r["ms"] for r in rounds], 0.99)],
            budget=LATENCY_BUDGET_MS,
        )
    small, large = found[0], found[-1]
    slope = [
        (b - Figure.of([r["cpu_us"] for r in small["rounds"]]).median) / (large["size"] - small["size"])
        for b in (r["cpu_us"] for r in large["rounds"])
    ]
    table.add(
        f"CPU per further viewer ({small['size']:,} to {large['size']:,})",
        "us",
        slope,
        budget=DELTA_BUDGET_US,
        naive=pairwise,
    )
    table.add("bytes per frame on the wire", "B", [r["bytes"] for r in large["rounds"]])
    table.add(f"CPU while nothing happens, {idle['size']:,} connected", "ms/s", [idle["idle"] * 1000])
    table.notes.append(
        "All in: the change's request, commit, encoding, sealing, writing. The time ends when the load "
        "process has read the last viewer's frame, without opening it; it runs on the same cores. "
        f"{WITNESSES} strict devices check that what arrives is right."
    )
    table.notes.append(
        "Naive is encoding alone, per viewer: the upper rows ask one question per viewer and encode; the "
        "row per further viewer also looks 1,000 peers up for each viewer. Sealing and writing come on top."
    )
    return table


def _naive_us(count: int) -> tuple[list[float], list[float]]:
    """Naive CPU microseconds per viewer, without and with pairwise look-up."""
    devices = [device(number) for number in range(1, count + 1)]
    old, viewers = devices[0], devices[1:201]
    new = moved(old, 1)
    factor = 1000 / len(viewers)
    slow = cpu_ms(lambda: naive.deltas(old, new, viewers, None, everybody, thrifty=False), 15)
    pairs = cpu_ms(lambda: naive.deltas(old, new, viewers, devices, everybody, thrifty=False), 5)
    return [ms * factor for ms in slow], [ms * factor for ms in pairs]
