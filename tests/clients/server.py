"""A control server as an operator runs it: the real command line, inside the namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.clients.namespace import Namespace
from tests.clients.netmaps import ClientNetmap
from tests.clients.process import Process
from tests.clients.waiting import eventually

START_DEADLINE_S = 30.0
COMMAND_DEADLINE_S = 30.0
#: Until what a client says about itself has reached its peers.
KNOWN_DEADLINE_S = 10.0
BASE_DOMAIN = "mesh.test"
_ROOT = Path(__file__).parents[2]


class Server:
    """`hs-node serve` of one cluster, and the shell commands against it."""

    def __init__(
        self,
        namespace: Namespace,
        home: Path,
        *,
        cluster_id: str,
        dsn: str,
        secret_key_file: Path,
        settings: dict[str, str] | None = None,
        behind: str = "",
        client_env: dict[str, str] | None = None,
    ) -> None:
        """Nothing runs before `start`. All ports are this server's own.

        `settings` by environment variable. `behind`: the URL of the proxy by which clients come, with
        `client_env` in their environment.
        """
        home.mkdir(parents=True, exist_ok=True)
        self.cluster_id = cluster_id
        self._namespace = namespace
        self._home = home
        self.port = namespace.free_port()
        self._listen = f"127.0.0.1:{self.port}"
        self._metrics = f"127.0.0.1:{namespace.free_port()}"
        self.url = behind or f"http://{self._listen}"
        self.client_env = client_env or {}
        self._process: Process | None = None
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(_ROOT),
            "CLUSTER_ID": cluster_id,
            "PG_DSN": dsn,
            "HS_LISTEN_ADDR": self._listen,
            "HS_SERVER_URL": self.url,
            "HS_METRICS_LISTEN_ADDR": self._metrics,
            "HS_STATE_DIR": str(home / "state"),
            "HS_SECRET_KEY_FILE": str(secret_key_file),
            "HS_DERP__SERVER__LISTEN_ADDR": f"127.0.0.1:{namespace.free_port()}",
            "HS_DERP__SERVER__STUN_LISTEN_ADDR": f"127.0.0.1:{namespace.free_port()}",
            "HS_DNS__BASE_DOMAIN": BASE_DOMAIN,
            **(settings or {}),
        }

    def __repr__(self) -> str:
        return f"<server of cluster {self.cluster_id}: {self._process!r}>"

    @property
    def process(self) -> Process:
        assert self._process is not None, f"{self!r} was not started"
        return self._process

    # -- the process ----------------------------------------------------------------------------

    def start(self) -> Server:
        """Start and wait until it is healthy."""
        process = self._process = self._namespace.spawn(
            f"server-{self.cluster_id}",
            [sys.executable, "-m", "node.cli", "serve"],
            log=self._home / "log",
            env=self._env,
            cwd=self._home,
        )

        def healthy() -> bool:
            assert process.running, f"{process!r} instead of serving"
            return self._namespace.fetch(f"http://{self._listen}/health", timeout_s=2).status == 200

        eventually(healthy, START_DEADLINE_S, f"{self!r} is healthy")
        return self

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        process, self._process = self.process, None
        try:
            return process.stop()
        finally:
            self._namespace.release(process)

    def kill(self) -> None:
        """SIGKILL to the server alone; its relay has to notice by itself."""
        process, self._process = self.process, None
        process.kill()

    def destroy(self) -> None:
        """SIGKILL to the server and its relay, for the end of the tests."""
        if self._process is not None:
            self._namespace.release(self._process)
            self._process = None

    # -- the shell ------------------------------------------------------------------------------

    def run(self, *arguments: str) -> Any:
        """The parsed output of a shell command. Raises AssertionError when it fails."""
        argv = [sys.executable, "-m", "node.cli", *arguments, "-o", "json"]
        done = subprocess.run(
            argv, env=self._env, cwd=self._home, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S
        )
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}: {done.stderr}{done.stdout}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    def create_user(self, name: str) -> None:
        self.run("users", "create", name)

    def auth_key(self, user: str, *options: str) -> str:
        """The text of a new auth key, good for an hour."""
        key = self.run("preauthkeys", "create", "--user", user, "--expiration", "1h", *options)["key"]
        assert isinstance(key, str)
        return key

    def devices(self) -> dict[str, dict[str, Any]]:
        """`nodes list` by device name."""
        return {
            device["name"]: device | {"fqdn": device["fqdn"].rstrip(".")}
            for device in self.run("nodes", "list")
        }

    def expire(self, device_id: int | str) -> None:
        self.run("nodes", "expire", "-i", str(device_id))

    def delete(self, device_id: int | str) -> None:
        self.run("nodes", "delete", "-i", str(device_id), "--yes")

    # -- looking inside -------------------------------------------------------------------------

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        answer = self._namespace.fetch(f"http://{self._metrics}/metrics")
        assert answer.status == 200, answer
        lines = [line for line in answer.body.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def ask(self, device_id: int | str, path: str) -> str:
        """What the client of a device answers to a request for `path` (control to node)."""
        url = f"http://{self._metrics}/debug/c2n/{device_id}?path={quote(path, safe='')}"
        answer = self._namespace.fetch(url, method="POST", timeout_s=15)
        assert answer.status == 200, f"{path} of device {device_id}: {answer}"
        return answer.body

    def netmap(self, device_id: int | str) -> ClientNetmap:
        """The netmap that a client holds."""
        return ClientNetmap(json.loads(self.ask(device_id, "/debug/netmap"))["current"])

    def known_peers(self, device_id: int | str) -> dict[str, dict[str, Any]]:
        """The peers in the netmap that a client holds, by FQDN without the last dot."""
        netmap = self.netmap(device_id).raw
        return {peer["Name"].rstrip("."): peer for peer in netmap["Peers"] or []}

    def wait_known(self, device_id: int | str, fqdn: str, former_disco_key: str = "") -> None:
        """Until a device's client knows the relay of a peer's present process.

        Earlier the first packet to the peer is lost, and WireGuard tries again only after 5 s.
        """

        def known() -> bool:
            peer = self.known_peers(device_id).get(fqdn)
            return peer is not None and bool(peer.get("HomeDERP")) and peer["DiscoKey"] != former_disco_key

        eventually(known, KNOWN_DEADLINE_S, f"device {device_id} knows the relay of {fqdn}")

    def client_metrics(self, device_id: int | str) -> dict[str, int]:
        """The counters a client keeps of itself."""
        pairs = (line.split() for line in self.ask(device_id, "/debug/metrics").splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
