"""All keys of a screen with what they do, from the registry. Pure."""

from __future__ import annotations

from rich.text import Text

from console.actions import actions_of
from console.keymap import Keys


def help_text(screen: str, keys: Keys, style: str = "bold") -> Text:
    """All keys of a screen, from the registry."""
    text = Text(end="")
    for action in actions_of(screen):
        text.append(f"{keys.shown(action):>7}  ", style).append(f"{action.label:<13}", "bold")
        text.append(f" {action.help}\n")
    text.append("     ^p  ", style).append("palette      ", "bold").append(" All of this by name.\n")
    return text
