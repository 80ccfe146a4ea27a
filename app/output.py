"""What commands print: tables for people, JSON and YAML for programs; control codes of tenants never."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click
import orjson
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app import log
from app.wire import tailcfg

Row = dict[str, Any]
#: Tables that go into a file or pipe are not folded.
PIPE_COLUMNS = 1000
#: No line of YAML is folded.
YAML_COLUMNS = 10_000
#: Valid in JSON and YAML, but terminals may obey them: C1 controls, and marks that turn text around.
_UNSHOWN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def confirm(question: str, yes: bool) -> None:
    """Ask on stderr before something is destroyed. Raises click.Abort."""
    if not yes:
        click.confirm(log.escape(question), abort=True, err=True)


def when(epoch: float | None) -> str | None:
    return None if epoch is None else tailcfg.utc(epoch).isoformat(timespec="seconds")


def show(data: Row | Sequence[Row], output: str, *, upright: bool = False) -> None:
    """Print one row or many. Text that tenants chose cannot send control codes to the terminal.

    `upright` puts the fields of one row below each other.
    """
    many = [data] if isinstance(data, dict) else list(data)
    if output == "json":
        click.echo(_safe(orjson.dumps(data, option=orjson.OPT_INDENT_2)))
    elif output == "json-line":
        for row in many:
            click.echo(_safe(orjson.dumps(row)))
    elif output == "yaml":
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=YAML_COLUMNS).rstrip()
        click.echo(
            text
            if _UNSHOWN.search(text) is None
            else yaml.safe_dump(data, sort_keys=False, width=YAML_COLUMNS).rstrip()
        )
    elif upright:
        _show_table([{"field": name, "value": value} for row in many for name, value in row.items()])
    else:
        _show_table(many)


def _safe(text: bytes) -> str:
    return _UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text.decode())


def _show_table(rows: list[Row]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_COLUMNS)
    if not rows:
        console.print("none")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row.values()))
    console.print(table)


def cell(value: Any) -> str:
    """A value as people read it in a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return log.escape(", ".join(map(str, value))) or "-"
    return log.escape(value) or "-"
