"""A tenant moves between clusters under real clients and a running transfer: they notice nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.clients.acs import Acs
from tests.clients.caddy import CaddyNode
from tests.clients.deployment import USER, Deployment
from tests.clients.mesh import mesh_node
from tests.clients.namespace import Namespace
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

CLUSTERS = ("port", "starboard")
#: There and back again: so often in `make test`, and in `make chaos`.
MOVES, MANY_MOVES = 4, 20
#: What the issue allows: nothing of the transfer for so long, and a client without its control server.
GAP_S = 0.3
CONTROL_S = 2.0
TICKER = Path(__file__).with_name("ticker.py")

Record = Callable[[str, object], None]


@pytest.fixture
def acs(namespace: Namespace, deployment: Deployment, tmp_path: Path) -> Iterator[Acs]:
    """In front of two clusters that clients know nothing of."""
    for cluster in CLUSTERS:
        deployment.server(cluster)
    made = Acs(
        namespace, tmp_path / "acs", dsn=deployment._dsn, secret_key_file=deployment._home / "secret.key"
    )
    yield made.start()
    made.destroy()


def test_a_transfer_goes_on_while_its_tenant_moves(
    acs: Acs, namespace: Namespace, deployment: Deployment, tmp_path: Path, record_property: Record
) -> None:
    check_moves(MOVES, acs, namespace, deployment, tmp_path, record_property)


@pytest.mark.chaos
def test_a_transfer_goes_on_while_its_tenant_moves_ten_times_to_and_fro(
    acs: Acs, namespace: Namespace, deployment: Deployment, tmp_path: Path, record_property: Record
) -> None:
    check_moves(MANY_MOVES, acs, namespace, deployment, tmp_path, record_property)


def check_moves(
    moves: int, acs: Acs, namespace: Namespace, deployment: Deployment, tmp_path: Path, record: Record
) -> None:
    name = f"customer {moves}"
    joining = acs.call("POST", "/v1/join", {"tenant": name, "user": USER, "reusable": True})
    assert joining["login_server"] == acs.url
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    port = namespace.free_port()
    argv = [sys.executable, str(TICKER)]
    nodes = [
        CaddyNode(
            namespace,
            tmp_path / hostname,
            hostname=hostname,
            control_url=acs.url,
            auth_key=joining["auth_key"],
            page=hostname,
            stream_from=port if hostname == "sender" else None,
        )
        for hostname in ("sender", "reader")
    ]
    reader = nodes[1]
    try:
        for node in nodes:
            node.start()
            node.wait_running()
            node.wait_reachable()
        servers = {cluster: deployment.server(cluster) for cluster in CLUSTERS}
        before = state_of(deployment, name)
        source = namespace.running(
            "ticker", [*argv, "serve", str(port)], log=tmp_path / "t", env=env, cwd=tmp_path
        )
        rust = mesh_node(
            namespace, tmp_path / "rust", name="rust", control_url=acs.url, auth_key=joining["auth_key"]
        )
        with source as ticking, rust as mesh:
            ticking.wait_for("serving", 10)
            eventually(lambda: reader.fetch("sender").body == "sender", 30, "they reach each other")
            assert mesh.fetch(before["sender"][1], timeout_s=15).body == "sender"
            take = [*argv, "read", reader.local_url, "sender:80"]
            with namespace.running("transfer", take, log=tmp_path / "r", env=env, cwd=tmp_path) as transfer:
                transfer.wait_for("reading", 15)
                cluster, back = joining["cluster_id"], []
                for _ in range(moves):
                    target = CLUSTERS[1 - CLUSTERS.index(cluster)]
                    maps = servers[target].metric("hs_full_maps_total")
                    began = time.monotonic()
                    acs.call("POST", "/v1/moves", {"tenant": name, "to": target, "why": "a test"})
                    eventually(
                        lambda target=target, maps=maps: (
                            servers[target].metric("hs_full_maps_total")  # type: ignore[misc]
                            >= maps + 2
                        ),
                        20,
                        "the Go clients have a map from their new owner",
                    )
                    back.append(time.monotonic() - began)
                    cluster = target
                    assert reader.fetch("sender").body == "sender"
                transfer.write_line("enough")
                told = json.loads(transfer.wait_for(r'^\{"chunks"', 15).text)
            assert mesh.fetch(before["sender"][1], timeout_s=15).body == "sender"
        after = state_of(deployment, name)
        shown = f"{moves} moves: control back in {max(back):.2f} s at most, transfer {told}"
        print(shown)
        record("moves", shown)
        assert told["good"], told
        assert told["gap_s"] <= GAP_S, told
        assert max(back) <= CONTROL_S, back
        assert {host: after[host] for host in before} == before
        for node in nodes:
            running = node.wait_running()
            assert node.process.find("NeedsLogin", running.index) is None, "it was never logged out"
    finally:
        for node in nodes:
            node.destroy()


def state_of(deployment: Deployment, tenant: str) -> dict[str, tuple[int, str, bytes, bytes]]:
    """id, address and keys of a tenant's devices by name."""
    sql = (
        "SELECT given_name, id, host(ipv4), machine_key, node_key FROM hs.nodes n"
        " WHERE tenant_id = (SELECT tenant_id FROM hs.tenants WHERE name = $1)"
    )

    async def read() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(deployment._dsn, timeout=10)
        try:
            return list(await connection.fetch(sql, tenant))
        finally:
            await connection.close(timeout=10)

    return {row[0]: tuple(row[1:]) for row in asyncio.run(read())}
