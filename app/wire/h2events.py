"""What an HTTP/2 connection reports: frozen records, in the order things happened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One complete request (server)."""

    stream_id: int
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """The head of an answer (client); interim 1xx answers are left out."""

    stream_id: int
    status: int
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of an answer's body (client)."""

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The answer is complete (client)."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """A stream ended early: the peer reset it (`reset`), or we did because it broke a rule."""

    stream_id: int
    reset: bool
    error_code: int


@dataclass(frozen=True, slots=True)
class Drained:
    """All that waited for window on this stream has been framed."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class PingAck:
    """The answer to a ping of ours."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer opens no more streams, or wants none beyond `last_stream_id`."""

    error_code: int
    last_stream_id: int
    debug: bytes


Event = Request | Response | Data | StreamEnded | StreamClosed | Drained | PingAck | GoAway
