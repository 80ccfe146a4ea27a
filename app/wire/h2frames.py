"""HTTP/2 frames as bytes: constants, builders, padding, header blocks (RFC 9113, RFC 7541).

Header blocks are written without any compression state (static table and plain literals only), so a
connection needs no HPACK encoder; reading them takes `hpack.Decoder`, kept by app.wire.h2core.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum

from hpack.table import HeaderTable

from app.errors import LocalProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_BYTES = 9
DEFAULT_WINDOW_BYTES = 65_535
MAX_WINDOW_BYTES = 2**31 - 1
MAX_STREAM_ID = 2**31 - 1
#: Payload bytes of the largest frame we accept; the protocol's floor, which we never raise.
MAX_FRAME_BYTES = 16_384
#: Largest value SETTINGS_MAX_FRAME_SIZE may have.
MAX_FRAME_BYTES_CEILING = 2**24 - 1
DEFAULT_HEADER_TABLE_BYTES = 4096
PING_BYTES = 8

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)

FLAG_END_STREAM = 0x01
FLAG_ACK = 0x01
FLAG_END_HEADERS = 0x04
FLAG_PADDED = 0x08
FLAG_PRIORITY = 0x20


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """RFC 9113 section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Violation(Exception):
    """The peer broke a rule of the connection. Never leaves app.wire: it ends as RemoteProtocolError."""

    def __init__(self, error_code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.message = message


class Malformed(Exception):
    """A header list that RFC 9113 section 8 forbids: an error of its stream only."""


_HEAD = struct.Struct(">IBI")
_SETTING = struct.Struct(">HI")

#: `unpack_head(data, at)`: length << 8 | type, flags, stream id with the reserved bit.
unpack_head = _HEAD.unpack_from
pack_head = _HEAD.pack


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One complete frame."""
    return pack_head(len(payload) << 8 | kind, flags, stream_id) + payload


def data_pieces(
    stream_id: int, data: bytes | memoryview, max_frame: int, *, end_stream: bool
) -> Iterator[bytes | memoryview]:
    """DATA frames for `data`, as pieces to join; no data gives one empty frame."""
    size = len(data)
    if size <= max_frame:
        yield pack_head(size << 8, FLAG_END_STREAM if end_stream else 0, stream_id)
        if size:
            yield data
        return
    view = memoryview(data)
    for start in range(0, size, max_frame):
        chunk = view[start : start + max_frame]
        last = start + max_frame >= size
        yield pack_head(len(chunk) << 8, FLAG_END_STREAM if last and end_stream else 0, stream_id)
        yield chunk


def header_frames(stream_id: int, block: bytes, max_frame: int, *, end_stream: bool) -> bytes:
    """HEADERS, and CONTINUATION as far as the block needs it."""
    flags = FLAG_END_STREAM if end_stream else 0
    if len(block) <= max_frame:
        return frame(HEADERS, flags | FLAG_END_HEADERS, stream_id, block)
    out = [frame(HEADERS, flags, stream_id, block[:max_frame])]
    for start in range(max_frame, len(block), max_frame):
        last = start + max_frame >= len(block)
        out.append(
            frame(CONTINUATION, FLAG_END_HEADERS if last else 0, stream_id, block[start : start + max_frame])
        )
    return b"".join(out)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values))


SETTINGS_ACK = frame(SETTINGS, FLAG_ACK, 0)


def parse_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Identifier and value of each entry; unknown identifiers included."""
    if len(payload) % _SETTING.size:
        raise Violation(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS length is not a multiple of 6")
    yield from _SETTING.iter_unpack(payload)


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def rst_stream(stream_id: int, error_code: int) -> bytes:
    """An RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, error_code.to_bytes(4, "big"))


def goaway(last_stream_id: int, error_code: int, debug: bytes = b"") -> bytes:
    """A GOAWAY frame."""
    return frame(GOAWAY, 0, 0, last_stream_id.to_bytes(4, "big") + error_code.to_bytes(4, "big") + debug)


def unpad(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without its padding."""
    if not flags & FLAG_PADDED:
        return payload
    if not payload:
        raise Violation(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a pad length")
    padding = payload[0]
    if padding >= len(payload):
        raise Violation(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")
    return payload[1 : len(payload) - padding]


def header_fragment(flags: int, payload: bytes) -> bytes:
    """The header block fragment of a HEADERS frame; its priority fields are dropped."""
    payload = unpad(flags, payload)
    if not flags & FLAG_PRIORITY:
        return payload
    if len(payload) < 5:
        raise Violation(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority fields")
    return payload[5:]


# Header lists

_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]\Z")
_PER_CONNECTION = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_STATIC = HeaderTable.STATIC_TABLE_MAPPING
#: Header block prefix that gives up the dynamic table: size update to 0 (RFC 7541 section 6.3).
DROP_TABLE = b"\x20"


def encode_headers(headers: Iterable[tuple[str, str]]) -> bytes:
    """A header block. Raises LocalProtocolError for a name or value that HTTP/2 cannot carry."""
    out = []
    for name_text, value_text in headers:
        try:
            name, value = name_text.encode("latin-1"), value_text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise LocalProtocolError("header is not latin-1", name=name_text) from error
        known = _STATIC.get(name)
        if known is not None:
            index = known[1].get(value)
            if index is not None and value:
                out.append(bytes((0x80 | index,)))
                continue
            index = known[0]
            out.append(bytes((index,)) if index < 15 else bytes((15, index - 15)))
        else:
            if not _NAME.fullmatch(name):
                raise LocalProtocolError("header name is not a lower-case token", name=name_text)
            out += (b"\x00", _length(len(name)), name)
        if _BAD_VALUE.search(value):
            raise LocalProtocolError("header value has a line break, NUL or outer blank", name=name_text)
        out += (_length(len(value)), value)
    return b"".join(out)


def _length(size: int) -> bytes:
    """A string length: 7-bit prefix, no Huffman (RFC 7541 sections 5.1, 5.2)."""
    if size < 127:
        return bytes((size,))
    out = bytearray((127,))
    size -= 127
    while size >= 128:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


def headers_cost(pairs: list[tuple[bytes, bytes]]) -> int:
    """Bytes a header list counts for (RFC 9113 section 6.5.2)."""
    return sum(len(name) + len(value) + 32 for name, value in pairs)


def parse_request(
    pairs: list[tuple[bytes, bytes]],
) -> tuple[str, str, tuple[tuple[str, str], ...], int | None]:
    """Method, path, ordinary headers and content-length. CONNECT is refused: it has no path."""
    pseudo, headers, length = _parse(pairs, _REQUEST_PSEUDO)
    method, path = pseudo.get(b":method"), pseudo.get(b":path")
    if not method or not path or not pseudo.get(b":scheme"):
        raise Malformed(":method, :scheme or :path is missing")
    if path[:1] != b"/" and path != b"*":
        raise Malformed(":path is not absolute")
    return method.decode("latin-1"), path.decode("latin-1"), headers, length


def parse_response(pairs: list[tuple[bytes, bytes]]) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Status and ordinary headers."""
    pseudo, headers, _ = _parse(pairs, frozenset((b":status",)))
    status = pseudo.get(b":status", b"")
    if len(status) != 3 or not status.isdigit():
        raise Malformed(":status is not three digits")
    return int(status), headers


def are_trailers(pairs: list[tuple[bytes, bytes]]) -> bool:
    """Whether this header list may end a message."""
    try:
        _parse(pairs, frozenset())
    except Malformed:
        return False
    return True


def _parse(
    pairs: list[tuple[bytes, bytes]], allowed_pseudo: frozenset[bytes]
) -> tuple[dict[bytes, bytes], tuple[tuple[str, str], ...], int | None]:
    pseudo: dict[bytes, bytes] = {}
    headers: list[tuple[str, str]] = []
    length: int | None = None
    for name, value in pairs:
        if not _NAME.fullmatch(name):
            raise Malformed("header name is not a lower-case token")
        if _BAD_VALUE.search(value):
            raise Malformed("header value has a line break, NUL or outer blank")
        if name[0] == 0x3A:
            if headers or name in pseudo or name not in allowed_pseudo:
                raise Malformed("pseudo header repeated, unknown or after ordinary headers")
            pseudo[name] = value
            continue
        if name in _PER_CONNECTION or (name == b"te" and value != b"trailers"):
            raise Malformed("header that belongs to one HTTP/1 connection")
        if name == b"content-length":
            if not value.isdigit() or len(value) > 19 or length not in (None, int(value)):
                raise Malformed("content-length is no number, or differs from another one")
            length = int(value)
        headers.append((name.decode("latin-1"), value.decode("latin-1")))
    return pseudo, tuple(headers), length
