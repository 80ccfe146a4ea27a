"""hs-console in a terminal, driven by keys as an operator would, on a real owner with joined devices."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from app.client.device import SimulatedDevice
from tests.node.support import ROOT, ServeProcess, admin, device, fresh_database, has_peers, join, run_sql

DEADLINE_S = 15.0

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux on this machine")


class Pane:
    """One tmux server of our own with one pane."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "tmux"

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self._socket), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

    def keys(self, *keys: str) -> None:
        """Keys by tmux's names: `Enter`, `Escape`, `2`."""
        self.tmux("send-keys", "-t", "console", *keys)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-t", "console", "-l", text)

    def picture(self) -> str:
        return self.tmux("capture-pane", "-p", "-t", "console")

    async def sees(self, pattern: str) -> str:
        """The picture, once it has this somewhere."""
        picture = ""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not re.search(pattern, picture := await asyncio.to_thread(self.picture)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"{pattern!r} does not appear:\n{picture}")
        return picture


def without(words: str) -> str:
    """A pattern of pictures that have these words nowhere."""
    return rf"\A(?![^█]*{words})"


@asynccontextmanager
async def console(dsn: str, directory: Path, *arguments: str, size: tuple[int, int]) -> AsyncIterator[Pane]:
    """The console in a pane; when it ends the pane says `ended` and its exit code."""
    pane = Pane(directory)
    environment = [f"PG_DSN={dsn}", f"HS_STATE_DIR={directory}", f"PYTHONPATH={ROOT}", "LANG=C.UTF-8"]
    program = f"{sys.executable} -m console.cli {' '.join(arguments)}; echo ended $?; exec cat"
    # fmt: off
    pane.tmux("-f", os.devnull, "new-session", "-d", "-s", "console", "-x", str(size[0]), "-y", str(size[1]),
              "-c", str(directory), "env", "-u", "COLUMNS", "-u", "LINES", *environment, "sh", "-c", program)
    # fmt: on
    try:
        yield pane
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            pane.tmux("kill-server")


async def fleet_of(serve: ServeProcess, stack: AsyncExitStack, names: list[str]) -> list[SimulatedDevice]:
    async with admin(serve.dsn, serve.cluster) as shell:
        key = await shell.auth_key()
    devices = []
    for name in names:
        devices.append(await stack.enter_async_context(device(serve.url, key, hostname=name)))
        await join(devices[-1])
    return devices


def names_saved(directory: Path) -> list[str]:
    (saved,) = directory.glob("hs-devices-*.csv")
    return [row["name"] for row in csv.DictReader(saved.read_text().splitlines()[1:])]


