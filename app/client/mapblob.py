"""Decodes one blob of a map poll: JSON, plain or as any number of zstd frames. Pure."""

from __future__ import annotations

from typing import Any, Final

import orjson
import zstandard

from app.errors import RemoteProtocolError

#: Bound of one decompressed message; a full map of 10,000 peers is about 10 MB.
MAX_DECODED_BYTES: Final = 128 * 1024 * 1024

_decompressor = zstandard.ZstdDecompressor()


def decode_blob(blob: bytes, *, zstd: bool, max_decoded_bytes: int = MAX_DECODED_BYTES) -> dict[str, Any]:
    """The MapResponse inside `blob`. Raises RemoteProtocolError when a client could not read it."""
    data = decompress(blob, max_decoded_bytes) if zstd else blob
    return decode_object(data, "a map message")


def decode_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises RemoteProtocolError naming `what`."""
    try:
        decoded = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RemoteProtocolError(f"{what} is not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise RemoteProtocolError(f"{what} is not a JSON object")
    return decoded


def decompress(blob: bytes, limit: int = MAX_DECODED_BYTES) -> bytes:
    """What any number of zstd frames hold. Raises RemoteProtocolError beyond `limit` bytes too."""
    try:
        with _decompressor.stream_reader(blob, read_across_frames=True) as reader:
            data: bytes = reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise RemoteProtocolError(f"a map message is not zstd: {error}") from error
    if len(data) > limit:
        raise RemoteProtocolError(f"a map message decompresses to more than {limit} bytes")
    return data
