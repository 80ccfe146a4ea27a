"""`make demo`, run as the Makefile does: without a terminal, and with one of 80x24."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.node.support import ROOT, clean_environment, eventually
from tests.terminal import FULL_SCREEN, SCREEN_BACK, Terminal

DEADLINE_S = 90.0
DEMO = [sys.executable, "-m", "deploy.demo"]
HEADLESS = [*DEMO, "--headless"]
EXIT = ("0.0.0.0/0", "::/0")


@pytest.fixture
def place(enterable_dir: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """DEMO_DIR of one test; whatever runs there at the end is a failure of the demo."""
    path = enterable_dir / request.node.name
    yield path
    for process in leftovers(path):
        process.kill()


def leftovers(place: Path) -> list[psutil.Process]:
    """Processes that know this directory: the servers, their relays, PostgreSQL."""
    found = []
    for process in psutil.process_iter():
        try:
            facts = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(str(place) in fact for fact in facts):
            found.append(process)
    return found


def environment(place: Path) -> dict[str, str]:
    return clean_environment({"DEMO_DIR": str(place), "COLUMNS": "400"})


def section(out: str, title: str) -> list[list[str]]:
    """Cells of one table, without its head."""
    text = re.search(rf"^{title}\n\n(.*?)\n\n", out, re.M | re.S)
    assert text is not None, out
    return [re.split(r"  +", line.strip()) for line in text[1].splitlines()[1:]]


@pytest.mark.parametrize("runs", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_headless_prints_the_fleet_and_leaves_nothing(place: Path, runs: int) -> None:
    for run in range(1, runs + 1):
        done = subprocess.run(
            HEADLESS,
            env=environment(place),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        clusters = {row[0]: row for row in section(done.stdout, "Clusters")}
        assert set(clusters) == {"east", "west", "north"}
        for cluster, row in clusters.items():
            assert row[1] == "active", cluster
            assert row[2] != "-"
        tenants = {row[0]: row for row in section(done.stdout, "Tenants")}
        assert {name: row[3] for name, row in tenants.items()} == {
            **{"east": "20", "west": "20", "north": "0"},
            **dict.fromkeys(("acme", "globex", "initech"), "4"),
        }
        assert sum(int(row[6]) for row in clusters.values()) == 52
        assert f"to {tenants['acme'][2]}, its 4 devices too" in done.stderr
        users = section(done.stdout, "Users")
        assert [row[:3] for row in users] == [
            [cluster, user, devices]
            for cluster in ("east", "west")
            for user, devices in (("alice", "6"), ("bob", "5"), ("carol", "4"))
        ]
        assert len(section(done.stdout, "Auth keys")) == 8 * run
        policies = section(done.stdout, "Policies")
        assert [row[:2] for row in policies] == [[c, v] for c in ("east", "west") for v in ("2", "1")]
        routes = section(done.stdout, "Routes")
        assert {(row[1], row[2], row[3]) for row in routes} == {
            ("east-nas", "10.20.0.0/16", "approved"),
            ("west-nas", "10.20.0.0/16", "approved"),
            *(
                (f"{c}-desktop", route, "waiting")
                for c in ("east", "west")
                for route in ("0.0.0.0/0", "::/0")
            ),
        }
        devices = section(done.stdout, "Devices")
        assert len(devices) == 40
        assert {row[0] for row in devices} == {"east", "west"}
        assert len({(row[0], row[3]) for row in devices}) == 40, "addresses are unique inside a cluster"
        states = [row[4] for row in devices]
        assert set(states) == {"online", "away"}
        assert f"{states.count('online')} online, {states.count('away')} away" in done.stdout
        assert "52 of 52 joined" in done.stderr
        assert leftovers(place) == []


async def test_told_to_stop_it_ends_everything(place: Path) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220
        HEADLESS, env=environment(place), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:

        async def both_serve() -> bool:
            assert process.poll() is None
            logs = [place / f"{cluster}.log" for cluster in ("east", "west")]
            return all(path.exists() and "To let a device in" in path.read_text() for path in logs)

        await eventually(both_serve, "both clusters serve", DEADLINE_S)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 130
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert leftovers(place) == []


@pytest.mark.soak
async def test_with_a_terminal_the_console_is_on_top_and_live(place: Path) -> None:
    terminal = Terminal(DEMO, environment(place))
    try:
        await terminal.shows("starting cluster east", DEADLINE_S)
        await terminal.shows("52 of 52 joined", DEADLINE_S)
        await terminal.shows("palette", DEADLINE_S)  # the console's last line
        assert FULL_SCREEN in terminal.raw
        terminal.press("2")
        await terminal.shows("east-cache-1", DEADLINE_S)
        await terminal.shows("offline", DEADLINE_S)  # somebody leaves while one watches
        terminal.press("q")
        assert terminal.process.wait(DEADLINE_S) == 0
        assert SCREEN_BACK in terminal.raw
        assert "stopping devices, clusters and database" in terminal.text
        assert leftovers(place) == []
    finally:
        terminal.close()
