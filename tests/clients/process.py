"""A process of a test: its log line by line with the time of arrival, and its certain end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

#: Lines of each log shown when a test fails.
TAIL_LINES = 60
#: From SIGTERM to SIGKILL, seconds; a Tailscale client needs about 1.5.
STOP_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log; `at` is `time.monotonic()` when it arrived, `index` its place."""

    at: float
    text: str
    index: int


class Process:
    """A started process in a process group of its own, with stdout and stderr in one log."""

    def __init__(self, name: str, argv: list[str], *, log: Path, env: dict[str, str], cwd: Path) -> None:
        self.name = name
        self.log = log
        self._lines: list[Line] = []
        self._ended = False
        self._changed = threading.Condition()
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        self.started_at = time.monotonic()
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        state = "running" if self.running else f"ended with {self._popen.returncode}"
        return f"<{self.name} pid={self._popen.pid} {state}>"

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self.log.open("ab") as copy, self._popen.stdout as pipe:
            for raw in pipe:
                copy.write(raw)
                copy.flush()
                text = raw.decode("utf-8", "replace").rstrip()
                with self._changed:
                    self._lines.append(Line(time.monotonic(), text, len(self._lines)))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def write_line(self, text: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(text.encode() + b"\n")
        self._popen.stdin.flush()

    def mark(self) -> int:
        """The present end of the log, for `since`."""
        with self._changed:
            return len(self._lines)

    def tail(self, count: int = TAIL_LINES) -> str:
        with self._changed:
            return "\n".join(line.text for line in self._lines[-count:])

    def find(self, pattern: str, since: int = 0) -> Line | None:
        """The first line that matches."""
        expression = re.compile(pattern)
        with self._changed:
            return next((line for line in self._lines[since:] if expression.search(line.text)), None)

    def wait_for(self, pattern: str, deadline_s: float, since: int = 0) -> Line:
        """The first line that matches. Raises AssertionError when the log ends or time is up."""
        expression = re.compile(pattern)
        ends = time.monotonic() + deadline_s
        with self._changed:
            while True:
                for line in self._lines[since:]:
                    if expression.search(line.text):
                        return line
                since = max(since, len(self._lines))
                left = ends - time.monotonic()
                if self._ended or left <= 0:
                    why = "log ended" if self._ended else f"not within {deadline_s} s"
                    raise AssertionError(f"{self.name}: {why}: no line with {pattern!r}")
                self._changed.wait(left)

    def kill(self) -> None:
        """SIGKILL to this one process, as a crash would be; its children are on their own."""
        self._popen.kill()
        self._popen.wait(STOP_DEADLINE_S)

    def stop(self) -> int:
        """SIGTERM, then the exit code. Raises AssertionError when it has to be killed."""
        if self.running:
            self._popen.terminate()
        try:
            return self._popen.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.destroy()
            raise AssertionError(f"{self.name} did not end within {STOP_DEADLINE_S} s of SIGTERM") from None

    def destroy(self) -> None:
        """End the process and whatever is left of its group."""
        with contextlib.suppress(ProcessLookupError):  # the whole group may have ended already
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait(STOP_DEADLINE_S)
        self._reader.join(STOP_DEADLINE_S)
        if self._popen.stdin is not None and not self._popen.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # the reader of an unsent line may be gone
                self._popen.stdin.close()
