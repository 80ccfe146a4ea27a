"""`hs-console` on a real terminal: what becomes of both when one of them ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.node.support import ServeProcess, fresh_database
from tests.terminal import FULL_SCREEN, SCREEN_BACK, Terminal

DEADLINE_S = 20.0
#: What asks a terminal to tell of clicks and moves of the mouse.
MOUSE = ("\x1b[?1000h", "\x1b[?1003h", "\x1b[?1006h")


@pytest.fixture
async def terminal(pg_server: str, request: pytest.FixtureRequest) -> AsyncIterator[Terminal]:
    """With the console on it, showing its first screen; a parameter is its arguments."""
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn) as serve:
        program = Path(sys.executable).with_name("hs-console")
        shown = Terminal([str(program), *getattr(request, "param", ())], serve.env)
        try:
            await shown.shows("palette", DEADLINE_S)
            assert FULL_SCREEN in shown.raw
            yield shown
        finally:
            shown.close()


@pytest.mark.parametrize(
    ("terminal", "number", "mouse"),
    [((), signal.SIGTERM, True), (("--mouse", "off"), signal.SIGHUP, False)],
    indirect=["terminal"],
)
async def test_told_to_end_it_gives_the_terminal_back(
    terminal: Terminal, number: signal.Signals, mouse: bool
) -> None:
    assert [mode in terminal.raw for mode in MOUSE] == [mouse] * len(MOUSE)
    os.kill(terminal.process.pid, number)
    assert terminal.process.wait(DEADLINE_S) == 0
    assert SCREEN_BACK in terminal.raw


async def test_it_ends_with_its_terminal(terminal: Terminal) -> None:
    terminal.vanish()
    terminal.process.wait(DEADLINE_S)
