"""A command that is forked for a test says and returns what one does that a user starts."""

from __future__ import annotations

import os

import pytest

from tests.node.support import ROOT
from tests.programs import PROGRAMS, run_shell

ENV = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


@pytest.mark.parametrize("program", PROGRAMS)
async def test_forked_and_fresh_are_alike(program: str) -> None:
    for words in (["--help"], ["no-such-command"], ["--no-such-option"]):
        forked = await run_shell(ENV, *words, program=program)
        fresh = await run_shell(ENV, *words, program=program, fresh=True)
        assert forked == fresh
        assert forked.code == (0 if words == ["--help"] else 2)


async def test_a_forked_command_reads_what_it_is_given() -> None:
    refused = await run_shell({**ENV, "HS_LOG__LEVEL": "loud"}, "config", "check", "-o", "json")
    assert refused.code != 0
    assert "loud" in refused.out + refused.err
