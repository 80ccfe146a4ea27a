"""Other unmodified clients: an older Go core, and a Rust core that never asks for compression."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import baseshift_tailscale  # type: ignore[import-untyped]
import psutil
import pytest

from tests.clients.deployment import Deployment, Devices
from tests.clients.namespace import Namespace
from tests.clients.server import Server
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

#: The forwarder resets connections until it is up.
FORWARD_DEADLINE_S = 20.0
MESH_DEADLINE_S = 120.0
KNOWN_DEADLINE_S = 15.0
#: Bounds for a process of Rust nodes and for the server, on two busy cores: some 60 ms, 0.5 MB and 0.1 MB
#: a node on idle ones, on top of what the first one loads.
JOIN_BASE_S, JOIN_EACH_S = 10.0, 0.6
MESH_BASE_BYTES, MESH_NODE_BYTES = 40_000_000, 2_000_000
SERVER_BASE_BYTES, SERVER_NODE_BYTES = 20_000_000, 500_000

Record = Callable[[str, object], None]


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


@pytest.mark.parametrize(
    ("count", "fetches"),
    [
        pytest.param(50, 10, id="50 nodes"),
        pytest.param(200, 10, id="200 nodes", marks=[pytest.mark.soak, pytest.mark.timeout(240)]),
    ],
)
def test_arkitekt_nodes_of_one_process_join_and_fetch(
    namespace: Namespace,
    deployment: Deployment,
    server: Server,
    devices: Devices,
    tmp_path: Path,
    record_property: Record,
    count: int,
    fetches: int,
) -> None:
    """They never ask for compression, and come from one address; a Go client learns of every one."""
    (page,) = devices.join(server, f"lily-{count}")
    before = server.devices()
    script = Path(__file__).with_name("arkitekt.py")
    argv = [
        sys.executable,
        str(script),
        server.url,
        deployment.reusable_key(server),
        str(tmp_path / "mesh"),
        str(count),
        page.hostname,
        str(fetches),
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    server_process = psutil.Process(server.process.pid)
    server_bytes, sessions = server_process.memory_info().rss, server.metric("hs_sessions")
    with namespace.running("arkitekt", argv, log=tmp_path / "mesh.log", env=env, cwd=tmp_path) as mesh:
        figures = json.loads(mesh.wait_for(r'^\{"joined_s"', MESH_DEADLINE_S).text)
        told = [json.loads(line) for line in mesh.log.read_text().splitlines() if line.startswith("{")]
        fetched = [line for line in told if "fetched" in line]
        assert len(fetched) == fetches
        assert {line[way] for line in fetched for way in ("forwarded", "proxied")} == {page.page}
        assert server.metric("hs_sessions") == sessions + count
        listed = {name: row for name, row in server.devices().items() if name not in before}
        assert {line["joined"]: line["addresses"][0] for line in told if "joined" in line} == {
            int(row["hostname"].removeprefix("ark-")): row["ip_addresses"][0] for row in listed.values()
        }
        assert len(listed) == count
        own = server.devices()[page.hostname]["id"]
        expected = {row["fqdn"] for row in listed.values()}
        eventually(
            lambda: expected <= set(server.known_peers(own)), KNOWN_DEADLINE_S, "the Go client knows all"
        )
        server_grown = server_process.memory_info().rss - server_bytes
    record_property("joined in, s", round(figures["joined_s"], 2))
    print(
        f"{count} nodes joined in {figures['joined_s']:.2f} s, {figures['grown_bytes'] / count / 1e3:.0f} kB "
        f"each; the server grew by {server_grown / count / 1e3:.0f} kB each"
    )
    assert figures["joined_s"] < JOIN_BASE_S + JOIN_EACH_S * count
    assert figures["grown_bytes"] < MESH_BASE_BYTES + MESH_NODE_BYTES * count
    assert server_grown < SERVER_BASE_BYTES + SERVER_NODE_BYTES * count
