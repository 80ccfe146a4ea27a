"""A device with the Rust core of arkitekt-mesh: dials out only, and uses whatever routes its peers have.

The Go clients here cannot be told to use subnet routes: tsnet has no such option on Linux.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.clients.caddy import KEPT
from tests.clients.namespace import Answer, Namespace

JOIN_DEADLINE_S = 40.0
_AGENT = Path(__file__).with_name("mesh_agent.py")


@dataclass(frozen=True, slots=True)
class MeshNode:
    namespace: Namespace
    proxy: str
    addresses: tuple[str, ...]

    def fetch(self, where: str, *, timeout_s: float) -> Answer:
        """`http://where/`, dialled anew."""
        return self.namespace.fetch(self.proxy, target=f"http://{where}/", timeout_s=timeout_s)

    def fetch_kept(self, where: str, *, timeout_s: float) -> Answer:
        """The page of a peer, always over the same connection."""
        return self.namespace.fetch(self.proxy, target=KEPT, tunnel=where, timeout_s=timeout_s)


@contextmanager
def mesh_node(
    namespace: Namespace, home: Path, *, name: str, control_url: str, auth_key: str
) -> Iterator[MeshNode]:
    home.mkdir(parents=True)
    argv = [sys.executable, str(_AGENT), control_url, auth_key, str(home / "mesh"), name]
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    with namespace.running(name, argv, log=home / "log", env=env, cwd=home) as process:
        told = json.loads(process.wait_for(r'^\{"proxy"', JOIN_DEADLINE_S).text)
        yield MeshNode(namespace, told["proxy"], tuple(told["addresses"]))
