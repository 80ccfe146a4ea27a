"""Records and the early payload: vectors, every cut, limits, refusals."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings

from app.errors import LocalProtocolError, RemoteProtocolError
from app.wire import records
from app.wire.records import EarlyPayloadReader, Opener, Sealer

KEY = bytes(range(32))


def reference(plain: bytes, counter: int) -> bytes:
    nonce = bytes(4) + counter.to_bytes(8, "big")
    sealed = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plain, None, nonce, KEY)
    return b"\x04" + len(sealed).to_bytes(2, "big") + sealed


def test_records_agree_with_an_independent_implementation() -> None:
    sealer = Sealer(KEY)
    stream = b"".join(sealer.seal(b"record %d" % number) for number in range(300))
    assert stream == b"".join(reference(b"record %d" % number, number) for number in range(300))


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, []),
        (1, [1]),
        (records.MAX_PLAINTEXT, [4077]),
        (records.MAX_PLAINTEXT + 1, [4077, 1]),
        (2 * records.MAX_PLAINTEXT, [4077, 4077]),
        (10_000, [4077, 4077, 1846]),
    ],
)
def test_long_plaintext_is_split(size: int, sizes: list[int]) -> None:
    plain = bytes(i % 251 for i in range(size))
    stream = Sealer(KEY).seal(plain)
    expected, start = [], 0
    for number, part in enumerate(sizes):
        expected.append(reference(plain[start : start + part], number))
        start += part
    assert stream == b"".join(expected)
    assert all(len(record) <= records.MAX_FRAME for record in expected)
    assert Opener(KEY).feed(stream) == plain


def test_zero_length_records_are_legal() -> None:
    stream = reference(b"", 0) + reference(b"a", 1) + reference(b"", 2) + reference(b"b", 3)
    assert Opener(KEY).feed(stream) == b"ab"


def test_every_proper_prefix_waits_for_more() -> None:
    record = reference(b"hello", 0)
    for size in range(len(record)):
        opener = Opener(KEY)
        assert opener.feed(record[:size]) == b""
        assert opener.pending_bytes == size
        assert opener.feed(record[size:]) == b"hello"


def test_byte_by_byte() -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    plain = b"".join(b"%d," % number for number in range(2000))
    stream = sealer.seal(plain) + sealer.seal(b"end")
    assert b"".join(opener.feed(stream[i : i + 1]) for i in range(len(stream))) == plain + b"end"
    assert opener.pending_bytes == 0


@given(st.lists(st.binary(max_size=9000), max_size=5), st.lists(st.integers(1, 5000), max_size=20))
@settings(max_examples=60, deadline=None)
def test_any_cut_gives_the_same_bytes(plains: list[bytes], cuts: list[int]) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    stream = b"".join(sealer.seal(plain) for plain in plains)
    got = []
    for cut in [*cuts, len(stream)]:
        got.append(opener.feed(stream[:cut]))
        stream = stream[cut:]
        assert opener.pending_bytes < records.MAX_FRAME
    assert b"".join(got) == b"".join(plains)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 5, 255])
def test_only_records_are_expected(kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"frame type {kind}"):
        Opener(KEY).feed(bytes([kind, 0, 20]))


@pytest.mark.parametrize("size", [0, 15, records.MAX_CIPHERTEXT + 1, 65535])
def test_impossible_lengths_are_refused_at_the_header(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{size} bytes"):
        Opener(KEY).feed(struct.pack(">BH", 4, size))


def test_every_byte_of_the_body_is_protected_and_an_error_is_final() -> None:
    record = reference(b"hello", 0)
    for place in range(3, len(record)):
        broken = bytearray(record)
        broken[place] ^= 0x80
        opener = Opener(KEY)
        with pytest.raises(RemoteProtocolError, match="authenticate"):
            opener.feed(bytes(broken))
        with pytest.raises(RemoteProtocolError, match="already"):
            opener.feed(record)


@pytest.mark.parametrize("counters", [(1,), (0, 0), (0, 2), (0, 1 << 56)])
def test_order_and_endianness_of_nonces_matter(counters: tuple[int, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        Opener(KEY).feed(b"".join(reference(b"x", counter) for counter in counters))


def test_nonces_run_out() -> None:
    last = records.EXHAUSTED_NONCE - 1
    sealer, opener = Sealer(KEY, counter=last), Opener(KEY, counter=last)
    assert opener.feed(sealer.seal(b"last")) == b"last"
    with pytest.raises(LocalProtocolError):
        sealer.seal(b"one more")
    with pytest.raises(RemoteProtocolError, match="nonces"):
        opener.feed(reference(b"one more", records.EXHAUSTED_NONCE))


@given(st.binary(max_size=6000))
@settings(max_examples=100, deadline=None)
def test_fuzz_ends_in_protocol_errors_only(data: bytes) -> None:
    opener = Opener(KEY)
    try:
        assert opener.feed(data) == b""
    except RemoteProtocolError:
        assert opener.pending_bytes == 0


CHALLENGE = bytes(range(200, 232))
SETTINGS = bytes(3) + b"\x04" + bytes(5)


def test_early_payload_bytes() -> None:
    body = b'{"nodeKeyChallenge":"chalpub:' + CHALLENGE.hex().encode() + b'"}'
    assert records.early_payload(CHALLENGE) == b"\xff\xff\xffTS" + struct.pack(">I", len(body)) + body


@pytest.mark.parametrize("with_payload", [True, False])
def test_early_payload_at_every_cut(with_payload: bool) -> None:
    stream = (records.early_payload(CHALLENGE) if with_payload else b"") + SETTINGS
    needed = len(stream) - (len(SETTINGS) if with_payload else 0)
    for cut in range(len(stream)):
        reader = EarlyPayloadReader()
        first = reader.feed(stream[:cut])
        if cut < needed:
            assert first is None
            first = reader.feed(stream[cut:])
            rest = SETTINGS
        else:
            rest = stream[needed:cut] if with_payload else stream[:cut]
        assert first == (CHALLENGE if with_payload else None, rest)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"nodeKeyChallenge":3}',
        b'{"nodeKeyChallenge":"chalpub:00"}',
        b'{"nodeKeyChallenge":"' + b"z" * 72 + b'"}',
        b'{"nodeKeyChallenge":"chalpub:' + b"z" * 64 + b'"}',
    ],
)
def test_an_early_payload_nobody_understands(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        EarlyPayloadReader().feed(records.EARLY_MAGIC + struct.pack(">I", len(body)) + body)


def test_an_early_payload_without_challenge() -> None:
    assert EarlyPayloadReader().feed(records.EARLY_MAGIC + b"\0\0\0\x02{}rest") == (None, b"rest")


def test_an_early_payload_is_bounded() -> None:
    limit = records.MAX_EARLY_PAYLOAD_BYTES
    assert len(records.early_payload(CHALLENGE)) - 9 <= limit
    assert EarlyPayloadReader().feed(records.EARLY_MAGIC + struct.pack(">I", limit)) is None
    with pytest.raises(RemoteProtocolError, match="too long"):
        EarlyPayloadReader().feed(records.EARLY_MAGIC + struct.pack(">I", limit + 1))
