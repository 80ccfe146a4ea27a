"""Noise transport records, and the early payload in front of HTTP/2.

Record: type 0x04, u16 length, ChaCha20-Poly1305 ciphertext without associated data; the whole
frame is at most 4096 bytes. The nonce is four zero bytes and a **big-endian** 64-bit counter,
unlike Noise and WireGuard (tailscale control/controlbase/conn.go). Pure.
"""

from __future__ import annotations

import struct
from typing import Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from app.errors import LocalProtocolError, RemoteProtocolError
from app.keys import KEY_SIZE

RECORD_TYPE: Final = 0x04
MAX_FRAME: Final = 4096
MAX_CIPHERTEXT: Final = MAX_FRAME - 3
TAG_SIZE: Final = 16
MAX_PLAINTEXT: Final = MAX_CIPHERTEXT - TAG_SIZE
#: Counter value that must never be used (controlbase/conn.go invalidNonce).
EXHAUSTED_NONCE: Final = 2**64 - 1

EARLY_MAGIC: Final = b"\xff\xff\xffTS"
#: The Rust client reads no more (tailscale-rs ts_control connect.rs MAX_CHALLENGE_LENGTH).
MAX_EARLY_PAYLOAD_BYTES: Final = 1024

_HEAD = struct.Struct(">BH")
_head = _HEAD.pack
_nonce = struct.Struct(">4xQ").pack
_EARLY_HEAD_SIZE = len(EARLY_MAGIC) + 4
_CHALLENGE_PREFIX = "chalpub:"


class Sealer:
    """Turns plaintext into records of one direction."""

    __slots__ = ("_counter", "_encrypt")

    def __init__(self, key: bytes, *, counter: int = 0) -> None:
        self._encrypt = ChaCha20Poly1305(key).encrypt
        self._counter = counter

    def seal(self, plain: bytes) -> bytes:
        """All records for `plain`, ready to write; nothing for nothing.

        Raises LocalProtocolError when the direction's nonces are used up.
        """
        size = len(plain)
        if 0 < size <= MAX_PLAINTEXT:
            counter = self._counter
            if counter >= EXHAUSTED_NONCE:
                raise LocalProtocolError("this tunnel has used all its nonces")
            self._counter = counter + 1
            return _head(RECORD_TYPE, size + TAG_SIZE) + self._encrypt(_nonce(counter), plain, None)
        view = memoryview(plain)
        return b"".join(
            [self.seal(bytes(view[start : start + MAX_PLAINTEXT])) for start in range(0, size, MAX_PLAINTEXT)]
        )


class Opener:
    """Turns a byte stream of records back into plaintext; keeps less than one frame.

    The cipher is built at the first whole record: it costs 2.3 KB and idle devices need none.
    After an error the object refuses everything.
    """

    __slots__ = ("_cipher", "_counter", "_failed", "_key", "_pending")

    def __init__(self, key: bytes, *, counter: int = 0) -> None:
        self._key = key
        self._cipher: ChaCha20Poly1305 | None = None
        self._counter = counter
        self._pending = b""
        self._failed = False

    @property
    def opened(self) -> bool:
        """Whether any record has opened: the peer holds the keys."""
        return self._counter > 0 and not self._failed

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished record."""
        return len(self._pending)

    def feed(self, data: bytes) -> bytes:
        """Plaintext of every record completed by `data`, joined; maybe nothing.

        Raises RemoteProtocolError on a wrong type, length or tag.
        """
        if self._failed:
            raise RemoteProtocolError("this tunnel is broken already")
        try:
            return self._feed(self._pending + data if self._pending else data)
        except RemoteProtocolError:
            self._failed = True
            self._pending = b""
            raise

    def _feed(self, data: bytes) -> bytes:
        plains: list[bytes] = []
        start, end = 0, len(data)
        while end - start >= _HEAD.size:
            kind, size = _HEAD.unpack_from(data, start)
            if kind != RECORD_TYPE:
                raise RemoteProtocolError(f"expected a Noise record, got frame type {kind}")
            if not TAG_SIZE <= size <= MAX_CIPHERTEXT:
                raise RemoteProtocolError(f"a Noise record cannot hold {size} bytes")
            stop = start + _HEAD.size + size
            if stop > end:
                break
            plains.append(self._open(data[start + _HEAD.size : stop]))
            start = stop
        self._pending = bytes(data[start:])
        return plains[0] if len(plains) == 1 else b"".join(plains)

    def _open(self, sealed: bytes) -> bytes:
        cipher = self._cipher
        if cipher is None:
            cipher = self._cipher = ChaCha20Poly1305(self._key)
        counter = self._counter
        if counter >= EXHAUSTED_NONCE:
            raise RemoteProtocolError("the other side has used all nonces of this tunnel")
        self._counter = counter + 1
        try:
            return cipher.decrypt(_nonce(counter), sealed, None)
        except InvalidTag as error:
            raise RemoteProtocolError(f"Noise record {counter} does not authenticate") from error


def early_payload(challenge_public: bytes) -> bytes:
    """What a server may say before HTTP/2: a challenge key (tailcfg.EarlyNoise)."""
    body = orjson.dumps({"nodeKeyChallenge": _CHALLENGE_PREFIX + challenge_public.hex()})
    return EARLY_MAGIC + len(body).to_bytes(4, "big") + body


class EarlyPayloadReader:
    """Client side: separates an early payload, if there is one, from the HTTP/2 bytes behind it.

    It looks at the first nine bytes, the size of an HTTP/2 frame header (control/ts2021/conn.go).
    """

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> tuple[bytes | None, bytes] | None:
        """`None` while undecided, then once (challenge public key or None, rest).

        Raises RemoteProtocolError on a payload too long or not understood.
        """
        data = self._pending = self._pending + data
        if len(data) < _EARLY_HEAD_SIZE:
            return None
        if not data.startswith(EARLY_MAGIC):
            return None, data
        size = int.from_bytes(data[len(EARLY_MAGIC) : _EARLY_HEAD_SIZE], "big")
        if size > MAX_EARLY_PAYLOAD_BYTES:
            raise RemoteProtocolError(f"an early payload of {size} bytes is too long")
        stop = _EARLY_HEAD_SIZE + size
        if len(data) < stop:
            return None
        return _challenge(data[_EARLY_HEAD_SIZE:stop]), data[stop:]


def _challenge(body: bytes) -> bytes | None:
    try:
        decoded = orjson.loads(body)
        text = decoded.get("nodeKeyChallenge")
        if text is None:
            return None
        if not text.startswith(_CHALLENGE_PREFIX) or len(text) != len(_CHALLENGE_PREFIX) + 2 * KEY_SIZE:
            raise ValueError("not a chalpub key")
        return bytes.fromhex(text[len(_CHALLENGE_PREFIX) :])
    except (ValueError, AttributeError) as error:
        raise RemoteProtocolError("the early payload is not understood") from error
