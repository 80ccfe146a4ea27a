"""Changed meanwhile: what an operator saw, what is there now, and nothing overwritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button

from console.cells import Pen
from console.dialogs import words


def differences(changed: Mapping[str, Sequence[Any]]) -> list[str]:
    """`field: seen -> now` of a conflict; what was not sent along as seen is only told as it is now."""
    lines = []
    for name, (seen, now) in changed.items():
        value = "-" if now is None else now
        lines.append(f"{name}: {value} now" if seen is None else f"{name}: {seen} -> {value}")
    return lines


class ConflictDialog(ModalScreen[bool]):
    """Reload, or leave the screen as it is. Whoever still wants it asks again, from what is there now."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "cancel", "Cancel"), ("r", "reload", "Reload")]

    def __init__(self, pen: Pen, label: str, changed: Mapping[str, Sequence[Any]]) -> None:
        super().__init__()
        self.pen, self.label, self.changed = pen, label, changed

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = "Changed meanwhile"
            yield words(self.pen.cell(f"{self.label}: not done, somebody else was first."))
            for line in differences(self.changed):
                yield words(self.pen.cell("  " + line))
            yield words("")
            with Horizontal(classes="buttons"):
                yield Button("Reload  r", id="reload", variant="primary")
                yield Button("Cancel  esc", id="cancel")

    def on_mount(self) -> None:
        self.query_one("#reload").focus()

    @on(Button.Pressed, "#reload")
    def action_reload(self) -> None:
        self.dismiss(True)

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        self.dismiss(False)
