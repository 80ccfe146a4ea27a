"""What ctrl+p and `:` offer: the registry of actions, the go-to line, and names of what there is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from rich.text import Text
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.markup import escape

from app.errors import HsError
from app.fleet import Named
from console.actions import Action, actions_of, asked_of
from console.cells import safe
from console.query import Condition, QueryError, parse_goto, render
from console.screens.base import ListScreen

if TYPE_CHECKING:
    from console.main import ConsoleApp

#: The database is asked for names when nobody has typed for so long.
QUIET_S = 0.12
#: Of one letter too much begins with it.
MIN_LETTERS = 2
#: Kind of what is named -> the screen that has it.
SCREEN_OF = {"cluster": "overview", "tenant": "tenants", "user": "users", "device": "devices"}


class RegistryCommands(Provider):
    """Every action of the screen, with its key; one that cannot be done now says why."""

    def _offers(self) -> list[tuple[Action, str, Any]]:
        screen = self.screen
        if not isinstance(screen, ListScreen):
            return []
        offers = []
        for action in actions_of(screen.NAME):
            obstacle = screen.obstacle(action)
            notes = [asked_of(action), f"not now: {safe(obstacle)}" if obstacle else ""]
            told = "; ".join(note for note in notes if note)
            help_line = (
                f"{screen.console.keys.shown(action)}  " + (f"({told})  " if told else "") + action.help
            )
            # The palette takes it for markup.
            offers.append((action, escape(help_line), partial(screen.action_command, action.id)))
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


class NameCommands(Provider):
    """Clusters, tenants, users and devices that begin with the last word typed.

    After the name of a screen only what that screen has, and `@` offers clusters. One question for each pause
    in typing; a database that is away is told of and no more.
    """

    @property
    def console(self) -> ConsoleApp:
        return cast("ConsoleApp", self.app)

    async def search(self, query: str) -> Hits:
        before, _, last = query.rpartition(" ")
        word, at = last.removeprefix("@"), last.startswith("@")
        if len(word) < (1 if at else MIN_LETTERS):
            return
        await asyncio.sleep(QUIET_S)
        console = self.console
        try:
            found = await console.store.names(word, console.scope, console.tenant)
        except HsError as error:
            yield Hit(0.05, Text(f"names are not known now: {safe(error.message)}"), lambda: None, query)
            return
        screen = _screen(before)
        for number, named in enumerate(found):
            if (at and named.kind != "cluster") or (not at and screen not in ("", SCREEN_OF[named.kind])):
                continue
            # Behind what was typed in full, before what only resembles it.
            score = 0.95 - number / 1000
            if at and screen:
                yield self._filtered(score, f"{before} @{named.name}")
            else:
                yield Hit(score, self._shown(named), self._call(named), query, HELP[named.kind])

    def _filtered(self, score: float, line: str) -> Hit:
        goto = parse_goto(line)
        shown = self.console.pen.cell(f"go to {goto.screen} {goto.filter}")
        return Hit(
            score, shown, partial(self.console.go_to, goto.screen, goto.filter), line, "enter goes there"
        )

    def _shown(self, named: Named) -> Text:
        pen = self.console.pen
        where = f"  ({named.cluster_id})" if named.kind != "cluster" else ""
        whose = f"  of {named.tenant}" if named.kind in ("user", "device") else ""
        return pen.join(
            f"{named.kind} ", pen.cell(named.name, "strong"), pen.cell(where), pen.cell(whose, "muted")
        )

    def _call(self, named: Named) -> Callable[[], object]:
        console = self.console
        if named.kind == "cluster":
            return partial(console.show_cluster, named.cluster_id)
        key = str(named.id) if named.kind == "tenant" else f"{named.tenant_id}/{named.id}"
        only = render((Condition("id", "=", (str(named.id),)),))
        return partial(console.go_to_row, SCREEN_OF[named.kind], only, key, opened=named.kind == "device")


#: What enter does with what is named.
HELP = {
    "cluster": "enter shows it on the overview",
    "tenant": "enter shows it among the tenants",
    "user": "enter shows it among the users",
    "device": "enter opens its record",
}


def _screen(line: str) -> str:
    """The screen that a go-to line begins with, '' for none."""
    try:
        return parse_goto(line).screen if line else ""
    except QueryError:
        return ""


def title_of(action: Action) -> str:
    """How the palette names an action: its noun and what it does."""
    noun = action.id.partition(".")[0]
    return f"{noun}: {action.label}"
