"""GoingApp: which screen is shown with which filter, and the way back to those before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from console.asking import AskingApp
from console.help import BESIDE_FROM
from console.screens.base import ListScreen
from console.store import Store
from console.trail import Place, Trail

#: A screen that is being made is looked at again after this.
NOT_READY_S = 0.02


class GoingApp(AskingApp):
    """Screens are modes of the app; each keeps its filter, cursor and marks."""

    def __init__(
        self, store: Store, actor: str, scope: str | None, *, ascii_only: bool, clock: Callable[[], float]
    ) -> None:
        super().__init__(store, actor, scope, ascii_only=ascii_only, clock=clock)
        self.trail = Trail()
        #: Whether the help is open, on every list.
        self.helping = False

    @property
    def base(self) -> ListScreen[Any] | None:
        """The list on the bottom of the stack, whatever lies on it."""
        for screen in self.screen_stack:
            if isinstance(screen, ListScreen):
                return screen
        return None

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
