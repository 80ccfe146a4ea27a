"""Blobs of a map poll: any zstd framing a Go client takes, nothing else."""

from __future__ import annotations

import pytest
import zstandard

from app.client.mapblob import decode_blob
from app.errors import RemoteProtocolError

JSON = b'{"Node":{"ID":1},"Peers":[{"ID":2}]}'
DECODED = {"Node": {"ID": 1}, "Peers": [{"ID": 2}]}
SKIPPABLE = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"


def z(data: bytes, level: int = 1, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=level, **options).compress(data)


def streamed(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    "blob",
    [
        z(JSON),
        *(z(JSON[:cut]) + z(JSON[cut:], 3) for cut in range(len(JSON) + 1)),
        b"".join(z(JSON[i : i + 1]) for i in range(len(JSON))),
        z(JSON, write_checksum=True) + z(b""),
        z(JSON, write_content_size=False),
        streamed(JSON[:9]) + SKIPPABLE + streamed(JSON[9:]),
        SKIPPABLE + z(JSON) + z(b"\n"),
    ],
)
def test_any_number_of_frames(blob: bytes) -> None:
    assert decode_blob(blob, zstd=True) == DECODED


def test_plain_json() -> None:
    assert decode_blob(JSON, zstd=False) == DECODED


@pytest.mark.parametrize(
    "blob",
    [
        JSON,
        z(JSON)[:-1],
        z(JSON[:9]),
        z(JSON) + z(JSON),
        z(b"[]"),
        z(JSON) + b"garbage",
        z(JSON[:9]) + b"\xff\xff\xff\xff" + z(JSON[9:]),
    ],
)
def test_what_no_client_reads(blob: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_blob(blob, zstd=True)


def test_decompression_is_bounded() -> None:
    bomb = z(b'{"a":"' + b"x" * 1_000_000 + b'"}')
    assert len(bomb) < 1000
    with pytest.raises(RemoteProtocolError, match="more than 100000 bytes"):
        decode_blob(bomb, zstd=True, max_decoded_bytes=100_000)
