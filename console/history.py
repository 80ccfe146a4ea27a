"""What the audit log and other records tell of one thing, as it is read. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from app.fleet import AuditRow, DeviceEvent
from console.cells import Pen, exact_text, plural


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


#: How events look; the others are changes.
ROLES = {"online": "ok", "offline": "off"}


def events_text(pen: Pen, found: Sequence[DeviceEvent]) -> Text:
    """When a device came and went, what was changed of it, and rebuilds of its netmap."""
    if not found:
        return Text("nothing is recorded of it: presence is kept for a week, changes for a day")
    went = sum(event.event == "offline" for event in found)
    lines = [pen.cell(f"It went offline {plural(went, 'time')} in what follows.", "strong")]
    for event in found:
        role = "failed" if event.error else ROLES.get(event.event, "change")
        origin = event.origin or "shell, console or hs-acs"
        told = f"  in cluster {origin}" if event.event in ROLES else f"  by {origin}"
        lines.append(
            pen.join(
                pen.cell(f"{exact_text(event.at)}  ", "muted"),
                pen.state(role, event.event),
                pen.cell(told + (f"  {event.error}" if event.error else ""), "muted"),
            )
        )
    return Text("\n", end="").join(lines)
