"""Alarms: what is wrong, since when, and who knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.binding import BindingType

from app.fleet import OpenAlarm
from app.fleet_lists import AlarmRow
from app.health import EXPIRING_S, RULES
from console.actions import BY_ID
from console.cells import age, date_text
from console.query import Condition, Goto, render
from console.screens.base import bindings_of
from console.screens.plain import PlainScreen
from console.store import Ask
from console.table import Column

if TYPE_CHECKING:
    from console.main import ConsoleApp

ROLES: Final = {"critical": "failed", "warning": "attention", "notice": "change"}
#: Kind of object -> screen that shows it, the field it is found by, and what else tells it from others there.
PLACES: Final[Mapping[str, tuple[str, str, str]]] = {
    "cluster": ("overview", "cluster", ""),
    "process": ("processes", "name", ""),
    "job": ("jobs", "name", ""),
    "tenants": ("tenants", "cluster", f"used>{RULES['quota_near'].clear_below - 1:g}"),
    "devices": ("devices", "cluster", f"expires<{EXPIRING_S / 3600:g}h !state=expired"),
    "keys": ("keys", "cluster", f"expires<{EXPIRING_S / 3600:g}h state=active"),
}


def acknowledge(console: ConsoleApp, title: str, alarms: Sequence[OpenAlarm | AlarmRow]) -> None:
    """Tells everybody, once it is confirmed, that the operator knows of these."""
    console.confirm(
        BY_ID["alarm.acknowledge"],
        f"Acknowledge {title}",
        [alarm.text for alarm in alarms],
        "Everybody sees that you know of it. It stays until its cause is gone; raised again it is new."
        " Cannot be undone.",
        [
            Ask(
                *("", None, "alarm_acknowledge", {"alarm": alarm.id}, f"alarm:{alarm.id}"),
                f"acknowledge alarm {alarm.id}",
            )
            for alarm in alarms
        ],
    )


def place_of(what: str, cluster_id: str) -> Goto:
    """Where an alarm's object is shown; its cluster where it has no screen of its own."""
    kind, _, name = what.partition(":")
    if what == "lease:acs":
        return Goto("processes")
    screen, field, more = PLACES.get(kind, PLACES["cluster"])
    name = name if kind in PLACES else cluster_id
    return Goto(screen, f"{render((Condition(field, '=', (name,)),))} {more}".strip() if name else "")


def open_object(console: ConsoleApp, what: str, cluster_id: str) -> None:
    """Goes there."""
    place = place_of(what, cluster_id)
    console.go_to(place.screen, place.filter)


class AlarmsScreen(PlainScreen[AlarmRow]):
    """One row for each alarm, open or over: what nobody knows of first, then the worst, then the newest."""

    NAME = "alarms"
    HELP = (
        "What is or was wrong, since when, and who knows of it. An alarm ends with its cause; "
        "acknowledging it tells the others that somebody is at it."
    )
    NOUN = "alarm"
    SORT = "urgency"
    STATES: ClassVar = {"open": "failed", "known": "wait", "over": "off"}
    TIMES: ClassVar = frozenset({"raised", "cleared", "acknowledged"})
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("alarms")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("severity", "SEVERITY", 10, 1, sort="urgency"),
        Column("cluster_id", "CLUSTER", 10, 1, sort="cluster"),
        Column("text", "WHAT", 24, 1, 4),
        Column("state", "STATE", 7, 1, sort="state"),
        Column("raised", "SINCE", 16, 2, sort="raised"),
        Column("lasted", "FOR", 6, 1, right=True),
        Column("acknowledged_by", "KNOWN TO", 14, 3, 1, sort="acknowledged_by"),
        Column("rule", "RULE", 14, 4, sort="rule"),
    )

    def name_of(self, row: AlarmRow) -> str:
        return f"alarm {row.id}"

    def place_of(self, row: AlarmRow) -> tuple[str | None, str]:
        return None, f"alarm:{row.id}"

    def moving(self, row: AlarmRow) -> object:
        return int(self.now) if row.cleared is None else None

    def cell_of(self, row: AlarmRow, name: str) -> Text:
        quiet = row.state != "open"
        match name:
            case "severity":
                return self.pen.state("off" if quiet else ROLES.get(row.severity, "unknown"), row.severity)
            case "text":
                return self.pen.cell(row.text, "muted" if quiet else "")
            case "lasted":
                return self.pen.cell(age(max(0.0, (row.cleared or self.now) - row.raised)), "muted")
            case "cluster_id":
                return self.pen.cell(row.cluster_id or "all", "muted")
            case _:
                return super().cell_of(row, name)

    def detail_of(self, row: AlarmRow, width: int) -> tuple[str, list[Text]]:
        lines = [self.pen.cell(row.text, "strong"), self.pen.cell(f"{row.rule}  {row.object}", "muted")]
        times = f"raised {date_text(row.raised)}"
        if row.cleared is not None:
            times += f", over {date_text(row.cleared)}"
        if row.acknowledged is not None:
            times += f", known to {row.acknowledged_by} since {date_text(row.acknowledged)}"
        return self.name_of(row), [*lines, self.pen.cell(times)]

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        open_object(self.console, row.object, row.cluster_id)

    async def do_alarm_acknowledge(self) -> None:
        rows = self.chosen(BY_ID["alarm.acknowledge"])
        acknowledge(self.console, self.several(rows, "alarm"), rows)
