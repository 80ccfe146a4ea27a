"""DERP frames: type u8, length u32 big-endian, payload; and the two NaCl boxes of the handshake.

Source: tailscale derp/derp.go (FrameType constants, MaxPacketSize), derp/derp_client.go,
derp/derpserver/derpserver.go. Pure: bytes in, bytes out; nonces are arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import msgspec
from nacl.bindings import crypto_box_NONCEBYTES
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

from app.errors import LocalProtocolError, RemoteProtocolError
from app.keys import KEY_SIZE

PROTOCOL_VERSION = 2
MAGIC = b"DERP\xf0\x9f\x94\x91"
HEADER_SIZE = 5
NONCE_SIZE = crypto_box_NONCEBYTES
BOX_OVERHEAD = 16

#: Largest relayed packet, without the key in front of it (derp.MaxPacketSize).
MAX_PACKET_BYTES = 64 * 1024
#: Largest ClientInfo frame payload (derpserver recvClientKey).
MAX_CLIENT_INFO_BYTES = 256 * 1024
#: Largest ping payload; the first PING_SIZE bytes are echoed.
MAX_PING_BYTES = 1000
PING_SIZE = 8
#: Payload of a frame whose type we do not know; read and forgotten, never buffered.
MAX_SKIPPED_BYTES = 1024 * 1024
#: Largest Health text and ServerInfo box we send or accept.
MAX_HEALTH_BYTES = 1024
MAX_SERVER_INFO_BYTES = 64 * 1024

#: A disco packet: magic, sender's disco key, nonce (disco/disco.go Magic, and the key and nonce after it).
DISCO_MAGIC = b"TS\xf0\x9f\x92\xac"
MIN_DISCO_BYTES = len(DISCO_MAGIC) + KEY_SIZE + NONCE_SIZE

_HEADER = struct.Struct(">BI")
_RESTARTING = struct.Struct(">II")


class FrameType(IntEnum):
    """First byte of a frame (derp/derp.go). Mesh frames (09, 0a, 10, 11) are named to be refused."""

    SERVER_KEY = 0x01
    CLIENT_INFO = 0x02
    SERVER_INFO = 0x03
    SEND_PACKET = 0x04
    RECV_PACKET = 0x05
    KEEP_ALIVE = 0x06
    NOTE_PREFERRED = 0x07
    PEER_GONE = 0x08
    PEER_PRESENT = 0x09
    FORWARD_PACKET = 0x0A
    WATCH_CONNS = 0x10
    CLOSE_PEER = 0x11
    PING = 0x12
    PONG = 0x13
    HEALTH = 0x14
    RESTARTING = 0x15


class PeerGoneReason(IntEnum):
    DISCONNECTED = 0x00
    NOT_HERE = 0x01


#: Payload bounds (least, most) of what a relay accepts from a client.
CLIENT_LIMITS: Mapping[int, tuple[int, int]] = {
    FrameType.CLIENT_INFO: (KEY_SIZE + NONCE_SIZE + BOX_OVERHEAD, MAX_CLIENT_INFO_BYTES),
    FrameType.SEND_PACKET: (KEY_SIZE, KEY_SIZE + MAX_PACKET_BYTES),
    FrameType.KEEP_ALIVE: (0, 0),
    FrameType.NOTE_PREFERRED: (1, 1),
    FrameType.FORWARD_PACKET: (2 * KEY_SIZE, 2 * KEY_SIZE + MAX_PACKET_BYTES),
    FrameType.WATCH_CONNS: (0, 0),
    FrameType.CLOSE_PEER: (KEY_SIZE, KEY_SIZE),
    FrameType.PING: (PING_SIZE, MAX_PING_BYTES),
    FrameType.PONG: (PING_SIZE, MAX_PING_BYTES),
}

#: Payload bounds (least, most) of what a client accepts from a relay.
SERVER_LIMITS: Mapping[int, tuple[int, int]] = {
    FrameType.SERVER_KEY: (len(MAGIC) + KEY_SIZE, len(MAGIC) + KEY_SIZE),
    FrameType.SERVER_INFO: (NONCE_SIZE + BOX_OVERHEAD, MAX_SERVER_INFO_BYTES),
    FrameType.RECV_PACKET: (KEY_SIZE, KEY_SIZE + MAX_PACKET_BYTES),
    FrameType.KEEP_ALIVE: (0, 0),
    FrameType.PEER_GONE: (KEY_SIZE, KEY_SIZE + 1),
    FrameType.PING: (PING_SIZE, MAX_PING_BYTES),
    FrameType.PONG: (PING_SIZE, MAX_PING_BYTES),
    FrameType.HEALTH: (0, MAX_HEALTH_BYTES),
    FrameType.RESTARTING: (_RESTARTING.size, _RESTARTING.size),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame; `type` is one of the decoder's known types."""

    type: int
    payload: bytes


