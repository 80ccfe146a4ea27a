"""Screens without a terminal: rows as text, pictures as SVG, and the text of a picture."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from app.errors import Unavailable
from app.fleet import View
from console import query
from console.cells import safe
from console.main import ConsoleApp
from console.screens.overview import matches
from console.store import Store

#: A picture waits so long for its first rows.
PICTURE_TIMEOUT_S = 15.0
_CELL_WIDTH, _LINE_HEIGHT = 12.2, 24.4
_TEXT = re.compile(r'<text class="[^"]*-r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*clip-path[^>]*>([^<]*)</text>')
#: Columns of `show -o text`: a field, and what turns it into words.
_SHOWN: dict[str, tuple[str, ...]] = {
    "overview": ("cluster_id", "owner", "tenants", "users", "keys", "devices", "online", "expired"),
    "devices": ("cluster_id", "tenant", "id", "name", "user", "tags", "ipv4", "os", "online", "last_seen"),
    "users": ("cluster_id", "tenant", "id", "name", "email", "devices", "online"),
    "keys": (
        "cluster_id",
        "tenant",
        "id",
        "prefix",
        "user",
        "tags",
        "uses",
        "reusable",
        "ephemeral",
        "revoked",
    ),
    "rebalance": ("id", "purpose", "subject", "state", "done", "steps", "devices", "failed", "created_by"),
    "tenants": ("cluster_id", "id", "name", "state", "plan", "devices", "max_devices", "online", "pinned"),
    "routes": ("cluster_id", "tenant", "route", "kind", "router", "state", "online", "ready"),
    "policy": ("cluster_id", "tenant", "version", "state", "author", "size", "note"),
    "netmap": ("cluster_id", "event", "scope", "origin", "state", "devices", "bytes", "ms"),
    "audit": ("id", "cluster_id", "tenant", "actor", "action", "object"),
    "processes": ("name", "kind", "cluster_id", "state", "epoch", "version", "addr"),
    "jobs": ("name", "every_s", "state", "duration_s", "runs", "failures", "result", "error"),
    "alarms": ("id", "severity", "cluster_id", "state", "rule", "object", "text", "acknowledged_by"),
    "logins": ("login", "hostname", "os", "version", "address", "cluster_id", "state"),
    "moves": ("plan", "step", "tenant", "source", "target", "devices", "state", "error"),
}


async def rows_of(
    store: Store, screen: str, conditions: tuple[query.Condition, ...], scope: str | None, limit: int
) -> tuple[Sequence[Any], float]:
    """The rows a screen would show, and the database's time. Raises HsError."""
    terms = query.terms(conditions, query.SCREENS[screen])
    if screen == "overview":
        picture = await store.overview(scope)
        return [row for row in picture.clusters if matches(row, terms)][:limit], picture.now
    sort = "name" if screen in ("devices", "users", "tenants") else "id"
    view = View(terms=terms, sort=sort, cluster_id=scope, limit=limit)
    page: Any = await (store.devices(view) if screen == "devices" else store.listing(screen, view))
    return page.rows, page.now


def table_text(screen: str, rows: Sequence[Any], now: float) -> str:
    """Rows in columns, every text harmless."""
    names = _SHOWN[screen]
    lines = [[name.removesuffix("_id").upper().replace("_", " ") for name in names]]
    lines += [[_word(name, getattr(row, name), now) for name in names] for row in rows]
    widths = [max(cell_len(line[at]) for line in lines) for at in range(len(names))]
    return "\n".join(
        "  ".join(
            text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _word(name: str, value: Any, now: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "last_seen":
        return "-" if value is None else f"{max(0, int(now - value))} s ago"
    if isinstance(value, tuple):
        value = ",".join(value)
    return safe(str(value)) or "-"


async def picture(app: ConsoleApp, size: tuple[int, int], filter_text: str = "") -> str:
    """The start screen with its first rows, as SVG. Raises Unavailable when they do not come."""
    async with app.run_test(size=size) as pilot:
        try:
            async with asyncio.timeout(PICTURE_TIMEOUT_S):
                await pilot.pause()
                base = app.base
                assert base is not None
                if filter_text:
                    base.set_filter(filter_text)
                await app.rows_shown()
        except TimeoutError as error:
            raise Unavailable(app.link.reason or "no rows came from the database in time") from error
        await pilot.pause()
        return app.export_screenshot()


def text_of(svg: str) -> str:
    """The plain lines of a picture: `<text>` elements back into their cells."""
    lines: dict[int, list[tuple[int, str]]] = {}
    for x, y, text in _TEXT.findall(svg):
        words = html.unescape(text).replace("\xa0", " ")
        lines.setdefault(round((float(y) - 18.5) / _LINE_HEIGHT), []).append(
            (round(float(x) / _CELL_WIDTH), words)
        )
    out = []
    for number in range(max(lines, default=-1) + 1):
        line = ""
        for column, words in sorted(lines.get(number, [])):
            line += " " * (column - cell_len(line)) + words
        out.append(line.rstrip())
    return "\n".join(out)
