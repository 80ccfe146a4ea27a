"""The tunnel's client end against a small server made of the same codecs."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl as tls
from pathlib import Path
from typing import Any

import pytest
from control_server import CHALLENGE, PUBLIC, ControlServer, Tunnel
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client import connection as module
from app.client.connection import ControlConnection
from app.client.serverkey import fetch_server_key
from app.errors import BadRequest, RemoteProtocolError, Unavailable
from app.wire import http2, noise

MACHINE = X25519PrivateKey.from_private_bytes(bytes(range(64, 96)))


async def opened(server: ControlServer, **options: Any) -> ControlConnection:
    return await ControlConnection.open(server.url, machine_private=MACHINE, capver=130, **options)


@pytest.mark.parametrize("websocket", [False, True])
@pytest.mark.parametrize("early", [False, True])
async def test_open_request_close(server: ControlServer, websocket: bool, early: bool) -> None:
    server.early = early
    server.handlers["/echo"] = lambda tunnel, request: tunnel.answer(request, request.body[::-1], 207)
    connection = await opened(server, websocket=websocket)
    assert await connection.request("/echo", b"abc") == (207, b"cba")
    assert await connection.request("/echo", b"") == (207, b"")
    assert connection.challenge == (CHALLENGE if early else None)
    assert server.tunnels[0].machine_key == MACHINE.public_key().public_bytes_raw()
    assert server.heads[0][:2] == ("GET", "/key?v=130")
    await connection.close()
    assert not connection.is_usable
    with pytest.raises(Unavailable):
        connection.stream("/echo", b"")


async def test_a_known_key_saves_the_question_and_the_host_header_is_ours_to_choose(
    server: ControlServer,
) -> None:
    connection = await opened(server, server_key=PUBLIC, host_header="control.example.com")
    assert [head[1] for head in server.heads] == ["/ts2021"]
    assert server.heads[0][2]["host"] == "control.example.com"
    await connection.close()


async def test_big_bodies_both_ways_and_many_requests_at_once(server: ControlServer) -> None:
    server.handlers["/echo"] = lambda tunnel, request: tunnel.answer(request, request.body)
    connection = await opened(server)
    bodies = [bytes([number]) * (number * 40_000) for number in range(20)]
    answers = await asyncio.gather(*(connection.request("/echo", body) for body in bodies))
    assert answers == [(200, body) for body in bodies]
    await connection.close()


async def test_a_slow_reader_holds_no_more_than_its_window(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STREAM_WINDOW_BYTES", 65_536)
    total = 1_000_000
    server.handlers["/big"] = lambda tunnel, request: tunnel.answer(request, b"x" * total)
    server.handlers["/small"] = lambda tunnel, request: tunnel.answer(request, b"y")
    connection = await opened(server)
    stream = connection.stream("/big", b"")
    assert await stream.status() == 200
    await connection.request("/small", b"")  # everything that fits the window has arrived before this
    assert sum(map(len, stream._chunks)) == 65_536
    assert server.tunnels[0].h2.queued_bytes(stream.stream_id) == total - 65_536
    assert sum([len(chunk) async for chunk in stream]) == total
    await connection.close()


async def test_an_answer_too_long_is_cut_off(server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1000)
    server.handlers["/x"] = lambda tunnel, request: tunnel.answer(request, b"x" * 1001)
    connection = await opened(server)
    with pytest.raises(RemoteProtocolError, match="more than 1000 bytes"):
        await connection.request("/x", b"")
    assert connection.is_usable
    await connection.close()


async def test_no_answer_in_time_resets_the_stream_only(server: ControlServer) -> None:
    server.handlers["/never"] = lambda tunnel, request: None
    server.handlers["/ok"] = lambda tunnel, request: tunnel.answer(request, b"ok")
    connection = await opened(server)
    with pytest.raises(Unavailable, match=r"/never is not answered within 0\.05 s"):
        await connection.request("/never", b"", deadline_s=0.05)
    assert await connection.request("/ok", b"") == (200, b"ok")
    assert server.resets == 1
    await connection.close()


def hang_up(tunnel: Tunnel, request: http2.Request) -> None:
    tunnel.transport.close()


def reset(tunnel: Tunnel, request: http2.Request) -> None:
    tunnel.h2.reset(request.stream_id, 11)


def nonsense(tunnel: Tunnel, request: http2.Request) -> None:
    tunnel.transport.write(b"\x04\x00\x20" + bytes(32))


def leave(tunnel: Tunnel, request: http2.Request) -> None:
    tunnel.h2.goaway(graceful=False)
    tunnel.flush()
    tunnel.transport.close()


@pytest.mark.parametrize(
    ("handler", "error", "text"),
    [
        (hang_up, Unavailable, "the server closed the tunnel"),
        (reset, Unavailable, "reset the stream"),
        (nonsense, RemoteProtocolError, "does not authenticate"),
        (leave, Unavailable, "the server"),
    ],
)
async def test_what_a_request_meets(server: ControlServer, handler: Any, error: Any, text: str) -> None:
    server.handlers["/x"] = handler
    connection = await opened(server)
    with pytest.raises(error, match=text):
        await connection.request("/x", b"")
    assert connection.is_usable == (handler is reset)
    await connection.close()


async def test_a_graceful_goaway_lets_streams_end_then_closes(server: ControlServer) -> None:
    waiting: list[tuple[Tunnel, http2.Request]] = []
    server.handlers["/wait"] = lambda tunnel, request: waiting.append((tunnel, request))

    def go(tunnel: Tunnel, request: http2.Request) -> None:
        tunnel.h2.goaway(graceful=True)
        tunnel.answer(request, b"")

    server.handlers["/go"] = go
    connection = await opened(server)
    open_stream = connection.stream("/wait", b"")
    await connection.request("/go", b"")
    assert connection.going_away
    with pytest.raises(Unavailable, match="no more requests"):
        connection.stream("/wait", b"")
    tunnel, request = waiting[0]
    tunnel.answer(request, b"late")
    assert await open_stream.status() == 200
    assert b"".join([chunk async for chunk in open_stream]) == b"late"
    async with asyncio.timeout(5):
        await connection.wait_closed()


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\nbroken", Unavailable, "refused: 500 Oops broken"),
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", RemoteProtocolError, "something else"),
        (b"SSH-2.0\r\n\r\n", RemoteProtocolError, "not HTTP"),
        (b"x" * (module.MAX_HEAD_BYTES + 1), RemoteProtocolError, "no end"),
        (
            b"HTTP/1.1 101 X\r\nUpgrade: tailscale-control-protocol\r\n\r\n" + noise.error_frame("go away"),
            RemoteProtocolError,
            "go away",
        ),
        (
            b"HTTP/1.1 101 X\r\nUpgrade: tailscale-control-protocol\r\n\r\n" + bytes(51),
            RemoteProtocolError,
            "not a Noise answer",
        ),
    ],
)
async def test_upgrade_refusals(server: ControlServer, answer: bytes, error: Any, text: str) -> None:
    server.upgrade_answer = answer
    with pytest.raises(error, match=text):
        await opened(server, server_key=PUBLIC)


async def test_a_server_that_says_nothing(server: ControlServer) -> None:
    server.upgrade_answer = b""
    with pytest.raises(Unavailable, match="does not answer"):
        await opened(server, server_key=PUBLIC, deadline_s=0.05)


async def test_another_key_than_the_servers(server: ControlServer) -> None:
    with pytest.raises((Unavailable, RemoteProtocolError)):
        await opened(server, server_key=MACHINE.public_key().public_bytes_raw(), deadline_s=0.3)


async def test_nobody_listens(server: ControlServer) -> None:
    await server.stop()
    for key in (None, PUBLIC):
        with pytest.raises(Unavailable, match="does not answer"):
            await opened(server, server_key=key)


async def test_a_url_nobody_can_dial() -> None:
    with pytest.raises(BadRequest, match="URL"):
        await ControlConnection.open("ftp://x", machine_private=MACHINE, capver=130, server_key=PUBLIC)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n", Unavailable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", RemoteProtocolError),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"publicKey":1}', RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b" " * 70000, RemoteProtocolError),
        (b"nonsense\r\n\r\n", Unavailable),
    ],
)
async def test_key_answers_that_do_not_help(server: ControlServer, answer: bytes, error: Any) -> None:
    server.key_answer = lambda: answer  # type: ignore[method-assign]
    with pytest.raises(error):
        await fetch_server_key(server.url, 130)


def certificate(folder: Path) -> tls.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "control")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


async def test_tls_with_a_context_of_ours(tmp_path: Path) -> None:
    server = ControlServer()
    await server.start(certificate(tmp_path))
    server.handlers["/echo"] = lambda tunnel, request: tunnel.answer(request, request.body)
    trusting = tls.create_default_context(cafile=str(tmp_path / "cert.pem"))
    connection = await opened(server, ssl=trusting)
    assert await connection.request("/echo", b"hello") == (200, b"hello")
    await connection.close()
    with pytest.raises(Unavailable, match="certificate"):
        await opened(server, server_key=PUBLIC)
    await server.stop()