class FrameDecoder:
    """Incremental: `feed` bytes, then take frames with `next_frame` until it gives None.

    Frames of unknown type are skipped without being stored. A frame outside its bounds raises
    RemoteProtocolError, as soon as its header is there. Never holds more than one frame and
    what was fed with it.
    """

    __slots__ = ("_buffer", "_limits", "_offset", "_skip")

    def __init__(self, limits: Mapping[int, tuple[int, int]] = CLIENT_LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._offset = 0
        self._skip = 0

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer) - self._offset

    def feed(self, data: bytes) -> None:
        """Adds received bytes."""
        if self._skip:
            cut = min(self._skip, len(data))
            self._skip -= cut
            data = data[cut:]
        if self._offset:
            del self._buffer[: self._offset]
            self._offset = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None when more bytes are needed. Raises RemoteProtocolError."""
        while self.buffered_bytes >= HEADER_SIZE:
            kind, length = _HEADER.unpack_from(self._buffer, self._offset)
            bounds = self._limits.get(kind)
            if bounds is None:
                self._skip_frame(kind, length)
                continue
            if not bounds[0] <= length <= bounds[1]:
                raise RemoteProtocolError(
                    f"DERP frame 0x{kind:02x} has {length} bytes, allowed are {bounds[0]} to {bounds[1]}",
                    code="derp_frame_size",
                )
            start = self._offset + HEADER_SIZE
            if len(self._buffer) < start + length:
                return None
            self._offset = start + length
            return Frame(kind, bytes(memoryview(self._buffer)[start : self._offset]))
        return None

    def _skip_frame(self, kind: int, length: int) -> None:
        if length > MAX_SKIPPED_BYTES:
            raise RemoteProtocolError(
                f"DERP frame of unknown type 0x{kind:02x} has {length} bytes, more than {MAX_SKIPPED_BYTES}",
                code="derp_frame_size",
            )
        here = min(length, self.buffered_bytes - HEADER_SIZE)
        self._offset += HEADER_SIZE + here
        self._skip = length - here


def encode_frame(kind: FrameType, payload: bytes = b"") -> bytes:
    """Header and payload of one frame."""
    return _HEADER.pack(kind, len(payload)) + payload


def encode_server_key(public_key: bytes) -> bytes:
    """First frame of a relay."""
    return encode_frame(FrameType.SERVER_KEY, MAGIC + public_key)


def parse_server_key(payload: bytes) -> bytes:
    """The relay's public key. Raises RemoteProtocolError."""
    if len(payload) != len(MAGIC) + KEY_SIZE or not payload.startswith(MAGIC):
        raise RemoteProtocolError("this is no DERP relay: its first frame lacks the magic", code="derp_magic")
    return payload[len(MAGIC) :]


def encode_send_packet(destination: bytes, packet: bytes) -> bytes:
    return _encode_packet(FrameType.SEND_PACKET, destination, packet)


def encode_recv_packet(source: bytes, packet: bytes) -> bytes:
    return _encode_packet(FrameType.RECV_PACKET, source, packet)


def _encode_packet(kind: FrameType, key: bytes, packet: bytes) -> bytes:
    if len(packet) > MAX_PACKET_BYTES:
        raise LocalProtocolError(f"a relayed packet has {len(packet)} bytes, more than {MAX_PACKET_BYTES}")
    return b"".join((_HEADER.pack(kind, KEY_SIZE + len(packet)), key, packet))


def encode_peer_gone(key: bytes, reason: PeerGoneReason) -> bytes:
    return encode_frame(FrameType.PEER_GONE, key + bytes((reason,)))


