"""GoingApp: which screen is shown with which filter, and the way back to those before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from textual import work
from textual.screen import Screen

from console.asking import AskingApp
from console.help import BESIDE_FROM
from console.screens.base import ListScreen
from console.store import Store
from console.trail import Place, Trail

#: A screen that is being made is looked at again after this.
NOT_READY_S = 0.02
#: A row that is gone to is looked for so long.
ROW_WAIT_S = 6.0


class GoingApp(AskingApp):
    """Screens are modes of the app; each keeps its filter, cursor and marks."""

    def __init__(
        self, store: Store, actor: str, scope: str | None, *, ascii_only: bool, clock: Callable[[], float]
    ) -> None:
        super().__init__(store, actor, scope, ascii_only=ascii_only, clock=clock)
        self.trail = Trail()
        #: Whether the help is open, on every list.
        self.helping = False
        #: Set when a list has taken rows.
        self.painted = asyncio.Event()

    @property
    def base(self) -> ListScreen[Any] | None:
        """The list on the bottom of the stack, whatever lies on it."""
        for screen in self.screen_stack:
            if isinstance(screen, ListScreen):
                return screen
        return None

    @property
    def top(self) -> Screen[Any] | None:
        """What has the keys; None at the very end."""
        return self.screen_stack[-1] if self.screen_stack else None

    async def rows_shown(self) -> None:
        """Returns when the screen shows rows of the view it stands for."""
        while True:
            base = self.base
            if base is not None and base.page is not None and base.wanted_since is None:
                return
            self.painted.clear()
            await self.painted.wait()

    def go_to(self, screen: str, filter_text: str | None = None) -> None:
        """Another screen; with a filter, that one."""
        if self.size.width < BESIDE_FROM:
            # Over a list that has just been asked for it would be in the way.
            self.helping = False
        self.switch_mode(screen)
        if filter_text is not None:
            self.call_later(self._filter, screen, filter_text)
        else:
            self.call_later(self.note_place)
        self.feed.kick()

    def show_cluster(self, cluster_id: str) -> None:
        """The overview with the cursor on a cluster."""
        self.go_to_row("overview", "", cluster_id)

    @work(group="going", exclusive=True, exit_on_error=True)
    async def go_to_row(self, screen: str, filter_text: str, key: str, *, opened: bool = False) -> None:
        """Another screen with the cursor on a row, when it is there; `opened`: enter is pressed on it."""
        await self.switch_mode(screen)
        base = self.base
        if base is None or not base.is_ready:
            return
        base.set_filter(filter_text)
        try:
            async with asyncio.timeout(ROW_WAIT_S):
                await self.rows_shown()
        except TimeoutError:
            return
        if base.table.move_to(key) and opened and self.screen is base:
            await base.action_command("row.open")

    def note_place(self) -> None:
        """What is shown now can be come back to."""
        base = self.base
        if base is not None:
            self.trail.visit((base.NAME, base.filter_text))

    def _go_back_to(self, place: Place | None) -> None:
        if place is None:
            self.say("no further view", "warning")
            return
        screen, text = place
        self.switch_mode(screen)
        self._filter(screen, text)

    def _filter(self, screen: str, text: str) -> None:
        """Once the screen is there; the operator may have gone on meanwhile."""
        base = self.base
        if base is None or screen != base.NAME:
            return
        if base.is_ready:
            base.set_filter(text)
        else:
            self.set_timer(NOT_READY_S, lambda: self._filter(screen, text))

    async def do_view_older(self) -> None:
        self._go_back_to(self.trail.step(-1))

    async def do_view_newer(self) -> None:
        self._go_back_to(self.trail.step(1))

    async def do_view_last(self) -> None:
        last = self.trail.last
        if last is not None:
            self.trail.visit(last)
        self._go_back_to(last)
