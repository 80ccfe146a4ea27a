"""ConsoleApp: screens as modes, the state of the link, requests under way, palette and help."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from rich.text import Text
from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.message import Message
from textual.screen import Screen
from textual.theme import Theme

from app.errors import HsError
from app.model import OperatorRequest, RequestId
from console.actions import Action, actions_of
from console.cells import Pen, age, safe
from console.dialogs import ChoiceDialog, ConfirmDialog, Field, FormDialog, PageDialog, SecretDialog
from console.live import Feed, Link, Picture, Report, Wanted
from console.palette import GotoCommands, RegistryCommands
from console.screens.access import KeysScreen
from console.screens.base import ListScreen
from console.screens.devices import DevicesScreen
from console.screens.overview import OverviewScreen
from console.screens.people import UsersScreen
from console.store import Ask, Store, now_s
from console.widgets import link_text, status_line

#: Okabe-Ito on near black: told apart with every kind of colour vision, at least 4.8:1.
HS_SAFE = Theme(
    name="hs-safe",
    primary="#56B4E9",
    secondary="#0072B2",
    accent="#56B4E9",
    success="#009E73",
    warning="#E69F00",
    error="#D55E00",
    background="#121212",
    surface="#1c1c1c",
    panel="#262626",
    foreground="#e4e4e4",
    dark=True,
)

#: A request that nobody has taken up after this long is worth a word.
QUEUED_NOTE_S = 3.0
SAID_LINES = 50

Asks = Callable[[dict[str, str]], "list[Ask] | Awaitable[list[Ask]]"]


class Reported(Message):
    """The feed has something to say."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


@dataclass(slots=True)
class Followed:
    """A request under way: what was asked, and since when."""

    ask: Ask
    since: float
    noted: bool = False


