"""How a deployment stands in four tiles, and the health of a cluster in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from app.fleet import ClusterRow, LoadHistory, Overview
from console.cells import Pen, age, count_text, plural, size_text

#: What the spark lines are of.
SPAN = " 60 min"
#: A cluster that is fuller than this per cent is told of.
CROWDED = 85
#: A value measured longer ago than this many minutes is not of now.
FRESH_MINUTES = 3


@dataclass(frozen=True, slots=True)
class Health:
    """How a cluster is, and why in words."""

    role: str
    word: str
    reason: str


def health_of(row: ClusterRow) -> Health:
    """The worst that is true of a cluster."""
    if row.lease_left_s is None:
        return Health(
            "off", "unserved", "no instance has ever owned this cluster: start hs-node serve for it"
        )
    if not row.owner or row.lease_left_s <= 0:
        gone = age(max(0.0, -row.lease_left_s)) if row.lease_left_s > float("-inf") else "some time"
        waiting = f"; {plural(row.waiting, 'request')} waiting" if row.waiting else ""
        return Health("failed", "no owner", f"the lease ended {gone} ago and nobody has taken it{waiting}")
    if row.state != "active":
        return Health("change", row.state, f"the cluster is {row.state}")
    if row.devices and row.expired == row.devices:
        return Health("attention", "expired", "every device's login has expired")
    return Health("ok", "healthy", f"owned by {row.owner}, epoch {row.epoch}")


@dataclass(frozen=True, slots=True)
class Tile:
    """`brief` stands for all of it where there is one line."""

    title: str
    brief: Text
    lines: list[Text]


def tiles_of(pen: Pen, picture: Overview, width: int) -> dict[str, Tile]:
    """By name. `width`: cells of a line. What nobody has measured is said to be so."""
    return {
        "devices": _devices(pen, picture, width),
        "netmaps": _netmaps(pen, picture, width),
        "capacity": _capacity(pen, picture),
        "control": _control(pen, picture),
    }


def _devices(pen: Pen, picture: Overview, width: int) -> Tile:
    rows, cell = picture.clusters, pen.cell
    devices, online, expired, expiring = (
        sum(getattr(row, name) for row in rows) for name in ("devices", "online", "expired", "expiring")
    )
    soon = pen.join(", ", cell(count_text(expiring), "attention"), " within a day") if expiring else ""
    connected = total_of([history.connected for history in picture.load.values()])
    return Tile(
        "Devices",
        pen.join(cell(count_text(online), "ok"), f" of {count_text(devices)} online"),
        [
            pen.join(cell(count_text(devices), "strong"), f" {'device' if devices == 1 else 'devices'}"),
            pen.join(cell(count_text(online), "ok"), f" online  {percent(online, devices)}"),
            pen.join(cell(count_text(expired), "attention" if expired else "muted"), " expired", soon),
            _spark(pen, connected, width),
        ],
    )


def _netmaps(pen: Pen, picture: Overview, width: int) -> Tile:
    changes, frames, size = (
        total_of([getattr(history, name) for history in picture.load.values()])
        for name in ("changes", "frames", "bytes")
    )
    waiting = sum(row.waiting for row in picture.clusters)
    lines = [
        pen.cell("no changes measured now", "muted"),
        pen.cell("no frames measured now", "muted"),
    ]
    if (rate := newest(changes)) is not None:
        lines[0] = pen.join(pen.cell(f"{rate:,.2f}", "strong"), " changes/s")
    if (rate := newest(frames)) is not None:
        lines[1] = pen.cell(f"{rate:,.1f} frames/s  {size_text(newest(size) or 0.0)}/s")
    lines.append(
        pen.state("change", f"{plural(waiting, 'request')} waiting")
        if waiting
        else pen.cell("no request waits", "muted")
    )
    return Tile("Netmaps", lines[0], [*lines, _spark(pen, changes, width)])


def _capacity(pen: Pen, picture: Overview) -> Tile:
    rows = picture.clusters
    limited = [row for row in rows if row.max_devices is not None]
    room, used = sum(row.max_devices or 0 for row in limited), sum(row.devices for row in limited)
    brief = pen.cell("no limits set", "muted")
    lines = [brief]
    if limited:
        brief = pen.cell(f"{percent(used, room)} full")
        lines = [pen.join(pen.cell(percent(used, room), "strong"), f" of {plural(room, 'device')}")]
        if len(limited) < len(rows):
            lines.append(pen.cell(f"{len(rows) - len(limited)} without limit", "muted"))
        crowded = sum(fullness(row) > CROWDED for row in limited)
        if crowded:
            lines.append(pen.state("attention", f"{crowded} above {CROWDED} %"))
    moving = [row for row in rows if row.state == "draining"]
    if moving:
        lines.append(pen.state("change", f"{len(moving)} draining"))
    held = ("tenants", "tenant"), ("users", "user")
    counts = ", ".join(plural(sum(getattr(row, name) for row in rows), noun) for name, noun in held)
    return Tile("Capacity", brief, [*lines[:3], pen.cell(counts)])


def _control(pen: Pen, picture: Overview) -> Tile:
    rows, processes = picture.clusters, picture.processes
    healthy = sum(health_of(row).role == "ok" for row in rows)
    ill = sum(health_of(row).role == "failed" for row in rows)
    words = f"{healthy}/{len(rows)} clusters healthy"
    acs = sum(not process.cluster_id for process in processes)
    leads = pen.cell("no hs-acs leads", "muted" if picture.leader is None else "failed")
    if picture.leader:
        leads = pen.cell(f"{picture.leader} leads")
    lags = [process.loop_lag_s for process in processes if process.loop_lag_s is not None]
    late = f"{1000 * max(lags):,.0f} ms worst loop lag" if lags else "loop lag unknown now"
    role = "failed" if ill else "ok" if healthy == len(rows) else "change"
    return Tile(
        "Control plane",
        pen.state(role, f"{healthy}/{len(rows)} healthy"),
        [
            pen.state(role, words),
            pen.cell(f"{len(processes) - acs} hs-node, {acs} hs-acs"),
            leads,
            pen.cell(late, "muted"),
        ],
    )


def _spark(pen: Pen, series: Sequence[float | None], width: int) -> Text:
    if all(value is None for value in series):
        return pen.cell("not measured yet", "muted")
    return pen.cell(f"{pen.spark(series, width - len(SPAN))}{SPAN}", "change")


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def fullness(row: ClusterRow) -> float:
    """Per cent of the devices a cluster may have."""
    return 100.0 * row.devices / row.max_devices if row.max_devices else 100.0 if row.devices else 0.0


def total_of(series: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Minute by minute over all clusters; None where none was measured."""
    minutes = [[value for value in at if value is not None] for at in zip(*series, strict=True)]
    return [sum(values) if values else None for values in minutes]


def newest(series: Sequence[float | None]) -> float | None:
    """The last value that is of now, None without one."""
    return next((value for value in reversed(series[-FRESH_MINUTES:]) if value is not None), None)


def history_words(history: LoadHistory) -> str:
    """What a cluster sends now, in words; '' when nothing was measured."""
    frames, size = newest(history.frames), newest(history.bytes)
    return f"{frames:,.1f} frames/s, {size_text(size or 0.0)}/s" if frames is not None else ""
