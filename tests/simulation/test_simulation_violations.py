"""A control server that misbehaves is found out, by full and by thin devices."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
import pytest_asyncio

from app.errors import Refused
from app.keys import node_key_text
from app.simulation.fleet import Fleet
from app.simulation.scenario import Churn, Step, fleet
from app.wire import http2, mapstream
from tests.client.control_server import ControlServer, Tunnel
from tests.node.support import clean_environment, eventually
from tests.programs import run_shell

Message = dict[str, Any]
FIRST: Message = {"Node": {"ID": 1, "Name": "self."}, "Domain": "x"}


def rows(*ids: int) -> list[Message]:
    return [{"ID": number, "Name": f"d{number}."} for number in ids]


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ControlServer]:
    control = ControlServer()
    control.first = [{**FIRST, "Peers": rows(2, 3)}]
    await control.start()
    yield control
    await control.stop()


async def seen(server: ControlServer, full: bool, act: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """The report of one device after the server has done something and the device has noticed."""
    async with Fleet(fleet(server.url, ["k"], 1, full=int(full))) as devices:
        await devices.join()
        act()

        async def noticed() -> int:
            return devices.world.tally.violations.total

        await eventually(noticed, "a violation is noticed", 5)
        return devices.report()


@pytest.mark.parametrize("full", [False, True], ids=["thin", "full"])
@pytest.mark.parametrize(
    ("message", "note"),
    [
        ({}, "says nothing"),
        ({"PeersChanged": []}, "says nothing"),
        ({"Peers": rows(3, 2)}, "Peers does not ascend by id"),
        ({"Peers": rows(2, 2)}, "an id stands in Peers twice"),
        ({"PeersChanged": rows(5, 4)}, "PeersChanged does not ascend by id"),
        ({"PeersChanged": rows(4, 4)}, "an id stands in PeersChanged twice"),
        ({"PeersRemoved": [2], "PeersChanged": rows(2)}, "device 2 is in PeersRemoved and PeersChanged"),
        ({"PeersRemoved": [9]}, "removal of device 9, which is no peer"),
        ({"PeersChangedPatch": [{"NodeID": 9, "Cap": 1}]}, "patch for device 9, which is no peer"),
        ({"OnlineChange": {"9": True}}, "device 9, which is no peer"),
        ({"PeersChanged": rows(1)}, "the own device is"),
        ({"Peers": rows(2), "PeersRemoved": [3]}, "beside Peers is ignored"),
        ({"Peers": [{"ID": "two"}]}, "cannot be read"),
    ],
)
async def test_a_wrong_message_is_a_violation(
    server: ControlServer, full: bool, message: Message, note: str
) -> None:
    report = await seen(server, full, lambda: server.send(message))
    assert any(
        f"sim-0: {note}" in row["what"] or note in row["what"] for row in report["violations"]["texts"]
    )


@pytest.mark.parametrize("full", [False, True], ids=["thin", "full"])
async def test_a_delta_before_the_map_is_a_violation(server: ControlServer, full: bool) -> None:
    devices = Fleet(fleet(server.url, ["k"], 2, full=2 * full))
    server.first = [FIRST]
    async with devices:
        await devices.join()
        server.first = [{"PeersChanged": rows(4)}, FIRST]
        await devices.storm()

        async def noticed() -> int:
            return devices.world.tally.violations.total

        await eventually(noticed, "a violation is noticed", 5)
    assert "the first message lacks Node" in devices.report()["violations"]["texts"][0]["what"]


@pytest.mark.parametrize("full", [False, True], ids=["thin", "full"])
@pytest.mark.parametrize("blob", [b"no zstd at all", b""])
async def test_bytes_that_are_no_message_are_a_violation(
    server: ControlServer, full: bool, blob: bytes
) -> None:
    def send() -> None:
        tunnel, stream_id, _ = server.polls[-1]
        tunnel.h2.send(stream_id, mapstream.frame(blob))
        tunnel.flush()

    report = await seen(server, full, send)
    assert report["violations"]["count"] >= 1


async def test_rows_that_a_client_cannot_read_are_seen_by_full_devices(server: ControlServer) -> None:
    row = {"ID": 4, "Name": "d4.", "Key": "nodekey:zz"}
    report = await seen(server, True, lambda: server.send({"PeersChanged": [row]}))
    assert "malformed Key" in report["violations"]["texts"][0]["what"]


async def test_a_lost_delta_is_found_at_the_end(server: ControlServer) -> None:
    async with Fleet(fleet(server.url, ["k"], 2)) as devices:
        await devices.join()
        server.first = [{**FIRST, "Peers": [*rows(2), {"ID": 3, "Name": "other."}, *rows(7)]}]
        await devices.settle(1)
        texts = [row["what"] for row in devices.report()["violations"]["texts"]]
    assert any("peer 3 differs from a fresh map's in Name" in text for text in texts)
    assert any("peer 7 is unknown, says a fresh map" in text for text in texts)


async def test_endpoints_that_never_arrive_are_found_at_the_end(server: ControlServer) -> None:
    peer: Message = rows(2)[0]
    server.first = [{**FIRST, "Peers": [peer]}]
    async with Fleet(fleet(server.url, ["k"], 2, full=1)) as devices:
        thin, full = devices.devices
        peer["Key"], peer["Endpoints"] = node_key_text(thin.node_key), []
        await full.enter()
        await thin.enter()
        await thin.report()
        await devices.settle(0.1)
        texts = [row["what"] for row in devices.report()["violations"]["texts"]]
    assert texts == ["sim-1: the newest endpoints of sim-0 never arrived"]


async def test_breaks_are_reconnects_and_no_violations(server: ControlServer) -> None:
    async with Fleet(fleet(server.url, ["k"], 4, full=2)) as devices:
        await devices.join()
        for tunnel in list(server.tunnels):
            tunnel.transport.abort()

        async def back() -> bool:
            return devices.world.tally.returns.count == 4

        await eventually(back, "all are back", 5)
        await devices.act(Step(0, "storm"))

        async def again() -> bool:
            return devices.world.tally.returns.count == 8

        await eventually(again, "all are back again", 5)
        report = devices.report()
    assert report["violations"]["count"] == 0
    assert report["reconnect"]["lost"] == 8
    assert report["actions"] == {"storm": 1}
    # Only what the server did is an error.
    assert report["errors"]["count"] == 4


async def test_churn_without_kinds_only_waits(server: ControlServer) -> None:
    async with Fleet(fleet(server.url, ["k"], 2)) as devices:
        await devices.join(rate=100)
        await devices.live(Churn(2, (), 1, 1, lambda: 0.5), 0.05)
        assert devices.report()["actions"] == {}


async def test_a_refusal_of_the_first_device_ends_all(server: ControlServer) -> None:
    server.handlers["/machine/register"] = lambda tunnel, request: tunnel.answer(
        request, b'{"AuthURL":"https://login.example/a"}'
    )
    async with Fleet(fleet(server.url, ["k"], 3)) as devices:
        with pytest.raises(Refused, match=r"does not let sim-\d .auth key 1. in: it wants a login"):
            await devices.join()


async def test_a_refusal_of_a_later_device_is_a_failure(server: ControlServer) -> None:
    def register(tunnel: Tunnel, request: http2.Request) -> None:
        name = orjson.loads(request.body)["Hostinfo"]["Hostname"]
        answer = b'{"Error":"no more"}' if name == "sim-2" else b'{"MachineAuthorized":true}'
        tunnel.answer(request, answer)

    server.handlers["/machine/register"] = register
    async with Fleet(fleet(server.url, ["k"], 3, full=0)) as devices:
        await devices.join()
        report = devices.report()
    assert report["devices"]["failed"] == 1
    assert report["errors"]["texts"] == [{"count": 1, "what": "joining: no more"}]


async def test_the_command_says_so_and_exits_with_one(server: ControlServer) -> None:
    async def misbehave() -> None:
        async def all_here() -> bool:
            return len(server.polls) == 3

        await eventually(all_here, "three polls", 20)
        server.send({})

    arguments = ["simulate", "--server", server.url, "--auth-key", "k", "--devices", "3", "--duration", "1s"]
    task = asyncio.create_task(misbehave())
    done = await run_shell(clean_environment({}), *arguments)
    await task
    assert done.code == 1, done.err
    assert "sim-1: a message says nothing" in done.out


async def test_ctrl_c_before_anything_is_one_sentence(server: ControlServer) -> None:
    server.handlers["/machine/register"] = lambda tunnel, request: None
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "node.cli", "simulate", "--server", server.url),
        *("--auth-key", "k", "--devices", "3"),
        env=clean_environment({}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:

        async def asked() -> int:
            return len(server.requests)

        await eventually(asked, "a device registers", 20)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, out) == (130, b"")
    assert err.splitlines()[-1] == b"stopped before the first device had joined"
