"""The hop from an entry to the owner of a cluster, as bytes: a PROXY v2 header with facts of our own. Pure.

haproxy doc/proxy-protocol.txt 2.2. Behind the addresses of the client stand who relays, for which cluster
and epoch, when, a nonce, and last an HMAC over all before it. The owner answers with one verdict before it
takes a byte of the client's. What follows is the client's stream, which is Noise: nothing here is secret.
"""

from __future__ import annotations

import enum
import hmac
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from app.errors import RemoteProtocolError

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
#: A header is about 200 bytes; names of instances and clusters are bounded.
MAX_HOP_BYTES = 1024
#: How far clocks of entry and owner may be apart, and how long a nonce is remembered.
MAX_HOP_AGE_S = 30.0
#: Nonces remembered at a time: reconnects of a whole fleet within MAX_HOP_AGE_S.
MAX_NONCES = 262_144
NONCE_SIZE = 16
VERDICT_SIZE = 4

_HEAD = struct.Struct("!12sBBH")
_VERSION_PROXY = 0x21
_UNSPEC, _TCP4, _TCP6 = 0x00, 0x11, 0x21
#: Sizes of the two addresses and ports.
_ADDRESS_BYTES = {_UNSPEC: 0, _TCP4: 12, _TCP6: 36}
_TLV = struct.Struct("!BH")
#: Types for private use (2.2.8), in the order they are written.
_ENTRY, _CLUSTER, _EPOCH, _TIME, _NONCE, _MAC = 0xE0, 0xE1, 0xE2, 0xE3, 0xE4, 0xE5
_MAC_SIZE = 32
_PURPOSE = b"headscale-cluster entry hop 1"


class Verdict(enum.Enum):
    """The owner's answer to a hop."""

    ACCEPTED = b"HSV+"
    #: Another instance owns the cluster now: ask the database once more.
    NOT_OWNER = b"HSV-"
    #: Known as one of the deployment's entries, and refused: clocks apart, another cluster, used before.
    REFUSED = b"HSV!"
    BUSY = b"HSV~"


@dataclass(frozen=True, slots=True)
class Hop:
    """Who is relayed by whom to where. `client` is an address, or empty when it has none."""

    client: str
    client_port: int
    entry: str
    cluster_id: str
    epoch: int
    sent_at: float
    nonce: bytes


def hop_key(deployment_key: bytes) -> bytes:
    """The key of all hops of a deployment, from its Noise private key."""
    return hmac.digest(deployment_key, _PURPOSE, "sha256")


def seal_hop(hop: Hop, key: bytes) -> bytes:
    """The header that goes before a client's first byte."""
    family, addresses = _addresses(hop.client, hop.client_port)
    facts = b"".join(
        _TLV.pack(kind, len(value)) + value
        for kind, value in (
            (_ENTRY, hop.entry.encode()),
            (_CLUSTER, hop.cluster_id.encode()),
            (_EPOCH, struct.pack("!Q", hop.epoch)),
            (_TIME, struct.pack("!Q", int(hop.sent_at * 1000))),
            (_NONCE, hop.nonce),
        )
    )
    size = len(addresses) + len(facts) + _TLV.size + _MAC_SIZE
    signed = _HEAD.pack(SIGNATURE, _VERSION_PROXY, family, size) + addresses + facts
    return signed + _TLV.pack(_MAC, _MAC_SIZE) + hmac.digest(key, signed, "sha256")


def split_hop(buffer: bytes | bytearray) -> tuple[bytes, bytes] | None:
    """(header, rest) once the header is there, None before. Raises RemoteProtocolError."""
    if not SIGNATURE.startswith(bytes(buffer[: len(SIGNATURE)])):
        raise RemoteProtocolError("no PROXY v2 header", code="bad_hop")
    if len(buffer) < _HEAD.size:
        return None
    size = _HEAD.size + _HEAD.unpack_from(buffer)[3]
    if size > MAX_HOP_BYTES:
        raise RemoteProtocolError(f"a hop's header exceeds {MAX_HOP_BYTES} bytes", code="bad_hop")
    if len(buffer) < size:
        return None
    return bytes(buffer[:size]), bytes(buffer[size:])


