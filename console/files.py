"""Lists as files: CSV and JSON lines, page by page, with what they show in the first line."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from app.fleet import Page, View
from console.cells import safe

FORMATS = ("csv", "jsonl")
#: A spreadsheet takes a text that starts with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MAX_NAMES = 100


async def all_rows(
    read: Callable[[View], Callable[[], Awaitable[Page[Any]]]], view: View
) -> AsyncIterator[Sequence[Any]]:
    """Everything that matches, window by window, whatever is on the screen. Raises HsError."""
    view = dataclasses.replace(view, after=None)
    while True:
        page = await read(view)()
        if page.rows:
            yield page.rows
        if len(page.rows) < view.limit:
            return
        view = dataclasses.replace(view, after=page.anchors[-1])


def head(form: str, screen: str, filter_text: str, scope: str | None, at: float, what: str) -> str:
    """The first line: what this is, of which filter, and of when."""
    facts = {"list": screen, "rows": what, "filter": filter_text, "cluster": scope or "all",
             "at": datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")}  # fmt: skip
    if form == "jsonl":
        return json.dumps(facts) + "\n"
    return "# " + ", ".join(f"{name}: {safe(value)}" for name, value in facts.items()) + "\n"


def lines(form: str, rows: Sequence[Any], *, first: bool) -> Iterator[str]:
    """Rows as lines; `first`: with the names of the columns, where the form has them."""
    if form == "jsonl":
        for row in rows:
            yield json.dumps(msgspec.to_builtins(row)) + "\n"
        return
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if first and rows:
        writer.writerow(field.name for field in dataclasses.fields(rows[0]))
    writer.writerows([_cell(getattr(row, field.name)) for field in dataclasses.fields(row)] for row in rows)
    yield out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str | tuple):
        text = safe(" ".join(value) if isinstance(value, tuple) else value)
        return "'" + text if text.startswith(_FORMULA) else text
    return str(value).lower() if isinstance(value, bool) else str(value)


def new_file(directory: Path, screen: str, form: str, at: float) -> Path:
    """A name of its own; an existing file is never written over."""
    stem = f"hs-{screen}-{datetime.fromtimestamp(at, UTC):%Y%m%d-%H%M%S}"
    for number in range(_MAX_NAMES):
        path = directory / (f"{stem}.{form}" if number == 0 else f"{stem}-{number}.{form}")
        try:
            path.touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{stem} and {_MAX_NAMES} more of its kind")
