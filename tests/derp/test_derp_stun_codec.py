"""STUN codec: golden bytes, what is refused, round trips."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import RemoteProtocolError
from app.wire import stun

TXID = bytes(range(12))
REQUEST = (
    "0001 0014 2112a442 000102030405060708090a0b"  # binding request, 20 bytes of attributes
    "8022 0008 7461696c6e6f6465"  # SOFTWARE tailnode
    "8028 0004"
)


def _with_fingerprint(body: bytes) -> bytes:
    return body + (zlib.crc32(body[:-4]) ^ 0x5354554E).to_bytes(4, "big")


def test_request_is_the_documented_bytes() -> None:
    expected = _with_fingerprint(bytes.fromhex(REQUEST))
    assert stun.encode_request(TXID) == expected
    assert len(expected) == 40
    assert stun.parse_request(expected) == TXID


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("192.0.2.1", 32853, "0101000c2112a442" + TXID.hex() + "002000080001a147e112a643"),
        ("::ffff:192.0.2.1", 32853, "0101000c2112a442" + TXID.hex() + "002000080001a147e112a643"),
        (
            "2001:db8::1%eth0",
            32853,
            "010100182112a442" + TXID.hex() + "002000140002a147" + "0113a9fa000102030405060708090a0a",
        ),
    ],
)
def test_response_is_the_documented_bytes(host: str, port: int, expected: str) -> None:
    answer = stun.encode_response(TXID, host, port)
    assert answer.hex() == expected
    assert len(answer) == (32 if "." in host else 44)


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(min_size=12, max_size=12))
@settings(max_examples=100, deadline=None)
def test_response_round_trip(address: object, port: int, transaction_id: bytes) -> None:
    answer = stun.encode_response(transaction_id, str(address), port)
    assert stun.parse_response(answer) == (transaction_id, str(stun.unmapped(str(address))), port)


def test_every_prefix_and_every_flipped_bit_is_refused() -> None:
    request = stun.encode_request(TXID)
    for size in range(len(request)):
        with pytest.raises(RemoteProtocolError):
            stun.parse_request(request[:size])
    for bit in range(8 * len(request)):
        changed = bytearray(request)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteProtocolError):
            stun.parse_request(bytes(changed))


@pytest.mark.parametrize(
    "attributes",
    [
        "8022 0008 7461696c6e6f6466 8028 0004",  # other software
        "8028 0004",  # no software
        "8022 0008 7461696c6e6f6465 8029 0004",  # no fingerprint
        "8022 00ff 7461696c6e6f6465 8028 0004",  # attribute longer than the datagram
        "8022 0008 7461696c6e6f6465 0000 8028 0004",  # two stray bytes
        "8022 0008 7461696c6e6f6465 8028 0003",  # fingerprint of another size
    ],
)
def test_other_requests_are_refused(attributes: str) -> None:
    body = bytes.fromhex(attributes)
    header = b"\x00\x01" + (len(body) + 4).to_bytes(2, "big") + stun.MAGIC_COOKIE + TXID
    with pytest.raises(RemoteProtocolError):
        stun.parse_request(_with_fingerprint(header + body))


def test_other_attributes_before_are_fine() -> None:
    body = bytes.fromhex("0006 0003 616263 00 8022 0008 7461696c6e6f6465 8028 0004")
    header = b"\x00\x01" + (len(body) + 4).to_bytes(2, "big") + stun.MAGIC_COOKIE + TXID
    assert stun.parse_request(_with_fingerprint(header + body)) == TXID


def test_long_datagram_is_refused() -> None:
    size = stun.MAX_REQUEST_BYTES
    body = b"\x00\x06" + size.to_bytes(2, "big") + bytes(size)
    with pytest.raises(RemoteProtocolError):
        stun.parse_request(b"\x00\x01" + len(body).to_bytes(2, "big") + stun.MAGIC_COOKIE + TXID + body)


@given(st.binary(max_size=100))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_refused(data: bytes) -> None:
    for parse in (stun.parse_request, stun.parse_response):
        with pytest.raises(RemoteProtocolError):
            parse(data)
