"""What stops a start: one line that names the thing, and an exit code; and what a log line carries."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from tests.node.kit import Recorder, joined, own_tenant
from tests.node.support import DEADLINE_S, ServeProcess, fresh_database, run_sql


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dsn(pg_server: str) -> AsyncIterator[str]:
    """A deployment that was started once, so that it has a Noise key."""
    async with fresh_database(pg_server) as name:
        async with ServeProcess(name) as process:
            assert await process.health() == 200
        yield name


async def ends(process: ServeProcess) -> tuple[int, list[str]]:
    """Exit code and the lines that tell an operator why."""
    await process.start(wait=False)
    code = await process.wait_ended()
    return code, [line for line in process.log().splitlines() if line.startswith("error: ")]


async def test_a_missing_secret_key_file_names_key_and_path(dsn: str, tmp_path: Path) -> None:
    process = ServeProcess(dsn, secret_key_file=tmp_path / "gone.key")
    code, lines = await ends(process)
    assert code == 2
    (line,) = lines
    assert f"secret_key_file {tmp_path / 'gone.key'} is missing: it must hold key " in line
    assert line.endswith("; copy it from the first host")
    assert not (tmp_path / "gone.key").exists()


async def test_a_foreign_secret_key_file_is_refused(dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.key"
    path.write_text("ab" * 32 + "\n")
    process = ServeProcess(dsn, secret_key_file=path)
    code, lines = await ends(process)
    assert code == 2
    (line,) = lines
    assert f"secret_key_file {path} holds key " in line
    assert "copy the file from the first host" in line
    assert "ab" * 32 not in process.log()


@pytest.mark.parametrize("which", ["listen_addr", "metrics_listen_addr"])
async def test_a_taken_port_names_the_setting(pg_server: str, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with fresh_database(pg_server) as name:
            process = ServeProcess(name, settings={f"HS_{which.upper()}": address})
            code, lines = await ends(process)
            assert code == 2
            (line,) = lines
            assert line.startswith(f"error: {which}: cannot listen on {address}: ")
            # The cluster is free for the next one at once.
            left = await run_sql(name, "SELECT holder FROM leases WHERE name = 'cluster:default'")
            assert [row[0] for row in left] in ([], [None], [""])


@pytest.mark.parametrize(
    ("change", "code", "parts"),
    [
        (
            {"PG_DSN": "postgres://u:secret@127.0.0.1:1/x"},
            3,
            ["pg_dsn", "127.0.0.1:1", "the database does not answer now"],
        ),
        ({"PG_DSN": "nonsense"}, 2, ["pg_dsn"]),
        ({"CLUSTER_ID": "no spaces please"}, 2, ["cluster_id", "no spaces please"]),
        ({"HS_LISTEN_ADDR": "nonsense"}, 2, ["listen_addr", "nonsense"]),
        ({"HS_TIMING__LEASE_TTL": "1s"}, 2, ["timing.lease_ttl", "1s"]),
        (
            {"HS_TLS_CERT_PATH": "/nowhere/x.crt", "HS_TLS_KEY_PATH": "/nowhere/x.key"},
            2,
            ["tls_", "/nowhere"],
        ),
        ({"HS_DERP__PATHS": "/nowhere/derp.yaml"}, 2, ["/nowhere/derp.yaml"]),
    ],
)
async def test_a_wrong_setting_stops_the_start(
    pg_server: str, change: dict[str, str], code: int, parts: list[str]
) -> None:
    async with fresh_database(pg_server) as name:
        process = ServeProcess(name, settings=change)
        got, lines = await ends(process)
        assert got == code, process.log()
        (line,) = lines
        assert [part for part in parts if part.lower() not in line.lower()] == []
        assert "secret@" not in process.log()
        assert "Traceback" not in process.log()


@pytest.mark.parametrize("format", [pytest.param("text", marks=pytest.mark.chaos), "json"])
async def test_every_log_line_carries_the_cluster(pg_server: str, format: str) -> None:
    """Of this process and of its relay, at the start, for clients' mistakes, and at the end."""
    settings = {"HS_LOG__FORMAT": format, "HS_LOG__LEVEL": "debug"}
    async with (
        fresh_database(pg_server) as name,
        ServeProcess(name, "Cluster_7", settings=settings) as process,
    ):
        async with own_tenant(name, "Cluster_7") as tenant:
            key = await tenant.auth_key()
            async with Recorder(process.url, key) as device, Recorder(process.url, "hskey-wrong") as stranger:
                await joined(device)
                assert (await stranger.register())["Error"]
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(b"garbage\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            await reader.read()
        writer.close()
        await run_sql(
            name,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        await process.wait_ready()
        metrics = await process.metrics()
        assert metrics["hs_devices"] == 1
        assert await process.stop() == 0
        told = ("warning: ", "created cluster", "hs-node ", "To let", "  hs-node", "  tailscale", "error: ")
        lines = [line for line in process.log().splitlines() if line.strip() and not line.startswith(told)]
        parsed = [orjson.loads(line) for line in lines if line.startswith("{")]
        text = [line for line in lines if not line.startswith("{")]
        assert {row["cluster_id"] for row in parsed} <= {"Cluster_7"}
        assert [line for line in text if " cluster_id=Cluster_7" not in line and line[:4] != "    "] == []
        events = {row["event"] for row in parsed} | {line.split()[2] for line in text if line[:4] != "    "}
        assert {"relay_ready", "relay_stopped", "register", "entry_refused", "serving"} <= events
        assert not (text if format == "json" else parsed)