class ConsoleApp(App[None]):
    """The operations console. The app owns the state of the link; screens own their windows."""

    TITLE = "hs-console"
    CSS_PATH = "console.tcss"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS: ClassVar[set[Any]] = {RegistryCommands}
    COMMAND_PALETTE_BINDING = "ctrl+p"
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (100, "-normal"), (160, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012
    MODES: ClassVar[dict[str, Any]] = {
        "overview": OverviewScreen,
        "devices": DevicesScreen,
        "users": UsersScreen,
        "keys": KeysScreen,
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
        clock: Callable[[], float] = now_s,
    ) -> None:
        super().__init__()
        self.store = store
        self.actor = actor
        self.scope = scope
        self.start_screen = start
        self.pen = Pen(ascii_only)
        self.clock = clock
        self.paused = False
        self.held = 0
        self.followed: dict[RequestId, Followed] = {}
        self.feed = Feed(store, self._wanted, lambda report: self.post_message(Reported(report)), clock)
        self.link: Link = self.feed.link
        self._was_down_since: float | None = None
        #: What was said last: toasts vanish.
        self.said: deque[str] = deque(maxlen=SAID_LINES)
        self._painted = asyncio.Event()

    def on_mount(self) -> None:
        self.register_theme(HS_SAFE)
        self.theme = "hs-safe"
        self.switch_mode(self.start_screen)
        self.run_feed()
        self.set_interval(1.0, self.tick)

    @work(exclusive=True, group="feed", exit_on_error=True)
    async def run_feed(self) -> None:
        await self.feed.run()

    def on_unmount(self) -> None:
        self.store.close()

    # -- the feed -------------------------------------------------------------------------------

    @property
    def base(self) -> ListScreen[Any] | None:
        """The list on the bottom of the stack, whatever lies on it."""
        for screen in self.screen_stack:
            if isinstance(screen, ListScreen):
                return screen
        return None

    async def rows_shown(self) -> None:
        """Returns when the screen shows rows of the view it stands for."""
        while True:
            base = self.base
            if base is not None and base.page is not None and base.wanted_since is None:
                return
            self._painted.clear()
            await self._painted.wait()

    @property
    def feed_pending(self) -> int:
        return len(self.followed)

    def feed_kick(self, *, urgent: bool = False) -> None:
        self.feed.kick(urgent=urgent)

    def _wanted(self) -> Wanted | None:
        base = self.base
        return base.wanted() if base is not None and base.is_ready else None

    def on_reported(self, message: Reported) -> None:
        report = message.report
        if isinstance(report, Link):
            self._take_link(report)
        elif isinstance(report, Picture):
            base = self.base
            if base is not None and base.is_ready and report.wanted.screen == base.NAME:
                base.take(report.data, report.wanted.serial, report.at)
                self._painted.set()
        elif isinstance(report, OperatorRequest):
            self._take_request(report)
        elif (followed := self.followed.pop(report.request_id, None)) is not None:
            self.say(f"{followed.ask.label}: the request is gone, its outcome is not known", "warning")

    def _take_link(self, link: Link) -> None:
        before, self.link = self.link, link
        if before.is_up and not link.is_up:
            self._was_down_since = self.clock()
        if link.is_up and not before.is_up and self._was_down_since is not None:
            self.say(f"back after {age(self.clock() - self._was_down_since)}")
            self._was_down_since = None
        if before.kind != link.kind:
            self.refresh_bindings()
        self.tick()

    def tick(self) -> None:
        """Ages and the clock move once a second."""
        base = self.base
        if base is not None:
            base.paint_frame()
        for followed in self.followed.values():
            if not followed.noted and self.clock() - followed.since > QUEUED_NOTE_S:
                followed.noted = True
                self.say(
                    f"{followed.ask.label}: waiting for the owner of cluster {followed.ask.cluster_id};"
                    " it is kept and carried out when there is one",
                    "warning",
                )

    def status_line(self, width: int, picture_at: float | None) -> tuple[Text, Text]:
        link = link_text(self.pen, self.link, picture_at, self.clock())
        mode = "RW" if self.store.writable else "RO"
        if self.store.writable and not self.link.is_up:
            mode = f"RW{'>' if self.pen.ascii else '→'}RO"
        return status_line(
            self.pen, width, self.store.where, self.scope or "all", link, mode, self.actor, self.clock()
        )

    # -- requests -------------------------------------------------------------------------------

    def confirm(
        self,
        action: Action,
        title: str,
        objects: Sequence[str],
        effect: str,
        asks: list[Ask],
        typed: str = "",
    ) -> None:
        """Asks the operator, then the owner. What is asked was fixed when the key was pressed.

        The dialog is there at once, so keys typed ahead cannot reach the list.
        """
        wanted = typed or (str(len(asks)) if len(asks) > 1 or action.tier > 1 else "")

        def decided(yes: bool | None) -> None:
            if yes:
                self.submit(asks)

        if asks:
            verb = action.label.capitalize()
            self.push_screen(ConfirmDialog(self.pen, title, objects, effect, verb, wanted), decided)

    def form(self, title: str, fields: Sequence[Field], verb: str, effect: str, asks: Asks) -> None:
        """A form; its answers become requests. A refusal opens it again with what was typed."""

        def answered(answers: dict[str, str] | None) -> None:
            if answers is not None:
                filled = [_filled(field, answers) for field in fields]
                self.submit_form(answers, asks, lambda: self.form(title, filled, verb, effect, asks))

        self.push_screen(FormDialog(self.pen, title, fields, verb, effect), answered)

    @work(group="ask", exit_on_error=True)
    async def submit(self, asks: list[Ask]) -> None:
        await self._submit(asks)

    @work(group="ask", exit_on_error=True)
    async def submit_form(self, answers: dict[str, str], asks: Asks, again: Callable[[], None]) -> None:
        try:
            made = asks(dict(answers))
            await self._submit(await made if inspect.isawaitable(made) else made)
        except HsError as error:
            self.say(error.message, "error")
            again()

    async def _submit(self, asks: list[Ask]) -> None:
        for ask in asks:
            try:
                request_id = await self.store.submit(ask, self.actor)
            except HsError as error:
                self.say(f"{ask.label}: {error.message}", "error")
                continue
            self.followed[request_id] = Followed(ask, self.clock())
            self.feed.followed[request_id] = ask.label
        self.feed.kick()

    def _take_request(self, request: OperatorRequest) -> None:
        if not request.is_finished or request.id not in self.followed:
            return
        ask = self.followed.pop(request.id).ask
        if request.state == "failed":
            self.say(f"{ask.label}: {request.error}", "error")
        else:
            self.say(f"{ask.label}: done")
            if ask.secret:
                self.push_screen(SecretDialog(ask.secret))
        self.feed.kick()

    @work(group="tenants", exclusive=True, exit_on_error=True)
    async def with_tenants(self, go_on: Callable[[tuple[tuple[str, str], ...]], None]) -> None:
        """Tenants as a form offers them, value `cluster/id`; a word instead when there are none."""
        try:
            tenants = await self.store.tenants(self.scope)
        except HsError as error:
            self.say(error.message, "error")
            return
        if tenants:
            go_on(tuple((f"{t.name}  (cluster {t.cluster_id})", f"{t.cluster_id}/{t.id}") for t in tenants))
        else:
            self.say("there is no tenant yet: start hs-node serve", "warning")

    # -- small things ---------------------------------------------------------------------------

    def say(self, text: str, severity: str = "information") -> None:
        """A toast: one line of harmless text."""
        self.said.append(safe(text))
        self.notify(self.said[-1], severity=cast("Any", severity), markup=False)

    def go_to(self, screen: str, filter_text: str | None = None) -> None:
        """Another screen; with a filter, that one."""
        self.switch_mode(screen)
        if filter_text is not None:
            self.call_later(self._filter, filter_text)
        self.feed.kick()

    def _filter(self, text: str) -> None:
        base = self.base
        if base is not None:
            base.set_filter(text)

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

    async def do_screen_overview(self) -> None:
        self.go_to("overview")

    async def do_screen_devices(self) -> None:
        self.go_to("devices")

    async def do_screen_users(self) -> None:
        self.go_to("users")

    async def do_screen_keys(self) -> None:
        self.go_to("keys")

    async def do_view_pause(self) -> None:
        self.paused, self.held = not self.paused, 0
        base = self.base
        if base is not None:
            base.paint_frame()
        self.feed.kick()

    async def do_view_reload(self) -> None:
        self.feed.kick()

    async def do_view_screenshot(self) -> None:
        self.say(f"saved {self.save_screenshot()}")

    async def do_app_goto(self) -> None:
        self.push_screen(CommandPalette(providers=[GotoCommands], placeholder="devices @cluster os:linux"))

    async def do_app_help(self) -> None:
        base = self.base
        assert base is not None
        self.open_page(f"Keys on {base.NAME}", help_text(base.NAME))

    async def do_app_quit(self) -> None:
        self.exit()


def help_text(screen: str) -> Text:
    """All keys of a screen, from the registry."""
    text = Text(end="")
    for action in actions_of(screen):
        text.append(f"{action.shown_key:>7}  ", "bold #56b4e9").append(f"{action.label:<13}", "bold")
        text.append(f" {action.help}\n")
    text.append("     ^p  ", "bold #56b4e9").append("palette      ", "bold").append(" All of this by name.\n")
    return text


def _filled(field: Field, answers: dict[str, str]) -> Field:
    return Field(
        field.name,
        field.label,
        answers.get(field.name, field.value),
        field.choices,
        field.is_flag,
        field.check,
        field.hint,
    )
