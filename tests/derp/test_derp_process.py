"""The relay as a child process: ready, killed, started again, stopped, orphaned."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from aiohttp import web
from derp_client import DEADLINE_S, HOST, DerpClient, until

from app import derpmap
from app.errors import ConfigError, Unavailable
from app.wire import derp, stun
from node.derp import process
from node.derp.config import DerpConfig, Ready, parse_config, region_json
from node.derp.process import Supervisor, supervise

ROOT = Path(__file__).resolve().parents[2]


def make_config(directory: Path, **changes: object) -> DerpConfig:
    fields: dict[str, object] = {
        "data_dir": str(directory),
        "hostname": HOST,
        "region_id": 900,
        "region_code": "lo",
        "region_name": "Loop",
        "cluster_id": "c1",
        "listen_host": HOST,
        "stun_host": HOST,
        **changes,
    }
    return msgspec.convert(fields, DerpConfig)


def quick() -> random.Random:
    """Back-off jitter of the tests."""
    return random.Random(1)


async def is_gone(pid: int) -> None:
    def ended() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await until(ended)


def ask_stun(port: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.sendto(stun.encode_request(b"transaction!"), (HOST, port))
        return sock.recv(100)


async def test_child_serves_derp_and_stun_and_ends_with_stop(tmp_path: Path) -> None:
    supervisor = Supervisor(make_config(tmp_path))
    ready = await supervisor.start()
    try:
        client = await DerpClient.connect(ready.derp_port)
        assert client.pin == ready.cert_pin
        assert client.server_key.hex() == ready.public_key
        client.send(client.key, b"x")
        assert await client.packet() == (client.key, b"x")
        assert stun.parse_response(await asyncio.to_thread(ask_stun, ready.stun_port))[0] == b"transaction!"
        await until(lambda: "clients" in supervisor.stats)
        stopping = asyncio.create_task(supervisor.stop())
        assert [frame.type for frame in await client.closed()] == [derp.FrameType.RESTARTING]
        await stopping
        await client.close()
    finally:
        await supervisor.stop()
    assert not psutil.pid_exists(ready.pid)


async def test_killed_child_comes_back_with_the_same_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "BACKOFF_FIRST_S", 0.05)
    seen: list[Ready] = []
    supervisor = Supervisor(make_config(tmp_path), on_ready=seen.append, rng=quick())
    first = await supervisor.start()
    try:
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: len(seen) == 2)
        second = await supervisor.wait_ready()
        assert second.pid != first.pid
        assert msgspec.structs.replace(second, pid=first.pid) == first, "ports, pin and key must stay"
        assert supervisor.restarts == 1
        client = await DerpClient.connect(second.derp_port)
        await client.close()
    finally:
        await supervisor.stop()


async def test_other_ports_are_taken_when_the_old_ones_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "BACKOFF_FIRST_S", 0.5)
    seen: list[Ready] = []
    supervisor = Supervisor(make_config(tmp_path), on_ready=seen.append, rng=quick())
    first = await supervisor.start()
    thief = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        os.kill(first.pid, signal.SIGKILL)
        await is_gone(first.pid)
        thief.bind((HOST, first.stun_port))
        await until(lambda: len(seen) == 2)
        assert seen[1].stun_port != first.stun_port
        assert seen[1].cert_pin == first.cert_pin
    finally:
        thief.close()
        await supervisor.stop()


async def test_child_that_ignores_its_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_DEADLINE_S", 0.2)
    supervisor = Supervisor(make_config(tmp_path))
    ready = await supervisor.start()
    os.kill(ready.pid, signal.SIGSTOP)
    await supervisor.stop()
    assert not psutil.pid_exists(ready.pid)


async def test_supervise_ends_its_child_when_cancelled(tmp_path: Path) -> None:
    seen: list[Ready] = []
    task = asyncio.create_task(supervise(make_config(tmp_path), on_ready=seen.append))
    await until(lambda: seen)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(seen[0].pid)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_child_ends_when_its_parent_does(tmp_path: Path, end: signal.Signals) -> None:
    program = (
        "import asyncio, sys, msgspec\n"
        "from node.derp.process import DerpConfig, Supervisor\n"
        "async def run():\n"
        "    it = Supervisor(msgspec.json.decode(sys.argv[1], type=DerpConfig))\n"
        "    print((await it.start()).pid, flush=True)\n"
        "    await it.wait()\n"
        "asyncio.run(run())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, msgspec.json.encode(make_config(tmp_path)).decode()),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert parent.stdout is not None
    async with asyncio.timeout(2 * DEADLINE_S):
        pid = int(await parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.send_signal(end)
    async with asyncio.timeout(DEADLINE_S):
        await parent.wait()
    await is_gone(pid)


async def test_taken_port_refuses_the_start(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        supervisor = Supervisor(make_config(tmp_path, listen_port=port))
        sentence = rf"derp.server.listen_addr: .* cannot listen on {HOST}:{port}: Address already in use"
        with pytest.raises(Unavailable, match=sentence):
            await supervisor.start()
        assert supervisor.ready is None


async def _run_child(*arguments: str, stdin: bytes) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "node.derp", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    async with asyncio.timeout(2 * DEADLINE_S):
        out, err = await child.communicate(stdin)
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


async def test_child_by_hand_logs_with_its_cluster(tmp_path: Path) -> None:
    config = msgspec.structs.replace(make_config(tmp_path), log_format="json")
    code, out, err = await _run_child(stdin=msgspec.json.encode(config) + b"\n")
    assert code == 0
    assert json.loads(out.splitlines()[0])["event"] == "ready"
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == ["relay_ready", "relay_stopped"]
    assert {event["cluster_id"] for event in events} == {"c1"}


async def test_child_refuses_a_wrong_configuration(tmp_path: Path) -> None:
    wrong = tmp_path / "derp.json"
    wrong.write_text('{"hostname": 1}')
    for arguments, stdin in (
        ((), b"{}\n"),
        ((), b""),
        (("--config", str(wrong)), b""),
        (("--config", str(tmp_path / "none")), b""),
    ):
        code, out, err = await _run_child(*arguments, stdin=stdin)
        assert code == 2
        if arguments:
            assert out == ""
            assert err.startswith("error: ")
            assert len(err.splitlines()) == 1
        else:
            assert err == ""
            assert json.loads(out)["event"] == "failed"
            assert "\n" not in json.loads(out)["message"]


async def test_admission_reaches_the_parent(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []

    async def verify(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response({"Allow": len(asked) > 1})

    app = web.Application()
    app.router.add_post("/verify", verify)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    url = f"http://{HOST}:{runner.addresses[0][1]}/verify"
    supervisor = Supervisor(make_config(tmp_path, verify_url=url, stun_port=-1))
    ready = await supervisor.start()
    try:
        assert ready.stun_port == -1
        refused = await DerpClient.dial(ready.derp_port)
        await refused.hello()
        refused.send_client_info()
        assert await refused.closed() == []
        admitted = await DerpClient.connect(ready.derp_port, refused.private)
        assert asked == [{"NodePublic": "nodekey:" + admitted.key.hex(), "Source": HOST}] * 2
        await refused.close()
        await admitted.close()
    finally:
        await supervisor.stop()
        await runner.cleanup()


# configuration and region


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"region_id": 0}, "region_id"),
        ({"region_id": 65536}, "region_id"),
        ({"listen_port": 65536}, "listen_port"),
        ({"listen_port": -1}, "listen_port"),
        ({"stun_port": -2}, "stun_port"),
        ({"ipv4": "::1"}, "ipv4"),
        ({"ipv6": "192.0.2.1"}, "ipv6"),
        ({"ipv6": "no"}, "ipv6"),
        ({"listen_host": "localhost"}, "listen_host"),
        ({"stun_host": ""}, "stun_host"),
        ({"hostname": ""}, "hostname"),
        ({"region_code": ""}, "region_code"),
        ({"rate_bytes_per_s": -1}, "rate_bytes_per_s"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, changes: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Supervisor(make_config(tmp_path, **changes))
    with pytest.raises(ConfigError, match=key):
        parse_config(msgspec.json.encode(make_config(tmp_path, **changes)))


READY = Ready(pid=1, derp_port=8443, stun_port=3478, cert_pin="sha256-raw:" + "0" * 64, public_key="")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"HostName": HOST, "IPv4": HOST, "IPv6": "none"}),
        ({"hostname": "relay.example", "ipv6": ""}, {"HostName": "relay.example"}),
        (
            {"hostname": "relay.example", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1"},
            {"HostName": "relay.example", "IPv4": "192.0.2.1", "IPv6": "2001:db8::1"},
        ),
        ({"hostname": "::1", "ipv4": "none", "ipv6": ""}, {"HostName": "::1", "IPv4": "none", "IPv6": "::1"}),
    ],
)
def test_region_is_what_clients_need(
    tmp_path: Path, changes: dict[str, object], expected: dict[str, object]
) -> None:
    region = region_json(make_config(tmp_path, **changes), READY)
    ports = {"STUNPort": 3478, "DERPPort": 8443}
    assert region == {
        "RegionID": 900,
        "RegionCode": "lo",
        "RegionName": "Loop",
        "Nodes": [{"Name": "900a", "RegionID": 900, "CertName": READY.cert_pin, **expected, **ports}],
    }
    assert derpmap.parse_region(region, "test", 900) == region


def test_secrets_are_not_in_the_configuration() -> None:
    names = [field.name for field in msgspec.structs.fields(DerpConfig)]
    assert not [name for name in names for word in ("key", "secret", "token", "password") if word in name]
