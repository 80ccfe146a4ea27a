"""Counters of one relay process; clients, home_clients and connections are gauges, the rest only grows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RelayStats:
    clients: int = 0
    home_clients: int = 0
    connections: int = 0
    accepted: int = 0
    refused_busy: int = 0
    refused_half_open: int = 0
    refused_admission: int = 0
    handshakes_failed: int = 0
    packets_received: int = 0
    packets_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    dropped_queue_disco: int = 0
    dropped_queue_data: int = 0
    dropped_queue_control: int = 0
    dropped_unknown_destination: int = 0
    rate_limited: int = 0
    slow_readers_cut: int = 0
    duplicates: int = 0
    protocol_errors: int = 0
    pages: int = 0
    stun_requests: int = 0
    stun_ignored: int = 0
