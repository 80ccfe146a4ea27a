"""The Noise handshake that opens every tunnel: `Noise_IK_25519_ChaChaPoly_BLAKE2s`, both roles.

Pure: keys come in as arguments. The responder works in two halves on purpose: `open_initiation`
needs the deployment's static key only and yields the machine key (an entry routes by it);
`Responder.respond` makes the session and is done by the owner alone. An initiation can be
replayed, so a machine key read from one proves nothing about who is on the line until the
first record opens.

Layouts: tailscale control/controlbase/messages.go; prologue: handshake.go protocolVersionPrologue.
"""

from __future__ import annotations

import struct
from hashlib import blake2s
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from app.errors import LocalProtocolError, RemoteProtocolError
from app.keys import KEY_SIZE, MachineKey

INITIATION_SIZE: Final = 101
RESPONSE_SIZE: Final = 51
#: Longest error text we send or read (controlbase/conn.go maxMessageSize less the header).
MAX_ERROR_TEXT_BYTES: Final = 4093

TYPE_INITIATION: Final = 0x01
TYPE_RESPONSE: Final = 0x02
TYPE_ERROR: Final = 0x03

_TAG_SIZE = 16
_INITIATION_HEAD = struct.Struct(">HBH")
_HEAD = struct.Struct(">BH")
_PROTOCOL_HASH = blake2s(b"Noise_IK_25519_ChaChaPoly_BLAKE2s").digest()
_PROLOGUE = b"Tailscale Control Protocol v%d"
_ZERO_NONCE = bytes(12)
_ZERO_PAD = bytes(32)
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))


class Keys(NamedTuple):
    """One session's two record keys, as seen from the side that holds them."""

    rx: bytes
    tx: bytes


def _hmac(key: bytes, data: bytes) -> bytes:
    # hmac.new costs three times as much; keys here are always 32 bytes, half a BLAKE2s block.
    block = key + _ZERO_PAD
    inner = blake2s(block.translate(_INNER_PAD) + data).digest()
    return blake2s(block.translate(_OUTER_PAD) + inner).digest()


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    secret = _hmac(chaining_key, material)
    first = _hmac(secret, b"\x01")
    return first, _hmac(secret, first + b"\x02")


