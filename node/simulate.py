"""What `hs-node simulate` does: runs a fleet, shows how far it is, prints what was measured."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.counting import counted
from app.output import show
from app.simulation.fleet import Fleet
from app.simulation.scenario import Churn, Kind, Spec
from app.simulation.stats import line

EXIT_UNCLEAN: Final = 1
EXIT_INTERRUPTED: Final = 130
#: Between two plain lines, and between two looks for the bar.
LINE_EVERY_S: Final = 2.0
LOOK_EVERY_S: Final = 0.2
FOREVER_S: Final = 1e9
SHOWN_TEXTS: Final = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the command line said."""

    specs: Sequence[Spec]
    join_rate: float | None
    kinds: Sequence[Kind]
    churn_rate: float
    storm_every_s: float
    duration_s: float | None


def run(plan: Plan, output: str) -> int:
    """The exit code. Raises Refused or Unavailable before anything was measured."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            report, interrupted = runner.run(_measured(plan))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
    if not report:
        print("stopped before the first device had joined", file=sys.stderr)
        return EXIT_INTERRUPTED
    _print(report, output)
    if report["violations"]["count"] or report["devices"]["failed"]:
        return EXIT_UNCLEAN
    return EXIT_INTERRUPTED if interrupted else 0


async def _measured(plan: Plan) -> tuple[dict[str, Any], bool]:
    """The report, and whether somebody ended it early; empty when nothing was measured until then."""
    found: dict[str, Any] = {}
    work = asyncio.create_task(_live(plan, found), name="simulation")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        return found, True
    return found, False


async def _live(plan: Plan, found: dict[str, Any]) -> None:
    """Join, churn, last check; whatever ends it, `found` is filled."""
    with _progress(len(plan.specs), plan.duration_s) as told:
        async with Fleet(plan.specs) as fleet:
            teller = asyncio.create_task(_tell(fleet, told), name="progress")
            try:
                told.phase("joining")
                await fleet.join(plan.join_rate)
                told.say(f"{fleet.joined} of {len(plan.specs)} joined in {fleet.joining_s:.1f} s")
                churn = Churn(
                    len(plan.specs),
                    plan.kinds,
                    plan.churn_rate,
                    plan.storm_every_s,
                    random.Random(1).random,  # noqa: S311 - the same events in every run
                )
                told.phase(", ".join(plan.kinds) or "watching")
                await fleet.live(churn, plan.duration_s or FOREVER_S)
                told.phase("last check")
                await fleet.settle()
            finally:
                teller.cancel()
                if fleet.joined:
                    found.update(fleet.report())


# -- how far it is ------------------------------------------------------------------------------


class Lines:
    """For files and pipes: a line now and then, with the seconds since the start."""

    every_s = LINE_EVERY_S

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._phase = ""

    def phase(self, name: str) -> None:
        self._phase = name
        self.say(name)

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start_s:5.1f} s] {text}", file=sys.stderr, flush=True)

    def look(self, fleet: Fleet) -> None:
        self.say(f"{self._phase}: {status(fleet)}")


class Bar:
    """For a terminal."""

    every_s = LOOK_EVERY_S

    def __init__(self, progress: Progress, devices: int, duration_s: float | None) -> None:
        self._progress = progress
        self._devices = devices
        self._duration_s = duration_s
        self._task = progress.add_task("", total=devices, status="")
        self._began_s = time.monotonic()
        self._joining = True

    def phase(self, name: str) -> None:
        self._began_s = time.monotonic()
        self._joining = name == "joining"
        total = self._devices if self._joining else self._duration_s
        self._progress.reset(self._task, description=name, total=total)

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)

    def look(self, fleet: Fleet) -> None:
        done = fleet.joined if self._joining else time.monotonic() - self._began_s
        self._progress.update(self._task, completed=done, status=status(fleet))


@contextmanager
def _progress(devices: int, duration_s: float | None) -> Iterator[Lines | Bar]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, devices, duration_s)


async def _tell(fleet: Fleet, told: Lines | Bar) -> None:
    while True:
        await asyncio.sleep(told.every_s)
        told.look(fleet)


def status(fleet: Fleet) -> str:
    """A fleet in a few words."""
    tally = fleet.world.tally
    frames = sum(frames.count for frames in tally.frames.values())
    words = [f"{fleet.here:,} here", f"{frames:,} frames", counted(tally.errors.total, "error")]
    return ", ".join([*words, counted(tally.violations.total, "violation")])


# -- what was measured --------------------------------------------------------------------------


def _print(report: dict[str, Any], output: str) -> None:
    if output != "table":
        show(report, output)
        return
    show([{"what": what, "measured": text} for what, text in table(report)], output)
    for name in ("violations", "errors"):
        texts = report[name]["texts"][:SHOWN_TEXTS]
        if texts:
            print(f"\n{name}\n")
            show(texts, output)


def table(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The report as lines of two cells."""
    devices, own = report["devices"], report["own"]
    yield (
        "devices",
        f"{devices['joined']:,} of {devices['asked']:,} joined, {counted(devices['tenants'], 'tenant')}, "
        f"{devices['full']:,} full, {devices['failed']:,} failed, {devices['here']:,} here at the end",
    )
    rate = devices["joined"] / report["joining_s"] if report["joining_s"] else 0
    yield "joining", f"{report['joining_s']:.1f} s, {rate:,.0f} per second"
    yield "join", line(report["join"])
    changes = report["propagation"]
    yield (
        "change to others",
        f"{line(changes)}; {changes['sent']:,} changes, "
        f"{changes['received']:,} of {changes['expected']:,} heard, "
        f"{changes['superseded']:,} superseded by a later one",
    )
    yield "change acknowledged", line(report["update"])
    yield "connections lost", f"{report['reconnect']['lost']:,}"
    yield "back again", line(report["reconnect"])
    for kind, frames in report["frames"].items():
        yield f"{kind} frames", f"{frames['count']:,}, {frames['bytes']:,} bytes"
    actions = ", ".join(f"{name} {count:,}" for name, count in sorted(report["actions"].items()))
    yield "happened", actions or "nothing"
    yield "errors", f"{report['errors']['count']:,}"
    yield "violations", f"{report['violations']['count']:,}"
    yield (
        "this process",
        f"{own['cpu_s']:.1f} s CPU, {own['peak_rss_bytes'] / 1e6:,.0f} MB at most; "
        f"late by {line(own['lag'])}",
    )