def open_hop(header: bytes, key: bytes) -> Hop:
    """What a complete header says. Raises RemoteProtocolError unless an entry of this deployment wrote it."""
    signed, mac = header[: -_TLV.size - _MAC_SIZE], header[-_MAC_SIZE:]
    if not hmac.compare_digest(hmac.digest(key, signed, "sha256"), mac):
        raise RemoteProtocolError("a hop's header is not from an entry of this deployment", code="forged_hop")
    # From here on whoever wrote it holds the key; what is malformed is another version's.
    try:
        return _parse(header)
    except (KeyError, ValueError, struct.error) as error:
        raise RemoteProtocolError(f"a hop's header is not understood: {error!r}", code="bad_hop") from error


def _parse(header: bytes) -> Hop:
    _, version, family, _ = _HEAD.unpack_from(header)
    if version != _VERSION_PROXY:
        raise ValueError(f"version and command {version:#x}")
    at = _HEAD.size + _ADDRESS_BYTES[family]
    client, port = _client(family, header[_HEAD.size : at])
    facts: dict[int, bytes] = {}
    while at < len(header):
        kind, size = _TLV.unpack_from(header, at)
        at += _TLV.size
        if at + size > len(header) or kind in facts:
            raise ValueError(f"fact {kind:#x}")
        facts[kind] = header[at : at + size]
        at += size
    if len(facts[_MAC]) != _MAC_SIZE or len(facts[_NONCE]) != NONCE_SIZE:
        raise ValueError("sizes")
    (epoch,), (sent_ms,) = struct.unpack("!Q", facts[_EPOCH]), struct.unpack("!Q", facts[_TIME])
    return Hop(
        client, port, facts[_ENTRY].decode(), facts[_CLUSTER].decode(), epoch, sent_ms / 1000, facts[_NONCE]
    )


def _addresses(client: str, port: int) -> tuple[int, bytes]:
    try:
        address = ip_address(client)
    except ValueError:
        return _UNSPEC, b""
    family = _TCP4 if isinstance(address, IPv4Address) else _TCP6
    # The destination is of no interest: the entry's own address says nothing to the owner.
    return family, address.packed + bytes(len(address.packed)) + struct.pack("!HH", port, 0)


def _client(family: int, addresses: bytes) -> tuple[str, int]:
    if family == _UNSPEC:
        return "", 0
    size = 4 if family == _TCP4 else 16
    (port,) = struct.unpack_from("!H", addresses, 2 * size)
    return str(ip_address(addresses[:size])), port


class NonceBook:
    """Nonces of hops that may still arrive a second time. In order of arrival, so cheap to keep."""

    def __init__(self, limit: int = MAX_NONCES) -> None:
        self._limit = limit
        self._seen: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def is_full(self) -> bool:
        return len(self._seen) >= self._limit

    def forget(self, now: float) -> None:
        """Drops those whose header is too old to be accepted by now."""
        # A header may be dated MAX_HOP_AGE_S ahead, and is good that long behind.
        for nonce in list(self._seen_before(now - 2 * MAX_HOP_AGE_S)):
            del self._seen[nonce]

    def _seen_before(self, at: float) -> list[bytes]:
        found = []
        for nonce, seen_at in self._seen.items():
            if seen_at >= at:
                break
            found.append(nonce)
        return found

    def is_new(self, nonce: bytes, now: float) -> bool:
        """Whether it comes for the first time; remembers it."""
        if nonce in self._seen:
            return False
        self._seen[nonce] = now
        return True


def judge(
    hop: Hop, *, cluster_id: str, epoch: int | None, now: float, nonces: NonceBook
) -> tuple[Verdict, str]:
    """What to answer to a hop of one of the deployment's entries, and why. `epoch`: None for a non-owner."""
    if hop.cluster_id != cluster_id:
        return Verdict.REFUSED, f"it is for cluster {hop.cluster_id}"
    if abs(now - hop.sent_at) > MAX_HOP_AGE_S:
        return Verdict.REFUSED, f"it is {now - hop.sent_at:.0f} s old: compare the clocks of both hosts"
    nonces.forget(now)
    if nonces.is_full:
        return Verdict.BUSY, "too many hops at a time"
    if not nonces.is_new(hop.nonce, now):
        return Verdict.REFUSED, "it was used before"
    if epoch is None or hop.epoch != epoch:
        return Verdict.NOT_OWNER, f"it is for epoch {hop.epoch}"
    return Verdict.ACCEPTED, ""
