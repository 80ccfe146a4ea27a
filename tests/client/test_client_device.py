"""The simulated device against the small server."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import orjson
import pytest
from control_server import PUBLIC, ControlServer, Tunnel
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client import device as module
from app.client.device import SimulatedDevice
from app.errors import LocalProtocolError, Unavailable
from app.keys import disco_key_text, node_key_text
from app.wire import http2, mapstream

WAIT_S = 10.0


def device(server: ControlServer, **options: Any) -> SimulatedDevice:
    return SimulatedDevice(server.url, hostname="laptop", **options)


def bodies(server: ControlServer, path: str) -> list[dict[str, Any]]:
    return [orjson.loads(request.body) for request in server.requests if request.path == path]


async def test_registering_like_a_go_client(server: ControlServer) -> None:
    async with device(server, auth_key="hskey-auth-x", ephemeral=True, capver=131) as one:
        assert await one.register() == {"MachineAuthorized": True}
        await one.register(Followup="http://x/register/1", Auth=None)
    first, second = bodies(server, "/machine/register")
    assert first == {
        "Version": 131,
        "NodeKey": node_key_text(one.node_key),
        "OldNodeKey": "nodekey:" + "0" * 64,
        "Expiry": "0001-01-01T00:00:00Z",
        "Hostinfo": {
            "IPNVersion": "1.90.9-simulated",
            "BackendLogID": "0" * 64,
            "OS": "linux",
            "Hostname": "laptop",
        },
        "Ephemeral": True,
        "Auth": {"AuthKey": "hskey-auth-x"},
    }
    assert (second["Followup"], second["Auth"]) == ("http://x/register/1", None)
    assert [head[1] for head in server.heads] == ["/key?v=131", "/ts2021"]


@pytest.mark.parametrize("compress", ["zstd", ""])
@pytest.mark.parametrize("websocket", [False, True])
async def test_a_poll_feeds_the_netmap(server: ControlServer, compress: str, websocket: bool) -> None:
    async with device(server, compress=compress, websocket=websocket, server_key=PUBLIC) as one:
        await one.poll()
        with pytest.raises(LocalProtocolError):
            await one.poll()
        await one.wait_for(lambda netmap: netmap.self_node is not None, WAIT_S)
        server.send({"KeepAlive": True})
        server.send({"PeersChanged": [{"ID": 2, "Name": "other."}]})
        netmap = await one.wait_for(lambda netmap: 2 in netmap.peers, WAIT_S)
        assert netmap.keepalives == 1
        assert [message.kind for message in one.messages] == ["full", "keepalive", "delta"]
        assert all(message.size_bytes > mapstream.HEAD_SIZE for message in one.messages)
        arrivals = [message.arrived_s for message in one.messages]
        assert arrivals == sorted(arrivals)
        assert one.violations == []
        assert one.is_polling
    assert not one.is_polling
    request = bodies(server, "/machine/map")[0]
    assert (request["Stream"], request.get("Compress")) == (True, compress or None)
    assert request["DiscoKey"] == disco_key_text(one.disco_key)


async def test_lite_updates_tell_the_whole_state_beside_the_poll(server: ControlServer) -> None:
    async with device(server) as one:
        await one.poll()
        await one.update(endpoints=["1.2.3.4:5"], home_derp=900)
        await one.update(hostinfo={"Services": []}, disco=b"\x07" * 32)
        await one.wait_for(lambda netmap: netmap.messages == 1, WAIT_S)
    first, second = server.lite
    assert (first["Endpoints"], first["EndpointTypes"]) == (["1.2.3.4:5"], [1])
    assert (first["Stream"], first["OmitPeers"]) == (False, True)
    assert first["Hostinfo"]["NetInfo"] == {"PreferredDERP": 900}
    assert second["Endpoints"] == ["1.2.3.4:5"]
    assert second["Hostinfo"]["NetInfo"] == {"PreferredDERP": 900}
    assert (second["Hostinfo"]["Services"], second["DiscoKey"]) == ([], "discokey:" + "07" * 32)
    assert len({id(tunnel) for tunnel, _, _ in server.polls}) == 1
    assert sum(head[1] == "/ts2021" for head in server.heads) == 1


def hang_up(tunnel: Tunnel, request: http2.Request) -> None:
    tunnel.transport.close()


async def test_registration_survives_hint_and_close(server: ControlServer) -> None:
    normal = server.handlers["/machine/register"]

    def close_first(tunnel: Tunnel, request: http2.Request) -> None:
        server.handlers["/machine/register"] = normal
        tunnel.transport.close()

    server.handlers["/machine/register"] = close_first
    async with device(server) as one:
        assert await one.register() == {"MachineAuthorized": True}
    assert len(bodies(server, "/machine/register")) == 2
    assert [failure.code for failure in one.failures] == ["connection_lost"]


async def test_registration_gives_up_at_its_deadline(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REQUEST_DEADLINE_S", 0.3)
    server.handlers["/machine/register"] = hang_up
    async with device(server) as one:
        with pytest.raises(Unavailable):
            await one.register()
    assert len(bodies(server, "/machine/register")) > 1


async def test_a_status_is_no_answer(server: ControlServer) -> None:
    server.handlers["/machine/register"] = lambda tunnel, request: tunnel.answer(request, b"try later", 503)
    async with device(server) as one:
        with pytest.raises(Unavailable, match="503: try later"):
            await one.register()


async def test_a_lost_connection_is_followed_by_a_new_poll(server: ControlServer) -> None:
    async with device(server) as one:
        await one.poll()
        await one.wait_for(lambda netmap: netmap.messages == 1, WAIT_S)
        first = one.netmap
        one.drop()
        await one.wait_for(lambda netmap: netmap is not first and netmap.messages == 1, WAIT_S)
        assert one.polls == 2
        # no second /key and no registration, as measured with Go
        assert [head[1] for head in server.heads] == ["/key?v=130", "/ts2021", "/ts2021"]
        assert bodies(server, "/machine/register") == []


async def test_an_ended_stream_is_followed_by_a_poll_on_the_same_connection(server: ControlServer) -> None:
    async with device(server) as one:
        await one.poll()
        await one.wait_for(lambda netmap: netmap.messages == 1, WAIT_S)
        tunnel, stream_id, _ = server.polls.pop()
        tunnel.h2.end(stream_id)
        tunnel.flush()
        await one.wait_for(lambda _: one.polls == 2 and one.netmap.messages == 1, WAIT_S)
        assert sum(head[1] == "/ts2021" for head in server.heads) == 1


async def test_graceful_goaway_moves_new_requests_and_keeps_the_poll(server: ControlServer) -> None:
    async with device(server) as one:
        await one.poll()
        await one.wait_for(lambda netmap: netmap.messages == 1, WAIT_S)
        old = server.polls[0][0]
        old.h2.goaway(graceful=True)
        old.flush()
        server.send({"OnlineChange": {}})
        await one.wait_for(lambda netmap: netmap.messages == 2, WAIT_S)
        await one.update(endpoints=[])
        assert len(server.tunnels) == 2
        server.send({"OnlineChange": {}})
        await one.wait_for(lambda netmap: netmap.messages == 3, WAIT_S)
        assert one.polls == 1


async def test_violations_outlive_their_poll(server: ControlServer) -> None:
    server.first.append({"OnlineChange": {"77": True}})
    async with device(server) as one:
        await one.poll()
        await one.wait_for(lambda netmap: netmap.messages == 2, WAIT_S)
        one.drop()
        await one.wait_for(lambda netmap: one.polls == 2 and netmap.messages == 2, WAIT_S)
        assert one.violations == ["OnlineChange for device 77, which is no peer"] * 2


async def test_a_refused_poll_is_repeated_and_explained(server: ControlServer) -> None:
    server.handlers["/machine/map"] = lambda tunnel, request: tunnel.answer(request, b"no", 404)
    async with device(server) as one:
        await one.poll()
        with pytest.raises(Unavailable, match="last failure: the map poll is answered with 404"):
            await one.wait_for(lambda netmap: netmap.messages > 0, 0.3)
        server.handlers["/machine/map"] = server.map
        await one.wait_for(lambda netmap: netmap.messages > 0, WAIT_S)


@pytest.mark.parametrize(
    ("first", "text"),
    [
        ([{"Peers": []}], "lacks Node"),
        ([{"Node": {"ID": 1, "Key": "nodekey:12"}}], "malformed Key"),
    ],
)
async def test_messages_no_client_survives_end_the_poll(
    server: ControlServer, first: list[dict[str, object]], text: str
) -> None:
    server.first = first
    async with device(server) as one:
        await one.poll()
        await one.wait_for(lambda _: one.polls > 1, WAIT_S)
        assert text in one.failures[0].message
        assert one.violations


async def test_the_watchdog_ends_a_silent_poll(server: ControlServer) -> None:
    async with device(server, watchdog_s=0.05) as one:
        await one.poll()
        await one.wait_for(lambda _: one.polls > 1, WAIT_S)
        assert "silent" in one.failures[0].message
    assert module.WATCHDOG_S == 120.0


async def test_rotation_names_the_old_key_and_polls_with_the_new(server: ControlServer) -> None:
    async with device(server) as one:
        await one.poll()
        await one.wait_for(lambda netmap: netmap.messages == 1, WAIT_S)
        old = one.node_key
        await one.rotate()
        await one.wait_for(lambda netmap: one.polls == 2 and netmap.messages == 1, WAIT_S)
        assert one.node_key != old
    register = bodies(server, "/machine/register")[0]
    assert register["OldNodeKey"] == node_key_text(old)
    assert register["NodeKey"] == node_key_text(one.node_key)
    assert bodies(server, "/machine/map")[1]["NodeKey"] == node_key_text(one.node_key)


async def test_a_refused_rotation_keeps_the_key_and_the_poll(server: ControlServer) -> None:
    server.handlers["/machine/register"] = lambda tunnel, request: tunnel.answer(request, b'{"Error":"no"}')
    async with device(server) as one:
        await one.poll()
        old = one.node_key
        assert await one.rotate() == {"Error": "no"}
        assert one.node_key == old
        assert one.is_polling


async def test_logout_ends_the_poll_with_an_expiry_in_the_past(server: ControlServer) -> None:
    async with device(server) as one:
        await one.poll()
        await one.wait_for(lambda netmap: netmap.messages == 1, WAIT_S)
        await one.logout()
        assert not one.is_polling
    assert bodies(server, "/machine/register")[0]["Expiry"] == "1970-01-01T00:02:03Z"


def ping(url: str, payload: bytes, **more: Any) -> dict[str, object]:
    inner = base64.b64encode(payload).decode()
    return {"KeepAlive": True, "PingRequest": {"URL": url, "Types": "c2n", "Payload": inner, **more}}


async def test_c2n_echo_is_answered_once_per_url(server: ControlServer) -> None:
    answers: asyncio.Queue[bytes] = asyncio.Queue(10)

    def take(tunnel: Tunnel, request: http2.Request) -> None:
        answers.put_nowait(request.body)
        tunnel.answer(request, b"")

    for number in (1, 2):
        server.handlers[f"/c2n/{number}"] = take
    async with device(server) as one, asyncio.timeout(WAIT_S):
        await one.poll()
        await one.wait_for(lambda netmap: netmap.messages == 1, WAIT_S)
        echo = b"POST /echo HTTP/1.1\r\nHost: x\r\n\r\nhello"
        server.send(ping("https://unused/c2n/1", echo))
        server.send(ping("https://unused/c2n/1", echo))
        server.send(ping("https://unused/c2n/2", b"GET /other HTTP/1.1\r\n\r\n"))
        assert await answers.get() == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        assert (await answers.get()).startswith(b"HTTP/1.1 400 ")
        assert answers.empty()


async def test_a_defect_in_the_poll_is_raised_not_waited_for(server: ControlServer) -> None:
    server.first = [{"Node": {"ID": 1}, "Peers": [{"Name": "a row without an id"}]}]
    one = device(server, strict=False)
    await one.poll()
    with pytest.raises(KeyError):
        await one.wait_for(lambda netmap: bool(netmap.peers), WAIT_S)
    with pytest.raises(KeyError):
        await one.close()
    await one.close()


async def test_two_hundred_devices_in_one_process(server: ControlServer) -> None:
    devices = [
        SimulatedDevice(
            server.url, hostname=f"d{number}", server_key=PUBLIC, machine_private=X25519PrivateKey.generate()
        )
        for number in range(200)
    ]
    await asyncio.gather(*(one.poll() for one in devices))
    await asyncio.gather(*(one.wait_for(lambda netmap: netmap.messages == 1, 60) for one in devices))
    server.send({"PeersChanged": [{"ID": 9, "Name": "new."}]})
    await asyncio.gather(*(one.wait_for(lambda netmap: 9 in netmap.peers, 60) for one in devices))
    await asyncio.gather(*(one.close() for one in devices))
    assert [one.violations for one in devices] == [[]] * 200
