"""The head of an HTTP/1.1 request, parsed just far enough to know whose it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import parse_qs, urlsplit

from app.errors import RemoteProtocolError

#: A /ts2021 head is about 350 bytes; cookies and forwarding headers of proxies come on top.
MAX_HEAD_BYTES = 16 * 1024
UPGRADE_PROTOCOL = "tailscale-control-protocol"
UPGRADE_PATH = "/ts2021"
FORWARDED_FOR = "x-forwarded-for"


@dataclass(frozen=True, slots=True)
class Head:
    """Method, path, query and headers (names in lower case, the last value wins).

    Lines of X-Forwarded-For are one list: HAProxy adds a line of its own, nginx goes on in the old one.
    """

    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    def query(self, name: str) -> str | None:
        values = parse_qs(urlsplit(self.target).query).get(name)
        return values[0] if values else None

    @property
    def is_upgrade_path(self) -> bool:
        return self.target.startswith(UPGRADE_PATH) and self.path == UPGRADE_PATH


def split_head(buffer: bytes | bytearray) -> tuple[bytes, bytes] | None:
    """(head, rest) once the blank line has arrived, None before. Raises RemoteProtocolError."""
    end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        if len(buffer) >= MAX_HEAD_BYTES:
            raise RemoteProtocolError(f"request head exceeds {MAX_HEAD_BYTES} bytes", code="head_too_large")
        return None
    return bytes(buffer[:end]), bytes(buffer[end + 4 :])


def parse_head(head: bytes) -> Head:
    """The head's parts. Raises RemoteProtocolError when it is not HTTP/1."""
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        raise RemoteProtocolError("not an HTTP/1.1 request", code="bad_head")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            raise RemoteProtocolError("malformed header line", code="bad_head")
        key, text = name.decode("latin-1").strip().lower(), value.decode("latin-1").strip()
        headers[key] = f"{headers[key]},{text}" if key == FORWARDED_FOR and key in headers else text
    return Head(words[0].decode("latin-1"), words[1].decode("latin-1"), headers)


def client_address(head: Head, peer: str, trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """Whose request it is: the peer's, or behind trusted proxies his of whom they say so."""
    return forwarded_client(head.headers.get(FORWARDED_FOR, ""), peer, trusted)


def forwarded_client(forwarded: str, peer: str, trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """The same from the list in X-Forwarded-For.

    Every proxy adds at the right end of X-Forwarded-For who asked it, so that is read from there, as long
    as the speaker is trusted: what a client wrote itself stands further left and is never reached.
    """
    address = peer
    if not trusted:
        return address
    for hop in reversed(forwarded.split(",")):
        speaker, heard = _parse(address), _parse(hop.strip())
        if speaker is None or heard is None or not any(speaker in network for network in trusted):
            break
        address = str(heard)
    return address


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
