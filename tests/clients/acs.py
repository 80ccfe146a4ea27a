"""An hs-acs as an operator runs it, inside the namespace: API, and entry for clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.clients.namespace import Namespace
from tests.clients.process import Process
from tests.clients.server import COMMAND_DEADLINE_S, START_DEADLINE_S
from tests.clients.waiting import eventually

_ROOT = Path(__file__).parents[2]
CALL_DEADLINE_S = 15.0


class Acs:
    """`hs-acs serve` whose URL is the only one that clients know."""

    def __init__(self, namespace: Namespace, home: Path, *, dsn: str, secret_key_file: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._namespace = namespace
        self._home = home
        listen = f"127.0.0.1:{namespace.free_port()}"
        self.url = f"http://{listen}"
        self.client_env: dict[str, str] = {}
        self._process: Process | None = None
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(_ROOT),
            "PG_DSN": dsn,
            "HS_ACS__LISTEN_ADDR": listen,
            "HS_ACS__METRICS_LISTEN_ADDR": f"127.0.0.1:{namespace.free_port()}",
            "HS_ACS__LOGIN_SERVER": self.url,
            "HS_ACS__REBALANCE__SETTLE": "0s",
            "HS_STATE_DIR": str(home / "state"),
            "HS_SECRET_KEY_FILE": str(secret_key_file),
        }
        self._token = ""

    def start(self) -> Acs:
        """Start, wait until it answers, and take an administrator's token."""
        process = self._process = self._namespace.spawn(
            "acs",
            [sys.executable, "-m", "acs.cli", "serve"],
            log=self._home / "log",
            env=self._env,
            cwd=self._home,
        )

        def answers() -> bool:
            assert process.running, f"{process!r} instead of serving"
            return self._namespace.fetch(f"{self.url}/v1/service", timeout_s=2).status == 200

        eventually(answers, START_DEADLINE_S, "hs-acs answers")
        argv = [sys.executable, "-m", "acs.cli", "tokens", "create", "--scope", "admin", "tests"]
        done = subprocess.run(
            argv, env=self._env, cwd=self._home, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S
        )
        assert done.returncode == 0, done.stderr
        self._token = done.stdout.strip()
        return self

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the API. Raises AssertionError when it fails."""
        answer = self._namespace.fetch(
            self.url + path,
            method=method,
            timeout_s=CALL_DEADLINE_S,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            body=None if body is None else json.dumps(body),
        )
        assert 200 <= answer.status < 300, answer
        found = json.loads(answer.body)
        assert isinstance(found, dict)
        return found

    def destroy(self) -> None:
        if self._process is not None:
            self._namespace.release(self._process)
            self._process = None