def _exchange(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # the result is all zero: a point of low order
        raise RemoteProtocolError("the Noise handshake carries a key of low order") from error


class _Symmetric:
    """The running hash and chaining key. Every derived key is used for one AEAD call."""

    __slots__ = ("chaining_key", "digest")

    def __init__(self, version: int, server_public: bytes) -> None:
        self.chaining_key = _PROTOCOL_HASH
        self.digest = blake2s(_PROTOCOL_HASH + _PROLOGUE % version).digest()
        self.mix_hash(server_public)

    def mix_hash(self, data: bytes) -> None:
        self.digest = blake2s(self.digest + data).digest()

    def mix_exchange(self, shared: bytes) -> ChaCha20Poly1305:
        self.chaining_key, key = _hkdf(self.chaining_key, shared)
        return ChaCha20Poly1305(key)

    def seal(self, cipher: ChaCha20Poly1305, plain: bytes) -> bytes:
        sealed = cipher.encrypt(_ZERO_NONCE, plain, self.digest)
        self.mix_hash(sealed)
        return sealed

    def unseal(self, cipher: ChaCha20Poly1305, sealed: bytes, what: str) -> bytes:
        try:
            plain = cipher.decrypt(_ZERO_NONCE, sealed, self.digest)
        except InvalidTag as error:
            raise RemoteProtocolError(f"the Noise handshake's {what} does not authenticate") from error
        self.mix_hash(sealed)
        return plain

    def split(self) -> tuple[bytes, bytes]:
        return _hkdf(self.chaining_key, b"")


class Responder:
    """The server's side after a valid initiation. `respond` may be called once."""

    __slots__ = ("_client_ephemeral", "_done", "_symmetric", "machine_key", "version")

    def __init__(
        self, version: int, machine_key: MachineKey, client_ephemeral: bytes, symmetric: _Symmetric
    ) -> None:
        self.version = version
        self.machine_key = machine_key
        self._client_ephemeral = client_ephemeral
        self._symmetric = symmetric
        self._done = False

    def respond(self, ephemeral: X25519PrivateKey) -> tuple[bytes, Keys]:
        """The 51-byte response and this session's keys. `ephemeral` must be fresh."""
        if self._done:
            raise LocalProtocolError("a Noise handshake can be answered once only")
        self._done = True
        state = self._symmetric
        public = ephemeral.public_key().public_bytes_raw()
        state.mix_hash(public)
        state.mix_exchange(_exchange(ephemeral, self._client_ephemeral))
        cipher = state.mix_exchange(_exchange(ephemeral, self.machine_key))
        tag = state.seal(cipher, b"")
        client_to_server, server_to_client = state.split()
        response = _HEAD.pack(TYPE_RESPONSE, KEY_SIZE + _TAG_SIZE) + public + tag
        return response, Keys(rx=client_to_server, tx=server_to_client)


def open_initiation(frame: bytes, server_private: X25519PrivateKey, server_public: bytes) -> Responder:
    """Check an initiation frame (exactly 101 bytes) and learn who sent it.

    Raises RemoteProtocolError when anything is malformed, does not authenticate, or names a key
    of low order.
    """
    if len(frame) != INITIATION_SIZE:
        raise RemoteProtocolError(f"a Noise initiation has {INITIATION_SIZE} bytes, not {len(frame)}")
    version, kind, size = _INITIATION_HEAD.unpack_from(frame)
    if kind != TYPE_INITIATION or size != INITIATION_SIZE - _INITIATION_HEAD.size:
        raise RemoteProtocolError(f"not a Noise initiation: type {kind}, length {size}")
    ephemeral = bytes(frame[5:37])
    state = _Symmetric(version, server_public)
    state.mix_hash(ephemeral)
    cipher = state.mix_exchange(_exchange(server_private, ephemeral))
    machine = state.unseal(cipher, bytes(frame[37:85]), "machine key")
    cipher = state.mix_exchange(_exchange(server_private, machine))
    state.unseal(cipher, bytes(frame[85:]), "proof of the machine key")
    return Responder(version, MachineKey(machine), ephemeral, state)


class Initiator:
    """The client's side. `message` is the initiation to send, `finish` takes the answer."""

    __slots__ = ("_ephemeral", "_machine_private", "_symmetric", "message")

    def __init__(
        self,
        version: int,
        machine_private: X25519PrivateKey,
        server_public: bytes,
        ephemeral: X25519PrivateKey,
    ) -> None:
        """`version` is the capability version, 16 bits. `ephemeral` must be fresh."""
        self._machine_private = machine_private
        self._ephemeral = ephemeral
        state = self._symmetric = _Symmetric(version, server_public)
        public = ephemeral.public_key().public_bytes_raw()
        state.mix_hash(public)
        cipher = state.mix_exchange(_exchange(ephemeral, server_public))
        machine = state.seal(cipher, machine_private.public_key().public_bytes_raw())
        cipher = state.mix_exchange(_exchange(machine_private, server_public))
        tag = state.seal(cipher, b"")
        head = _INITIATION_HEAD.pack(version, TYPE_INITIATION, INITIATION_SIZE - _INITIATION_HEAD.size)
        self.message = head + public + machine + tag

    def finish(self, response: bytes) -> Keys:
        """Keys of the session. Raises RemoteProtocolError, with the server's text if it sent one."""
        kind, size = _read_head(response)
        if kind == TYPE_ERROR:
            text = bytes(response[_HEAD.size : _HEAD.size + size]).decode("utf-8", "replace")
            raise RemoteProtocolError(f"the server refused the Noise handshake: {text}")
        if kind != TYPE_RESPONSE or size != KEY_SIZE + _TAG_SIZE or len(response) != RESPONSE_SIZE:
            raise RemoteProtocolError(
                f"not a Noise response: type {kind}, length {size}, {len(response)} bytes"
            )
        state = self._symmetric
        public = bytes(response[3:35])
        state.mix_hash(public)
        state.mix_exchange(_exchange(self._ephemeral, public))
        cipher = state.mix_exchange(_exchange(self._machine_private, public))
        state.unseal(cipher, bytes(response[35:]), "response")
        client_to_server, server_to_client = state.split()
        return Keys(rx=server_to_client, tx=client_to_server)


def _read_head(frame: bytes) -> tuple[int, int]:
    if len(frame) < _HEAD.size:
        raise RemoteProtocolError(f"a Noise frame has at least {_HEAD.size} bytes, not {len(frame)}")
    kind, size = _HEAD.unpack_from(frame)
    return kind, size


def answer_size(data: bytes) -> int | None:
    """Bytes of the server's whole answer (response or error frame), `None` while unknown."""
    if len(data) < _HEAD.size:
        return None
    kind, size = _read_head(data)
    if kind == TYPE_RESPONSE and size == KEY_SIZE + _TAG_SIZE:
        return RESPONSE_SIZE
    if kind == TYPE_ERROR and size <= MAX_ERROR_TEXT_BYTES:
        return _HEAD.size + size
    raise RemoteProtocolError(f"not a Noise answer: type {kind}, length {size}")


def error_frame(text: str) -> bytes:
    """A refusal in place of a response: unauthenticated text, cut at MAX_ERROR_TEXT_BYTES."""
    body = text.encode()[:MAX_ERROR_TEXT_BYTES].decode("utf-8", "ignore").encode()
    return _HEAD.pack(TYPE_ERROR, len(body)) + body
