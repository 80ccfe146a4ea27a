"""The head of an HTTP/1.1 request, parsed just far enough to know whose it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from app.errors import RemoteProtocolError

#: A /ts2021 head is about 350 bytes; cookies and forwarding headers of proxies come on top.
MAX_HEAD_BYTES = 16 * 1024
UPGRADE_PROTOCOL = "tailscale-control-protocol"
UPGRADE_PATH = "/ts2021"


@dataclass(frozen=True, slots=True)
class Head:
    """Method, path, query and headers (names in lower case, the last value wins)."""

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
        headers[name.decode("latin-1").strip().lower()] = value.decode("latin-1").strip()
    return Head(words[0].decode("latin-1"), words[1].decode("latin-1"), headers)
