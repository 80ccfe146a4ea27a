"""What ctrl+p and `:` offer: the registry of actions, and the go-to line."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from rich.text import Text
from textual.command import DiscoveryHit, Hit, Hits, Provider

from console.actions import Action, actions_of, asked_of
from console.query import QueryError, parse_goto
from console.screens.base import ListScreen

if TYPE_CHECKING:
    from console.main import ConsoleApp


class RegistryCommands(Provider):
    """Every action of the screen, with its key; one that cannot be done now says why."""

    def _offers(self) -> list[tuple[Action, str, Any]]:
        screen = self.screen
        if not isinstance(screen, ListScreen):
            return []
        offers = []
        for action in actions_of(screen.NAME):
            obstacle = screen.obstacle(action)
            notes = [asked_of(action), f"not now: {obstacle}" if obstacle else ""]
            told = "; ".join(note for note in notes if note)
            help_line = f"{screen.console.keys.shown(action)}  {action.help}" + (f" ({told})" if told else "")
            offers.append((action, help_line, partial(screen.action_command, action.id)))
        return offers

    async def discover(self) -> Hits:
        for action, help_line, call in self._offers():
            yield DiscoveryHit(title_of(action), call, action.label, help_line)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for action, help_line, call in self._offers():
            title = title_of(action)
            score = matcher.match(title)
            if score > 0:
                yield Hit(score, matcher.highlight(title), call, title, help_line)


class GotoCommands(Provider):
    """`devices @eu-1 os:linux`: what the line typed so far leads to."""

    async def search(self, query: str) -> Hits:
        try:
            goto = parse_goto(query)
        except QueryError as error:
            yield Hit(0.1, Text(str(error)), lambda: None, query)
            return
        app = cast("ConsoleApp", self.app)
        shown = Text(f"go to {goto.screen} {goto.filter}".rstrip())
        yield Hit(1.0, shown, partial(app.go_to, goto.screen, goto.filter), query, "enter goes there")


def title_of(action: Action) -> str:
    """How the palette names an action: its noun and what it does."""
    noun = action.id.partition(".")[0]
    return f"{noun}: {action.label}"
