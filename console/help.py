"""The help beside a list: what the screen is for, and all its keys with what they do, from the registry."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from console.actions import Action, actions_of, asked_of
from console.cells import Pen, safe
from console.keymap import Keys
from console.widgets import show

#: Cells of width that the panel takes beside a list, its line and padding included.
HELP_WIDTH = 46
#: Beside a list that is narrower than this it would leave too little; there it lies over the list.
BESIDE_FROM = 100
#: Of that, what is not text: line, padding and scroll bar.
HELP_EDGES = 6
_INDENT, _LABEL = 9, 14
_EVERYWHERE = frozenset({"mark", "view", "app"})


def grouped(screen: str) -> list[tuple[str, list[Action]]]:
    """All actions of a screen, by what an operator looks for."""
    groups: dict[str, list[Action]] = {
        name: [] for name in ("Change (each asks first)", "Look", "Mark and view", "Go to")
    }
    change, look, view, places = groups.values()
    for action in actions_of(screen):
        noun = action.id.partition(".")[0]
        if noun == "screen":
            places.append(action)
        elif action.tier:
            change.append(action)
        else:
            (view if noun in _EVERYWHERE else look).append(action)
    return [(title, actions) for title, actions in groups.items() if actions]


def help_text(
    screen: str, purpose: str, keys: Keys, pen: Pen, width: int, obstacle: Callable[[Action], str]
) -> Text:
    """The panel's text. `obstacle`: why an action cannot be done now, empty when it can."""
    text = Text(end="")

    def indented(words: str, role: str) -> None:
        for line in textwrap.wrap(words, width - _INDENT):
            text.append(f"{'':{_INDENT}}{line}\n", pen.styles[role])

    for line in textwrap.wrap(purpose, width):
        text.append(line + "\n")
    for title, actions in grouped(screen):
        text.append(f"\n{title}\n", pen.styles["strong"])
        for action in actions:
            why = obstacle(action)
            text.append(f"{keys.shown(action):>7}  ", "dim" if why else pen.styles["key"])
            asked = asked_of(action)
            fits = len(asked) <= width - _INDENT - _LABEL
            text.append(f"{action.label:<{_LABEL}}", "dim" if why else "bold")
            text.append(f"{asked if fits else ''}\n", pen.styles["muted"])
            if not fits:
                indented(asked, "muted")
            indented(action.help, "muted")
            if why:
                indented(safe(f"not now: {why}"), "attention")
    text.append("     ^p  ", pen.styles["key"]).append("palette\n", "bold")
    indented("All of this by name, and clusters, tenants, devices and users.", "muted")
    return text


class HelpPanel(VerticalScroll):
    """Beside the list, or over it where there is no room; `tab` leads into it, arrows scroll it."""

    def __init__(self) -> None:
        super().__init__(id="help")

    def compose(self) -> ComposeResult:
        yield Static("", id="helptext", markup=False)

    def put(self, title: str, closes: str, text: Text) -> None:
        # As texts: a key may be a bracket, which would be markup.
        self.border_title, self.border_subtitle = Text(title), Text(closes)
        show(self.query_one("#helptext", Static), text, grows=True)
