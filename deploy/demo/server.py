"""Servers of the demo as processes of their own."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from app.errors import Unavailable
from app.settings import Settings, load

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 20.0
REQUEST_DEADLINE_S = 5.0
POLL_S = 0.1
#: A lost device counts as online this long, so that the tables move while one watches.
OFFLINE_GRACE = "1s"
SHOWN_LOG_LINES = 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(state_dir: Path) -> dict[str, str]:
    """The caller's environment without settings of ours; no configuration file is read."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HS_") and name not in ("CLUSTER_ID", "PG_DSN", "DERP_MAP_URL")
    }
    return {
        **kept,
        "HS_STATE_DIR": str(state_dir),
        "HS_CONFIG": os.devnull,
        "HS_TIMING__OFFLINE_GRACE": OFFLINE_GRACE,
        "HS_LOG__LEVEL": "warning",
        "HS_DERP__SERVER__LISTEN_ADDR": "127.0.0.1:0",
        "HS_DERP__SERVER__STUN_LISTEN_ADDR": "127.0.0.1:0",
    }


class Process:
    """A server of the demo, from ready to ended."""

    def __init__(self, name: str, module: str, env: dict[str, str], log_path: Path, answers_at: str) -> None:
        """`answers_at`: a page that says 200 once it is ready."""
        self.name = name
        self.env = env
        self.log_path = log_path
        self.process: subprocess.Popen[bytes] | None = None
        self._module = module
        self._answers_at = answers_at

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From ready to ended. Raises Unavailable with the end of its log when it does not start."""
        with self.log_path.open("wb") as log:
            # A session of its own: Ctrl-C is for us, and we stop it in order.
            self.process = subprocess.Popen(  # noqa: ASYNC220, S603 - a module of ours
                [sys.executable, "-m", self._module, "serve"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            await self._ready()
            yield
        finally:
            await self._stop()

    async def _ready(self) -> None:
        assert self.process is not None
        async with httpx.AsyncClient(timeout=REQUEST_DEADLINE_S, trust_env=False) as client:
            end_s = time.monotonic() + START_DEADLINE_S
            while self.process.poll() is None and time.monotonic() < end_s:
                try:
                    if (await client.get(self._answers_at)).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass  # not listening yet
                await asyncio.sleep(POLL_S)
        lines = self.log_path.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:]
        raise Unavailable(f"{self.name} does not start:\n" + "\n".join(lines))

    async def _stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            await asyncio.to_thread(self.process.wait, STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Server(Process):
    """`hs-node serve` of one cluster, as a process of its own."""

    def __init__(self, cluster: str, state_dir: Path) -> None:
        self.cluster = cluster
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        env = environment(state_dir) | {
            "CLUSTER_ID": cluster,
            "HS_LISTEN_ADDR": address,
            "HS_METRICS_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
        }
        self.settings: Settings = load(None, env, state_dir).settings
        log_path = state_dir / f"{cluster}.log"
        super().__init__(f"cluster {cluster}", "node.cli", env, log_path, f"{self.url}/health")
