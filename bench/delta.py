"""One device's endpoints change, everybody hears of it: CPU per viewer, and how long it takes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from app.client.device import SimulatedDevice
from app.errors import RemoteProtocolError
from bench.load import DEADLINE_S, Member, Sink, connected, endpoints, quiet, registered, witnesses
from bench.report import Figure, Table, percentile
from bench.system import Lab, Target, cpu_s, in_load_process

WITNESSES = 3
STEP = 500
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
            # Step by step: the maps of who comes early are small, and the load has to read them all.
            while (missing := size - len(there) - len(watching)) > 0:
                more = await registered(target, min(missing, STEP), f"s{len(there)}n")
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
        member.abort()
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
    sizes = [100, 500] if lab.quick else [100, 1_000, 5_000, 10_000]
    rounds = 8 if lab.quick else 30
    with lab.server("delta") as server:
        ours = in_load_process(_deltas, server.target, sizes, rounds, deadline_s=600)
    with lab.other("delta") as server:
        theirs = in_load_process(_deltas, server.target, sizes[:2], rounds // 4, deadline_s=240)
    idle = ours.pop()
    naive_of = {step["size"]: step["rounds"] for step in theirs[:-1]}
    for step in ours:
        size, steps = step["size"], step["rounds"]
        naive = naive_of.get(size)
        table.add(
            f"{size:,} viewers: CPU per viewer, all in",
            "us",
            [one["cpu_us"] / size for one in steps],
            budget=DELTA_BUDGET_US,
            naive=naive and [one["cpu_us"] / size for one in naive],
        )
        for share, budget in ((0.5, None), (0.99, LATENCY_BUDGET_MS)):
            table.add(
                f"{size:,} viewers: change sent to last frame, p{share * 100:.0f}",
                "ms wall",
                [percentile([one["ms"] for one in steps], share)],
                budget=budget,
                naive=naive and [percentile([one["ms"] for one in naive], share)],
            )
    table.add(
        f"CPU per further viewer, {ours[0]['size']:,} to {ours[-1]['size']:,}",
        "us",
        _slope(ours[0], ours[-1]),
        budget=DELTA_BUDGET_US,
    )
    table.add("bytes per frame on the wire", "B", [one["bytes"] for one in ours[-1]["rounds"]])
    table.add(f"CPU while nothing happens, {idle['size']:,} connected", "ms/s", [idle["idle"] * 1000])
    table.notes.append(
        "All in: the change's request, commit, encoding, sealing, writing. The time ends when the load "
        "process has read the last viewer's frame, without opening it; it runs on the same cores. "
        f"{WITNESSES} strict devices check that what arrives is right. p99 of {rounds} rounds is the worst."
    )
    table.notes.append(
        "A profile with native frames (py-spy) of writing to 2,000 viewers gives: the writing system call "
        "45 %, sealing 18 %, choosing the message 12 %; the rest is session, tunnel, HTTP/2 and uvloop. On "
        "loopback the writer pays for the reader's half of TCP too."
    )
    table.beside(lab.other_label)
    return table


def _slope(small: dict[str, Any], large: dict[str, Any]) -> list[float]:
    """CPU microseconds per viewer that the larger fleet has more, for each of its rounds."""
    base = Figure.of([one["cpu_us"] for one in small["rounds"]]).median
    more = large["size"] - small["size"]
    return [(one["cpu_us"] - base) / more for one in large["rounds"]]
