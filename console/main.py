"""ConsoleApp: screens as modes, the state of the link, requests under way, palette and help."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.message import Message
from textual.screen import Screen
from textual.theme import Theme
from textual.widgets import Input

from app.errors import HsError
from app.fleet import View
from app.model import OperatorRequest
from console import files
from console.cells import age, clock_text, plural
from console.dialogs import (
    ChoiceDialog,
    LostDialog,
    PageDialog,
)
from console.going import GoingApp
from console.history import history_text
from console.keymap import REGISTRY_KEYS, Keys
from console.live import Feed, Link, Picture, Report, Wanted
from console.palette import GotoCommands, NameCommands, RegistryCommands
from console.screens.access import KeysScreen
from console.screens.activity import AuditScreen, NetmapScreen
from console.screens.alarms import AlarmsScreen
from console.screens.base import ListScreen
from console.screens.devices import DevicesScreen
from console.screens.overview import OverviewScreen
from console.screens.people import UsersScreen
from console.screens.plans import MovesScreen, RebalanceScreen
from console.screens.policies import PolicyScreen
from console.screens.processes import JobsScreen, LoginsScreen, ProcessesScreen
from console.screens.routes import RoutesScreen
from console.screens.tenants import TenantsScreen
from console.store import Store, now_s
from console.themes import HS_SAFE, styles_of
from console.widgets import link_text, status_line

#: A break shorter than this is told by the bar alone.
LOST_DIALOG_S = 2.0
MAX_HELD = 10_000
GOTO_HINT = "devices @cluster os:linux, or a name: cluster, tenant, user, device"


class Reported(Message):
    """The feed has something to say."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


