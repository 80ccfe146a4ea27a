"""The embedded server itself: sharing, stopping, surviving, and its refusals. Real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from app.errors import ConfigError, Unavailable
from app.pg import EmbeddedPostgres
from app.pg.layout import socket_path
from app.pg.server import LOG_LIMIT_BYTES

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 30
USER_PROCESS = """
import sys
import sysconfig
from pathlib import Path
from app.pg import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]) if len(sys.argv) > 1 else None, durable=False)
print(server.acquire(), flush=True)
if sys.stdin.read() != "abandon":
    server.release()
"""


@pytest.fixture
def state_dir(enterable_dir: Path, request: pytest.FixtureRequest) -> Path:
    return enterable_dir / request.node.name


@pytest.fixture
async def server(state_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    embedded = EmbeddedPostgres(state_dir, durable=False)
    yield embedded
    await embedded.stop()


def user_process(state_dir: Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER_PROCESS, str(state_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        **options,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str], words: str = "") -> None:
    process.communicate(words, timeout=DEADLINE_S)


def postmaster(server: EmbeddedPostgres) -> psutil.Process:
    return psutil.Process(int((server.data_dir / "postmaster.pid").read_text().split("\n")[0]))


async def ask(dsn: str, question: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=DEADLINE_S)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close(timeout=DEADLINE_S)


async def gone(process: psutil.Process) -> bool:
    return not await asyncio.to_thread(lambda: psutil.wait_procs([process], timeout=DEADLINE_S)[1])


async def test_data_survives_a_restart(server: EmbeddedPostgres) -> None:
    dsn = await server.start()
    await ask(dsn, "CREATE TABLE kept AS SELECT 1 AS one")
    await server.stop()
    with pytest.raises(OSError, match=r"Connect|No such"):
        await asyncpg.connect(dsn, timeout=DEADLINE_S)
    assert await server.start() == dsn
    assert await ask(dsn, "SELECT one FROM kept") == 1


async def test_stop_without_start_and_twice(server: EmbeddedPostgres) -> None:
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()


async def test_start_twice_is_one_use(server: EmbeddedPostgres) -> None:
    assert await server.start() == await server.start()
    process = postmaster(server)
    await server.stop()
    assert await gone(process)


async def test_last_one_out_stops_it(server: EmbeddedPostgres, state_dir: Path) -> None:
    other = EmbeddedPostgres(state_dir)
    dsn = await server.start()
    assert await other.start() == dsn
    process = postmaster(server)
    await server.stop()
    assert await ask(dsn, "SELECT 1") == 1
    await other.stop()
    assert await gone(process)


async def test_other_processes_share_it(server: EmbeddedPostgres, state_dir: Path) -> None:
    with user_process(state_dir) as first, user_process(state_dir) as second:
        dsn = first_line(first)
        assert dsn.startswith("postgresql://")
        assert first_line(second) == dsn
        assert await server.start() == dsn
        process = postmaster(server)
        finish(first)
        finish(second)
    assert await ask(dsn, "SELECT 1") == 1
    await server.stop()
    assert await gone(process)


async def test_killed_process_leaves_a_usable_server(server: EmbeddedPostgres, state_dir: Path) -> None:
    with user_process(state_dir) as other:
        dsn = first_line(other)
        other.kill()
    process = postmaster(server)
    assert await server.start() == dsn
    assert postmaster(server).pid == process.pid
    await server.stop()
    assert await gone(process)


async def test_killed_server_recovers(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    dsn = await server.start()
    try:
        await ask(dsn, "CREATE TABLE kept AS SELECT 1 AS one")
        process = postmaster(server)
        workers = process.children()
        process.kill()
        psutil.wait_procs([process, *workers], timeout=DEADLINE_S)
        assert (server.data_dir / "postmaster.pid").exists()
        assert await server.start() == dsn
        assert await ask(dsn, "SELECT one FROM kept") == 1
    finally:
        await server.stop()


async def test_reused_process_id_does_not_block(server: EmbeddedPostgres) -> None:
    await server.start()
    await server.stop()
    (server.data_dir / "postmaster.pid").write_text(f"{os.getpid()}\n{server.data_dir}\n")
    assert await ask(await server.start(), "SELECT 1") == 1


async def test_its_own_corpse_does_not_block(server: EmbeddedPostgres) -> None:
    """As process 1 of a container that nobody reaps children for: the dead server stays in the table."""
    await server.start()
    program = postmaster(server).exe()
    await server.stop()
    owner = server.data_dir.stat()
    corpse = subprocess.Popen(  # noqa: ASYNC220
        [program, "--version"],
        stdout=subprocess.DEVNULL,
        cwd="/",
        **({"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}),
    )
    try:
        os.waitid(os.P_PID, corpse.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it ends at once
        (server.data_dir / "postmaster.pid").write_text(f"{corpse.pid}\n{server.data_dir}\n")
        assert await ask(await server.start(), "SELECT 1") == 1
    finally:
        corpse.wait()


async def test_ctrl_c_in_our_terminal_does_not_reach_the_server(
    server: EmbeddedPostgres, state_dir: Path
) -> None:
    with user_process(state_dir, start_new_session=True) as other:
        dsn = first_line(other)
        process = postmaster(server)
        assert os.getpgid(process.pid) != os.getpgid(other.pid)
        assert os.getsid(process.pid) != os.getsid(other.pid)
        end_s = time.monotonic() + DEADLINE_S
        while other.poll() is None and time.monotonic() < end_s:
            # Again: Python loses one that comes while it runs a finalizer.
            os.killpg(other.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.wait(timeout=1)
        assert other.returncode is not None
    assert await ask(dsn, "SELECT 1") == 1
    assert await server.start() == dsn


async def test_server_holds_none_of_our_files(server: EmbeddedPostgres, state_dir: Path) -> None:
    with (state_dir.parent / "inheritable").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        await server.start()
        folder = f"/proc/{postmaster(server).pid}/fd"
        held = {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
    assert not [name for name in held if "inheritable" in name or "holders" in name or name.endswith("/lock")]


async def test_only_the_password_opens_it(server: EmbeddedPostgres) -> None:
    dsn = await server.start()
    password = (server.state_dir / "pg" / "password").read_text()
    assert password in dsn
    assert len(password) >= 32
    for wrong in ("", "postgres", "x" * 43):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn.replace(password, wrong), timeout=DEADLINE_S)
    rules = await ask(dsn, "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules")
    assert rules == "scram-sha-256"


async def test_listens_on_its_socket_only(server: EmbeddedPostgres) -> None:
    dsn = await server.start()
    assert await ask(dsn, "SHOW listen_addresses") == ""
    assert not [c for c in postmaster(server).net_connections("inet") if c.status == psutil.CONN_LISTEN]


async def test_files_are_private(server: EmbeddedPostgres) -> None:
    await server.start()
    pg_dir = server.state_dir / "pg"
    modes = {path.name: path.stat().st_mode & 0o777 for path in pg_dir.iterdir()}
    for name in ("data", "run", "holders"):
        assert modes[name] == 0o700
    for name in ("password", "lock", "server.log"):
        assert modes[name] == 0o600
    assert (pg_dir / "password").stat().st_uid == os.geteuid()
    assert postmaster(server).uids().effective != 0


async def test_durable_by_default(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    dsn = await server.start()
    try:
        for name in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
            assert await ask(dsn, f"SHOW {name}") == "on"
        assert await ask(dsn, "SHOW max_connections") == "200"
        assert await ask(dsn, "SHOW timezone") == "UTC"
    finally:
        await server.stop()


async def test_environment_cannot_redirect_us(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGDATA": "/nonexistent",
        "PGHOST": "127.0.0.1",
        "PGUSER": "x",
    }.items():
        monkeypatch.setenv(name, value)
    assert await ask(await server.start(), "SELECT current_user::text") == "headscale"


async def test_long_state_dir_gets_a_short_socket(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir / ("long" * 30), durable=False)
    dsn = await server.start()
    try:
        assert await ask(dsn, "SELECT 1") == 1
        directories = await ask(dsn, "SHOW unix_socket_directories")
    finally:
        await server.stop()
    directory = Path(str(directories).strip('"'))
    assert not directory.is_relative_to(state_dir)
    assert len(os.fsencode(socket_path(directory))) <= 100
    os.rmdir(directory)


async def test_half_made_data_is_made_again(server: EmbeddedPostgres) -> None:
    pg_dir = server.state_dir / "pg"
    (pg_dir / "data.new" / "base").mkdir(parents=True)
    (pg_dir / "password.new").touch()
    server.state_dir.chmod(0o711)
    pg_dir.chmod(0o711)
    assert await ask(await server.start(), "SELECT 1") == 1
    assert not (pg_dir / "data.new").exists()
    assert not (pg_dir / "password.new").exists()


async def test_grown_log_is_set_aside(server: EmbeddedPostgres) -> None:
    await server.start()
    await server.stop()
    with server.log_file.open("r+b") as file:
        file.truncate(LOG_LIMIT_BYTES + 1)
    await server.start()
    assert server.log_file.stat().st_size < LOG_LIMIT_BYTES
    assert server.log_file.with_name("server.log.old").stat().st_size > LOG_LIMIT_BYTES


async def test_data_of_another_version(server: EmbeddedPostgres) -> None:
    await server.start()
    await server.stop()
    version_file = server.data_dir / "PG_VERSION"
    version = version_file.read_text()
    version_file.write_text("15\n")
    with pytest.raises(
        ConfigError, match=r"state_dir: .*data has data of PostgreSQL 15, .* brings 18.*PG_DSN"
    ):
        await server.start()
    version_file.write_text(version)
    await server.start()


async def test_lost_password_file(server: EmbeddedPostgres) -> None:
    await server.start()
    await server.stop()
    (server.state_dir / "pg" / "password").unlink()
    with pytest.raises(ConfigError, match=r"pg/password is missing"):
        await server.start()


async def test_broken_data_says_what_the_server_says(server: EmbeddedPostgres) -> None:
    await server.start()
    await server.stop()
    (server.data_dir / "global" / "pg_control").unlink()
    with pytest.raises(ConfigError, match=r"did not start in .*pg_control"):
        await server.start()


async def test_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"state_dir: /proc/.*HS_STATE_DIR"):
        await EmbeddedPostgres(Path("/proc/headscale-cluster")).start()
    (tmp_path / "pg").touch()
    with pytest.raises(ConfigError, match=rf"state_dir: {tmp_path}/pg"):
        await EmbeddedPostgres(tmp_path).start()


async def test_full_disk_names_the_path() -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("a small file system needs root, unshare and mount")
    script = 'mount -t tmpfs -o size=50M,mode=711 none /mnt && exec "$@"'
    done = await asyncio.to_thread(
        subprocess.run,
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", USER_PROCESS, "/mnt/state"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert "ConfigError: state_dir: " in done.stderr
    assert re.search("No space left on device|Check free disk space", done.stderr)
    assert "/mnt/state/pg" in done.stderr


async def test_cancelled_start_leaves_nothing_running(server: EmbeddedPostgres) -> None:
    start = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not socket_path(server.state_dir / "pg" / "run").exists()
    assert list((server.state_dir / "pg" / "holders").iterdir()) == []


def test_root_may_not_use_a_closed_directory(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root needs another account")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=r"which has to run PostgreSQL for root, may not enter /"):
        EmbeddedPostgres(closed / "state").acquire()
    assert closed.stat().st_mode & 0o777 == 0o700


def test_normal_user_with_and_without_home(enterable_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("already a normal user")
    nobody = pwd.getpwnam("nobody")
    home = enterable_dir / "home of nobody"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    process = None
    for python in (sys.executable, "/usr/bin/python3"):
        command = [python, "-B", "-c", USER_PROCESS]
        try:
            process = subprocess.run(
                command,
                input="",
                capture_output=True,
                text=True,
                cwd=REPOSITORY,
                env={"HOME": str(home), "PYTHONPATH": sysconfig.get_path("purelib")},
                user=nobody.pw_uid,
                group=nobody.pw_gid,
                extra_groups=[],
                timeout=60,
            )
        except OSError:
            continue
        break
    if process is None:
        pytest.skip("nobody may run no Python here, or may not enter the repository")
    assert process.stdout.startswith("postgresql://"), process.stderr
    assert (home / ".local/share/headscale-cluster/pg/data/PG_VERSION").exists()
    assert (home / ".local/share/headscale-cluster").stat().st_mode & 0o777 == 0o700


async def test_server_that_does_not_stop_is_reported(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.start()
    process = postmaster(server)
    monkeypatch.setattr("app.pg.server.STOP_TIMEOUT_S", 1)
    process.suspend()
    try:
        with pytest.raises(Unavailable, match=r"did not stop; see .*server\.log"):
            await server.stop()
    finally:
        process.resume()
    assert await gone(process)


async def test_server_that_never_gets_ready_is_reported(
    server: EmbeddedPostgres, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.start()
    pid_file = server.data_dir / "postmaster.pid"
    content = pid_file.read_text()
    pid_file.write_text(content.replace("ready   ", "starting"))
    monkeypatch.setattr("app.pg.server.START_TIMEOUT_S", 0.1)
    with pytest.raises(Unavailable, match="is not ready"):
        await EmbeddedPostgres(state_dir).start()
    pid_file.write_text(content)


async def test_program_has_a_deadline(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.pg.server.INIT_TIMEOUT_S", 0.01)
    with pytest.raises(Unavailable, match=r"initdb did not finish within"):
        await server.start()
    monkeypatch.undo()
    assert (await server.start()).startswith("postgresql://")
