"""Keys as the operator wants them: `console.keys` of the settings over the registry's. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.errors import ConfigError
from console.action import shown
from console.actions import BY_ID, SCREENS, Action, actions_of

#: One printable sign, a function key, or a sign with ctrl or alt. A comma would part two keys.
_KEY = re.compile(r"[!-+\--~]|f([1-9]|1[0-2])|(ctrl|alt)\+[a-z0-9]|space|insert|backspace|delete", re.ASCII)
#: What lists, dialogs and the terminal itself need.
RESERVED = frozenset({"j", "k", "ctrl+c", "ctrl+p", "ctrl+q", "ctrl+z", "ctrl+m", "ctrl+i", "ctrl+j"})
#: `enter` is the list's own key.
FIXED = frozenset({"row.open"})


@dataclass(frozen=True, slots=True)
class Keys:
    """Which key an action has. `changed`: id of the action -> key."""

    changed: Mapping[str, str] = field(default_factory=dict)

    def of(self, action: Action) -> str:
        return self.changed.get(action.id, action.key)

    def shown(self, action: Action) -> str:
        """As footer, help and palette write it."""
        return shown(self.of(action))


REGISTRY_KEYS = Keys()


def keys_of(texts: Sequence[str]) -> Keys:
    """`device.expire=E` and the like. Raises ConfigError with all that is wrong, clashes too."""
    changed: dict[str, str] = {}
    problems: list[str] = []
    for text in texts:
        action_id, _, key = (part.strip() for part in text.partition("="))
        if action_id not in BY_ID or action_id in FIXED:
            problems.append(f"{text}: there is no action {action_id} that could have another key")
        elif action_id in changed:
            problems.append(f"{text}: {action_id} has a key already")
        elif not _KEY.fullmatch(key) or key in RESERVED:
            problems.append(
                f"{text}: not a key to be had: one sign but a comma, j and k, f1 to f12, ctrl+x, alt+x"
            )
        else:
            changed[action_id] = key
    keys = Keys(changed)
    clashes: dict[str, list[str]] = defaultdict(list)
    for screen in SCREENS:
        taken: dict[str, list[str]] = defaultdict(list)
        for action in actions_of(screen):
            taken[keys.of(action)].append(action.id)
        for key, ids in taken.items():
            if len(ids) > 1:
                clashes[f"{key} is the key of {' and '.join(ids)}"].append(screen)
    problems += [f"{clash} on {', '.join(screens)}" for clash, screens in clashes.items()]
    if problems:
        raise ConfigError("\n".join(f"console.keys: {problem}" for problem in problems), code="config")
    return keys
