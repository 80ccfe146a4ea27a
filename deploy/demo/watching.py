"""The fleet lives on while somebody looks at it with the console."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from app.errors import Unavailable
from app.simulation.fleet import Fleet
from deploy.demo.fleet import live
from deploy.demo.progress import Progress

#: Between two events of the fleet.
EVENT_S = 0.7
STOP_DEADLINE_S = 5.0


async def watch(fleet: Fleet, env: dict[str, str], progress: Progress) -> None:
    """Ends with the console, or when cancelled. Raises Unavailable."""
    progress.quiet = True
    tasks = {
        asyncio.create_task(live(fleet, EVENT_S), name="events"),
        asyncio.create_task(console(env), name="console"),
    }
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        progress.quiet = False
    for task in done:
        task.result()


async def console(env: dict[str, str]) -> None:
    """`hs-console` on this terminal. Raises Unavailable when it ends badly."""
    program = Path(sys.executable).with_name("hs-console")
    process = await asyncio.create_subprocess_exec(program, env=env)
    try:
        if await process.wait() != 0:
            raise Unavailable(f"{program.name} ended with {process.returncode}")
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
