"""One connection of a relay: TLS, request head, DERP handshake, frames, back-pressure.

Reading is never stopped by a slow receiver (its queues drop the oldest); only the rate limit
and the admission check pause it. A reader that takes nothing for WRITE_STALL_S is cut.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import Enum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from nacl.utils import random as random_bytes

from app import log
from app.errors import BadRequest, RemoteProtocolError
from app.keys import short
from app.wire import derp
from node.derp import head, pages
from node.derp.outbox import Outbox, TokenBucket

if TYPE_CHECKING:
    from node.derp.server import Relay, Station

#: From accept to an admitted client: TLS, head, ClientInfo, admission (derpserver: 10 s).
HANDSHAKE_DEADLINE_S = 10.0
#: A reader that takes no byte for this long is cut (derpserver defaultWriteTimeout).
WRITE_STALL_S = 2.0
#: From our last byte to the end of the connection.
CLOSE_DEADLINE_S = 2.0
#: Keep-alive period and its jitter; clients give up after 120 s of silence.
KEEP_ALIVE_S = 60.0
KEEP_ALIVE_JITTER_S = 5.0
#: PeerGone "not here" answers per client.
NOT_HERE_PER_S = 1.0
NOT_HERE_BURST = 3.0
#: Buffered for writing in user space before writing pauses, and unsent in the kernel.
WRITE_BUFFER_BYTES = 64 * 1024
KERNEL_UNSENT_BYTES = 128 * 1024
#: Bytes joined into one write, and queued frames that cause one at once.
FLUSH_BYTES = 64 * 1024
FLUSH_FRAMES = 16
#: Unacknowledged bytes end a connection after this long.
TCP_USER_TIMEOUT_MS = 120_000

# linux/tcp.h struct tcp_info: tcpi_bytes_acked.
_BYTES_ACKED_AT = 120
_BYTES_ACKED = struct.Struct("@Q")

_MESH_FRAMES = frozenset(
    (derp.FrameType.FORWARD_PACKET, derp.FrameType.WATCH_CONNS, derp.FrameType.CLOSE_PEER)
)

_log = log.get("relay")


class Phase(Enum):
    TLS = auto()
    HEAD = auto()
    CLIENT_INFO = auto()
    ADMISSION = auto()
    OPEN = auto()
    CLOSING = auto()
    GONE = auto()


class Session(asyncio.Protocol):
    """See the module. `key` is the proven node key from Phase.ADMISSION on."""

    def __init__(self, relay: Relay, address: str) -> None:
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self.key = b""
        self.number = 0
        self.address = address
        self.phase = Phase.TLS
        self.station: Station | None = None
        self.is_home = False
        self._accepted: socket.socket | None = None
        self._tls: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._keep_alive: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._head = bytearray()
        self._decoder = derp.FrameDecoder()
        self._outbox = Outbox()
        self._bucket: TokenBucket | None = None
        self._not_here = TokenBucket(NOT_HERE_PER_S, NOT_HERE_BURST, self._loop.time())
        self._is_half_open = False
        self._is_paused = False
        self._flush_scheduled = False

    def __repr__(self) -> str:
        key = short(self.key) if self.key else "-"
        return f"<Session {self.number} {key} {self.phase.name.lower()} {len(self._outbox)} queued>"

    def open(self, accepted: socket.socket) -> None:
        """Takes an accepted connection, which the relay may have no room for."""
        number = self._relay.open_connection(self, self.address)
        if number is None:
            self.phase = Phase.GONE
            accepted.close()
            return
        self.number = number
        self._accepted = accepted
        self._is_half_open = True
        self._deadline = self._loop.call_later(HANDSHAKE_DEADLINE_S, self._handshake_expired)
        self._task = self._loop.create_task(self._start_tls(), name=f"derp-tls[{number}]")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up."""
        self._tls = cast(asyncio.Transport, transport)
        if self.phase is not Phase.TLS:
            self._tls.abort()
            return
        self._tls.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self.phase = Phase.HEAD

    def data_received(self, data: bytes) -> None:
        if self.phase is Phase.OPEN:
            if self._bucket is not None:
                self._charge(len(data))
            self._decoder.feed(data)
            self._read_frames()
        elif self.phase is Phase.HEAD:
            self._head += data
            self._read_head()
        elif self.phase in (Phase.CLIENT_INFO, Phase.ADMISSION):
            self._decoder.feed(data)
            self._read_frames()

    def connection_lost(self, error: Exception | None) -> None:
        self._gone()

    def pause_writing(self) -> None:
        self._is_paused = True
        if self.phase is not Phase.GONE:
            self._watch_stall(None)

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._flush()

    # opening

    async def _start_tls(self) -> None:
        accepted, self._accepted = self._accepted, None
        assert accepted is not None
        try:
            _tune(accepted)
            await self._loop.connect_accepted_socket(
                lambda: self,
                accepted,
                ssl=self._relay.ssl_context,
                ssl_handshake_timeout=HANDSHAKE_DEADLINE_S,
                ssl_shutdown_timeout=CLOSE_DEADLINE_S,
            )
        except OSError as error:
            _log.debug("relay_tls_failed", address=self.address, error=str(error))
        if self._tls is None and self.phase is Phase.TLS:
            self._relay.stats.handshakes_failed += 1
            self._gone()

    def _handshake_expired(self) -> None:
        self._deadline = None
        self._relay.stats.handshakes_failed += 1
        _log.debug("relay_handshake_expired", address=self.address, phase=self.phase.name.lower())
        self.abort()

    def _read_head(self) -> None:
        end = self._head.find(head.END_OF_HEAD, 0, head.MAX_HEAD_BYTES)
        if end < 0:
            if len(self._head) >= head.MAX_HEAD_BYTES:
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                sentence = f"a request head may have {head.MAX_HEAD_BYTES} bytes"
                self._close_after(pages.refusal(status, sentence))
            return
        rest = bytes(self._head[end + len(head.END_OF_HEAD) :])
        try:
            request = head.parse_head(bytes(self._head[:end]))
        except BadRequest as error:
            self._close_after(pages.refusal(HTTPStatus.BAD_REQUEST, error.message))
            return
        self._head.clear()
        if not pages.is_upgrade(request):
            self._relay.stats.pages += 1
            self._close_after(pages.page(request, self._relay.options.bootstrap_dns))
            return
        hello = derp.encode_server_key(self._relay.public_key)
        if not pages.is_fast_start(request):
            hello = pages.switching_protocols(self._relay.public_key) + hello
        self.phase = Phase.CLIENT_INFO
        self._write(hello)
        self._decoder.feed(rest)
        self._read_frames()

    # frames

    def _read_frames(self) -> None:
        try:
            while self.phase in (Phase.CLIENT_INFO, Phase.OPEN):
                frame = self._decoder.next_frame()
                if frame is None:
                    return
                if self.phase is Phase.OPEN:
                    self._receive(frame)
                else:
                    self._receive_client_info(frame)
        except RemoteProtocolError as error:
            self._fail(error.message)

    def _receive(self, frame: derp.Frame) -> None:
        stats = self._relay.stats
        if frame.type == derp.FrameType.SEND_PACKET:
            stats.packets_received += 1
            stats.bytes_received += len(frame.payload)
            self._relay.forward(self, frame.payload)
        elif frame.type == derp.FrameType.PING:
            echo = frame.payload[: derp.PING_SIZE]
            self.send_control(derp.encode_frame(derp.FrameType.PONG, echo))
        elif frame.type == derp.FrameType.NOTE_PREFERRED:
            self._note_home(frame.payload != b"\x00")
        elif frame.type in _MESH_FRAMES:
            raise RemoteProtocolError("this relay has no mesh", code="derp_mesh")
        elif frame.type == derp.FrameType.CLIENT_INFO:
            raise RemoteProtocolError("a second ClientInfo", code="derp_order")

    def _receive_client_info(self, frame: derp.Frame) -> None:
        if frame.type != derp.FrameType.CLIENT_INFO:
            raise RemoteProtocolError("the first frame must be ClientInfo", code="derp_order")
        self.key, _ = derp.parse_client_info(frame.payload, self._relay.private_key)
        self.phase = Phase.ADMISSION
        self._transport.pause_reading()
        self._task = self._loop.create_task(self._admit(), name=f"derp-admit[{self.number}]")

    async def _admit(self) -> None:
        try:
            is_allowed = await self._relay.verify(self.key, self.address)
        except Exception:  # noqa: BLE001 - the outermost frame of a task; the client is refused
            _log.exception("relay_verify_failed", key=short(self.key))
            is_allowed = False
        if self.phase is not Phase.ADMISSION:
            return
        if not is_allowed:
            self._relay.stats.refused_admission += 1
            _log.info("relay_refused", key=short(self.key), address=self.address)
            self.abort()
            return
        self._leave_half_open()
        if not self._relay.register(self):
            _log.warning("relay_full", key=short(self.key), clients=self._relay.stats.clients)
            self.abort()
            return
        options, nonce = self._relay.options, random_bytes(derp.NONCE_SIZE)
        if options.rate_bytes_per_s:
            burst = options.rate_burst_bytes
            self._bucket = TokenBucket(options.rate_bytes_per_s, burst, self._loop.time())
        self.phase = Phase.OPEN
        info = derp.ServerInfo(version=derp.PROTOCOL_VERSION)
        self._write(derp.encode_server_info(info, self._relay.private_key, self.key, nonce))
        self._flush()
        self._arm_keep_alive()
        self._transport.resume_reading()
        self._read_frames()

    def _note_home(self, is_home: bool) -> None:
        self._relay.stats.home_clients += is_home - self.is_home
        self.is_home = is_home

    def _charge(self, size_bytes: int) -> None:
        assert self._bucket is not None
        wait_s = self._bucket.charge(size_bytes, self._loop.time())
        if wait_s > 0 and self._resume is None:
            self._relay.stats.rate_limited += 1
            self._transport.pause_reading()
            self._resume = self._loop.call_later(wait_s, self._resume_reading)

    def _resume_reading(self) -> None:
        self._resume = None
        self._transport.resume_reading()

    # sending

    def send_packet(self, frame: bytes, is_disco: bool) -> None:
        """Queues a RecvPacket frame; the oldest of its queue goes when that is full."""
        stats = self._relay.stats
        if is_disco:
            stats.dropped_queue_disco += self._outbox.disco.put(frame)
        else:
            stats.dropped_queue_data += self._outbox.data.put(frame)
        stats.packets_sent += 1
        self._wake()

    def send_control(self, frame: bytes) -> None:
        """Queues a frame of our own."""
        self._relay.stats.dropped_queue_control += self._outbox.control.put(frame)
        self._wake()

    def note_not_here(self, key: bytes) -> None:
        """Tells the client that `key` is not connected, but not too often."""
        if self._not_here.allow(1.0, self._loop.time()):
            self.send_control(derp.encode_peer_gone(key, derp.PeerGoneReason.NOT_HERE))

    def _wake(self) -> None:
        if self._is_paused:
            return
        if len(self._outbox) >= FLUSH_FRAMES or self._outbox.data.size_bytes >= FLUSH_BYTES:
            self._flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._scheduled_flush)

    def _scheduled_flush(self) -> None:
        self._flush_scheduled = False
        self._flush()

    def _flush(self) -> None:
        while self.phase is Phase.OPEN and not self._is_paused:
            chunk = self._outbox.take(FLUSH_BYTES)
            if not chunk:
                return
            self._relay.stats.bytes_sent += len(chunk)
            self._write(chunk)

    def _watch_stall(self, before: int | None) -> None:
        """Every WRITE_STALL_S while writing is paused: has the reader taken anything since?"""
        self._stall = None
        taken = self._acknowledged_bytes()
        if taken == before:
            self._relay.stats.slow_readers_cut += 1
            _log.info("relay_slow_reader_cut", key=short(self.key), queued=len(self._outbox))
            self.abort()
            return
        self._stall = self._loop.call_later(WRITE_STALL_S, self._watch_stall, taken)

    def _acknowledged_bytes(self) -> int:
        info = self._transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_AT + _BYTES_ACKED.size
        )
        return int(_BYTES_ACKED.unpack_from(info, _BYTES_ACKED_AT)[0])

    def _arm_keep_alive(self) -> None:
        period_s = KEEP_ALIVE_S + self._relay.rng.uniform(0.0, KEEP_ALIVE_JITTER_S)
        self._keep_alive = self._loop.call_later(period_s, self._send_keep_alive)

    def _send_keep_alive(self) -> None:
        self.send_control(derp.encode_frame(derp.FrameType.KEEP_ALIVE))
        self._arm_keep_alive()

    # closing

    @property
    def _transport(self) -> asyncio.Transport:
        assert self._tls is not None
        return self._tls

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def finish(self, last: bytes) -> None:
        """The relay stops: what waits, `last`, then close. Not yet admitted connections just end."""
        if self.phase is Phase.OPEN:
            self.send_control(last)
            self._flush()
            self._close_after(b"")
        elif self.phase is not Phase.CLOSING:
            self.abort()

    def _close_after(self, data: bytes) -> None:
        self.phase = Phase.CLOSING
        if data:
            self._write(data)
        self._stop_timers()
        self._deadline = self._loop.call_later(CLOSE_DEADLINE_S, self.abort)
        self._transport.close()

    def _fail(self, reason: str) -> None:
        self._relay.stats.protocol_errors += 1
        _log.info("relay_protocol_error", key=short(self.key), address=self.address, reason=reason)
        self.abort()

    def abort(self) -> None:
        """Ends the connection now."""
        if self._tls is not None:
            self._tls.abort()
        self._gone()

    def _leave_half_open(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._is_half_open:
            self._is_half_open = False
            self._relay.leave_half_open(self.address)

    def _stop_timers(self) -> None:
        for timer in (self._deadline, self._keep_alive, self._stall, self._resume):
            if timer is not None:
                timer.cancel()
        self._deadline = self._keep_alive = self._stall = self._resume = None

    def _gone(self) -> None:
        """Once per accepted connection, whatever ended it."""
        if self.phase is Phase.GONE:
            return
        self.phase = Phase.GONE
        self._stop_timers()
        self._leave_half_open()
        self._note_home(False)
        self._relay.unregister(self)
        self._relay.close_connection(self)
        if self._accepted is not None:
            self._accepted.close()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_UNSENT_BYTES)
