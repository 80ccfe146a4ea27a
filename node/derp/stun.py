"""STUN over UDP. Answers come from the address the client asked, also on hosts with several.

A plain socket with add_reader, because datagram transports hide the local address of a datagram.
"""

from __future__ import annotations

import asyncio
import socket
import struct

from app import log
from app.errors import RemoteProtocolError
from app.wire import stun
from node.derp.stats import RelayStats

#: Datagrams handled before the event loop gets its turn.
MAX_DATAGRAMS_PER_WAKE = 64
RECEIVE_BUFFER_BYTES = 1024 * 1024

# linux/in.h IP_PKTINFO and struct in_pktinfo (interface, source, destination); not in socket before 3.14.
_IP_PKTINFO = 8
_PKTINFO_V4 = struct.Struct("@I4s4s")
_PKTINFO_V6 = struct.Struct("@16sI")
_ANCILLARY_BYTES = socket.CMSG_SPACE(max(_PKTINFO_V4.size, _PKTINFO_V6.size))

_log = log.get("stun")


class StunServer:
    """One UDP socket. `start` returns the port; counters go to the relay's stats."""

    def __init__(self, stats: RelayStats) -> None:
        self._stats = stats
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, host: str, port: int) -> int:
        """Binds `host` (a literal; `::` takes IPv4 as well). Raises OSError when the address is taken."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            sock.bind((host, port))
        except OSError:
            sock.close()
            raise
        self._socket, self._loop = sock, loop
        loop.add_reader(sock.fileno(), self._readable)
        return int(sock.getsockname()[1])

    def stop(self) -> None:
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        for _ in range(MAX_DATAGRAMS_PER_WAKE):
            if self._socket is None or not self._answer_one(self._socket):
                return

    def _answer_one(self, sock: socket.socket) -> bool:
        try:
            datagram, ancillary, _, peer = sock.recvmsg(stun.MAX_REQUEST_BYTES + 1, _ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            # An ICMP error of an earlier answer; the socket goes on.
            _log.debug("stun_receive_failed", error=str(error))
            return True
        try:
            transaction_id = stun.parse_request(datagram)
        except RemoteProtocolError:
            self._stats.stun_ignored += 1
            return True
        self._stats.stun_requests += 1
        answer = stun.encode_response(transaction_id, peer[0], peer[1])
        try:
            sock.sendmsg([answer], _reply_from(ancillary), 0, peer)
        except OSError as error:
            # A full send buffer or no route: the client asks again.
            _log.debug("stun_send_failed", error=str(error))
        return True


def _reply_from(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Control message that makes the answer leave from the address the request came to."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            _, _, destination = _PKTINFO_V4.unpack_from(data)
            return [(level, kind, _PKTINFO_V4.pack(0, destination, bytes(4)))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            destination, interface = _PKTINFO_V6.unpack_from(data)
            return [(level, kind, _PKTINFO_V6.pack(destination, interface))]
    return []
