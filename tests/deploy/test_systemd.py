"""The unit: systemd reads it, its numbers are the program's, and the program lives with what it forbids."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from app import runtime
from app.errors import ConfigError
from app.settings import load
from tests.clients.process import Process
from tests.deploy.proxies import DEPLOY, SEARCHED, substituted
from tests.node.support import ServeProcess, fresh_database

UNIT = DEPLOY / "systemd" / "hs-node@.service"
PROGRAM = "/opt/headscale-cluster/bin/hs-node"
CLUSTER = "east"
COMMAND_DEADLINE_S = 60.0
START_DEADLINE_S = 30.0
#: systemd's own scale from 0 to 100 (10 times its "exposure"): 20 and less is "OK" or better.
WORST_EXPOSURE = 20
#: linux/prctl.h; what MemoryDenyWriteExecute= does, since Linux 6.3 also without seccomp.
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
_RESTRICTED = (
    "import ctypes, os, sys\n"
    f"if ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0): sys.exit(77)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


class _Repeated(dict[str, str]):
    """A section whose options may stand there several times: their values, in lines."""

    def __setitem__(self, key: str, value: object) -> None:
        if isinstance(value, list) and key in self and isinstance(self[key], list):
            value = [*self[key], *value]  # type: ignore[list-item]
        super().__setitem__(key, value)  # type: ignore[assignment]


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(
        strict=False, interpolation=None, delimiters=("=",), dict_type=_Repeated, comment_prefixes=("#",)
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


@pytest.fixture
def systemd(tmp_path: Path) -> Path:
    """A directory with the unit, for systemd-analyze; the program in it is one that exists here."""
    if shutil.which("systemd-analyze", path=SEARCHED) is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    text = substituted(UNIT.read_text(), {f"ExecStart={PROGRAM}": f"ExecStart={sys.executable}"})
    (tmp_path / UNIT.name).write_text(text)
    return tmp_path


def analyze(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": SEARCHED, "SYSTEMD_UNIT_PATH": f"{directory}:", "SYSTEMD_PAGER": "", "LC_ALL": "C"}
    return subprocess.run(
        ["systemd-analyze", *arguments], env=env, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S
    )


def test_systemd_has_nothing_to_say_against_the_unit(systemd: Path) -> None:
    done = analyze(systemd, "verify", "--man=no", f"hs-node@{CLUSTER}.service")
    about_it = [line for line in done.stderr.splitlines() if "hs-node@" in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


def test_the_unit_leaves_little_exposed(systemd: Path) -> None:
    unit_file = str(systemd / f"hs-node@{CLUSTER}.service")
    Path(unit_file).write_text((systemd / UNIT.name).read_text())
    done = analyze(systemd, "security", "--offline=true", f"--threshold={WORST_EXPOSURE}", unit_file)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot rate a file (before systemd 250)")
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr}"
    print(done.stdout.splitlines()[-1])


def test_the_unit_of_hs_acs_is_the_same_but_for_its_place(systemd: Path) -> None:
    """What holds for one holds for the other, and systemd reads it."""
    text = (DEPLOY / "systemd" / "hs-acs.service").read_text()
    (systemd / "hs-acs.service").write_text(
        substituted(text, {"ExecStart=/opt/headscale-cluster/bin/hs-acs": f"ExecStart={sys.executable}"})
    )
    done = analyze(systemd, "verify", "--man=no", "hs-acs.service")
    assert (done.returncode, [line for line in done.stderr.splitlines() if "hs-acs" in line]) == (0, [])

    def options(unit_text: str) -> set[str]:
        service = unit_text.partition("[Service]")[2].replace("%i", "acs").replace("hs-node", "hs-acs")
        return {line for line in service.splitlines() if "=" in line and not line.startswith("#")}

    assert options(UNIT.read_text()) - options(text) == {"Environment=CLUSTER_ID=acs", "OOMPolicy=continue"}
    assert options(text) <= options(UNIT.read_text())


def test_systemd_sysusers_understands_the_account() -> None:
    found = shutil.which("systemd-sysusers", path=SEARCHED)
    if found is None:
        pytest.skip("systemd-sysusers is not installed (Debian: apt-get install systemd)")
    file = DEPLOY / "systemd" / "hs-node.sysusers.conf"
    done = subprocess.run([found, "--dry-run", str(file)], capture_output=True, text=True, timeout=30)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-sysusers has no --dry-run (before systemd 250)")
    assert done.returncode == 0, done.stderr
    assert "hs-node" in done.stdout + done.stderr


def test_numbers_of_the_unit_are_those_of_the_program() -> None:
    service = unit()["Service"]
    assert float(service["TimeoutStopSec"]) >= runtime.DRAIN_DEADLINE_S + runtime.CANCEL_DEADLINE_S + 5
    assert int(service["LimitNOFILE"]) >= runtime.WANTED_OPEN_FILES
    assert service["RestartPreventExitStatus"] == str(ConfigError.exit_code)
    assert service["KillMode"] == "mixed"  # the relay must not hear the signal, or it is gone first
    assert service["ExecStart"] == f"{PROGRAM} serve"


def _environment(state: str) -> dict[str, str]:
    """What the unit sets, with its specifiers filled in."""
    lines = unit()["Service"]["Environment"].splitlines()
    return dict(line.replace("%i", CLUSTER).replace("%S", state).split("=", 1) for line in lines)


def test_the_example_settings_load(tmp_path: Path) -> None:
    example = (DEPLOY / "systemd" / "hs.env.example").read_text()
    given = dict(line.split("=", 1) for line in example.splitlines() if re.match(r"[A-Z]", line))
    assert "CLUSTER_ID" not in given  # an EnvironmentFile would win over the unit's own
    loaded = load(None, _environment(str(tmp_path)) | given, tmp_path)
    assert loaded.warnings == []
    assert loaded.settings.cluster_id == CLUSTER
    assert loaded.settings.secret_key_file == tmp_path / "headscale-cluster" / "secret.key"


def _may_restrict() -> bool:
    """Whether this kernel can refuse executable memory, asked in a process of its own."""
    argv = [sys.executable, "-c", _RESTRICTED, sys.executable, "-c", ""]
    return subprocess.run(argv, timeout=30).returncode == 0


async def test_it_serves_under_the_units_terms_and_stops_in_time(pg_server: str, tmp_path: Path) -> None:
    """Environment, umask, no executable memory; then SIGTERM to the main process alone, as KillMode=mixed."""
    restricted = [sys.executable, "-c", _RESTRICTED] if _may_restrict() else []
    state = tmp_path / "headscale-cluster"
    state.mkdir(mode=0o750)
    async with fresh_database(pg_server) as dsn:
        like = ServeProcess(dsn, CLUSTER, state_dir=state)
        env = like.env | _environment(str(tmp_path))
        (state / CLUSTER).mkdir(mode=0o750)
        command = ["-m", "node.cli", *unit()["Service"]["ExecStart"].split()[1:]]
        process = Process(
            "hs-node",
            [*restricted, sys.executable, *command],
            log=tmp_path / "log",
            env=env,
            cwd=state / CLUSTER,
        )
        try:
            process.wait_for("To let a device in", START_DEADLINE_S)
            assert f"cluster {CLUSTER!r}" in process.tail()
            (relay,) = psutil.Process(process.pid).children(recursive=True)
            assert await like.health() == 200
            began = time.monotonic()
            assert process.stop() == 0, process.tail()
            assert time.monotonic() - began < float(unit()["Service"]["TimeoutStopSec"])
            assert not relay.is_running()
        finally:
            process.destroy()
    assert (state / "secret.key").stat().st_mode & 0o077 == 0
    print("executable memory was refused" if restricted else "this kernel cannot refuse executable memory")
