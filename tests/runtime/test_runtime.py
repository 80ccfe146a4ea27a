"""Daemons from outside: signals, crashes, deadlines and exit codes, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.runtime import EXIT_CRASHED, EXIT_NOT_DRAINED

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 30
START = """
import asyncio, sys
from app.errors import ConfigError, LeaseTaken
from app.log import configure
from app.runtime import Daemon, run_daemon
configure("info", "text", "c1")

def say(text):
    print(text, flush=True)

async def wait_forever():
    try:
        await asyncio.Event().wait()
    finally:
        say("task ended")

"""


def start(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START + body],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_and_ends_well(number: signal.Signals) -> None:
    process = start("""
async def main(daemon):
    daemon.spawn("worker", wait_forever())
    say("up")
    await daemon.stopping.wait()
    say("drained")

sys.exit(run_daemon(main))
""")
    assert line(process) == "up"
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out) == (0, "drained\ntask ended\n")
    assert "stop_requested" in err
    assert f"signal={number.name}" in err
    assert "cluster_id=c1" in err


def test_main_that_returns_ends_everything() -> None:
    process = start("""
async def main(daemon):
    daemon.spawn("worker", wait_forever())
    await asyncio.sleep(0)

sys.exit(run_daemon(main))
""")
    assert finish(process) == (0, "task ended\n", "")


def test_task_that_crashes_ends_all() -> None:
    process = start("""
async def crash():
    raise LookupError("lost\\nmy way")

async def main(daemon):
    daemon.spawn("worker", wait_forever())
    await asyncio.sleep(0)
    daemon.spawn("bad[7]", crash())
    try:
        await asyncio.Event().wait()
    finally:
        say("main cleans up")

sys.exit(run_daemon(main))
""")
    code, out, err = finish(process)
    assert code == EXIT_CRASHED
    assert sorted(out.splitlines()) == ["main cleans up", "task ended"]
    assert "task_crashed" in err
    assert "task=bad[7]" in err
    assert "LookupError: lost" in err
    assert "error: a defect ended the process: LookupError('lost\\nmy way')" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [("ConfigError('listen_addr: taken')", 2), ("LeaseTaken('listen_addr: taken')", 4)],
)
def test_known_errors_have_their_sentence_and_code(error: str, code: int) -> None:
    process = start(f"""
async def main(daemon):
    daemon.spawn("worker", wait_forever())
    await asyncio.sleep(0)
    raise {error}

sys.exit(run_daemon(main))
""")
    found, out, err = finish(process)
    assert (found, out) == (code, "task ended\n")
    assert err.splitlines()[-1] == "error: listen_addr: taken"
    assert "Traceback" not in err


def test_drain_has_a_deadline() -> None:
    process = start("""
async def main(daemon):
    say("up")
    await daemon.stopping.wait()
    daemon.spawn("slow", wait_forever())
    await asyncio.Event().wait()

sys.exit(run_daemon(main, drain_s=0.05))
""")
    assert line(process) == "up"
    process.terminate()
    code, out, err = finish(process)
    assert (code, out) == (EXIT_NOT_DRAINED, "task ended\n")
    assert "drain_deadline_missed" in err
    assert '["slow"]' in err.replace('\\"', '"')


def test_second_signal_cuts_the_drain_short() -> None:
    process = start("""
async def main(daemon):
    say("up")
    await daemon.stopping.wait()
    say("draining")
    await asyncio.Event().wait()

sys.exit(run_daemon(main, drain_s=3600))
""")
    assert line(process) == "up"
    process.terminate()
    assert line(process) == "draining"
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == EXIT_NOT_DRAINED
    assert "again=True" in err


def test_task_that_ignores_cancellation_cannot_keep_the_process() -> None:
    process = start("""
import app.runtime
app.runtime.CANCEL_DEADLINE_S = 0.05

async def stubborn():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            say("no")

async def main(daemon):
    daemon.spawn("stubborn", stubborn())
    say("up")
    await daemon.stopping.wait()

sys.exit(run_daemon(main, drain_s=0.05))
""")
    assert line(process) == "up"
    process.terminate()
    code, _, err = finish(process)
    assert code == EXIT_NOT_DRAINED
    assert "tasks_ignore_cancellation" in err
    assert "stubborn" in err


def test_crash_with_a_stuck_cleanup_ends_too() -> None:
    process = start("""
async def crash():
    raise LookupError("lost")

async def main(daemon):
    daemon.spawn("bad", crash())
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.Event().wait()

sys.exit(run_daemon(main, drain_s=0.05))
""")
    code, _, err = finish(process)
    assert code == EXIT_CRASHED
    assert "drain_deadline_missed" in err
    assert "LookupError" in err


def test_runs_on_uvloop() -> None:
    process = start("""
async def main(daemon):
    say(type(asyncio.get_running_loop()).__module__)

sys.exit(run_daemon(main))
""")
    assert finish(process) == (0, "uvloop\n", "")
