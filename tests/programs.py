"""Commands of ours to their end, each in a process of its own.

They are forked from one process that has imported the programs: a command's imports take five times as
long as what it does, and the suite runs some four hundred of them. Servers, and one command of each
program (`fresh`), start as a user's do.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

from tests.forked import become

SHELL_DEADLINE_S = 60.0
PROGRAMS = ("node.cli", "acs.cli", "console.cli")

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([*PROGRAMS])
# Now: while a console runs in a test, sys.stderr is no file that a new process could be given.
forkserver.ensure_running()


@dataclass(frozen=True, slots=True)
class ShellResult:
    code: int
    out: str
    err: str


async def run_shell(
    env: Mapping[str, str], *arguments: str, stdin: str = "", program: str = "node.cli", fresh: bool = False
) -> ShellResult:
    """One `hs-node` command to its end, or one of another program, in an empty directory."""
    with tempfile.TemporaryDirectory(prefix="hs-shell-") as directory, tempfile.TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("stdin", "stdout", "stderr")]
        for file in files:
            file.write_text(stdin if file.name == "stdin" else "", encoding="utf-8")
        run = _run_fresh if fresh else _run_forked
        code = await run(program, arguments, dict(env), directory, files)
        return ShellResult(code, *(file.read_bytes().decode() for file in files[1:]))


async def _run_forked(
    program: str, arguments: tuple[str, ...], env: dict[str, str], directory: str, files: list[Path]
) -> int:
    process = _forks.Process(target=become, args=(program, arguments, env, directory, files))
    process.start()
    await asyncio.to_thread(process.join, SHELL_DEADLINE_S)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{program} {' '.join(arguments)} took longer than {SHELL_DEADLINE_S:g} s")
    return process.exitcode


async def _run_fresh(
    program: str, arguments: tuple[str, ...], env: dict[str, str], directory: str, files: list[Path]
) -> int:
    with files[0].open("rb") as stdin, files[1].open("wb") as stdout, files[2].open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", program, *arguments),
            env=env, cwd=directory, stdin=stdin, stdout=stdout, stderr=stderr,
        )  # fmt: skip
        try:
            async with asyncio.timeout(SHELL_DEADLINE_S):
                return await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
