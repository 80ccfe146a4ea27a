"""The record of a device: tabs of what is stored, and of what its owner tells when it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from app.errors import HsError, NotFound
from app.fleet import DeviceRow
from console.cells import Pen
from console.dialogs import words
from console.history import events_text, history_text
from console.live import REQUEST_POLL_S
from console.record_text import Look, filter_text, json_text, map_text, peers_text
from console.store import Ask

if TYPE_CHECKING:
    from console.main import ConsoleApp

KIND = "device_look"
TABS = ("summary", "peers", "filter", "map", "events", "audit", "json")
#: What only the owner knows: it is asked when one of them is looked at.
OF_OWNER: dict[str, Callable[[Pen, Look], Text]] = {
    "peers": peers_text,
    "filter": filter_text,
    "map": map_text,
}
#: Read from the database when they are looked at.
READ = ("events", "audit")
#: An owner that has not answered by then is told of as away.
LOOK_DEADLINE_S = 10.0


class RecordScreen(ModalScreen[None]):
    """One device. What was pressed is fixed: the list goes on below without changing it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,y", "close", "Close"),
        ("left,shift+tab", "step(-1)", "Tab before"),
        ("right,tab", "step(1)", "Next tab"),
        *((str(number), f"go({number - 1})", name) for number, name in enumerate(TABS, 1)),
        ("r", "again", "Ask again"),
        ("c", "copy", "Copy"),
    ]

    def __init__(self, row: DeviceRow, title: str, summary: Text, tab: str = TABS[0]) -> None:
        super().__init__()
        self.row, self.heading, self.summary, self.tab = row, title, summary, tab
        self.look: Look | None = None
        #: What was read for a tab, or that it is being read.
        self.told: dict[str, Text] = {}
        #: Why there is no answer of the owner, or that it is waited for.
        self.state: Text | None = None

    @property
    def console(self) -> ConsoleApp:
        return cast("ConsoleApp", self.app)

    @property
    def pen(self) -> Pen:
        return self.console.pen

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="page") as box:
            box.border_title = self.pen.cell(self.heading)
            box.border_subtitle = f"1-{len(TABS)} tabs, r ask again, c copy, esc close"
            yield words("", id="recordtabs")
            yield words("", id="record")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
        self.show_tab()

    def show_tab(self) -> None:
        """Paints the tab, and fetches what it needs and is not there."""
        if self.tab in OF_OWNER and self.look is None and self.state is None:
            self._ask()
        if self.tab in READ and self.tab not in self.told:
            self.told[self.tab] = Text("reading")
            self.read(self.tab)
        self.paint()

    def paint(self) -> None:
        line = Text(end="")
        for number, name in enumerate(TABS, 1):
            here = name == self.tab
            style = self.pen.styles["strong" if here else "muted"]
            line.append(f"[{number}]{name} " if here else f" {number} {name} ", style)
        self.query_one("#recordtabs", Static).update(line)
        self.query_one("#record", Static).update(self.text)

    @property
    def text(self) -> Text:
        """What the tab shows."""
        if self.tab == "summary":
            return self.summary
        if self.tab in READ:
            return self.told[self.tab]
        if self.tab == "json":
            return json_text(self.pen, {"stored": self.row, "told_by_owner": self.look})
        if self.look is not None:
            return OF_OWNER[self.tab](self.pen, self.look)
        return self.state or Text("")

    # -- keys -----------------------------------------------------------------------------------

    def action_go(self, number: int) -> None:
        self.tab = TABS[number]
        self.query_one(VerticalScroll).scroll_home(animate=False)
        self.show_tab()

    def action_step(self, by: int) -> None:
        self.action_go((TABS.index(self.tab) + by) % len(TABS))

    def action_again(self) -> None:
        if self.tab in OF_OWNER:
            self.look = self.state = None
        else:
            self.told.pop(self.tab, None)
        self.show_tab()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.text.plain)
        self.app.notify("copied", markup=False)

    def action_close(self) -> None:
        self.dismiss(None)

    # -- fetching -------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self.console.store.why_read_only:
            needs = "needs a console with write rights, because the owner is asked"
            self.state = self.pen.state("off", needs)
            return
        self.state = self.pen.state("wait", f"asking the owner of cluster {self.row.cluster_id}")
        self.ask_owner()

    @work(group="look", exclusive=True, exit_on_error=True)
    async def ask_owner(self) -> None:
        row = self.row
        what, dedup = f"device:{row.id}", f"{row.tenant_id}:{row.id}"
        ask = Ask(
            *(row.cluster_id, row.tenant_id, KIND, {"device_id": row.id}, what, f"look at {row.name}"), dedup
        )
        try:
            async with asyncio.timeout(LOOK_DEADLINE_S):
                self.look = await self._answer(ask)
        except TimeoutError:
            waited = f"the owner of cluster {row.cluster_id} has not answered for {LOOK_DEADLINE_S:g} s"
            self.state = self.pen.state("off", f"{waited}; r asks again")
        except NotFound:
            self.state = self.pen.state(
                "failed", "the request is gone, its outcome is not known; r asks again"
            )
        except HsError as error:
            self.state = self.pen.join(
                self.pen.state("failed", "no answer: "), self.pen.cell(error.message), "; r asks again"
            )
        self.paint()

    async def _answer(self, ask: Ask) -> dict[str, Any] | None:
        """What the owner tells; None with `state` when it refuses. Raises HsError."""
        store = self.console.store
        request_id = await store.submit(ask, self.console.actor)
        while True:
            request = await store.request(request_id)
            if request.state == "failed":
                self.state = self.pen.join(
                    self.pen.state("failed", "the owner refuses: "), self.pen.cell(request.error)
                )
                return None
            if request.is_finished:
                return request.result
            await asyncio.sleep(REQUEST_POLL_S)

    @work(group="read", exit_on_error=True)
    async def read(self, tab: str) -> None:
        row, store = self.row, self.console.store
        try:
            if tab == "events":
                self.told[tab] = events_text(self.pen, await store.events(row))
            else:
                found = await store.history(row.cluster_id, f"device:{row.id}")
                self.told[tab] = history_text(self.pen, found)
        except HsError as error:
            self.told[tab] = self.pen.join(self.pen.cell(error.message, "failed"), "; r reads again")
        self.paint()
