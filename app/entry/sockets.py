"""What every long-lived TCP connection of ours is set to: dead peers are found out, little is buffered."""

from __future__ import annotations

import asyncio
import socket

#: A silent peer is probed after this, so often, and unacknowledged bytes may wait so long.
PEER_IDLE_S = 60
PEER_PROBE_S = 15
PEER_PROBES = 4
PEER_UNACKED_S = 60
#: Unsent bytes at which a connection asks its writers to pause, and to go on, also under TLS.
PAUSE_WRITING_BYTES = 64 * 1024
RESUME_WRITING_BYTES = 16 * 1024


def set_up(transport: asyncio.Transport) -> None:
    """A fresh connection, accepted or dialled."""
    transport.set_write_buffer_limits(PAUSE_WRITING_BYTES, RESUME_WRITING_BYTES)
    notice_dead_peers(transport.get_extra_info("socket"))


def notice_dead_peers(connection: socket.socket | None) -> None:
    """Clients that sleep or lose their network vanish without a FIN: let the kernel find out."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PEER_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PEER_PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PEER_PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_UNACKED_S * 1000)
