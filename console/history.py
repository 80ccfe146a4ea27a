"""Lines of the audit log about one thing, as they are read. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from app.fleet import AuditRow
from console.cells import Pen, exact_text


def history_text(pen: Pen, found: Sequence[AuditRow]) -> Text:
    """Lines of the audit log, each with what was before and after."""
    text = Text(end="")
    for line in found:
        text.append_text(pen.cell(f"{exact_text(line.at)}  {line.actor or '-'}  ", "muted"))
        text.append_text(pen.cell(line.action, "strong")).append("\n")
        for word, facts in (("before", line.before), ("after ", line.after)):
            if facts:
                text.append_text(pen.cell(f"    {word} {facts}")).append("\n")
    return text if found else Text("the audit log has nothing about it")
