"""Frames of a map poll's body: u32 **little-endian** length, then that many bytes.

The bytes are JSON, or one or more zstd frames of it when the request asked for zstd
(tailscale control/controlclient/direct.go sendMapRequest). Pure.
"""

from __future__ import annotations

from typing import Final

from app.errors import RemoteProtocolError

#: Exactly these bytes: clients since 1.90 recognise a repeated keep-alive without decoding it.
KEEPALIVE: Final = b'{"KeepAlive":true}'
HEAD_SIZE: Final = 4
#: Default bound of a reader; a full map of 10,000 peers is 2-10 MB.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024


def frame(blob: bytes) -> bytes:
    """One map message as it stands in the response body."""
    return len(blob).to_bytes(HEAD_SIZE, "little") + blob


class Reader:
    """Cuts a map poll's body into messages; holds one unfinished message at most."""

    __slots__ = ("_buffer", "_max_message_bytes")

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._buffer = bytearray()
        self._max_message_bytes = max_message_bytes

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Messages completed by `data`. Raises RemoteProtocolError on an empty or oversized one."""
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        start = 0
        while len(buffer) - start >= HEAD_SIZE:
            size = int.from_bytes(buffer[start : start + HEAD_SIZE], "little")
            if not 0 < size <= self._max_message_bytes:
                buffer.clear()
                raise RemoteProtocolError(f"a map message of {size} bytes is out of range")
            stop = start + HEAD_SIZE + size
            if stop > len(buffer):
                break
            messages.append(bytes(buffer[start + HEAD_SIZE : stop]))
            start = stop
        if start:
            del buffer[:start]
        return messages
