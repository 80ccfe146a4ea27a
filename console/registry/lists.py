"""What every list can do: open, filter, order, mark, copy, export; and the console itself. Pure."""

from __future__ import annotations

from console.action import FLEET, Action

#: The space bar of the moves of a plan leaves one out.
MARKABLE = FLEET - {"moves"}

OF_LISTS: tuple[Action, ...] = (
    Action(
        "row.open",
        "enter",
        "open",
        "What the row leads to: devices of a cluster, user or key; a device's page.",
        needs_row=True,
        rank=1,
    ),
    Action(
        "list.filter", "/", "filter", "Show some rows only: os:linux seen<1d !tag:x word @cluster.", rank=7
    ),
    Action("list.sort", "o", "sort", "Sort by the next column.", FLEET, rank=8),
    Action("list.reverse", "O", "reverse", "Turn the order round.", FLEET),
    Action(
        "mark.toggle",
        "space",
        "mark",
        "Mark the row, or unmark it.",
        MARKABLE,
        needs_row=True,
        rank=2,
    ),
    Action("mark.range", "V", "mark range", "Mark from the last marked row to here.", FLEET, needs_row=True),
    Action("mark.all", "*", "mark all", "Mark everything that matches the filter, shown or not.", FLEET),
    Action("mark.none", "u", "unmark", "Take all marks off.", FLEET),
    Action("row.json", "y", "JSON", "The row as JSON.", needs_row=True),
    Action(
        "row.copy",
        "c",
        "copy",
        "Copy name, address or id of the row; works over ssh (OSC 52).",
        needs_row=True,
    ),
    Action(
        "row.history",
        "l",
        "history",
        "What was done to it, by whom and when, from the audit log.",
        FLEET,
        needs_row=True,
    ),
    Action("list.export", "e", "export", "Save marked, shown or all matching rows: CSV, JSON.", FLEET),
    Action("view.pin", "d", "pin", "Keep the pane below on this row, or let it follow again.", FLEET),
    Action("view.zoom", "z", "zoom", "The list alone on the screen, and back."),
    Action("view.top", "g", "top", "First row."),
    Action("view.end", "G", "end", "Last row."),
    Action("view.last", "-", "last view", "The view before this one, and back."),
    Action("view.older", "[", "older view", "Back in the views you have seen."),
    Action("view.newer", "]", "newer view", "Forth again."),
    Action("view.pause", "p", "pause", "Hold the picture still, and go on."),
    Action("view.reload", "ctrl+r", "reload", "Ask the database now; also retries a lost connection."),
    Action("view.screenshot", "ctrl+s", "screenshot", "Save this screen as SVG."),
    Action("app.goto", ":", "go to", "Go to a screen: devices @eu-1 os:linux"),
    Action("app.help", "?", "help", "What this screen is for and all its keys, beside the list."),
    Action("app.back", "escape", "back", "Close, or clear the filter."),
    Action("app.quit", "q", "quit", "Leave the console."),
)