def encode_health(problem: str) -> bytes:
    """Text of a problem; empty means all is well again."""
    return encode_frame(FrameType.HEALTH, problem.encode()[:MAX_HEALTH_BYTES])


def encode_restarting(reconnect_in_ms: int, try_for_ms: int) -> bytes:
    """The relay goes down: come back in `reconnect_in_ms`, go on trying for `try_for_ms`."""
    return encode_frame(FrameType.RESTARTING, _RESTARTING.pack(reconnect_in_ms, try_for_ms))


def parse_restarting(payload: bytes) -> tuple[int, int]:
    """(reconnect in ms, try for ms). Raises RemoteProtocolError."""
    if len(payload) != _RESTARTING.size:
        raise RemoteProtocolError("a Restarting frame must have 8 bytes", code="derp_frame_size")
    reconnect_in_ms, try_for_ms = _RESTARTING.unpack(payload)
    return reconnect_in_ms, try_for_ms


def is_disco(packet: bytes) -> bool:
    """Whether a packet looks like path discovery rather than WireGuard (disco.LooksLikeDiscoWrapper)."""
    return len(packet) >= MIN_DISCO_BYTES and packet.startswith(DISCO_MAGIC)


class ClientInfo(msgspec.Struct, frozen=True, rename={"mesh_key": "meshKey"}, omit_defaults=True):
    """What a client says about itself; unknown fields are ignored (derp.ClientInfo)."""

    mesh_key: str = ""
    version: int = 0
    can_ack_pings: bool = msgspec.field(default=False, name="CanAckPings")
    is_prober: bool = msgspec.field(default=False, name="IsProber")
    app_name: str = msgspec.field(default="", name="AppName")


class ServerInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a relay says about itself; a rate makes the client throttle itself (derp.ServerInfo)."""

    version: int = 0
    rate_bytes_per_second: int = msgspec.field(default=0, name="TokenBucketBytesPerSecond")
    rate_burst_bytes: int = msgspec.field(default=0, name="TokenBucketBytesBurst")


_client_info = msgspec.json.Decoder(ClientInfo)
_server_info = msgspec.json.Decoder(ServerInfo)


def encode_client_info(info: ClientInfo, client_private: bytes, server_public: bytes, nonce: bytes) -> bytes:
    """ClientInfo frame: client key, nonce, box from the client key to the relay's. Used by clients."""
    private = PrivateKey(client_private)
    sealed = Box(private, PublicKey(server_public)).encrypt(msgspec.json.encode(info), nonce)
    return encode_frame(FrameType.CLIENT_INFO, bytes(private.public_key) + bytes(sealed))


def parse_client_info(payload: bytes, server_private: bytes) -> tuple[bytes, ClientInfo]:
    """(client's node key, what it says). Raises RemoteProtocolError; success proves whose key it is."""
    key, sealed = payload[:KEY_SIZE], payload[KEY_SIZE:]
    plain = _open(sealed, server_private, key, "ClientInfo")
    try:
        return key, _client_info.decode(plain)
    except msgspec.DecodeError as error:
        raise RemoteProtocolError(
            f"ClientInfo is not understood: {error}", code="derp_client_info"
        ) from error


def encode_server_info(info: ServerInfo, server_private: bytes, client_public: bytes, nonce: bytes) -> bytes:
    """ServerInfo frame: nonce and box from the relay's key to the client's."""
    sealed = Box(PrivateKey(server_private), PublicKey(client_public)).encrypt(
        msgspec.json.encode(info), nonce
    )
    return encode_frame(FrameType.SERVER_INFO, bytes(sealed))


def parse_server_info(payload: bytes, client_private: bytes, server_public: bytes) -> ServerInfo:
    """Opens the relay's answer. Raises RemoteProtocolError."""
    plain = _open(payload, client_private, server_public, "ServerInfo")
    try:
        return _server_info.decode(plain)
    except msgspec.DecodeError as error:
        raise RemoteProtocolError(
            f"ServerInfo is not understood: {error}", code="derp_server_info"
        ) from error


def _open(sealed: bytes, private: bytes, public: bytes, what: str) -> bytes:
    try:
        box = Box(PrivateKey(private), PublicKey(public))
        return box.decrypt(sealed)
    except (CryptoError, ValueError) as error:
        raise RemoteProtocolError(f"the {what} box does not open", code="derp_box") from error
