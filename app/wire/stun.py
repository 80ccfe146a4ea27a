"""STUN binding requests and answers, as far as Tailscale clients use them.

Source: tailscale net/stun/stun.go (ParseBindingRequest, Response) and RFC 5389. Only requests
with the SOFTWARE attribute `tailnode` and a right FINGERPRINT as last attribute are answered.
"""

from __future__ import annotations

import struct
import zlib
from ipaddress import IPv4Address, IPv6Address, ip_address

from app.errors import RemoteProtocolError

MAGIC_COOKIE = b"\x21\x12\xa4\x42"
TRANSACTION_ID_SIZE = 12
HEADER_SIZE = 20
#: A binding request of a client is 40 bytes; anything much longer is not one.
MAX_REQUEST_BYTES = 512
SOFTWARE = b"tailnode"

_BINDING_REQUEST = 0x0001
_BINDING_SUCCESS = 0x0101
_SOFTWARE = 0x8022
_FINGERPRINT = 0x8028
_XOR_MAPPED_ADDRESS = 0x0020
_FINGERPRINT_XOR = 0x5354554E
_FINGERPRINT_SIZE = 8
_FAMILY_V4 = 1
_FAMILY_V6 = 2

_HEADER = struct.Struct(">HH4s12s")
_ATTRIBUTE = struct.Struct(">HH")


def encode_request(transaction_id: bytes) -> bytes:
    """A binding request as a Tailscale client sends it. Used by clients and health checks."""
    software = _ATTRIBUTE.pack(_SOFTWARE, len(SOFTWARE)) + SOFTWARE
    length = len(software) + _FINGERPRINT_SIZE
    body = _HEADER.pack(_BINDING_REQUEST, length, MAGIC_COOKIE, transaction_id) + software
    return body + _ATTRIBUTE.pack(_FINGERPRINT, 4) + struct.pack(">I", _fingerprint(body))


def parse_request(datagram: bytes) -> bytes:
    """The transaction id of a client's binding request. Raises RemoteProtocolError for all else."""
    if not HEADER_SIZE + _FINGERPRINT_SIZE <= len(datagram) <= MAX_REQUEST_BYTES:
        raise _refused("its length")
    kind, length, cookie, transaction_id = _HEADER.unpack_from(datagram)
    if kind != _BINDING_REQUEST or cookie != MAGIC_COOKIE or length != len(datagram) - HEADER_SIZE:
        raise _refused("its header")
    is_ours = False
    offset = HEADER_SIZE
    end = len(datagram) - _FINGERPRINT_SIZE
    while offset < end:
        if end - offset < _ATTRIBUTE.size:
            raise _refused("a cut attribute")
        attribute, size = _ATTRIBUTE.unpack_from(datagram, offset)
        offset += _ATTRIBUTE.size
        if size > end - offset:
            raise _refused("a cut attribute")
        if attribute == _SOFTWARE:
            is_ours = datagram[offset : offset + size] == SOFTWARE
        offset += (size + 3) & ~3
    attribute, size = _ATTRIBUTE.unpack_from(datagram, end)
    if offset != end or attribute != _FINGERPRINT or size != 4:
        raise _refused("no FINGERPRINT at its end")
    if not is_ours:
        raise _refused("its SOFTWARE")
    (fingerprint,) = struct.unpack_from(">I", datagram, end + _ATTRIBUTE.size)
    if fingerprint != _fingerprint(datagram[:end]):
        raise _refused("its FINGERPRINT")
    return bytes(transaction_id)


def encode_response(transaction_id: bytes, host: str, port: int) -> bytes:
    """A success answer naming where the request came from: 32 bytes for IPv4, 44 for IPv6.

    `host` is an address literal; IPv4 mapped into IPv6 is unmapped, a scope is left out.
    """
    address = unmapped(host)
    family = _FAMILY_V4 if address.version == 4 else _FAMILY_V6
    xored_port = port ^ int.from_bytes(MAGIC_COOKIE[:2])
    mask = (MAGIC_COOKIE + transaction_id)[: len(address.packed)]
    xored = bytes(a ^ b for a, b in zip(address.packed, mask, strict=True))
    value = struct.pack(">BBH", 0, family, xored_port) + xored
    attribute = _ATTRIBUTE.pack(_XOR_MAPPED_ADDRESS, len(value)) + value
    return _HEADER.pack(_BINDING_SUCCESS, len(attribute), MAGIC_COOKIE, transaction_id) + attribute


def parse_response(datagram: bytes) -> tuple[bytes, str, int]:
    """(transaction id, address, port) of a success answer made by `encode_response`."""
    if len(datagram) not in (32, 44):
        raise _refused("its length")
    kind, length, cookie, transaction_id = _HEADER.unpack_from(datagram)
    attribute, size = _ATTRIBUTE.unpack_from(datagram, HEADER_SIZE)
    fits = length == len(datagram) - HEADER_SIZE and size == length - _ATTRIBUTE.size
    if kind != _BINDING_SUCCESS or cookie != MAGIC_COOKIE or attribute != _XOR_MAPPED_ADDRESS or not fits:
        raise _refused("its header")
    _, family, port = struct.unpack_from(">BBH", datagram, HEADER_SIZE + _ATTRIBUTE.size)
    xored = datagram[HEADER_SIZE + _ATTRIBUTE.size + 4 :]
    if (family, len(xored)) not in ((_FAMILY_V4, 4), (_FAMILY_V6, 16)):
        raise _refused("its address family")
    mask = (cookie + transaction_id)[: len(xored)]
    address = ip_address(bytes(a ^ b for a, b in zip(xored, mask, strict=True)))
    return bytes(transaction_id), str(address), port ^ int.from_bytes(MAGIC_COOKIE[:2])


def unmapped(host: str) -> IPv4Address | IPv6Address:
    """The address of a socket's peer: `::ffff:a.b.c.d` becomes IPv4, `%scope` goes."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _fingerprint(body: bytes) -> int:
    return zlib.crc32(body) ^ _FINGERPRINT_XOR


def _refused(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"not a Tailscale STUN request: {why}", code="stun_request")
