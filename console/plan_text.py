"""A plan for moving tenants in words: load before, now and after, what is safe, how far it is. Pure."""

from __future__ import annotations

from rich.text import Text

from app.fleet_lists import MOST_ONLINE, PlanRow
from app.health import RULES
from console.cells import Pen, age, count_text, plural
from console.widgets import box_line

#: A target that is fuller afterwards is worth a look, in percent of its room.
FULL = RULES["cluster_full"].raise_at
#: Fewer moves say nothing of how fast it goes.
RATE_STEPS = 2


def load_parts(pen: Pen, row: PlanRow) -> list[Text]:
    """Of each cluster that changes the devices it counts for: before, now if anything moved, and after."""
    arrow = " > " if pen.ascii else " → "
    parts = []
    for name, before in row.before.items():
        if row.after.get(name, 0) == before:
            continue
        loads = [count_text(before)]
        if row.shifted:
            loads.append(f"{count_text(before + row.shifted.get(name, 0))} now")
        loads.append(count_text(row.after.get(name, 0)))
        share = _share(row, name)
        room = "" if share is None else f" of {count_text(row.room[name] or 0)}, {share} %"
        parts.append(box_line(pen, name, arrow.join(loads) + room))
    return parts


def safety_lines(pen: Pen, row: PlanRow) -> list[str]:
    """What an operator weighs before it is carried out, with numbers."""
    shares = {
        name: share
        for name, after in row.after.items()
        if after > row.before.get(name, 0) and (share := _share(row, name)) is not None
    }
    lines = []
    if shares:
        fullest = max(shares, key=lambda name: shares[name])
        mark = pen.glyph("attention" if shares[fullest] >= FULL else "mark")
        words = f"the fullest target is {fullest} with {shares[fullest]} % of its room"
        lines.append(f"{mark} {words}, below {FULL:g} %" if shares[fullest] < FULL else f"{mark} {words}")
    if len(row.before) > 1:
        spread = [max(loads.values()) - min(loads.values()) for loads in (row.before, row.after)]
        arrow = ">" if pen.ascii else "→"
        lines.append(f"fullest less emptiest {count_text(spread[0])} {arrow} {count_text(spread[1])} devices")
    if row.online is not None:
        most = "at least " if row.online >= MOST_ONLINE else ""
        lines.append(f"{most}{plural(row.online, 'device')} online now will reconnect")
    return lines


def progress_words(row: PlanRow, now: float) -> str:
    """How far, how fast, and how long still, as far as it can be known."""
    wanted = row.steps - row.left_out
    words = f"{row.done} of {plural(wanted, 'tenant')} moved"
    if row.left_out:
        words += f", {row.left_out} left out"
    if row.failed:
        words += f", {row.failed} not"
    if row.first is not None and row.last is not None and row.done >= RATE_STEPS:
        took = row.last - row.first
        words += f"{',' if row.left_out or row.failed else ''} in {age(took)}" if took >= 1 else ""
        left = wanted - row.done - row.failed
        if row.state == "applying" and left > 0:
            pace = max(now, row.last) - row.first
            words += f", about {age(left * pace / (row.done - 1))} to go"
    return words


def _share(row: PlanRow, name: str) -> int | None:
    """Per cent of a cluster's room that is taken afterwards; None where its room is not bounded."""
    room = row.room.get(name)
    return 100 * row.after.get(name, 0) // room if room else None
