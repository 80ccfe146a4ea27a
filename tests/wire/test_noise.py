"""The handshake against an independent implementation (PyNaCl + stdlib hmac), and its refusals."""

from __future__ import annotations

import hashlib
import hmac
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings

from app.errors import LocalProtocolError, RemoteProtocolError
from app.wire import noise

SERVER = bytes(range(32))
MACHINE = bytes(range(32, 64))
CLIENT_EPHEMERAL = bytes(range(64, 96))
SERVER_EPHEMERAL = bytes(range(96, 128))
VERSION = 130


def private(raw: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(raw)


def public(raw: bytes) -> bytes:
    return bindings.crypto_scalarmult_base(raw)


class Oracle:
    """Noise IK written from the Noise specification, for both messages at once."""

    def __init__(self, version: int) -> None:
        self.h = self.ck = hashlib.blake2s(b"Noise_IK_25519_ChaChaPoly_BLAKE2s").digest()
        self.mix(b"Tailscale Control Protocol v" + str(version).encode())
        self.mix(public(SERVER))

    def mix(self, data: bytes) -> None:
        self.h = hashlib.blake2s(self.h + data).digest()

    def hkdf(self, material: bytes) -> tuple[bytes, bytes]:
        prk = hmac.new(self.ck, material, hashlib.blake2s).digest()
        one = hmac.new(prk, b"\x01", hashlib.blake2s).digest()
        return one, hmac.new(prk, one + b"\x02", hashlib.blake2s).digest()

    def dh(self, mine: bytes, theirs: bytes) -> bytes:
        self.ck, key = self.hkdf(bindings.crypto_scalarmult(mine, theirs))
        return key

    def seal(self, key: bytes, plain: bytes) -> bytes:
        out = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plain, self.h, bytes(12), key)
        self.mix(out)
        return out

    def initiation(self, version: int) -> bytes:
        e = public(CLIENT_EPHEMERAL)
        self.mix(e)
        s = self.seal(self.dh(CLIENT_EPHEMERAL, public(SERVER)), public(MACHINE))
        tag = self.seal(self.dh(MACHINE, public(SERVER)), b"")
        return struct.pack(">HBH", version, 1, 96) + e + s + tag

    def response(self) -> bytes:
        e = public(SERVER_EPHEMERAL)
        self.mix(e)
        self.dh(SERVER_EPHEMERAL, public(CLIENT_EPHEMERAL))
        tag = self.seal(self.dh(SERVER_EPHEMERAL, public(MACHINE)), b"")
        return struct.pack(">BH", 2, 48) + e + tag


def initiator(version: int = VERSION) -> noise.Initiator:
    return noise.Initiator(version, private(MACHINE), public(SERVER), private(CLIENT_EPHEMERAL))


def open_(frame: bytes) -> noise.Responder:
    return noise.open_initiation(frame, private(SERVER), public(SERVER))


@pytest.mark.parametrize("version", [1, 68, 130, 142, 65535])
def test_both_roles_agree_with_an_independent_implementation(version: int) -> None:
    oracle = Oracle(version)
    client = initiator(version)
    assert client.message == oracle.initiation(version)
    responder = open_(client.message)
    assert (responder.machine_key, responder.version) == (public(MACHINE), version)
    response, server_keys = responder.respond(private(SERVER_EPHEMERAL))
    assert response == oracle.response()
    up, down = oracle.hkdf(b"")
    assert server_keys == noise.Keys(rx=up, tx=down)
    assert client.finish(response) == noise.Keys(rx=down, tx=up)


def test_golden_vector() -> None:
    client = initiator()
    response, keys = open_(client.message).respond(private(SERVER_EPHEMERAL))
    assert len(client.message) == noise.INITIATION_SIZE == 101
    assert len(response) == noise.RESPONSE_SIZE == 51
    assert client.message.hex() == GOLDEN_INITIATION
    assert response.hex() == GOLDEN_RESPONSE
    assert (keys.rx.hex(), keys.tx.hex()) == GOLDEN_KEYS


GOLDEN_INITIATION = (
    "008201006079a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a5a5d3ec50c63b0e0156101"
    "cf138f46d05427ed87f592c2009bab26f178d726e3f9f218a1e002bd7ccc15154108a56bf96ff917c8329cc938928f51"
    "ba487e43a1"
)
GOLDEN_RESPONSE = (
    "020030675dd574ed7789310b3d2e7681f3790b466c773b1521fecf36577958371ea52f6a7db785c4017c14d4913e68639b27c7"
)
GOLDEN_KEYS = (
    "8b2f6bbba15ce6d607c316355f2d3c93f62dcbe39b04eb873b5b2e2812dc71b6",
    "e8f7da7193cd2dd7834427bc5de410cc7fa42ea2bddb06906a91b23daf60a99b",
)


