"""Other unmodified clients: an older Go core, and a Rust core that never asks for compression."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import baseshift_tailscale  # type: ignore[import-untyped]
import pytest

from tests.clients.deployment import Deployment, Devices
from tests.clients.namespace import Namespace
from tests.clients.server import Server
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

#: The forwarder resets connections until it is up.
FORWARD_DEADLINE_S = 20.0
MESH_DEADLINE_S = 40.0
MESH_NODES = 3


@pytest.fixture(scope="module")
def server(deployment: Deployment) -> Server:
    return deployment.server("upper")


def test_baseshift_forwards_to_a_page(
    namespace: Namespace, deployment: Deployment, server: Server, devices: Devices, tmp_path: Path
) -> None:
    (page,) = devices.join(server, "rose")
    (binary,) = baseshift_tailscale.binaries_dir().glob("baseshift-*")
    home = tmp_path / "forwarder"
    home.mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TS_NO_LOGS_NO_SUPPORT": "true",
        "TS_DISABLE_PORTMAPPER": "1",
    }
    port = namespace.free_port()
    order = {
        "action": "start",
        "auth_key": deployment.reusable_key(server),
        "control_url": server.url,
        "hostname": "forwarder",
        "ephemeral": True,
        "remote_host": "rose",
        "remote_port": 80,
        "local_port": port,
    }
    with namespace.running("forwarder", [str(binary)], log=home / "log", env=env, cwd=home) as forwarder:
        forwarder.write_line(json.dumps(order))
        forwarder.wait_for('"success": ?true', FORWARD_DEADLINE_S)
        eventually(
            lambda: namespace.fetch(f"http://127.0.0.1:{port}/", timeout_s=2).body == page.page,
            FORWARD_DEADLINE_S,
            "the forwarder passes the page on",
        )
        assert "forwarder" in server.devices()


def test_arkitekt_joins_and_fetches_without_compression(
    namespace: Namespace, deployment: Deployment, server: Server, devices: Devices, tmp_path: Path
) -> None:
    (page,) = devices.join(server, "lily")
    script = Path(__file__).with_name("arkitekt.py")
    argv = [
        sys.executable,
        str(script),
        server.url,
        deployment.reusable_key(server),
        str(tmp_path / "mesh"),
        str(MESH_NODES),
        "lily",
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with namespace.running("arkitekt", argv, log=tmp_path / "mesh.log", env=env, cwd=tmp_path) as mesh:
        since, addresses = 0, set()
        for _ in range(MESH_NODES):
            line = mesh.wait_for(r'^\{"addresses"', MESH_DEADLINE_S, since)
            since = line.index + 1
            told = json.loads(line.text)
            assert told["body"] == page.page
            addresses.add(told["addresses"][0])
        listed = server.devices()
    assert addresses == {listed[f"ark-{n}"]["ip_addresses"][0] for n in range(MESH_NODES)}