async def test_an_operator_at_work(pg_server: str, tmp_path: Path) -> None:
    async with (
        fresh_database(pg_server) as dsn,
        ServeProcess(dsn, "eu-1") as serve,
        AsyncExitStack() as stack,
    ):
        alpha, beta, _ = await fleet_of(serve, stack, ["alpha", "beta", "gamma"])
        async with console(dsn, tmp_path, size=(80, 24)) as pane:
            await pane.sees(r"eu-1 +● healthy +3 +3")
            pane.keys("2")
            await pane.sees(r"► ?alpha .*● online[^█]*beta .*● online[^█]*gamma .*● online")

            # rename: the peers hear of it, and the row is where its new name belongs
            pane.keys("r")
            await pane.sees("Rename alpha")
            await pane.sees(r"New name +alpha")
            pane.keys("C-a", "C-k")
            await pane.sees(r"New name +│")
            pane.type("omega")
            await pane.sees(r"New name +omega")
            pane.keys("Enter")
            await pane.sees(r"rename alpha: done")
            await pane.sees(r"3 devices[^█]*beta [^█]*gamma [^█]*► ?omega ")
            renamed = await beta.wait_for(
                lambda netmap: any(row["Name"].startswith("omega.") for row in netmap.peers.values()), 20
            )
            assert renamed

            # tags: the device belongs to them
            pane.keys("t")
            await pane.sees("Tags of 1 device")
            pane.type("tag:web")
            await pane.sees("Tags +tag:web")
            pane.keys("Enter")
            await pane.sees(r"omega +\S* ?tag:web")

            # expire: confirmed by y; Cancel had the focus
            pane.keys("g")
            await pane.sees(r"► ?beta ")
            pane.keys("x")
            await pane.sees(r"Expire 1 device[^█]*Cancel")
            pane.keys("Enter")
            await pane.sees(without("Expire 1 device"))
            pane.keys("x")
            await pane.sees("Expire 1 device")
            pane.keys("y")
            await pane.sees(r"beta .*✖ expired")

            # delete: by typing the name; the peer forgets it
            pane.keys("/")
            pane.type("name:gamma")
            pane.keys("Enter")
            await pane.sees(r"1 device \|[^█]*► ?gamma ")
            pane.keys("D")
            await pane.sees(r"To go on type gamma")
            pane.keys("y")
            pane.type("amma")
            await pane.sees("yamma")
            # Textual carries out letters in the line at once, but backspace only when it has bubbled up to
            # the app: in one burst the letters would come first.
            pane.keys(*["BSpace"] * 5)
            await pane.sees(without("yamma"))
            pane.type("gamma")
            pane.keys("Enter")
            await pane.sees("no device matches name:gamma; esc clears")
            await alpha.wait_for(lambda netmap: len(netmap.peers) == 1, 20)
            await has_peers(alpha, beta)
            pane.keys("Escape")
            await pane.sees("2 devices")

            # a newcomer is there by itself; its history is empty, the renamed one's is not
            (delta,) = await fleet_of(serve, stack, ["delta"])
            await pane.sees(r"3 devices[^█]*delta .*● online")
            await delta.close()
            await pane.sees(r"delta .*○ offline")
            pane.keys("G")
            await pane.sees(r"► ?omega ")
            pane.keys("l")
            await pane.sees(r"History of omega[^█]*device_rename[^█]*omega")
            pane.keys("Escape")
            await pane.sees(without("History"))

            # export of what is shown, into the current directory
            pane.keys("e")
            await pane.sees("Export")
            pane.keys("1")
            await pane.sees("3 rows saved")
            assert names_saved(tmp_path) == ["beta", "delta", "omega"]

            # a wide terminal shows more columns; another screen, and back
            pane.tmux("resize-window", "-t", "console", "-x", "170", "-y", "50")
            await pane.sees(r"NAME .*CLUSTER .*VERSION .*EXPIRES")
            pane.keys("3")
            await pane.sees(r"alice +\d+ ")
            pane.keys("-")
            await pane.sees(r"3 devices")
            pane.keys("q")
            await pane.sees("ended 0")
        audit = await run_sql(
            dsn, "SELECT actor, action FROM audit_log WHERE action LIKE 'request%' ORDER BY id"
        )
        asked = [row["action"] for row in audit]
        assert asked == [f"request_device_{what}" for what in ("rename", "tag", "expire", "delete")]
        assert all(row["actor"].startswith("console:") for row in audit)
        kinds = await run_sql(dsn, "SELECT state, count(*) FROM requests GROUP BY state")
        assert [tuple(row) for row in kinds] == [("done", 4)]


async def test_read_only_and_ascii_in_a_wide_terminal(pg_server: str, tmp_path: Path) -> None:
    async with (
        fresh_database(pg_server) as dsn,
        ServeProcess(dsn, "eu-1") as serve,
        AsyncExitStack() as stack,
    ):
        await fleet_of(serve, stack, ["alpha"])
        arguments = ("--read-only", "--ascii", "--screen", "devices")
        async with console(dsn, tmp_path, *arguments, size=(170, 50)) as pane:
            picture = await pane.sees(r"> ?alpha .*\* online")
            assert re.search(r"NAME .*CLUSTER .*VERSION .*EXPIRES", picture)
            assert "| RO |" in picture
            pane.keys("x", "D", "r", "?")
            await pane.sees("Every device of every cluster")
            pane.keys("Escape")
            await pane.sees(without("Every device"))
            pane.keys("q")
            await pane.sees("ended 0")
        assert not await run_sql(dsn, "SELECT 1 FROM requests")
