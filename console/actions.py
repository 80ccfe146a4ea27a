"""The registry of everything an operator can do: one entry makes key, footer, palette and help. Pure.

The entries lie in `console/registry/`, by noun.
"""

from __future__ import annotations

from console.action import DIGITS, FLEET, LISTS, PLANS, SCREENS, Action, asked_of
from console.registry.devices import DEVICES
from console.registry.fleet import OF_FLEET
from console.registry.lists import OF_LISTS
from console.registry.people import PEOPLE
from console.registry.places import PLACES

__all__ = ["ACTIONS", "BY_ID", "DIGITS", "FLEET", "LISTS", "PLANS", "SCREENS", "Action"]
__all__ += ["actions_of", "asked_of", "footer_of", "why_not"]

ACTIONS: tuple[Action, ...] = (*PLACES, *DEVICES, *PEOPLE, *OF_FLEET, *OF_LISTS)

BY_ID = {action.id: action for action in ACTIONS}


def actions_of(screen: str) -> tuple[Action, ...]:
    """What can be done on a screen, in the order of the registry."""
    return tuple(action for action in ACTIONS if screen in action.screens)


def footer_of(screen: str) -> tuple[Action, ...]:
    """What the footer shows, the most important first; a narrow one cuts at the end."""
    return tuple(sorted((a for a in actions_of(screen) if a.rank), key=lambda action: action.rank))


def why_not(action: Action, *, read_only: str, linked: bool, has_row: bool) -> str:
    """Why an action cannot be done now; empty when it can. `read_only`: why nothing can be asked for."""
    if action.needs_write and read_only:
        return read_only
    if action.needs_write and not linked:
        return "the database is not connected"
    if action.needs_row and not has_row:
        return "no row is selected"
    return ""
