"""zstd as map messages use it: level 1 (smaller and faster here than 3), one context per process.

A context costs 33-900 KiB, and making one per call 12 us (PERFORMANCE.md 3).
"""

from __future__ import annotations

import zstandard

_compressor = zstandard.ZstdCompressor(level=1)


def compress(plain: bytes) -> bytes:
    """One complete frame with its content size. Not for use from several threads."""
    return _compressor.compress(plain)
