"""Fleets of app.simulation in processes of their own, told what to do step by step."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any, Self

import uvloop

from app.runtime import require_open_files
from app.simulation.fleet import Fleet
from app.simulation.markers import Ledger
from app.simulation.scenario import Churn, Kind, Spec
from app.simulation.stats import Tally
from bench.system import Foreign, Server, cpu_s

#: Longest step of any scenario.
STEP_DEADLINE_S = 900.0
BACK_DEADLINE_S = 240.0
TOLD_DEADLINE_S = 60.0
NEVER_S = 1e9


async def _join(fleet: Fleet, rate: float | None) -> None:
    await fleet.join(rate)


async def _live(fleet: Fleet, kinds: Sequence[Kind], rate: float, seconds: float, among: int) -> None:
    """Churn among the first so many devices."""
    churn = Churn(among, kinds, rate, NEVER_S, random.Random(5).random)
    await fleet.live(churn, seconds)


async def _only(fleet: Fleet, first: int) -> None:
    """All but the first so many go away; they stay registered."""
    for device in fleet.devices[first:]:
        await device.go_away()


async def _all_back(fleet: Fleet) -> None:
    """Until everybody is here who was wanted. Raises TimeoutError."""
    async with asyncio.timeout(BACK_DEADLINE_S):
        while fleet.here < fleet.wanted:  # noqa: ASYNC110 - thousands of devices, no event of all
            await asyncio.sleep(0.01)


async def _storm(fleet: Fleet) -> None:
    """All lose their connections and come back."""
    await fleet.storm()
    await _all_back(fleet)


async def _settle(fleet: Fleet) -> None:
    await fleet.settle(60)


async def _told(fleet: Fleet, frames: int, quiet_s: float) -> float:
    """When the last delta or whole map came, by the monotonic clock: so many have, and none for a while."""
    loop = asyncio.get_running_loop()
    tally = fleet.world.tally.frames
    last, seen = loop.time(), 0
    async with asyncio.timeout(TOLD_DEADLINE_S):
        while seen < frames or loop.time() - last < quiet_s:
            count = tally["delta"].count + tally["full"].count
            if count != seen:
                last, seen = loop.time(), count
            await asyncio.sleep(0.001)
    return last


async def _fresh(fleet: Fleet) -> None:
    """Count from now on."""
    fleet.world.tally = Tally()
    fleet.world.ledger = Ledger(len(fleet.devices))


async def _report(fleet: Fleet) -> dict[str, Any]:
    return fleet.report()


_STEPS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    step.__name__.removeprefix("_"): step
    for step in (_join, _live, _only, _all_back, _settle, _storm, _told, _fresh, _report)
}


async def _obey(wire: Connection, specs: list[Spec]) -> None:
    require_open_files(len(specs))
    async with Fleet(specs) as fleet:
        while True:
            order = await asyncio.to_thread(wire.recv)
            if order is None:
                return
            name, arguments = order
            wire.send(await _STEPS[name](fleet, *arguments))


def _child(wire: Connection, specs: list[Spec]) -> None:
    uvloop.run(_obey(wire, specs))


class Load(AbstractContextManager["Load"]):
    """One fleet in a process of its own; `server` is whose CPU is measured, and whose rules count."""

    def __init__(self, server: Server | Foreign, specs: list[Spec]) -> None:
        self._server = server
        context = multiprocessing.get_context("spawn")
        self._wire, theirs = context.Pipe()
        self._process = context.Process(target=_child, args=(theirs, specs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wire.send(None)
            self._process.join(60)
        except OSError:
            pass
        finally:
            if self._process.is_alive():
                self._process.kill()
            self._process.join()

    def __call__(self, step: str, *arguments: Any) -> Any:
        """The result of one step. Raises RuntimeError when the fleet failed, its trace is on stderr."""
        self._wire.send((step, arguments))
        if not self._wire.poll(STEP_DEADLINE_S):
            raise TimeoutError(f"{step} takes longer than {STEP_DEADLINE_S:g} s")
        try:
            return self._wire.recv()
        except EOFError:
            raise RuntimeError(f"the fleet failed in step {step}, see above") from None

    def measured(self, step: str, *arguments: Any) -> tuple[float, float]:
        """CPU seconds of the server during a step, and the step's seconds."""
        before, started = cpu_s(self._server.pid), time.monotonic()
        self(step, *arguments)
        return cpu_s(self._server.pid) - before, time.monotonic() - started

    def clean(self, what: str) -> dict[str, Any]:
        """The report. Raises RuntimeError when ours broke a rule; says so when another one did."""
        report: dict[str, Any] = self("report")
        if found := report["violations"]["count"]:
            text = f"{what}: {found} violations, such as {report['violations']['texts'][:3]}"
            if self._server.ours:
                raise RuntimeError(text)
            print(f"!! not ours, {text}")
        return report


def bytes_of(report: dict[str, Any]) -> int:
    """Bytes of all map messages."""
    return sum(frames["bytes"] for frames in report["frames"].values())
