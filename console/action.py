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
    """`tier`: 0 no dialog, 1 confirm, 2 confirm by typing. `kind`: the request it asks for.

    With tier 0 a request only looks; it is written into the database like the others.

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

    @property
    def needs_write(self) -> bool:
        return bool(self.kind)


def shown(key: str) -> str:
    """A key as people write it."""
    return "esc" if key == "escape" else key.replace("ctrl+", "^")


def on(screen: str) -> frozenset[str]:
    return frozenset({screen})
