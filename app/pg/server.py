"""The server's life: create the database files, start, stop. Blocking; the caller holds the mutex."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from app.errors import ConfigError, Unavailable
from app.pg.account import Account
from app.pg.binaries import bin_dir
from app.pg.layout import (
    SOCKET_PORT,
    Layout,
    explain,
    make_dir,
    make_private_dir,
    socket_path,
)

SUPERUSER = "headscale"
DATABASE = "headscale"
INIT_TIMEOUT_S = 120
#: Includes crash recovery.
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
#: The server's log is set aside at a start when it has grown beyond this.
LOG_LIMIT_BYTES = 8 * 1024 * 1024
PASSWORD_BYTES = 32
READY_POLL_S = 0.05
TELLING_WORDS = ("error:", "FATAL:", "PANIC:", "HINT:", "No space left")

SETTINGS = {
    "listen_addresses": "",
    "port": str(SOCKET_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Refused statements are the caller's to report; without this the log would grow with them.
    "log_min_messages": "log",
    "log_checkpoints": "off",
}
#: For throwaway databases of tests.
UNSAFE_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
#: Nothing of the caller's environment reaches the server (PGDATA, PGPORT, LC_*, LD_*).
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Server:
    """One embedded server: paths, programs and the account that runs it."""

    layout: Layout
    account: Account
    programs: Path
    durable: bool

    def _run(self, *command: str, timeout_s: float, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of the server's programs as its account, in a session of its own.

        The new session keeps a Ctrl-C in our terminal from reaching the server.
        """
        program = bin_dir(self.programs) / command[0]
        account = self.account
        try:
            return subprocess.run(  # noqa: S603 - no shell, fixed programs
                [str(program), *command[1:]],
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                cwd="/",
                env=ENVIRONMENT,
                start_new_session=True,
                timeout=timeout_s,
                user=account.uid if account.switch else None,
                group=account.gid if account.switch else None,
                extra_groups=[] if account.switch else None,
                umask=0o077,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{command[0]} did not finish within {timeout_s:.0f} s") from error
        except OSError as error:
            raise ConfigError(
                f"state_dir: {program} cannot be run as {account.name}: {error.strerror}; "
                "choose another HS_STATE_DIR, or set PG_DSN"
            ) from error

    def major_version(self) -> str:
        """The programs' major version, such as `18`."""
        answer = self._run("postgres", "--version", timeout_s=START_TIMEOUT_S)
        words = answer.stdout.split()
        if answer.returncode != 0 or not words:
            raise ConfigError(f"state_dir: postgres does not run from {self.programs}: {_reason(answer)}")
        return words[-1].split(".")[0]

    def check_version(self) -> None:
        """Refuse data of another major version. Raises ConfigError."""
        version_file = self.layout.data / "PG_VERSION"
        if not version_file.exists():
            return
        theirs, ours = version_file.read_text().strip(), self.major_version()
        if theirs != ours:
            raise ConfigError(
                f"state_dir: {self.layout.data} has data of PostgreSQL {theirs}, this release brings {ours}: "
                "dump it with the old release and restore, or serve it yourself and set PG_DSN"
            )

    def initialise(self) -> None:
        """Create the database files if there are none; all or nothing. Raises ConfigError."""
        layout = self.layout
        if layout.data.exists():
            if not layout.password.exists():
                raise ConfigError(f"state_dir: {layout.password} is missing, {layout.data} cannot be opened")
            return
        half = layout.pg_dir / "data.new"
        given = layout.pg_dir / "password.new"
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        try:
            shutil.rmtree(half, ignore_errors=True)
            given.unlink(missing_ok=True)
            make_dir(half, 0o700, self.account.owner)
            _write_private(given, password, self.account.owner)
            self._initdb(half, given)
            given.unlink()
            _write_private(given, password, (os.geteuid(), os.getegid()))
            given.rename(layout.password)
            half.rename(layout.data)
        except OSError as error:
            raise explain(error, layout.pg_dir) from error
        finally:
            given.unlink(missing_ok=True)
            shutil.rmtree(half, ignore_errors=True)

    def _initdb(self, data: Path, password_file: Path) -> None:
        made = self._run(
            "initdb",
            f"--pgdata={data}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
            timeout_s=INIT_TIMEOUT_S,
        )
        if made.returncode == 0:
            made = self._run(
                *("postgres", "--single", "-D", str(data), "-c", "exit_on_error=on"),
                *("-c", f"fsync={'on' if self.durable else 'off'}", "postgres"),
                stdin=f"CREATE DATABASE {DATABASE};\n",
                timeout_s=INIT_TIMEOUT_S,
            )
        if made.returncode != 0:
            raise ConfigError(f"state_dir: no database could be created in {data}: {_reason(made)}")

    def answers(self) -> bool:
        """Whether a server listens on our socket, ready or still recovering."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(START_TIMEOUT_S)
            try:
                probe.connect(str(socket_path(self.layout.socket_dir)))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except (BlockingIOError, TimeoutError):
                return True  # it listens, with a full queue
        return True

    def start(self) -> None:
        """Start the server and wait until it takes queries. Raises ConfigError or Unavailable."""
        layout = self.layout
        make_private_dir(layout.socket_dir, self.account.owner)
        self._prepare_log()
        self._forget_reused_pid()
        settings = SETTINGS | ({} if self.durable else UNSAFE_SETTINGS)
        settings |= {"unix_socket_directories": f'"{layout.socket_dir}"'}
        options = " ".join(shlex.join(["-c", f"{name}={value}"]) for name, value in settings.items())
        mark = layout.log.stat().st_size
        started = self._run(
            *("pg_ctl", "start", "--wait", f"--timeout={START_TIMEOUT_S}", "--silent"),
            *(f"--pgdata={layout.data}", f"--log={layout.log}", f"--options={options}"),
            timeout_s=START_TIMEOUT_S * 2,
        )
        if started.returncode == 0:
            return
        if self.answers():
            raise Unavailable(
                f"PostgreSQL in {layout.data} is still recovering after {START_TIMEOUT_S} s; see {layout.log}"
            )
        with layout.log.open("rb") as log:
            log.seek(mark)
            lines = log.read(LOG_LIMIT_BYTES).decode(errors="replace").splitlines()
        reason = _telling(lines) or _reason(started)
        raise ConfigError(f"state_dir: PostgreSQL did not start in {layout.data}: {reason}")

    def wait_ready(self) -> None:
        """Wait for a server that somebody else started. Raises Unavailable at the deadline."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._state() != "ready":
            if time.monotonic() >= deadline:
                raise Unavailable(f"PostgreSQL in {self.layout.data} is not ready; see {self.layout.log}")
            time.sleep(READY_POLL_S)

    def stop(self) -> None:
        """Stop the server: `fast`, and at the deadline `immediate` (recovery follows at the next start)."""
        for mode in ("fast", "immediate"):
            if not self.answers():
                return
            self._run(
                *("pg_ctl", "stop", "--wait", f"--timeout={STOP_TIMEOUT_S}", "--silent"),
                *(f"--mode={mode}", f"--pgdata={self.layout.data}"),
                timeout_s=STOP_TIMEOUT_S * 2,
            )
        if self.answers():
            raise Unavailable(f"PostgreSQL in {self.layout.data} did not stop; see {self.layout.log}")

    def _pid_file(self) -> list[str]:
        """Lines of postmaster.pid: process id first, state eighth (PostgreSQL utils/pidfile.h)."""
        try:
            return (self.layout.data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return []

    def _state(self) -> str:
        lines = self._pid_file()
        return lines[7].strip() if len(lines) > 7 else ""

    def _forget_reused_pid(self) -> None:
        """Remove the lock files of a dead server whose process id another program has now.

        In a restarted container ids repeat, and PostgreSQL would take any process of its own
        account under that id for the old server; also its own corpse, which in a container that
        reaps none stays for ever.
        """
        lines = self._pid_file()
        if not lines or not lines[0].isdigit():
            return
        try:
            stat = Path(f"/proc/{lines[0]}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        # pid (program) state ...; the program's name may hold anything.
        program, _, rest = stat.partition("(")[2].rpartition(")")
        if program != "postgres" or rest.split()[0] == "Z":
            (self.layout.data / "postmaster.pid").unlink(missing_ok=True)
            lock = socket_path(self.layout.socket_dir)
            lock.with_name(lock.name + ".lock").unlink(missing_ok=True)

    def _prepare_log(self) -> None:
        log = self.layout.log
        try:
            if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
                log.replace(log.with_name("server.log.old"))
            if not log.exists():
                _write_private(log, "", self.account.owner)
        except OSError as error:
            raise explain(error, log) from error


def _telling(lines: list[str]) -> str:
    """What a person needs of a program's output: the lines with the cause, else the last one."""
    filled = [line.strip() for line in lines if line.strip()]
    return "; ".join([line for line in filled if any(word in line for word in TELLING_WORDS)] or filled[-1:])


def _reason(result: subprocess.CompletedProcess[str]) -> str:
    return _telling(result.stderr.splitlines()) or f"exit code {result.returncode}"


def _write_private(path: Path, text: str, owner: tuple[int, int]) -> None:
    """A new file, 0600, of `owner`."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        if owner != (os.geteuid(), os.getegid()):
            os.fchown(fd, *owner)
        file.write(text)
        file.flush()
        os.fsync(fd)
