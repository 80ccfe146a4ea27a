"""The list of open alarms on the overview: the cursor stays with its alarm, as in every list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from app.fleet import OpenAlarm
from app.health import SEVERITIES
from console.cells import Pen, moment_text
from console.screens.alarms import ROLES
from console.table import Column, ResourceTable, sized
from console.widgets import show


class Attention(Vertical):
    """Open alarms, the worst first, or a word that there are none."""

    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("since", "SINCE", 8, 1),
        Column("severity", "SEVERITY", 10, 1),
        Column("cluster", "CLUSTER", 10, 2),
        Column("text", "WHAT", 30, 1, 3),
        Column("known", "KNOWN TO", 18, 3, 1),
    )

    def __init__(self, pen: Pen) -> None:
        super().__init__(id="attention")
        self.pen = pen
        self.alarms: dict[str, OpenAlarm] = {}
        self.table = ResourceTable(pen, self.COLUMNS, id="alarms", headed=False)

    def compose(self) -> ComposeResult:
        yield self.table
        yield Static("", id="calm", markup=False)

    @property
    def current(self) -> OpenAlarm | None:
        """The alarm under the cursor."""
        key = self.table.cursor_key
        return self.alarms.get(key) if key is not None else None

    def put(self, alarms: Sequence[OpenAlarm], now: float, judged: str, width: int) -> None:
        """`judged`: who found them; `width`: cells of the whole."""
        self.alarms = {
            f"{alarm.id} {alarm.rule} {alarm.cluster_id} {alarm.object}": alarm for alarm in alarms
        }
        self.table.lay_out(width, "", False)
        self.table.apply(
            [
                (
                    key,
                    [
                        sized(self._cells(alarm, now)[column.name], column, size)
                        for column, size in self.table.shown
                    ],
                )
                for key, alarm in self.alarms.items()
            ]
        )
        self.table.display = bool(alarms)
        # As many as the style sheet lets it have.
        self.table.styles.height = len(alarms)
        calm = self.query_one("#calm", Static)
        calm.display = not alarms
        show(calm, self.pen.state("ok", "no alarm is open"))
        title = self.pen.join("Attention", *(part for word in self.summary() for part in ("  ", word)))
        self.border_title = title
        self.border_subtitle = self.pen.cell(f"tab leads here, ! shows all; {judged}" if alarms else judged)

    def summary(self) -> list[Text]:
        """How many of each severity nobody knows of, and how many are known."""
        alarms = self.alarms.values()
        fresh = Counter(alarm.severity for alarm in alarms if not alarm.acknowledged_by)
        found = [
            self.pen.state(ROLES[severity], f"{fresh[severity]} {severity}")
            for severity in SEVERITIES
            if fresh[severity]
        ]
        known = len(alarms) - fresh.total()
        return [*found, self.pen.state("off", f"{known} acknowledged")] if known else found

    def _cells(self, alarm: OpenAlarm, now: float) -> dict[str, Text]:
        cell, known = self.pen.cell, alarm.acknowledged_by
        since = moment_text(alarm.acknowledged, now) if alarm.acknowledged is not None else ""
        return {
            "since": cell(moment_text(alarm.raised, now), "muted"),
            "severity": self.pen.state(
                "off" if known else ROLES.get(alarm.severity, "unknown"), alarm.severity
            ),
            "cluster": cell(alarm.cluster_id or "all", "muted"),
            "text": cell(alarm.text, "muted" if known else ""),
            "known": cell(f"{known} {since}" if known else "", "muted"),
        }
