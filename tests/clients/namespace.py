"""A network namespace without a way out, in which servers and clients of a test run."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.process import STOP_DEADLINE_S, Process

START_DEADLINE_S = 10.0
#: On top of a request's own timeout, until the agent must have answered.
ANSWER_GRACE_S = 10.0
_AGENT = Path(__file__).with_name("agent.py")


class NamespaceUnavailable(Exception):
    """This machine does not let us make a network namespace; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP request inside the namespace came to; status 0 means no answer at all."""

    status: int
    body: str
    error: str
    #: `time.monotonic()` when the answer was complete.
    at: float
    #: By lower-case name.
    headers: dict[str, str] = field(default_factory=dict)


def _unshare() -> list[str]:
    return ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]


class Namespace:
    """Holds the namespace open, runs processes in it, and fetches pages from within."""

    def __init__(self) -> None:
        """Raises NamespaceUnavailable."""
        for tool in ("unshare", "nsenter"):
            if shutil.which(tool) is None:
                raise NamespaceUnavailable(f"the program {tool} (util-linux) is missing")
        self.processes: list[Process] = []
        self._ports = itertools.count(9000)
        self._ids = itertools.count()
        self._changed = threading.Condition()
        self._answers: dict[int, Answer] = {}
        self._ended = False
        self._agent = subprocess.Popen(
            [*_unshare(), sys.executable, "-I", str(_AGENT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        watchdog = threading.Timer(START_DEADLINE_S, self._agent.kill)
        watchdog.start()
        assert self._agent.stdout is not None
        assert self._agent.stderr is not None
        ready = self._agent.stdout.readline()
        watchdog.cancel()
        if not ready:
            reason = self._agent.stderr.read().strip() or f"silent for {START_DEADLINE_S} s"
            self._end_agent()
            self._agent.stdout.close()
            raise NamespaceUnavailable(f"no network namespace here: {reason.splitlines()[-1]}")
        self._reader = threading.Thread(target=self._read, name="answers of the agent", daemon=True)
        self._reader.start()

    def close(self) -> None:
        for process in reversed(self.processes):
            process.destroy()
        self._end_agent()
        self._reader.join(STOP_DEADLINE_S)

    def _end_agent(self) -> None:
        for pipe in (self._agent.stdin, self._agent.stderr):
            if pipe is not None:
                pipe.close()
        try:
            self._agent.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._agent.kill()
            self._agent.wait(STOP_DEADLINE_S)

    def free_port(self) -> int:
        """A port nobody else was given; the namespace has no other inhabitants."""
        return next(self._ports)

    def enter(self, argv: list[str]) -> list[str]:
        """The command line that runs `argv` inside; it keeps its process id."""
        user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        return ["nsenter", "-t", str(self._agent.pid), *user, "-n", "--", *argv]

    def spawn(self, name: str, argv: list[str], *, log: Path, env: dict[str, str], cwd: Path) -> Process:
        """Start a process inside; `release` it, or leave that to `close`."""
        process = Process(name, self.enter(argv), log=log, env=env, cwd=cwd)
        self.processes.append(process)
        return process

    def release(self, process: Process) -> None:
        """End a process for certain and forget it."""
        process.destroy()
        if process in self.processes:
            self.processes.remove(process)

    @contextmanager
    def running(
        self, name: str, argv: list[str], *, log: Path, env: dict[str, str], cwd: Path
    ) -> Iterator[Process]:
        process = self.spawn(name, argv, log=log, env=env, cwd=cwd)
        try:
            yield process
        finally:
            self.release(process)

    def fetch(
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: str | None = None,
        target: str | None = None,
        tunnel: str | None = None,
    ) -> Answer:
        """One HTTP request from inside. May be called from several threads.

        With a `target` the URL is that of a proxy which is asked for it; with a `tunnel` of one that connects
        to that place, once for all requests with the same text, one after the other.
        """
        number = next(self._ids)
        request: dict[str, Any] = {
            "id": number,
            "url": url,
            "method": method,
            "timeout": timeout_s,
            "headers": headers or {},
            "body": body,
            "target": target,
            "tunnel": tunnel,
        }
        ends = time.monotonic() + timeout_s + ANSWER_GRACE_S
        assert self._agent.stdin is not None
        with self._changed:
            self._agent.stdin.write(json.dumps(request) + "\n")
            self._agent.stdin.flush()
            while number not in self._answers:
                left = ends - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"the namespace's agent did not answer about {url}")
                self._changed.wait(left)
            return self._answers.pop(number)

    def _read(self) -> None:
        assert self._agent.stdout is not None
        with self._agent.stdout as pipe:
            for line in pipe:
                fields = json.loads(line)
                answer = Answer(
                    fields.get("status", 0),
                    fields.get("body", ""),
                    fields.get("error", ""),
                    time.monotonic(),
                    fields.get("headers", {}),
                )
                with self._changed:
                    self._answers[fields["id"]] = answer
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
