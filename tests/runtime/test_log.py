"""Log lines: complete, without secrets, and not to be forged by hostile names."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from app.log import MAX_DEPTH, MAX_TEXT_LENGTH, MAX_TRACE_LENGTH, LineStream, configure, escape, get


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def written(format: Literal["text", "json"], event: str = "thing_done", /, **fields: Any) -> str:
    stream = io.StringIO()
    configure("info", format, "eu-1", stream)
    get("test").info(event, **fields)
    return stream.getvalue()


def test_text_line() -> None:
    line = written("text", device=7, name="a b", on=True, nothing=None)
    head, _, fields = line.partition(" thing_done ")
    assert head.endswith(" INFO   ")
    assert sorted(fields.split()) == sorted(
        ["device=7", 'name="a', 'b"', "on=True", "nothing=None", "part=test", "cluster_id=eu-1"]
    )


def test_json_line() -> None:
    line = json.loads(written("json", device=7, tags={"a"}, data=b"abc", big=2**70))
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "thing_done",
        "level": "info",
        "part": "test",
        "cluster_id": "eu-1",
        "device": 7,
        "tags": ["a"],
        "data": "<3 bytes>",
        "big": str(2**70),
    }


def test_levels() -> None:
    stream = io.StringIO()
    configure("warning", "json", "x", stream)
    log = get("test")
    log.info("quiet")
    log.warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_logger_made_before_configure_uses_it() -> None:
    log = get("early")
    stream = io.StringIO()
    configure("info", "json", "x", stream)
    log.info("now")
    assert json.loads(stream.getvalue())["part"] == "early"


def test_context_and_own_cluster() -> None:
    stream = io.StringIO()
    configure("info", "json", "x", stream)
    with structlog.contextvars.bound_contextvars(request="r1"):
        get("test").info("one", cluster_id="other")
    assert json.loads(stream.getvalue()) | {"timestamp": ""} == {
        "event": "one",
        "level": "info",
        "part": "test",
        "request": "r1",
        "cluster_id": "other",
        "timestamp": "",
    }


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    "fields",
    [
        {"auth_key": "geheim"},
        {"password": "geheim"},
        {"dsn": "geheim"},
        {"pg_dsn": "geheim"},
        {"client_secret": b"geheim"},
        {"Password": "geheim"},
        {"deep": {"list": [{"secret": "geheim"}]}},
        {"api_key": ["geheim"]},
        {"note": "connect to postgres://u:geheim@h/d failed"},
        {"hosts": ["postgres://u:geheim@h/d"]},
    ],
)
def test_secrets_are_masked(format: Literal["text", "json"], fields: dict[str, Any]) -> None:
    line = written(format, **fields)
    assert "geheim" not in line
    assert "***" in line


def test_secret_in_an_exception_is_masked() -> None:
    stream = io.StringIO()
    configure("info", "text", "x", stream)
    try:
        raise OSError("no route to postgres://u:geheim@h/d")
    except OSError:
        get("test").exception("failed")
    assert "geheim" not in stream.getvalue()
    assert "OSError: no route to postgres://u:" in stream.getvalue()


HOSTILE = [
    "a\nINFO forged",
    "\x1b[31mred",
    "\u202eevil",
    "\x85",
    "\u2028",
    "a\tb",
    "\ud800",
    "\x9b2J",
    'a" b="c',
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["value", "event", "list"])
def test_hostile_names_stay_in_their_line(name: str, place: str) -> None:
    line = {
        "value": lambda: written("text", name=name),
        "event": lambda: written("text", name),
        "list": lambda: written("text", names=[name]),
    }[place]()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert ' b="c' not in line


def test_hostile_exception_is_indented() -> None:
    stream = io.StringIO()
    configure("info", "text", "x", stream)
    try:
        raise ValueError("a\n2026 INFO forged \x1b[0m")
    except ValueError:
        get("test").exception("failed")
    first, *others = stream.getvalue().splitlines()
    assert "failed" in first
    assert others
    assert all(line.startswith("    ") and line.isprintable() for line in others)


@given(st.text(alphabet=st.characters(), max_size=40))
def test_escaped_text_is_printable_and_unambiguous(text: str) -> None:
    shown = escape(text)
    assert shown.isprintable()
    assert (shown == text) is (text.isprintable() and "\\" not in text)


def test_limits() -> None:
    line = json.loads(written("json", text="x" * (MAX_TEXT_LENGTH + 1), fits="x" * MAX_TEXT_LENGTH))
    assert line["text"] == "x" * MAX_TEXT_LENGTH + "..."
    assert line["fits"] == "x" * MAX_TEXT_LENGTH
    trace = json.loads(written("json", exception="x" * (MAX_TRACE_LENGTH + 1)))["exception"]
    assert trace == "x" * MAX_TRACE_LENGTH + "..."
    nested: dict[str, Any] = {"password": "geheim"}
    for _ in range(MAX_DEPTH + 2):
        nested = {"inner": nested}
    assert "geheim" not in written("json", nested=nested)


def test_libraries_come_along() -> None:
    stream = io.StringIO()
    configure("info", "json", "eu-1", stream)
    logging.getLogger("aiohttp.server").error("broken %s", "pipe")
    logging.getLogger("aiohttp.access").info("GET /")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["part"], line["cluster_id"]) for line in lines] == [
        ("broken pipe", "aiohttp.server", "eu-1")
    ]


def test_broken_stream_counts_and_goes_on() -> None:
    stream = io.StringIO()
    lines = configure("info", "json", "x", stream)
    assert isinstance(lines, LineStream)
    stream.close()
    get("test").info("lost")
    assert lines.lost == 1
