"""Golden bytes of frames and header blocks."""

from __future__ import annotations

import pytest
from hpack import Decoder
from http2_kit import GET, data, frames, headers, server
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import LocalProtocolError
from app.wire import h2frames as h2
from app.wire.http2 import ClientConnection, Request, ServerConnection

GOLDEN = {
    "data": (data(1, b"abc"), "000003 00 00 00000001 616263"),
    "data end": (data(3, end=True), "000000 00 01 00000003"),
    "settings": (h2.settings(((3, 128), (4, 262_144))), "00000c 04 00 00000000 0003 00000080 0004 00040000"),
    "settings ack": (h2.SETTINGS_ACK, "000000 04 01 00000000"),
    "ping ack": (h2.frame(h2.PING, h2.FLAG_ACK, 0, b"12345678"), "000008 06 01 00000000 3132333435363738"),
    "window update": (h2.window_update(5, 1000), "000004 08 00 00000005 000003e8"),
    "rst": (h2.rst_stream(7, h2.ErrorCode.CANCEL), "000004 03 00 00000007 00000008"),
    "goaway": (h2.goaway(2**31 - 1, 0, b"bye"), "00000b 07 00 00000000 7fffffff 00000000 627965"),
    "headers": (h2.header_frames(1, b"\x88", 16_384, end_stream=True), "000001 01 05 00000001 88"),
    "continuation": (
        h2.header_frames(1, b"abcde", 2, end_stream=True),
        "000002 01 01 00000001 6162 000002 09 00 00000001 6364 000001 09 04 00000001 65",
    ),
    # RFC 7541 C.2.2: a literal without indexing, name from the static table
    "literal, known name": (
        h2.encode_headers(((":path", "/sample/path"),)),
        "04 0c 2f73616d706c652f70617468",
    ),
    "indexed": (h2.encode_headers(((":status", "200"), (":method", "POST"))), "88 83"),
    "name above 15": (h2.encode_headers((("content-length", "2"),)), "0f0d 01 32"),
    "new name": (h2.encode_headers((("ts-lb", "n"),)), "00 05 74732d6c62 01 6e"),
    "empty value": (h2.encode_headers((("accept", ""),)), "0f04 00"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    built, expected = GOLDEN[name]
    assert built == bytes.fromhex(expected)


def test_greetings() -> None:
    server_side = ServerConnection()
    server_side.start()
    assert server_side.take_output() == bytes.fromhex(
        "000012 04 00 00000000 0003 00000080 0004 00040000 0006 00010000 000004 08 00 00000000 00030001"
    )
    client_side = ClientConnection(initial_window_bytes=65_535)
    client_side.start()
    assert client_side.take_output() == h2.PREFACE + bytes.fromhex(
        "000012 04 00 00000000 0002 00000000 0004 0000ffff 0006 00010000"
    )


def test_a_compressed_request() -> None:
    """Huffman, indexed and incremental fields as real clients send them (strings of RFC 7541 C.4)."""
    field_block = bytes.fromhex(
        "418cf1e3c2e5f23a6ba0ab90f4ff"  # :authority www.example.com, Huffman, indexed from now on
        "838704022f78"  # :method POST, :scheme https, :path /x
        "0f0d0132"  # content-length 2
        "400574732d6c62106e6f64656b65793a3061306230633064"  # ts-lb, indexed from now on
    )
    first = h2.header_frames(1, field_block, 16_384, end_stream=False) + data(1, b"{}", end=True)
    again = h2.header_frames(3, bytes.fromhex("bf 83 87 04022f79 be"), 16_384, end_stream=True)
    lb = ("ts-lb", "nodekey:0a0b0c0d")
    assert server().receive(first + again) == [
        Request(1, "POST", "/x", (("content-length", "2"), lb), b"{}"),
        Request(3, "POST", "/y", (lb,), b""),
    ]


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True)
            | st.sampled_from([":path", "accept", "cookie", "content-type"]),
            st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=300),
        ),
        max_size=12,
    )
)
def test_header_blocks_decode_to_what_was_given(pairs: list[tuple[str, str]]) -> None:
    decoded = Decoder().decode(h2.encode_headers(pairs), raw=True)
    assert [(n.decode("latin-1"), v.decode("latin-1")) for n, v in decoded] == pairs


@pytest.mark.parametrize("size", [0, 126, 127, 128, 254, 255, 16_383, 20_000])
def test_string_lengths(size: int) -> None:
    assert Decoder().decode(h2.encode_headers((("x-a", "v" * size),)))[0][1] == "v" * size


@pytest.mark.parametrize(
    "pair",
    [
        ("Upper", "x"),
        ("", "x"),
        ("a b", "x"),
        ("x", "a\r\nb"),
        ("x", "\0"),
        ("x", " a"),
        ("x", "a\t"),
        ("x", "€"),
    ],
)
def test_headers_we_must_not_send(pair: tuple[str, str]) -> None:
    with pytest.raises(LocalProtocolError):
        h2.encode_headers((pair,))


def test_a_refused_header_leaves_the_stream_as_it_was() -> None:
    connection = server()
    connection.receive(headers(1, base=GET))
    with pytest.raises(LocalProtocolError):
        connection.respond(1, 200, [("Bad", "x")])
    connection.respond(1, 200, end_stream=True)
    assert list(frames(connection.take_output())) == [(h2.HEADERS, 5, 1, b"\x88")]


@pytest.mark.parametrize(
    ("flags", "payload", "expected"),
    [
        (0, b"abc", b"abc"),
        (h2.FLAG_PADDED, b"\0abc", b"abc"),
        (h2.FLAG_PADDED, b"\2abc\0\0", b"abc"),
        (h2.FLAG_PADDED, b"\5\0\0\0\0\0", b""),
    ],
)
def test_unpad(flags: int, payload: bytes, expected: bytes) -> None:
    assert h2.unpad(flags, payload) == expected
