"""An action of the registry: what an entry says about it, and the screens there are. Pure.

Lower-case letters look or change little, capitals change more; deletion is `D` only.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Every screen has a name to go to; these are a digit away.
DIGITS = {
    **{"overview": "1", "devices": "2", "users": "3", "keys": "4", "routes": "5", "policy": "6"},
    **{"netmap": "7", "rebalance": "8", "audit": "9", "processes": "0"},
}
SCREENS = (*DIGITS, "tenants", "moves", "jobs", "logins", "alarms")
LISTS = frozenset(SCREENS)
FLEET = LISTS - {"overview"}
PLANS = frozenset({"rebalance", "moves"})
ACTIVITY = frozenset({"netmap", "audit"})


@dataclass(frozen=True, slots=True)
class Action:
    """`tier`: 0 no dialog, 1 confirm, 2 confirm by typing, 3 by typing and with a reason.

    `reason_when`: the situation in which an action of a lower tier wants a reason too.

    `kind`: the request it asks for. With tier 0 it only looks; it is written down like the others.

    `many`: works on all marked rows. `rank`: place in the footer, 0 = not there.
    """

    id: str
    key: str
    label: str
    help: str
    screens: frozenset[str] = LISTS
    tier: int = 0
    kind: str = ""
    needs_row: bool = False
    many: bool = False
    rank: int = 0
    reason_when: str = ""

    @property
    def needs_write(self) -> bool:
        return bool(self.kind)


def asked_of(action: Action) -> str:
    """What the operator is asked before it is done, for help and palette; empty where nothing is."""
    typed = "asks; the name or number is typed"
    words = ("", "asks", typed, f"{typed}, and a reason")[action.tier]
    return f"{words}, and a reason when {action.reason_when}" if action.reason_when else words


def shown(key: str) -> str:
    """A key as people write it."""
    return "esc" if key == "escape" else key.replace("ctrl+", "^")


def on(screen: str) -> frozenset[str]:
    return frozenset({screen})
