"""Wire forms of a map message's body.

Go clients always ask for zstd and accept any sequence of concatenated frames; the Rust client
never asks and gets bare JSON (CLIENTS.md 6a, tailscale control/controlclient/direct.go decodeMsg).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum


class Variant(IntEnum):
    """Which form a viewer asked for in MapRequest.Compress."""

    PLAIN = 0
    ZSTD = 1


Compress = Callable[[bytes], bytes]


def encode(plain: bytes, variant: Variant, compress: Compress) -> bytes:
    """One wire form of a run of JSON bytes."""
    return plain if variant is Variant.PLAIN else compress(plain)


class Piece:
    """A run of JSON bytes shared by many messages; its zstd form is made once, when first needed."""

    __slots__ = ("_zstd", "plain")

    def __init__(self, plain: bytes) -> None:
        self.plain = plain
        self._zstd: bytes | None = None

    def encoded(self, variant: Variant, compress: Compress) -> bytes:
        if variant is Variant.PLAIN:
            return self.plain
        if self._zstd is None:
            self._zstd = compress(self.plain)
        return self._zstd
