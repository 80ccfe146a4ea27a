"""The WebSocket form of the tunnel: RFC 6455 frames around the same byte stream.

`GET /ts2021` with subprotocol `tailscale-control-protocol`; binary messages, whose borders mean
nothing (tailscale control/controlhttp/controlhttpserver acceptWebsocket). No extensions. Pure.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from hashlib import sha1
from typing import Final

from app.errors import BadRequest, RemoteProtocolError

SUBPROTOCOL: Final = "tailscale-control-protocol"
#: Bound of one data frame; payload is passed on as it comes, so this guards only against nonsense.
MAX_FRAME_BYTES: Final = 1024 * 1024
#: Largest payload of a control frame (RFC 6455 section 5.5).
MAX_CONTROL_BYTES: Final = 125
#: Pongs and closes waiting for `take_output`; beyond it the peer pings without reading.
MAX_CONTROL_OUTPUT_BYTES: Final = 16 * 1024

CLOSE_NORMAL: Final = 1000
CLOSE_PROTOCOL_ERROR: Final = 1002
CLOSE_UNSUPPORTED: Final = 1003
CLOSE_TOO_BIG: Final = 1009

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: str) -> str:
    """`Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`."""
    return base64.b64encode(sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def _is_close_code(code: int) -> bool:
    """May `code` stand in a close frame (RFC 6455 section 7.4)?"""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))


def _tokens(value: str) -> list[str]:
    return [token.strip() for token in value.split(",")]


def upgrade_response(headers: Mapping[str, str]) -> bytes:
    """The whole 101 answer to an upgrade request, header names in lower case.

    Raises BadRequest when it is no WebSocket upgrade for our subprotocol.
    """
    if "websocket" not in _tokens(headers.get("upgrade", "").lower()):
        raise BadRequest("the request does not ask for a WebSocket")
    if "upgrade" not in _tokens(headers.get("connection", "").lower()):
        raise BadRequest("the Connection header does not say upgrade")
    if headers.get("sec-websocket-version") != "13":
        raise BadRequest("only WebSocket version 13 is spoken here")
    if SUBPROTOCOL not in _tokens(headers.get("sec-websocket-protocol", "")):
        raise BadRequest(f"the WebSocket must offer the subprotocol {SUBPROTOCOL}")
    key = headers.get("sec-websocket-key", "")
    try:
        raw = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 16:
        raise BadRequest("Sec-WebSocket-Key is not 16 bytes in base64")
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    ).encode()


def _mask(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    pattern = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")).to_bytes(size, "little")


def encode_frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes | None = None) -> bytes:
    """One frame; `mask` (4 random bytes) is what a client must use and a server must not."""
    size = len(payload)
    first = (0x80 if fin else 0) | opcode
    masked = 0 if mask is None else 0x80
    if size < 126:
        head = bytes((first, masked | size))
    elif size < 65536:
        head = bytes((first, masked | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + size.to_bytes(8, "big")
    return head + payload if mask is None else head + mask + _mask(payload, mask)


class WebSocketCodec:
    """One side of an open WebSocket that carries a byte stream.

    The server is made without arguments; a client passes `client_masks`, a source of 4 random
    bytes per frame. After `receive` look at `take_output` (pongs, closes) and `closed`.
    """

    __slots__ = (
        "_client_masks",
        "_control",
        "_in_message",
        "_left",
        "_mask",
        "_opcode",
        "_output",
        "_pending",
        "closed",
    )

    def __init__(self, *, client_masks: Callable[[], bytes] | None = None) -> None:
        self._client_masks = client_masks
        self._pending = b""
        self._output = bytearray()
        self._in_message = False  # between the first frame of a message and its last
        self._opcode = -1  # frame whose payload is being read; -1: a frame header is due
        self._left = 0
        self._mask = b""
        self._control = bytearray()
        self.closed = False

    def encode(self, data: bytes) -> bytes:
        """`data` as one binary message."""
        return self._frame(BINARY, data)

    def close(self, code: int = CLOSE_NORMAL) -> None:
        """Queue a close frame; nothing is read any more."""
        if not self.closed:
            self.closed = True
            self._output += self._frame(CLOSE, code.to_bytes(2, "big"))

    def take_output(self) -> bytes:
        """Control frames that have to be sent."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def receive(self, data: bytes) -> bytes:
        """Stream bytes inside `data`, as far as they came; nothing once closed.

        Raises RemoteProtocolError, after queueing a close frame, when the peer breaks RFC 6455,
        sends text, or exceeds a limit.
        """
        out: list[bytes] = []
        buffer = self._pending + data if self._pending else data
        position = 0
        while not self.closed:
            if self._opcode < 0:
                stop = self._read_head(buffer, position)
                if stop < 0:
                    break
                position = stop
            take = min(self._left, len(buffer) - position)
            self._read_payload(buffer[position : position + take], out)
            position += take
            if self._left:
                break
            self._end_frame()
        self._pending = b"" if self.closed else bytes(buffer[position:])
        return b"".join(out)

    def _frame(self, opcode: int, payload: bytes) -> bytes:
        return encode_frame(opcode, payload, mask=self._client_masks() if self._client_masks else None)

    def _fail(self, code: int, reason: str) -> RemoteProtocolError:
        self.close(code)
        self._pending = b""
        return RemoteProtocolError(f"WebSocket: {reason}")

    def _read_head(self, buffer: bytes, start: int) -> int:
        """Position behind a complete frame header, or -1 when more bytes are needed."""
        available = len(buffer) - start
        if available < 2:
            return -1
        first, second = buffer[start], buffer[start + 1]
        self._check_head(first, second)
        size, stop = second & 0x7F, start + 2
        extra = {126: 2, 127: 8}.get(size, 0)
        masked = 4 if second & 0x80 else 0
        if available < 2 + extra + masked:
            return -1
        if extra:
            size = int.from_bytes(buffer[stop : stop + extra], "big")
            stop += extra
            if size < (126 if extra == 2 else 65536):
                raise self._fail(CLOSE_PROTOCOL_ERROR, "a frame length is not in its shortest form")
        if size > MAX_FRAME_BYTES:
            raise self._fail(CLOSE_TOO_BIG, f"a frame of {size} bytes is too big")
        self._mask = bytes(buffer[stop : stop + masked])
        self._opcode = first & 0x0F
        self._left = size
        if self._opcode < CLOSE:
            self._in_message = not first & 0x80
        return stop + masked

    def _check_head(self, first: int, second: int) -> None:
        opcode, fin = first & 0x0F, bool(first & 0x80)
        if first & 0x70:
            raise self._fail(CLOSE_PROTOCOL_ERROR, "a reserved bit is set")
        if bool(second & 0x80) != (self._client_masks is None):
            raise self._fail(CLOSE_PROTOCOL_ERROR, "frames are masked by clients, and by clients only")
        if opcode in (CLOSE, PING, PONG):
            if not fin or second & 0x7F > MAX_CONTROL_BYTES:
                raise self._fail(CLOSE_PROTOCOL_ERROR, "a control frame is fragmented or too long")
        elif opcode == TEXT:
            raise self._fail(CLOSE_UNSUPPORTED, "text messages are not spoken here")
        elif opcode not in (CONTINUATION, BINARY):
            raise self._fail(CLOSE_PROTOCOL_ERROR, f"unknown opcode {opcode}")
        elif (opcode == CONTINUATION) != self._in_message:
            raise self._fail(CLOSE_PROTOCOL_ERROR, "a message is continued or started out of turn")

    def _read_payload(self, chunk: bytes, out: list[bytes]) -> None:
        if not chunk:
            return
        size = len(chunk)
        self._left -= size
        if self._mask:
            chunk = _mask(chunk, self._mask)
            turn = size % 4  # the rest of this frame starts in the middle of the mask
            self._mask = self._mask[turn:] + self._mask[:turn]
        if self._opcode < CLOSE:
            out.append(bytes(chunk))
        else:
            self._control += chunk

    def _end_frame(self) -> None:
        opcode, self._opcode = self._opcode, -1
        if opcode < CLOSE:
            return
        payload = bytes(self._control)
        self._control.clear()
        if opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big") if payload else CLOSE_NORMAL
            self.close(code if _is_close_code(code) else CLOSE_PROTOCOL_ERROR)
        elif opcode == PING:
            self._output += self._frame(PONG, payload)
            if len(self._output) > MAX_CONTROL_OUTPUT_BYTES:
                raise self._fail(CLOSE_PROTOCOL_ERROR, "pings without end")
