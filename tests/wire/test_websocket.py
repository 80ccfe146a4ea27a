"""RFC 6455 as far as the tunnel needs it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, RemoteProtocolError
from app.wire import websocket as ws

MASK = b"\x37\xfa\x21\x3d"
GOOD = {
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-protocol": "chat, tailscale-control-protocol",
}


def client_frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    return ws.encode_frame(opcode, payload, fin=fin, mask=MASK)


def test_rfc_examples() -> None:
    assert ws.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert ws.encode_frame(ws.TEXT, b"Hello", mask=MASK).hex() == "818537fa213d7f9f4d5158"
    assert ws.encode_frame(ws.BINARY, bytes(256))[:4].hex() == "827e0100"
    assert ws.encode_frame(ws.BINARY, bytes(65536))[:10].hex() == "827f0000000000010000"


def test_upgrade_answer() -> None:
    head = ws.upgrade_response(GOOD).decode()
    assert head.startswith("HTTP/1.1 101 ")
    assert head.endswith("\r\n\r\n")
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert "Sec-WebSocket-Protocol: tailscale-control-protocol\r\n" in head


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upgrade", None),
        ("upgrade", "tailscale-control-protocol"),
        ("connection", None),
        ("connection", "close"),
        ("sec-websocket-version", "8"),
        ("sec-websocket-key", None),
        ("sec-websocket-key", "AAAA"),
        ("sec-websocket-key", "not base64!"),
        ("sec-websocket-protocol", None),
        ("sec-websocket-protocol", "chat"),
    ],
)
def test_upgrade_refusals(name: str, value: str | None) -> None:
    headers = {**GOOD, name: value} if value is not None else {k: v for k, v in GOOD.items() if k != name}
    with pytest.raises(BadRequest):
        ws.upgrade_response(headers)


@given(st.lists(st.binary(max_size=400), max_size=6), st.data())
@settings(max_examples=100, deadline=None)
def test_both_sides_carry_a_byte_stream_over_any_cut(parts: list[bytes], data: st.DataObject) -> None:
    masks = itertools.cycle([MASK, b"\x00\x00\x00\x00", b"\xff\x01\x02\x03"])
    for sender, receiver in (
        (ws.WebSocketCodec(client_masks=lambda: next(masks)), ws.WebSocketCodec()),
        (ws.WebSocketCodec(), ws.WebSocketCodec(client_masks=lambda: MASK)),
    ):
        stream = b"".join(sender.encode(part) for part in parts)
        got = b""
        while stream:
            cut = data.draw(st.integers(1, len(stream)))
            got += receiver.receive(stream[:cut])
            stream = stream[cut:]
        assert got == b"".join(parts)
        assert receiver.take_output() == b""


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frame_sizes(size: int) -> None:
    payload = bytes(i % 253 for i in range(size))
    assert ws.WebSocketCodec().receive(client_frame(ws.BINARY, payload)) == payload


def test_payload_is_passed_on_before_the_frame_ends() -> None:
    codec, frame = ws.WebSocketCodec(), client_frame(ws.BINARY, b"0123456789")
    assert codec.receive(frame[:6]) == b""
    assert [codec.receive(frame[i : i + 1]) for i in range(6, 16)] == [b"%d" % i for i in range(10)]


def test_fragments_with_control_frames_between() -> None:
    codec = ws.WebSocketCodec()
    stream = (
        client_frame(ws.BINARY, b"one ", fin=False)
        + client_frame(ws.PING, b"are you there")
        + client_frame(ws.CONTINUATION, b"two ", fin=False)
        + client_frame(ws.PONG, b"")
        + client_frame(ws.CONTINUATION, b"three")
        + client_frame(ws.BINARY, b" four")
    )
    assert codec.receive(stream) == b"one two three four"
    assert codec.take_output() == ws.encode_frame(ws.PONG, b"are you there")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", 1000),
        (b"\x03\xe8bye", 1000),
        (b"\x03\xe9", 1001),
        (b"\x0f\xa0", 4000),
        (b"\x03\xed", 1002),
        (b"\x01", 1002),
    ],
)
def test_a_close_is_answered_and_ends_reading(payload: bytes, code: int) -> None:
    codec = ws.WebSocketCodec()
    stream = (
        client_frame(ws.BINARY, b"last") + client_frame(ws.CLOSE, payload) + client_frame(ws.BINARY, b"x")
    )
    assert codec.receive(stream) == b"last"
    assert codec.closed
    assert codec.take_output() == ws.encode_frame(ws.CLOSE, code.to_bytes(2, "big"))
    assert codec.receive(client_frame(ws.BINARY, b"more")) == b""


def test_our_close_is_sent_once() -> None:
    codec = ws.WebSocketCodec(client_masks=lambda: MASK)
    codec.close()
    codec.close(1011)
    assert codec.take_output() == ws.encode_frame(ws.CLOSE, b"\x03\xe8", mask=MASK)


VIOLATIONS = {
    "unmasked": (ws.encode_frame(ws.BINARY, b"x"), 1002),
    "text": (client_frame(ws.TEXT, b"x"), 1003),
    "reserved bit": (b"\xc2\x80" + MASK, 1002),
    "unknown opcode": (client_frame(0x3, b""), 1002),
    "unknown control opcode": (client_frame(0xB, b""), 1002),
    "continuation of nothing": (client_frame(ws.CONTINUATION, b"x"), 1002),
    "new message inside a message": (
        client_frame(ws.BINARY, b"", fin=False) + client_frame(ws.BINARY, b""),
        1002,
    ),
    "fragmented ping": (client_frame(ws.PING, b"", fin=False), 1002),
    "long ping": (client_frame(ws.PING, bytes(ws.MAX_CONTROL_BYTES + 1)), 1002),
    "padded 16-bit length": (b"\x82\xfe\x00\x7d" + MASK, 1002),
    "padded 64-bit length": (b"\x82\xff" + (65535).to_bytes(8, "big") + MASK, 1002),
    "too big": (b"\x82\xff" + (ws.MAX_FRAME_BYTES + 1).to_bytes(8, "big") + MASK, 1009),
    "negative length": (b"\x82\xff" + b"\xff" * 8 + MASK, 1009),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations_close_with_a_code(name: str) -> None:
    stream, code = VIOLATIONS[name]
    codec = ws.WebSocketCodec()
    with pytest.raises(RemoteProtocolError):
        codec.receive(stream)
    assert codec.closed
    assert codec.take_output() == ws.encode_frame(ws.CLOSE, code.to_bytes(2, "big"))
    assert codec.receive(client_frame(ws.BINARY, b"x")) == b""


def test_a_client_refuses_masked_frames() -> None:
    with pytest.raises(RemoteProtocolError):
        ws.WebSocketCodec(client_masks=lambda: MASK).receive(client_frame(ws.BINARY, b"x"))


def test_pongs_nobody_collects_are_bounded() -> None:
    codec, ping = ws.WebSocketCodec(), client_frame(ws.PING, bytes(ws.MAX_CONTROL_BYTES))
    fitting = ws.MAX_CONTROL_OUTPUT_BYTES // (ws.MAX_CONTROL_BYTES + 2)
    codec.receive(ping * fitting)
    with pytest.raises(RemoteProtocolError, match="pings"):
        codec.receive(ping)


def test_a_frame_of_exactly_the_limit_passes() -> None:
    frame = client_frame(ws.BINARY, bytes(ws.MAX_FRAME_BYTES))
    assert len(ws.WebSocketCodec().receive(frame)) == ws.MAX_FRAME_BYTES


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_fuzz_ends_in_protocol_errors_only(data: bytes) -> None:
    codec = ws.WebSocketCodec()
    try:
        codec.receive(data)
    except RemoteProtocolError:
        assert codec.closed
