"""A daemon's outermost frame: event loop, signals, named tasks, an end with a deadline."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import uvloop

from app.errors import ConfigError, HsError
from app.log import get

#: How long the daemon may take to end by itself, and then to react to cancellation.
DRAIN_DEADLINE_S = 20.0
CANCEL_DEADLINE_S = 5.0
#: Open files wanted: one per connection.
WANTED_OPEN_FILES = 65_536
#: What a process has open beside its connections, generously.
SPARE_OPEN_FILES = 100
EXIT_CRASHED = 1
MAIN = "main"
EXIT_NOT_DRAINED = 5

log = get("runtime")


class Daemon:
    """What the main coroutine gets: `stopping` is set once the process shall end; `spawn` runs tasks.

    Main awaits `stopping`, then drains within the deadline and returns; tasks still running then
    are cancelled. A task that crashes cancels main and all others.
    """

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self._impatient = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run a task under this name until it ends, crashes, or main has returned."""
        task = self._group.create_task(self._watched(name, coroutine), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watched(self, name: str, coroutine: Awaitable[object]) -> None:
        try:
            await coroutine
        except Exception as error:
            self.stopping.set()
            if name != MAIN or not isinstance(error, HsError):  # what main refuses, `report` says in a line
                log.error(
                    "task_crashed", task=name, error=str(error), exc_info=not isinstance(error, HsError)
                )
            raise

    def _signalled(self, number: signal.Signals) -> None:
        if self.stopping.is_set():
            self._impatient.set()
        log.info("stop_requested", signal=number.name, again=self._impatient.is_set())
        self.stopping.set()

    async def _body(self, main: Callable[[Daemon], Awaitable[object]]) -> None:
        async with self._group:
            await self._watched(MAIN, main(self))
            for task in self._tasks:
                task.cancel()

    async def run(self, main: Callable[[Daemon], Awaitable[object]], drain_s: float) -> int:
        """The exit code, once main and all tasks have ended. Raises what crashed them."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        body = asyncio.create_task(self._body(main), name="daemon")
        stop = asyncio.create_task(self.stopping.wait(), name="wait for stop")
        hurry = asyncio.create_task(self._impatient.wait(), name="wait for second signal")
        await asyncio.wait({body, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not body.done():
            await asyncio.wait({body, hurry}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        hurry.cancel()
        if body.done():
            body.result()
            return 0
        running = sorted(task.get_name() for task in self._tasks)
        log.error("drain_deadline_missed", deadline_s=drain_s, running=running)
        body.cancel()
        await asyncio.wait({body}, timeout=CANCEL_DEADLINE_S)
        if not body.done():
            log.error("tasks_ignore_cancellation", running=running)
            # The loop cannot be closed while a task refuses to end.
            os._exit(EXIT_NOT_DRAINED)
        if not body.cancelled() and body.exception() is not None:
            body.result()
        return EXIT_NOT_DRAINED


def raise_open_files() -> None:
    """Allow this process as many connections as the hard limit lets it; the soft one is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(WANTED_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_open_files(connections: int) -> None:
    """Allow this process so many connections beside SPARE_OPEN_FILES. Raises ConfigError when it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_OPEN_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(
            f"{connections} connections need {wanted} open files, but this process may have {hard}: "
            "raise the hard limit (ulimit -Hn) or take fewer"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_daemon(main: Callable[[Daemon], Awaitable[object]], *, drain_s: float = DRAIN_DEADLINE_S) -> int:
    """Run `main` until it ends or the process is told to; the exit code for `sys.exit`."""

    async def supervise() -> int:
        return await Daemon().run(main, drain_s)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(supervise())
    except Exception as error:  # noqa: BLE001 - the process ends here, and says why
        return report(error)


def report(error: BaseException) -> int:
    """Tell a person on stderr what ended the process; the exit code for it."""
    causes = list(_leaves(error))
    for cause in causes:
        if isinstance(cause, HsError):
            print(f"error: {cause.message}", file=sys.stderr)
            return cause.exit_code
    print(f"error: a defect ended the process: {causes[0]!r}", file=sys.stderr)
    return EXIT_CRASHED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
