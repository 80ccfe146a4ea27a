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


@pytest.fixture
async def terminal(pg_server: str) -> AsyncIterator[Terminal]:
    """With the console on it, showing its first screen."""
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn) as serve:
        program = Path(sys.executable).with_name("hs-console")
        shown = Terminal([str(program)], serve.env)
        try:
            await shown.shows("palette", DEADLINE_S)
            assert FULL_SCREEN in shown.raw
            yield shown
        finally:
            shown.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_told_to_end_it_gives_the_terminal_back(terminal: Terminal, number: signal.Signals) -> None:
    os.kill(terminal.process.pid, number)
    assert terminal.process.wait(DEADLINE_S) == 0
    assert SCREEN_BACK in terminal.raw


async def test_it_ends_with_its_terminal(terminal: Terminal) -> None:
    terminal.vanish()
    terminal.process.wait(DEADLINE_S)
