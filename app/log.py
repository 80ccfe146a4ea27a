"""Structured logging: an event name and fields, as text for people or JSON for programs.

`log.info("lease_lost", age_s=...)`. Every line carries `cluster_id`, also those of libraries that use
the standard library's logging. Secrets are masked by field name, passwords of URLs everywhere.
Texts that tenants choose cannot forge lines or send control codes to a terminal.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from app.settings_values import HIDDEN, mask_urls

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
#: Field names that end so are masked.
SECRET_ENDINGS = (
    "auth_key",
    "private_key",
    "api_key",
    "password",
    "pass",
    "dsn",
    "secret",
    "token",
    "cookie",
)
#: Longer texts are cut; a traceback may have this many lines' worth.
MAX_TEXT_LENGTH = 2_000
MAX_TRACE_LENGTH = 20_000
MAX_DEPTH = 4
_TRACE_FIELDS = ("exception", "stack")
#: A value with one of these stands in quotes.
_QUOTED = re.compile(r'[ "=\\]')


class LineStream:
    """Where lines go. A stream that breaks loses lines, counted in `lost`, and never stops the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost = 0

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self.lost += 1

    debug = info = warning = error = critical = msg


class _Bridge(logging.Handler):
    """Lines of the standard library's logging, passed on to ours."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        get(record.name).log(
            record.levelno, text, **({"exc_info": record.exc_info} if record.exc_info else {})
        )


def configure(
    level: str, format: Literal["text", "json"], cluster_id: str, stream: TextIO | None = None
) -> LineStream:
    """Set up logging for the process; may be called again. `stream` defaults to stderr."""
    lines = LineStream(stream or sys.stderr)

    def add_cluster(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("cluster_id", cluster_id)
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_cluster,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            clean_event,
            render_text if format == "text" else render_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    # Libraries are chattier than we are: their INFO is our DEBUG.
    logging.basicConfig(
        handlers=[_Bridge()], level=logging.INFO if level == "debug" else logging.WARNING, force=True
    )
    return lines


def get(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `part=<name>`; may be called before `configure`."""
    logger: FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


def clean_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Mask secrets, cut long texts, and turn every value into something both formats can write."""
    return {str(key): _clean(str(key), value, 0) for key, value in event.items()}


def _clean(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if key.lower().endswith(SECRET_ENDINGS):
        return HIDDEN
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if depth >= MAX_DEPTH:
            return f"<{len(value)} items>"
        if isinstance(value, Mapping):
            return {str(name): _clean(str(name), inner, depth + 1) for name, inner in value.items()}
        return [_clean(key, inner, depth + 1) for inner in value]
    limit = MAX_TRACE_LENGTH if key in _TRACE_FIELDS else MAX_TEXT_LENGTH
    text = str(value)
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    if "://" in text:
        text = mask_urls(text)
    return text if len(text) <= limit else text[:limit] + "..."


def render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return orjson.dumps(event, default=str).decode()


def render_text(_: WrappedLogger, __: str, event: EventDict) -> str:
    """One line `time LEVEL event key=value ...`; a traceback follows on indented lines."""
    time, level, name = (event.pop(field, "") for field in ("timestamp", "level", "event"))
    head = f"{time} {level.upper():<7} {_quote(name)}"
    traces = [event.pop(name) for name in _TRACE_FIELDS if name in event]
    fields = "".join(f" {escape(key)}={_quote(value)}" for key, value in event.items())
    below = "".join(f"\n    {escape(line)}" for trace in traces for line in trace.split("\n"))
    return head + fields + below


def escape(text: Any) -> str:
    """Printable characters as they are, all others (controls, direction marks) as backslash escapes."""
    doubled = str(text).replace("\\", "\\\\")
    if doubled.isprintable():
        return doubled
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in doubled
    )


def _quote(value: Any) -> str:
    text = orjson.dumps(value).decode() if isinstance(value, dict | list) else str(value)
    plain = text and not _QUOTED.search(text) and text.isprintable()
    return text if plain else '"' + escape(text).replace('"', '\\"') + '"'
