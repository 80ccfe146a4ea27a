"""A tenant closely: what it uses of its limits, where else it could live, what was decided. Pure."""

from __future__ import annotations

from rich.text import Text

from app.fleet import CARD_SPAN_HOURS, CARD_SPANS, TenantCard
from app.fleet_lists import TenantRow
from app.health import RULES
from console.cells import Pen, count_text, date_text, plural, size_text
from console.history import history_text
from console.widgets import box_line, side_by_side

#: From this share of a limit on it is worth a look, in percent.
NEARLY = RULES["quota_near"].raise_at
BAR_CELLS, TREND_CELLS = 12, 14
#: Clusters that the pane names.
NEXT_BEST = 2
DAYS = CARD_SPANS * CARD_SPAN_HOURS // 24


def of_limit(used: int, limit: int | None) -> str:
    return count_text(used) if limit is None else f"{count_text(used)}/{count_text(limit)}"


def pane_lines(pen: Pen, row: TenantRow, card: TenantCard, width: int) -> list[Text]:
    """What fits below the list, the most asked first."""
    lines = side_by_side(quota_parts(pen, row, card), width)
    lines += side_by_side(told_parts(pen, card), width)
    lines += side_by_side(place_parts(pen, row, card), width)
    return lines + side_by_side(use_parts(pen, card), width)


def page_text(pen: Pen, row: TenantRow, card: TenantCard) -> Text:
    """Everything, on a page of its own."""
    lines = [pen.cell("Limits", "strong"), *quota_parts(pen, row, card), *use_parts(pen, card), Text(end="")]
    lines += [pen.cell("Place", "strong"), *place_parts(pen, row, card)]
    lines += [pen.cell(f"  {verdict.sentence}", "muted") for verdict in card.verdicts]
    lines += [Text(end=""), pen.cell("Decided and done, newest first", "strong")]
    return Text("\n", end="").join([*lines, history_text(pen, card.told)])


def quota_parts(pen: Pen, row: TenantRow, card: TenantCard) -> list[Text]:
    """Each limit as bar, number and share; the trend where it is measured."""
    trend = pen.cell(f" {pen.spark(card.registered, TREND_CELLS)} {DAYS} d", "change")
    parts = [
        quota(pen, "devices", row.devices, row.max_devices).append_text(trend),
        quota(pen, "users", row.users, row.max_users),
        quota(pen, "keys", row.keys, row.max_keys),
        quota(pen, "routes", card.routes, card.max_routes),
    ]
    if card.max_requests is not None:
        parts.append(box_line(pen, "requests", f"at most {count_text(card.max_requests)} a minute"))
    return parts


def quota(pen: Pen, name: str, used: int, limit: int | None) -> Text:
    if not limit:
        return box_line(pen, name, of_limit(used, limit))
    share = 100 * used // limit
    mark = f" {pen.glyph('attention')}" if share >= NEARLY else ""
    value = f"{of_limit(used, limit)} {pen.bar(used, limit, BAR_CELLS)} {share} %{mark}"
    return box_line(pen, name, pen.cell(value, "attention" if mark else ""))


def place_parts(pen: Pen, row: TenantRow, card: TenantCard) -> list[Text]:
    """Where it lives, since when, and who could take it."""
    stays = "its cluster's own: it never moves" if row.is_home else "wherever there is room"
    if row.pinned:
        stays = f"pinned to {row.pinned}"
    parts = [box_line(pen, "cluster", f"{row.cluster_id} ({stays})")]
    if card.moved is not None:
        parts.append(box_line(pen, "before", f"{card.moved_from or '?'}, moved {date_text(card.moved)}"))
    if row.dedicated:
        parts.append(box_line(pen, "alone", "has a cluster of its own"))
    if not row.is_home:
        fitting = [verdict for verdict in card.verdicts if verdict.refused is None]
        best = ", ".join(f"{v.cluster_id} ({v.load:,.0f})" for v in fitting[:NEXT_BEST])
        parts.append(box_line(pen, "next best", best or "none: no other cluster can take it now"))
    parts.append(box_line(pen, "plan", row.plan or "none: no limits but its own"))
    return parts


def use_parts(pen: Pen, card: TenantCard) -> list[Text]:
    """What it used, as invoices count it, and limits that were lifted for a while."""
    hours = f"{count_text(round(card.device_hours))} device-hours, {size_text(card.map_bytes)} of maps"
    peak = max((peak for peak in card.peaks if peak is not None), default=None)
    most = "" if peak is None else f", at most {count_text(peak)} connected"
    parts = [box_line(pen, f"in {DAYS} d", f"{hours}, {plural(card.registrations, 'registration')}{most}")]
    if card.override_ends is not None:
        back = ", ".join(
            f"{name.removeprefix('max_')} {'without limit' if limit is None else count_text(limit)}"
            for name, limit in sorted(card.former.items())
        )
        words = f"by {card.override_by} until {date_text(card.override_ends)}, then {back}"
        parts.append(box_line(pen, "override", words))
    return parts


def told_parts(pen: Pen, card: TenantCard) -> list[Text]:
    """The newest line of the audit log about it."""
    return [
        box_line(pen, "last", f"{date_text(line.at)} {line.action} by {line.actor or '-'} {line.after}")
        for line in card.told[:1]
    ]
