"""The parent's side of the relay process: start, watch, start again, stop. And the child's main().

The child lives no longer than its parent: its stdin is a pipe from here, whose end it takes as stop.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson

from app import log
from app.errors import ConfigError, Unavailable
from node.derp.child import main
from node.derp.config import DerpConfig, Ready, check_config, region_json

__all__ = ["DerpConfig", "Ready", "Supervisor", "main", "region_json", "supervise"]

#: From starting a child to its READY line.
READY_DEADLINE_S = 15.0
#: From the end of its input to its end; then it is killed.
STOP_DEADLINE_S = 5.0
#: Pause before the next start: doubled from the first to the last, times 0.5 to 1.
BACKOFF_FIRST_S = 1.0
BACKOFF_LAST_S = 10.0
#: A child that lived this long starts the pauses from the beginning.
BACKOFF_RESET_S = 60.0
MAX_LINE_BYTES = 64 * 1024

ReadyCallback = Callable[[Ready], None]

_log = log.get("relay")


class Supervisor:
    """One relay process. `ready` is None while none runs; `stats` are its last figures.

    Ports that were free choice at the first start are kept over restarts, so that the DERP map
    stays as it is; only when they cannot be had again others are taken, and `on_ready` tells.
    """

    def __init__(
        self,
        config: DerpConfig,
        *,
        on_ready: ReadyCallback | None = None,
        rng: random.Random | None = None,
    ) -> None:
        check_config(config)
        self.config = config
        self.ready: Ready | None = None
        self.stats: dict[str, int] = {}
        self.restarts = 0
        self._on_ready = on_ready
        self._rng = rng or random.SystemRandom()
        self._next_config = config
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_ready = asyncio.Event()

    def __repr__(self) -> str:
        state = f"pid {self.ready.pid}" if self.ready else "not ready"
        return f"<relay Supervisor region {self.config.region_id}, {state}, {self.restarts} restarts>"

    async def start(self) -> Ready:
        """Starts the first child and the watching of it. Raises ConfigError, Unavailable."""
        ready = await self._start_child()
        self._task = asyncio.create_task(self._watch(), name=f"derp-supervisor[{self.config.region_id}]")
        return ready

    async def wait(self) -> None:
        """Until the watching ends: never, unless it breaks or `stop` is called."""
        if self._task is not None:
            await self._task

    async def wait_ready(self) -> Ready:
        """The running child's facts; waits while there is none. Give it a deadline."""
        while self.ready is None:
            await self._is_ready.wait()
        return self.ready

    async def stop(self) -> None:
        """Ends the child: end of input, STOP_DEADLINE_S, then kill. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        await self._end_child()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = BACKOFF_FIRST_S
        while True:
            started = loop.time()
            code = await self._read_until_end()
            _log.warning("relay_process_ended", exit_code=code, lived_s=round(loop.time() - started, 1))
            if loop.time() - started >= BACKOFF_RESET_S:
                pause_s = BACKOFF_FIRST_S
            while self.ready is None:
                await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
                pause_s = min(BACKOFF_LAST_S, 2 * pause_s)
                self.restarts += 1
                try:
                    await self._start_child()
                except (ConfigError, Unavailable) as error:
                    _log.error("relay_process_not_started", error=error.message)
                    self._next_config = self.config

    async def _start_child(self) -> Ready:
        """One child, up to its READY line; nothing is left of it on failure."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())}
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "node.derp"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=MAX_LINE_BYTES,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"the relay process cannot be started: {error}") from error
        assert process.stdin is not None
        try:
            async with asyncio.timeout(READY_DEADLINE_S):
                process.stdin.write(msgspec.json.encode(self._next_config) + b"\n")
                ready = await self._read_ready(process)
        except TimeoutError as error:
            await self._end_child()
            raise Unavailable(f"the relay process was not ready within {READY_DEADLINE_S:g} s") from error
        except BaseException:
            await self._end_child()
            raise
        self.ready = ready
        self._next_config = _with_ports(self.config, ready)
        self._is_ready.set()
        if self._on_ready is not None:
            self._on_ready(ready)
        return ready

    async def _read_ready(self, process: asyncio.subprocess.Process) -> Ready:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            code = await process.wait()
            raise Unavailable(f"the relay process ended at its start with exit code {code}; its log says why")
        report = _parse_report(line)
        if report.get("event") == "failed":
            raise Unavailable(str(report.get("message")))
        if report.pop("event", None) != "ready":
            raise Unavailable("the relay process said something else than `ready` first")
        try:
            return msgspec.convert(report, Ready)
        except msgspec.ValidationError as error:
            raise Unavailable(f"the relay process' ready line is not understood: {error}") from error

    async def _read_until_end(self) -> int:
        """Keeps the child's figures until it ends; its exit code."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                report = _parse_report(line)
                if report.pop("event", None) == "stats":
                    self.stats = report
        except (Unavailable, ValueError) as error:
            _log.error("relay_report_unreadable", error=str(error))
        # Its output is closed: it ends, or it must.
        code = await self._end_child()
        return -1 if code is None else code

    async def _end_child(self) -> int | None:
        process, self._process = self._process, None
        self.ready = None
        self._is_ready.clear()
        if process is None:
            return None
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                return await process.wait()
        except TimeoutError:
            _log.warning("relay_process_killed", pid=process.pid)
        finally:
            if process.returncode is None:
                process.kill()
        return await process.wait()


async def supervise(config: DerpConfig, *, on_ready: ReadyCallback | None = None) -> None:
    """Runs a relay process until cancelled, `on_ready` at each start. Raises ConfigError, Unavailable."""
    supervisor = Supervisor(config, on_ready=on_ready)
    try:
        await supervisor.start()
        await supervisor.wait()
    finally:
        await supervisor.stop()


def _import_path() -> list[str]:
    """Where the child finds this very package, then what it would look at anyway."""
    inherited = os.environ.get("PYTHONPATH", "")
    return [str(Path(__file__).resolve().parents[2]), *filter(None, inherited.split(os.pathsep))]


def _with_ports(config: DerpConfig, ready: Ready) -> DerpConfig:
    return msgspec.structs.replace(config, listen_port=ready.derp_port, stun_port=ready.stun_port)


def _parse_report(line: bytes) -> dict[str, Any]:
    try:
        report = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Unavailable("the relay process wrote a line that is no JSON") from error
    if not isinstance(report, dict):
        raise Unavailable("the relay process wrote a line that is no report")
    return report
