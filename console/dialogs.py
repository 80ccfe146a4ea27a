"""Dialogs: confirmation by danger tier, what is shown once, pages of text. Cancel has the focus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from app.request_kinds import REASON_MAX, REASON_MIN
from console.cells import Pen, safe
from console.radius import RadiusLine

#: Of a value to choose no more is shown.
SHOWN_VALUE = 44
#: Objects a dialog names; the rest is a number.
NAMED_OBJECTS = 8


def words(text: Text | str, *, id: str | None = None, classes: str | None = None) -> Static:
    """Text that is never markup."""
    return Static(text if isinstance(text, Text) else Text(text), markup=False, id=id, classes=classes)


class ConfirmDialog(ModalScreen[bool]):
    """What will happen, to what, and whether it can be undone. `typed`: must be typed first (tier 2).

    `why`: what a reason is wanted for (tier 3); it is in `reason` afterwards.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "cancel", "Cancel"), ("y", "confirm", "Confirm")]

    def __init__(
        self,
        pen: Pen,
        title: str,
        objects: Sequence[str],
        effect: str,
        verb: str,
        typed: str = "",
        why: str = "",
        report: Text | None = None,
        radius: RadiusLine | None = None,
    ) -> None:
        """`report`: more to read than fits; tab leads to it, and it scrolls. `radius`: what is touched."""
        super().__init__()
        self.radius = radius
        self.why, self.reason, self.report = why, "", report
        self.pen, self.heading, self.objects = pen, title, list(objects)
        self.effect, self.verb, self.typed = effect, verb, typed

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = self.pen.cell(self.heading)
            for name in self.objects[:NAMED_OBJECTS]:
                yield words(self.pen.cell("  " + name))
            if len(self.objects) > NAMED_OBJECTS:
                yield words(f"  and {len(self.objects) - NAMED_OBJECTS} more")
            if self.report is not None:
                with VerticalScroll(id="report"):
                    yield words(self.report)
            yield words("", classes="gap")
            if self.radius is not None:
                yield self.radius
            yield words(Text(safe(self.effect)))
            if self.typed:
                yield words(self.pen.join("To go on type ", self.pen.cell(self.typed, "strong"), ":"))
                yield Input(id="typed", select_on_focus=False)
            if self.why:
                yield words(Text(safe(f"{self.why} Reason, at least {REASON_MIN} characters:")))
                yield Input(id="reason", max_length=REASON_MAX)
            with Horizontal(classes="buttons"):
                yield Button("Cancel  esc", id="cancel")
                yield Button(
                    f"{self.verb}  y", id="confirm", variant="error", disabled=bool(self.typed or self.why)
                )

    def on_mount(self) -> None:
        self.query_one("#cancel").focus()

    @property
    def may_confirm(self) -> bool:
        """Not before the dialog is there to be read."""
        if not self.query("#confirm"):
            return False
        if self.why:
            self.reason = self.query_one("#reason", Input).value.strip()
            if len(self.reason) < REASON_MIN:
                return False
        return not self.typed or self.query_one("#typed", Input).value == self.typed

    def on_key(self, event: events.Key) -> None:
        """Letters go to the line that must be typed, although Cancel has the focus.

        Those the line got itself do not come by here; those typed while the focus moved do.
        """
        if event.character is not None and event.is_printable and self._type(event.character):
            event.stop()

    def _type(self, character: str) -> bool:
        if not self.typed or not self.query("#typed"):
            return False
        line = self.query_one("#typed", Input)
        self.set_focus(line)
        line.insert_text_at_cursor(character)
        return True

    @on(Input.Changed)
    def allow(self) -> None:
        self.query_one("#confirm", Button).disabled = not self.may_confirm

    @on(Input.Submitted)
    def typed_enough(self) -> None:
        """Enter on the right line is the confirmation, or leads to the reason."""
        if self.may_confirm:
            self.dismiss(True)
        elif self.why:
            self.query_one("#reason", Input).focus()

    @on(Button.Pressed, "#confirm")
    def action_confirm(self) -> None:
        if self.may_confirm:
            self.dismiss(True)
        else:
            self._type("y")

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        self.dismiss(False)


