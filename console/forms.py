"""What an operator fills in: forms of fields, each checked as it is left, and a text in an editor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Input, Select, Static, TextArea

from app.errors import HsError
from app.fleet import TenantRef
from app.model import TenantId
from console.cells import Pen, safe
from console.dialogs import words
from console.radius import RadiusLine
from console.store import Ask


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form: a text, a choice of (shown, value), or a yes/no. `check` answers a complaint."""

    name: str
    label: str
    value: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    is_flag: bool = False
    check: Callable[[str], str] | None = None
    hint: str = ""


def tenant_choices(tenants: Sequence[TenantRef]) -> tuple[tuple[str, str], ...]:
    """Tenants as a field offers them; `chosen_tenant` reads what was chosen."""
    return tuple((f"{t.name}  (cluster {t.cluster_id})", f"{t.cluster_id}/{t.id}") for t in tenants)


def chosen_tenant(value: str) -> tuple[str, TenantId]:
    """Cluster and tenant."""
    cluster_id, _, tenant_id = value.rpartition("/")
    return cluster_id, TenantId(int(tenant_id))


class FormDialog(ModalScreen[dict[str, str] | None]):
    """Fields with a complaint under the first wrong one; nothing typed is lost until it is closed."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "cancel", "Cancel")]

    def __init__(
        self,
        pen: Pen,
        title: str,
        fields: Sequence[Field],
        verb: str,
        effect: str = "",
        obstacle: Callable[[], str] = lambda: "",
        radius: RadiusLine | None = None,
        touch: Callable[[dict[str, str]], list[Ask]] | None = None,
    ) -> None:
        """`obstacle`: why it cannot be sent now; then it stays as it is. `touch`: what the answers so far
        would touch, for `radius` to count."""
        super().__init__()
        self.radius, self.touch = radius, touch
        self.obstacle = obstacle
        self.pen, self.heading, self.fields = pen, title, list(fields)
        self.verb, self.effect = verb, effect

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog form", can_focus=False) as box:
            box.border_title = self.pen.cell(self.heading)
            for field in self.fields:
                with Horizontal(classes="field"):
                    yield words(field.label, classes="label")
                    if field.is_flag:
                        yield Checkbox(value=field.value == "yes", id=field.name, compact=True)
                    elif field.choices:
                        shown = [(self.pen.cell(text), value) for text, value in field.choices]
                        yield Select(
                            shown,
                            value=field.value or field.choices[0][1],
                            allow_blank=False,
                            id=field.name,
                            compact=True,
                        )
                    else:
                        yield Input(field.value, placeholder=field.hint, id=field.name, compact=True)
            if self.radius is not None:
                yield self.radius
            yield words(Text(safe(self.effect)), id="effect")
            yield words("", id="complaint")
            with Horizontal(classes="buttons"):
                yield Button("Cancel  esc", id="cancel")
                yield Button(self.verb, id="submit", variant="primary")

    def on_mount(self) -> None:
        self.query_one(f"#{self.fields[0].name}").focus()
        self.count()

    @property
    def values(self) -> dict[str, str]:
        answers: dict[str, str] = {}
        for field in self.fields:
            widget = self.query_one(f"#{field.name}")
            if isinstance(widget, Checkbox):
                answers[field.name] = "yes" if widget.value else ""
            elif isinstance(widget, Select):
                answers[field.name] = str(widget.value)
            elif isinstance(widget, Input):
                answers[field.name] = widget.value.strip()
        return answers

    @on(Input.Changed)
    @on(Select.Changed)
    def count(self) -> None:
        """What the answers so far would touch."""
        if self.radius is None or self.touch is None:
            return
        try:
            asks = self.touch(self.values)
        except HsError as error:
            self.radius.tell([("attention", error.message)])
        else:
            self.radius.show(asks)

    @on(Input.Submitted)
    @on(Button.Pressed, "#submit")
    def submit(self) -> None:
        answers = self.values
        for field in self.fields:
            complaint = field.check(answers[field.name]) if field.check else ""
            if complaint:
                self.query_one("#complaint", Static).update(self.pen.cell(complaint, "failed"))
                self.query_one(f"#{field.name}").focus()
                return
        if obstacle := self.obstacle():
            self.query_one("#complaint", Static).update(self.pen.cell(obstacle, "failed"))
            return
        self.dismiss(answers)

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        self.dismiss(None)


class EditorDialog(ModalScreen[str | None]):
    """A text to edit, where no editor can be opened. Answers the text, None when it is left."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "cancel", "Cancel")]

    def __init__(self, pen: Pen, title: str, text: str) -> None:
        super().__init__()
        self.pen, self.heading, self.text = pen, title, text

    def compose(self) -> ComposeResult:
        with Vertical(classes="page") as box:
            box.border_title = self.pen.cell(self.heading)
            yield TextArea.code_editor(self.text, id="text", tab_behavior="focus")
            with Horizontal(classes="buttons"):
                yield Button("Cancel  esc", id="cancel")
                yield Button("Go on", id="submit", variant="primary")

    @on(Button.Pressed, "#submit")
    def submit(self) -> None:
        self.dismiss(self.query_one("#text", TextArea).text)

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        self.dismiss(None)
