"""Counts round trips between a program and PostgreSQL, on the wire.

A client waits for the server after every Sync and every simple Query, so these are counted in what
passes through (PostgreSQL protocol 3: type byte, u32 length).
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

_CHUNK = 64 * 1024
_WAITED_FOR = frozenset(b"SQ")


class Counter:
    """Finds messages in one direction of one connection."""

    def __init__(self) -> None:
        self.waits = 0
        self._started = False
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        buffer = self._buffer + data
        at = 0
        if not self._started and len(buffer) >= 4:
            # The start-up message has no type byte.
            at = int.from_bytes(buffer[:4], "big")
            if at > len(buffer):
                self._buffer = buffer
                return
            self._started = True
        while self._started and len(buffer) - at >= 5:
            stop = at + 1 + int.from_bytes(buffer[at + 1 : at + 5], "big")
            if stop > len(buffer):
                break
            self.waits += buffer[at] in _WAITED_FOR
            at = stop
        self._buffer = buffer[at:]


class CountingWay:
    """A unix socket that leads to the server's; made with a DSN, gives the DSN to use instead."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = ""
        self._port = ""
        self._counters: list[Counter] = []

    @property
    def round_trips(self) -> int:
        return sum(counter.waits for counter in self._counters)

    def __call__(self, dsn: str) -> str:
        parts = urlsplit(dsn)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self._server, self._port = query["host"], query["port"]
        self._directory.mkdir()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._directory / f".s.PGSQL.{self._port}"))
        listener.listen()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return urlunsplit(
            parts._replace(query=f"host={quote(str(self._directory), safe='')}&port={self._port}")
        )

    def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{self._server}/.s.PGSQL.{self._port}")
            counter = Counter()
            self._counters.append(counter)
            for source, drain, counted in ((client, server, counter), (server, client, None)):
                threading.Thread(target=_pump, args=(source, drain, counted), daemon=True).start()


def _pump(source: socket.socket, drain: socket.socket, counter: Counter | None) -> None:
    try:
        while data := source.recv(_CHUNK):
            if counter is not None:
                counter.feed(data)
            drain.sendall(data)
        drain.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        drain.close()