class SecretDialog(ModalScreen[None]):
    """A key's text, which exists nowhere else; gone when this closes."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "close", "Close"), ("c", "copy", "Copy")]

    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = "New auth key, shown this once"
            yield words(self._secret, id="secret")
            yield words("")
            yield words("Only a hash of it is stored. Join with: tailscale up --auth-key <key>")
            with Horizontal(classes="buttons"):
                yield Button("Close  esc", id="close")
                yield Button("Copy  c", id="copy")

    def on_mount(self) -> None:
        self.query_one("#close").focus()

    @on(Button.Pressed, "#copy")
    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self._secret)
        self.app.notify("key copied", markup=False)

    @on(Button.Pressed, "#close")
    def action_close(self) -> None:
        self.dismiss(None)


class PageDialog(ModalScreen[None]):
    """A page of text to read: help, JSON, a device."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,y,question_mark", "close", "Close"),
        ("c", "copy", "Copy"),
    ]

    def __init__(self, title: str, text: Text) -> None:
        super().__init__()
        self.heading, self.text = title, text

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="page") as box:
            box.border_title = Pen().cell(self.heading)
            box.border_subtitle = "esc close, c copy"
            yield words(self.text)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.text.plain)
        self.app.notify("copied", markup=False)

    def action_close(self) -> None:
        self.dismiss(None)


class ChoiceDialog(ModalScreen[str | None]):
    """One of a few things, by its number."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "close", "Close")]

    def __init__(
        self,
        pen: Pen,
        title: str,
        choices: Sequence[tuple[str, str]],
        hint: str = "a number copies, esc closes",
        *,
        show_values: bool = True,
    ) -> None:
        """`choices`: label and value, whose beginning may be shown beside it."""
        super().__init__()
        self.hint, self.show_values = hint, show_values
        self.pen, self.heading, self.choices = pen, title, list(choices)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = self.heading
            for number, (label, value) in enumerate(self.choices, 1):
                value = value[:SHOWN_VALUE] if self.show_values else ""
                yield words(
                    self.pen.join(f" {number}  ", self.pen.cell(label, "strong"), "  ", self.pen.cell(value))
                )
            yield words("")
            yield words(self.hint)

    def key_enter(self) -> None:
        self.dismiss(self.choices[0][1])

    def on_key(self, event: object) -> None:
        key = getattr(event, "key", "")
        if key.isdigit() and 1 <= int(key) <= len(self.choices):
            self.dismiss(self.choices[int(key) - 1][1])

    def action_close(self) -> None:
        self.dismiss(None)


class LostDialog(ModalScreen[None]):
    """The database is away: since when, why, and what still works. Closes by itself when it is back."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q", "close", "Hide"), ("r", "retry", "Retry now")]

    def __init__(self, pen: Pen, where: str, tell: Callable[[], Text], retry: Callable[[], object]) -> None:
        """`tell`: since when and when next, told again every second."""
        super().__init__()
        self.pen, self.where, self.tell, self.retry = pen, where, tell, retry

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = self.pen.cell(f"Connection to {self.where} lost")
            yield words(self.tell(), id="lost")
            yield words("")
            yield words(
                "You can keep reading and copying what is here. Filters and changes wait for the link;"
                " nothing you typed is lost."
            )
            with Horizontal(classes="buttons"):
                yield Button("Hide  esc", id="cancel")
                yield Button("Retry now  r", id="retry")

    def on_mount(self) -> None:
        self.query_one("#cancel").focus()
        self.set_interval(1.0, lambda: self.query_one("#lost", Static).update(self.tell()))

    @on(Button.Pressed, "#retry")
    def action_retry(self) -> None:
        self.retry()

    @on(Button.Pressed, "#cancel")
    def action_close(self) -> None:
        self.dismiss(None)
