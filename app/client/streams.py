"""Answers of a tunnel's requests: read piece by piece, or pushed to whoever is interested."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from app.errors import HsError, RemoteProtocolError


class Carrier(Protocol):
    """What a stream needs of its connection."""

    acknowledge_bytes: int

    def acknowledge(self, stream_id: int, size: int) -> None: ...

    def cancel(self, stream_id: int) -> None: ...


class Consumer(Protocol):
    """Whom an answer is pushed to. What `on_data` raises ends the connection."""

    def on_head(self, status: int) -> None:
        """The head of the answer."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body."""

    def on_end(self, error: HsError | None) -> None:
        """Nothing follows; called once. None is the regular end."""


class PushedStream:
    """One request's answer, handed to a consumer as it comes: neither queue nor task."""

    __slots__ = ("_connection", "_consumer", "_owed", "stream_id")

    def __init__(self, connection: Carrier, stream_id: int, consumer: Consumer) -> None:
        self._connection = connection
        self._consumer = consumer
        self._owed = 0
        self.stream_id = stream_id

    def cancel(self) -> None:
        """Reset the stream if it is still open."""
        self._connection.cancel(self.stream_id)

    def on_head(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self._consumer.on_head(status)

    def on_data(self, data: bytes) -> None:
        self._owed += len(data)
        if self._owed >= self._connection.acknowledge_bytes:
            self._connection.acknowledge(self.stream_id, self._owed)
            self._owed = 0
        self._consumer.on_data(data)

    def on_end(self, error: HsError | None) -> None:
        self._consumer.on_end(error)


class ResponseStream:
    """One request's answer, read piece by piece; gives window back only for what was read."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_ended",
        "_error",
        "_headers",
        "_owed",
        "_status",
        "_waiter",
        "stream_id",
    )

    def __init__(self, connection: Carrier, stream_id: int) -> None:
        self._connection = connection
        self.stream_id = stream_id
        self._status: int | None = None
        self._headers: tuple[tuple[str, str], ...] = ()
        self._chunks: deque[bytes] = deque()  # bounded by the stream's window
        self._owed = 0
        self._ended = False
        self._error: HsError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def status(self) -> int:
        """Waits for the head of the answer. Raises Unavailable when the connection ends first."""
        while self._status is None:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise RemoteProtocolError("the answer has no head")
            await self._wait()
        return self._status

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Header fields of the answer, once `status` is known."""
        return self._headers

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces of the body until its regular end. Raises Unavailable when it is cut off."""
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._consume(len(chunk))
                yield chunk
            if self._error is not None:
                raise self._error
            if self._ended:
                return
            await self._wait()

    def cancel(self) -> None:
        """Reset the stream if it is still open; unread bytes are given back."""
        self._consume(sum(map(len, self._chunks)), last=True)
        self._chunks.clear()
        self._connection.cancel(self.stream_id)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _consume(self, size: int, *, last: bool = False) -> None:
        self._owed += size
        if self._owed and (last or self._ended or self._owed >= self._connection.acknowledge_bytes):
            self._connection.acknowledge(self.stream_id, self._owed)
            self._owed = 0

    def on_head(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self._status, self._headers = status, headers
        self._wake()

    def on_data(self, data: bytes) -> None:
        self._chunks.append(data)
        self._wake()

    def on_end(self, error: HsError | None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()
