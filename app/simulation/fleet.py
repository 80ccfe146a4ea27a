"""All devices of a simulation: they join, things happen to them, and at the end all are looked at."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from app.client.device import backoff_s
from app.errors import HsError, Refused, Unavailable
from app.keys import node_key_text
from app.simulation.full import FullDevice
from app.simulation.scenario import Churn, Spec, Step, join_order
from app.simulation.thin import ThinDevice
from app.simulation.world import Device, World, now_s

#: Joins under way when no rate is given.
JOINING_AT_ONCE: Final = 64
#: A device that cannot join tries again this long.
JOIN_DEADLINE_S: Final = 120.0
#: Things that happen to devices at the same time; further ones are left out, and counted.
ACTING_AT_ONCE: Final = 1000
#: After all, how long the last changes may take to arrive.
SETTLE_DEADLINE_S: Final = 15.0
COMPARING_AT_ONCE: Final = 8
CLOSE_DEADLINE_S: Final = 10.0
SWEEP_S: Final = 5.0
TICK_S: Final = 0.01
LAG_STEP_S: Final = 0.05
#: Devices dropped or closed before others get their turn.
SLICE: Final = 128


class Fleet:
    """Made and used in one event loop, as `async with Fleet(specs) as fleet`."""

    def __init__(self, specs: Sequence[Spec]) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._acting = 0
        self.world = World(len(specs), self._spawn)
        self.devices: list[Device] = [self._made(spec, index) for index, spec in enumerate(specs)]
        self.joined = 0
        self.failed: set[int] = set()
        self.joining_s = 0.0
        self._started_s = now_s()
        self._cpu_s = time.process_time()

    def _made(self, spec: Spec, index: int) -> Device:
        return (FullDevice if spec.full else ThinDevice)(self.world, spec, index)

    @property
    def here(self) -> int:
        """Devices that have the first map of their poll."""
        return self.world.here.total()

    @property
    def wanted(self) -> int:
        """Devices that should be here."""
        return sum(device.wanted for device in self.devices)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._spawn(self._sweep(), "sweep")
        self._spawn(self._feel(), "lag")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._close()
        finally:
            for task in self._tasks:
                task.cancel()
            await self._group.__aexit__(kind, error, trace)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------------------------ joining

    async def join(self, rate: float | None = None) -> None:
        """All register and poll; `rate` in devices per second, else so many at a time.

        The first of each tenant goes first. Raises Refused when it is not let in, Unavailable when the
        server cannot be reached. Of the others those that do not get in are in `failed`.
        """
        started_s = now_s()
        order = join_order(len(self.devices))
        first = {self.devices[index].spec.auth_key: index for index in reversed(order)}
        await self._each(list(first.values()), self._knock)
        rest = [index for index in order if index not in set(first.values())]
        if rate is None:
            await self._each(rest, self._enter)
        else:
            async with asyncio.TaskGroup() as group:
                for number, index in enumerate(rest):
                    due_s = started_s + number / rate
                    await asyncio.sleep(max(0.0, due_s - now_s()))
                    group.create_task(self._enter(index, due_s))
        self.joining_s = now_s() - started_s

    async def _each(self, indexes: Sequence[int], work: Any) -> None:
        line = iter(indexes)

        async def caller() -> None:
            for index in line:
                await work(index)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(JOINING_AT_ONCE, len(indexes))):
                    group.create_task(caller())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _knock(self, index: int) -> None:
        device = self.devices[index]
        started_s = now_s()
        try:
            await device.enter()
        except Refused as error:
            who = f"{device.spec.hostname} (auth key {device.spec.tenant + 1})"
            raise Refused(f"{device.spec.url} does not let {who} in: {error.message}") from error
        self.joined += 1
        self.world.tally.joins.add(now_s() - started_s)

    async def _enter(self, index: int, started_s: float | None = None) -> None:
        if await self._join(index, started_s):
            self.joined += 1

    async def _join(self, index: int, started_s: float | None = None) -> bool:
        """Tries again as a client does; a refusal is the end. Whether it is in."""
        device = self.devices[index]
        started_s = now_s() if started_s is None else started_s
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self.world.connecting:
                    await device.enter()
            except HsError as error:
                device.failed("joining", error)
                pause_s = backoff_s(attempt)
                if isinstance(error, Refused) or now_s() + pause_s - started_s > JOIN_DEADLINE_S:
                    device.wanted = False
                    self.failed.add(index)
                    return False
                await asyncio.sleep(pause_s)
            else:
                self.world.tally.joins.add(now_s() - started_s)
                return True

    # -------------------------------------------------------------------------------------- churn

    async def live(self, churn: Churn, duration_s: float) -> None:
        """What the churn says, for so long."""
        started_s = now_s()
        while (elapsed_s := now_s() - started_s) < duration_s:
            for step in churn.steps(elapsed_s):
                await self.act(step)
            await asyncio.sleep(TICK_S)

    async def act(self, step: Step) -> None:
        """Begin one step. Left out when the device is not where the step needs it."""
        tally = self.world.tally
        if step.action == "storm":
            tally.actions["storm"] += 1
            await self.storm()
            return
        device = self.devices[step.device]
        fits = not device.wanted if step.action == "back" else device.here
        if device.busy or not fits or self._acting >= ACTING_AT_ONCE:
            tally.actions["skipped"] += 1
            return
        tally.actions[step.action] += 1
        device.busy = True
        self._acting += 1
        self._spawn(self._act(device, step), f"{step.action}[{device.spec.hostname}]")

    async def _act(self, device: Device, step: Step) -> None:
        storms = self.world.storms
        try:
            match step.action:
                case "endpoints":
                    await device.report()
                case "away":
                    await device.go_away()
                case "back":
                    await device.come_back()
                case "replace":
                    await self._replace(device)
        except HsError as error:
            device.failed(step.action, error, storms)
            if device.wanted and not device.here and isinstance(device, ThinDevice):
                device.keep_returning()
        finally:
            device.busy = False
            self._acting -= 1

    async def _replace(self, device: Device) -> None:
        """Logs out; a new device takes its place, also when nobody heard that."""
        storms = self.world.storms
        number = self.world.tally.actions["replace"]
        hostname = f"{device.spec.hostname.partition('.')[0]}.{number}"
        try:
            await device.leave()
        except HsError as error:
            device.failed("logging out", error, storms)
        fresh = self._made(replace(device.spec, hostname=hostname, seed=""), device.index)
        self.devices[device.index] = fresh
        await self._join(device.index)

    async def storm(self) -> None:
        """Everybody loses the connection at once."""
        for number, device in enumerate(list(self.devices)):
            if device.here:
                device.drop()
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)

    # ------------------------------------------------------------------------------------ the end

    async def settle(self, deadline_s: float = SETTLE_DEADLINE_S) -> None:
        """Until everybody who should be here is, and knows the newest endpoints. Notes who does not.

        Then full devices compare what they made of all deltas with a fresh map.
        """
        end_s = now_s() + deadline_s
        wrong: list[tuple[Device, str]] = []
        while True:
            wrong = self._stale()
            if not self._acting and not wrong and self.here >= self.wanted:
                break
            if now_s() > end_s:
                break
            await asyncio.sleep(TICK_S * 10)
        for device, text in wrong:
            device.violated(text)
        for index, device in enumerate(self.devices):
            if device.wanted and not device.here:
                self.failed.add(index)
                self.world.tally.errors.add("not back at the end")
        full = [device for device in self.devices if isinstance(device, FullDevice) and device.here]
        line = iter(full)

        async def caller() -> None:
            for device in line:
                await self._compare(device)

        async with asyncio.TaskGroup() as group:
            for _ in range(COMPARING_AT_ONCE):
                group.create_task(caller())

    def _stale(self) -> list[tuple[Device, str]]:
        senders = {node_key_text(device.node_key): device for device in self.devices}
        return [
            (device, text)
            for device in self.devices
            if isinstance(device, FullDevice) and device.here
            for text in device.stale(senders)
        ]

    async def _compare(self, device: FullDevice) -> None:
        try:
            found = await device.differences()
            if found:  # something may have changed in between: what two fresh maps disagree on, has
                again = await device.differences()
                found = [] if again else found
        except HsError as error:
            device.failed("fetching a fresh map", error)
            return
        for text in [*found, *device.simulated.netmap.check_invariants()]:
            device.violated(text)

    async def _close(self) -> None:
        for number, device in enumerate(self.devices):
            device.wanted = False
            if isinstance(device, ThinDevice):
                device.abort()
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        full = [device for device in self.devices if isinstance(device, FullDevice)]
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await asyncio.gather(*(device.go_away() for device in full))
        except (TimeoutError, Unavailable):
            for device in full:
                device.drop()

    # -------------------------------------------------------------------------------------- clock

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            at_s = now_s()
            for device in self.devices:
                if isinstance(device, ThinDevice):
                    device.check_alive(at_s)

    async def _feel(self) -> None:
        """How late this process itself is: what it measures is late by as much."""
        while True:
            due_s = now_s() + LAG_STEP_S
            await asyncio.sleep(LAG_STEP_S)
            self.world.tally.lag.add(max(0.0, now_s() - due_s))

    # ------------------------------------------------------------------------------------- report

    def report(self) -> dict[str, Any]:
        """What was measured so far; milliseconds, bytes of map messages as they stand on the wire."""
        tally, ledger = self.world.tally, self.world.ledger
        full = sum(device.spec.full for device in self.devices)
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "devices": {
                "asked": len(self.devices),
                "full": full,
                "thin": len(self.devices) - full,
                "tenants": len({device.spec.tenant for device in self.devices}),
                "joined": self.joined,
                "here": self.here,
                "failed": len(self.failed),
            },
            "elapsed_s": round(now_s() - self._started_s, 3),
            "joining_s": round(self.joining_s, 3),
            "join": tally.joins.summary(),
            "propagation": tally.propagation.summary()
            | {
                "sent": ledger.sent,
                "expected": ledger.expected,
                "received": ledger.receipts,
                "superseded": ledger.superseded,
            },
            "update": tally.updates.summary(),
            "reconnect": tally.returns.summary() | {"lost": tally.lost},
            "frames": {
                kind: {"count": frames.count, "bytes": frames.bytes} for kind, frames in tally.frames.items()
            },
            "actions": dict(tally.actions),
            "errors": {"count": tally.errors.total, "texts": tally.errors.rows()},
            "violations": {"count": tally.violations.total, "texts": tally.violations.rows()},
            "own": {
                "cpu_s": round(time.process_time() - self._cpu_s, 3),
                "peak_rss_bytes": peak_kib * 1024,
                "lag": tally.lag.summary(),
            },
        }