class ConsoleApp(GoingApp):
    """The operations console. The app owns the state of the link; screens own their windows."""

    TITLE = "hs-console"
    CSS_PATH = "console.tcss"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS: ClassVar[set[Any]] = {RegistryCommands, NameCommands}
    COMMAND_PALETTE_BINDING = "ctrl+p"
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (100, "-normal"), (160, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012
    MODES: ClassVar[dict[str, Any]] = {
        "overview": OverviewScreen,
        "devices": DevicesScreen,
        "users": UsersScreen,
        "keys": KeysScreen,
        "routes": RoutesScreen,
        "policy": PolicyScreen,
        "netmap": NetmapScreen,
        "rebalance": RebalanceScreen,
        "audit": AuditScreen,
        "processes": ProcessesScreen,
        "jobs": JobsScreen,
        "logins": LoginsScreen,
        "alarms": AlarmsScreen,
        "tenants": TenantsScreen,
        "moves": MovesScreen,
    }
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+q", "quit", "Quit", show=False, priority=True)]

    def __init__(
        self,
        store: Store,
        *,
        actor: str,
        scope: str | None = None,
        start: str = "overview",
        ascii_only: bool = False,
        editor: str = "vi",
        keys: Keys = REGISTRY_KEYS,
        theme: str = HS_SAFE.name,
        themes: Sequence[Theme] = (),
        live: bool = True,
        tenant: str | None = None,
        clock: Callable[[], float] = now_s,
    ) -> None:
        super().__init__(store, actor, scope, ascii_only=ascii_only, clock=clock)
        self.start_screen = start
        #: The operator's editor, with its arguments.
        self.editor = editor
        self.keys = keys
        self.set_keymap(dict(keys.changed))
        self.start_theme, self.themes = theme, (HS_SAFE, *themes)
        #: Only what is this tenant's is shown, where a list knows tenants.
        self.tenant = tenant
        self.paused = not live
        #: Rows that came while the picture is held still.
        self._held: set[str] = set()
        self.feed = Feed(store, self._wanted, lambda report: self.post_message(Reported(report)), clock)
        self.link: Link = self.feed.link
        self._was_down_since: float | None = None
        self._told_lost = False
        self._told_read_only = store.why_read_only

    def on_mount(self) -> None:
        for theme in self.themes:
            self.register_theme(theme)
        self.theme_changed_signal.subscribe(self, self.take_theme)
        self.theme = self.start_theme
        self.take_theme(self.current_theme)
        self.switch_mode(self.start_screen)
        self.trail.visit((self.start_screen, ""))
        self.run_feed()
        self.set_interval(1.0, self.tick)

    def take_theme(self, theme: Theme) -> None:
        """Cells are written anew in the colours of the theme."""
        self.pen = dataclasses.replace(self.pen, styles=styles_of(theme))
        base = self.base
        if base is not None and base.is_ready:
            base.repaint()

    @work(exclusive=True, group="feed", exit_on_error=True)
    async def run_feed(self) -> None:
        await self.feed.run()

    def on_unmount(self) -> None:
        self.store.close()

    # -- the feed -------------------------------------------------------------------------------

    def feed_kick(self, *, urgent: bool = False) -> None:
        self.feed.kick(urgent=urgent)

    def _wanted(self) -> Wanted | None:
        base = self.base
        return base.wanted() if base is not None and base.is_ready else None

    def on_reported(self, message: Reported) -> None:
        report = message.report
        if self.top is None:
            # The console ends, or has not begun.
            return
        if isinstance(report, Link):
            self._take_link(report)
        elif isinstance(report, Picture):
            base = self.base
            if base is not None and base.is_ready and report.wanted.screen == base.NAME:
                base.take(report.data, report.wanted.serial, report.at)
                self.painted.set()
        elif isinstance(report, OperatorRequest):
            self._take_request(report)
        else:
            self._take_vanished(report.request_id)

    def _take_link(self, link: Link) -> None:
        before, self.link = self.link, link
        if before.is_up and not link.is_up:
            self._was_down_since, self._told_lost = self.clock(), False
        if link.is_up and not before.is_up and self._was_down_since is not None:
            base = self.base
            changed = f", {plural(base.rows_changed, 'row')} changed" if base is not None else ""
            self.say(f"back after {age(self.clock() - self._was_down_since)}{changed}")
            self._was_down_since = None
        if link.kind == "refused" and (before.kind, before.reason) != (link.kind, link.reason):
            self.say(link.reason, "error")
        rights = self.store.why_read_only
        if rights != self._told_read_only:
            self.say(rights or "the right to ask for changes is there again", "warning")
        if before.kind != link.kind or rights != self._told_read_only:
            self.refresh_bindings()
        self._told_read_only = rights
        self.tick()

    def tick(self) -> None:
        """Ages and the clock move once a second."""
        base = self.base
        if base is not None:
            base.paint_frame()
        self._tell_lost()
        self.note_waiting()

    def _tell_lost(self) -> None:
        """A dialog once per loss, over a list only: what is being typed is not disturbed."""
        since = self._was_down_since
        if self.link.is_up and isinstance(self.top, LostDialog):
            self.top.dismiss(None)
        if since is None or self._told_lost or self.link.kind != "down" or self.top is not self.base:
            return
        if self.clock() - since < LOST_DIALOG_S or isinstance(self.focused, Input):
            return
        self._told_lost = True
        self.push_screen(LostDialog(self.pen, self.store.where, self._loss, self.feed_kick))

    def _loss(self) -> Text:
        link, now = self.link, self.clock()
        wait = max(0, round(link.retry_at - now))
        since = self._was_down_since if self._was_down_since is not None else now
        return self.pen.join(
            self.pen.cell(link.reason, "failed"),
            "  ",
            f"since {clock_text(since)} ({age(now - since)} ago); try {link.attempt}, the next in {wait} s",
        )

    def link_line(self, picture_at: float | None) -> Text:
        return link_text(self.pen, self.link, picture_at, self.clock())

    def status_line(self, width: int, picture_at: float | None) -> tuple[Text, Text]:
        link = self.link_line(picture_at)
        mode = "RO" if self.store.why_read_only else "RW"
        if mode == "RW" and not self.link.is_up:
            mode = f"RW{'>' if self.pen.ascii else '→'}RO"
        scope = (self.scope or "all") + (f" tenant:{self.tenant}" if self.tenant else "")
        return status_line(self.pen, width, self.store.where, scope, link, mode, self.actor, self.clock())

    # -- small things ---------------------------------------------------------------------------

    @work(group="history", exclusive=True, exit_on_error=True)
    async def show_history(self, name: str, cluster_id: str | None, what: str) -> None:
        try:
            found = await self.store.history(cluster_id, what)
        except HsError as error:
            self.say(error.message, "error")
            return
        self.open_page(f"History of {name}", history_text(self.pen, found))

    @work(group="export", exit_on_error=True)
    async def save_rows(
        self,
        base: ListScreen[Any],
        form: str,
        what: str,
        view: View,
        without: frozenset[str],
        rows: Sequence[Any] | None,
    ) -> None:
        """Into a new file of the current directory; without `rows` everything of the view, but `without`."""
        at = self.clock()
        first, count = files.head(form, base.NAME, base.filter_text, self.scope, at, what), 0
        try:
            path = files.new_file(Path.cwd(), base.NAME, form, at)
            with path.open("w", encoding="utf-8") as out:
                out.write(first)
                async for found in files.all_rows(base.read, view) if rows is None else _once(rows):
                    page = [row for row in found if base.key_of(row) not in without]
                    out.writelines(files.lines(form, page, first=count == 0))
                    count += len(page)
        except (HsError, OSError) as error:
            self.say(f"export: {error}", "error")
        else:
            self.say(f"{plural(count, 'row')} saved in {path}")

    def open_page(self, title: str, text: Text) -> None:
        self.push_screen(PageDialog(title, text))

    def choose_copy(self, choices: list[tuple[str, str]]) -> None:
        def chosen(text: str | None) -> None:
            if text is not None:
                self.copy_to_clipboard(text)
                self.say("copied")

        self.push_screen(ChoiceDialog(self.pen, "Copy", choices), chosen)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        for command in super().get_system_commands(screen):
            if command.title in ("Theme", "Maximize", "Minimize"):
                yield command

    # -- actions that are the same on every screen -----------------------------------------------

    @property
    def held(self) -> int:
        """How many new rows wait behind a picture that is held still; at most MAX_HELD are told apart."""
        return len(self._held)

    def hold(self, keys: set[str]) -> None:
        """These are new."""
        if len(self._held) < MAX_HELD:
            self._held |= keys

    async def do_view_pause(self) -> None:
        self.paused = not self.paused
        self._held.clear()
        base = self.base
        if base is not None:
            base.paint_frame()
        self.feed.kick()

    async def do_view_reload(self) -> None:
        base = self.base
        if base is not None:
            # Also while the picture is held still.
            base.wanted_since = self.clock()
        self.feed.kick(urgent=True)

    async def do_view_screenshot(self) -> None:
        self.say(f"saved {self.save_screenshot()}")

    async def do_app_goto(self) -> None:
        self.push_screen(CommandPalette(providers=[GotoCommands, NameCommands], placeholder=GOTO_HINT))

    async def do_app_help(self) -> None:
        base = self.base
        assert base is not None
        base.toggle_help()

    async def do_app_quit(self) -> None:
        self.exit()


async def _once(rows: Sequence[Any]) -> AsyncIterator[Sequence[Any]]:
    yield rows