@pytest.mark.parametrize("size", range(noise.INITIATION_SIZE))
def test_every_prefix_of_an_initiation_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        open_(initiator().message[:size])


def test_a_longer_initiation_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        open_(initiator().message + b"\0")


@pytest.mark.parametrize("place", range(noise.INITIATION_SIZE))
def test_every_byte_of_an_initiation_is_protected(place: int) -> None:
    frame = bytearray(initiator().message)
    frame[place] ^= 0x01
    with pytest.raises(RemoteProtocolError):
        open_(bytes(frame))


@pytest.mark.parametrize("place", range(noise.RESPONSE_SIZE))
def test_every_byte_of_a_response_is_protected(place: int) -> None:
    client = initiator()
    response = bytearray(open_(client.message).respond(private(SERVER_EPHEMERAL))[0])
    response[place] ^= 0x01
    with pytest.raises(RemoteProtocolError):
        client.finish(bytes(response))


@pytest.mark.parametrize("size", range(noise.RESPONSE_SIZE))
def test_every_prefix_of_a_response_is_refused(size: int) -> None:
    client = initiator()
    response, _ = open_(client.message).respond(private(SERVER_EPHEMERAL))
    with pytest.raises(RemoteProtocolError):
        client.finish(response[:size])


LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_are_refused_from_either_side(point: bytes) -> None:
    client = initiator()
    with pytest.raises(RemoteProtocolError, match="low order"):
        open_(client.message[:5] + point + client.message[37:])
    with pytest.raises(RemoteProtocolError, match="low order"):
        client.finish(struct.pack(">BH", 2, 48) + point + bytes(16))


def test_a_machine_key_of_low_order_is_refused_though_it_authenticates() -> None:
    oracle = Oracle(VERSION)
    e = public(CLIENT_EPHEMERAL)
    oracle.mix(e)
    sealed = oracle.seal(oracle.dh(CLIENT_EPHEMERAL, public(SERVER)), bytes(32))
    frame = struct.pack(">HBH", VERSION, 1, 96) + e + sealed + bytes(16)
    with pytest.raises(RemoteProtocolError, match="low order"):
        open_(frame)


def test_a_stranger_cannot_claim_another_machine_key() -> None:
    oracle = Oracle(VERSION)
    e = public(CLIENT_EPHEMERAL)
    oracle.mix(e)
    sealed = oracle.seal(oracle.dh(CLIENT_EPHEMERAL, public(SERVER)), public(MACHINE))
    forged = oracle.seal(oracle.dh(CLIENT_EPHEMERAL, public(SERVER)), b"")
    with pytest.raises(RemoteProtocolError, match="proof"):
        open_(struct.pack(">HBH", VERSION, 1, 96) + e + sealed + forged)


def test_another_server_key_does_not_open_it() -> None:
    with pytest.raises(RemoteProtocolError, match="authenticate"):
        noise.open_initiation(initiator().message, private(MACHINE), public(MACHINE))


def test_a_handshake_is_answered_once() -> None:
    responder = open_(initiator().message)
    responder.respond(private(SERVER_EPHEMERAL))
    with pytest.raises(LocalProtocolError):
        responder.respond(private(SERVER_EPHEMERAL))


def test_an_error_frame_reaches_the_client_as_text() -> None:
    with pytest.raises(RemoteProtocolError, match="no such server"):
        initiator().finish(noise.error_frame("no such server"))


def test_an_error_text_is_cut_at_a_character() -> None:
    frame = noise.error_frame("ä" * noise.MAX_ERROR_TEXT_BYTES)
    assert frame[:3] == struct.pack(">BH", 3, noise.MAX_ERROR_TEXT_BYTES - 1)
    assert frame[3:].decode() == "ä" * (noise.MAX_ERROR_TEXT_BYTES // 2)
    assert noise.answer_size(frame) == len(frame)


@pytest.mark.parametrize(
    ("head", "size"),
    [(b"", None), (b"\x02\x00", None), (b"\x02\x00\x30", 51), (b"\x03\x00\x05", 8), (b"\x03\x00\x00", 3)],
)
def test_answer_size(head: bytes, size: int | None) -> None:
    assert noise.answer_size(head) == size


@pytest.mark.parametrize("head", [b"HTTP", b"\x02\x00\x31", b"\x03\xff\xff", b"\x04\x00\x30"])
def test_answer_size_refuses_everything_else(head: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        noise.answer_size(head)


@given(st.binary(max_size=160))
@settings(max_examples=100, deadline=None)
def test_fuzz_ends_in_protocol_errors_only(data: bytes) -> None:
    for frame in (data, struct.pack(">HBH", 130, 1, 96) + data.ljust(96, b"\0")[:96]):
        with pytest.raises(RemoteProtocolError):
            open_(frame)
    with pytest.raises(RemoteProtocolError):
        initiator().finish(data)
