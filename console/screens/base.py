"""ListScreen: what an operator does on a list: filter, order, mark, look closer, take rows away."""

from __future__ import annotations

import asyncio
import dataclasses

import orjson
from rich.text import Text
from textual import events, on
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Input

from app.errors import HsError
from app.fleet import WINDOW_ROWS, View
from console import query
from console.actions import BY_ID, Action, actions_of
from console.cells import count_text, plural
from console.dialogs import ChoiceDialog
from console.files import FORMATS, all_rows
from console.marks import MARKED_ROWS_MAX
from console.screens.frame import ListFrame
from console.screens.window import RowT
from console.widgets import FilterLine

#: The rows of a marked filter are waited for so long, under the key that acts on them.
CAPTURE_S = 6.0


def bindings_of(screen: str) -> list[BindingType]:
    """Key bindings from the registry; each has the id of its action, so a keymap can move it.

    With priority the app carries them out before it looks at the next key: what is typed ahead goes where
    the first key led, not to the list.
    """
    return [
        Binding(action.key, f"command('{action.id}')", action.label, show=False, priority=True, id=action.id)
        for action in actions_of(screen)
        if action.key != "enter"
    ]


class ListScreen(ListFrame[RowT]):
    """Subclasses say what a row is; they hold no SQL, no key strings and no formatting of raw values."""

    #: What a marked filter held when the key was pressed, while its action looks at it.
    _captured: list[RowT] | None = None
    #: The row the pane below stays with.
    _pinned: tuple[str, RowT] | None = None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "command" and parameters:
            typing = isinstance(self.focused, Input)
            if (
                typing
                and parameters[0] != "app.back"
                and "+" not in self.console.keys.of(BY_ID[str(parameters[0])])
            ):
                return False
            return None if self.obstacle(BY_ID[str(parameters[0])]) else True
        return True

    def on_key(self, event: events.Key) -> None:
        """A key that came this far did nothing; where its action cannot be done now, it is told why."""
        for action in actions_of(self.NAME):
            if self.console.keys.of(action) in (event.key, event.character):
                self._refused(action)

    def _refused(self, action: Action) -> bool:
        """Whether an action cannot be done now; then a word says why."""
        obstacle = self.obstacle(action)
        if obstacle:
            self.console.say(f"{action.label}: {obstacle}", "warning")
        return bool(obstacle)

    async def action_command(self, action_id: str) -> None:
        """Every key and every line of the palette ends here."""
        action = BY_ID[action_id]
        if not self.is_ready and not action_id.startswith(("screen.", "app.quit")):
            return
        if self._refused(action):
            return
        noun, _, verb = action_id.partition(".")
        if noun == "screen":
            self.console.go_to(verb)
            return
        name = f"do_{noun}_{verb}"
        owner = self if hasattr(self, name) else self.console
        if action.many and self.marks.terms is not None:
            rows = await self._capture()
            if rows:
                self._captured = rows
                await getattr(owner, name)()
                self._captured = None
            return
        await getattr(owner, name)()

    async def _capture(self) -> list[RowT]:
        """The rows of a marked filter, as they are at this moment; none, with a word, when it is too many."""
        found: list[RowT] = []
        try:
            async with asyncio.timeout(CAPTURE_S):
                async for rows in all_rows(self.read, self.marked_view()):
                    found += [row for row in rows if self.key_of(row) not in self.marks.without]
                    if len(found) > MARKED_ROWS_MAX:
                        most, count = (
                            count_text(MARKED_ROWS_MAX),
                            count_text(max(len(found), len(self.marks))),
                        )
                        self.console.say(f"{count} are marked, at most {most} at once: filter more", "error")
                        return []
        except TimeoutError:
            self.console.say("the marked rows could not be read in time", "error")
            return []
        except HsError as error:
            self.console.say(error.message, "error")
            return []
        if not found:
            self.console.say("nothing matches the marked filter any more", "warning")
        return found

    def marked_view(self) -> View:
        """Everything that matches what is marked, in the order shown."""
        terms = self.terms if self.marks.terms is None else self.marks.terms
        return dataclasses.replace(
            self.view(), terms=(*self.scope_terms, *terms), after=None, limit=WINDOW_ROWS
        )

    def chosen(self, action: Action) -> list[RowT]:
        """The marked rows, else the one under the cursor: as they are at this moment."""
        if action.many and self._captured is not None:
            return self._captured
        if action.many and self.marks:
            return list(self.marks.rows.values())
        return [self.current] if self.current is not None else []

    @on(DataTable.RowSelected, "#table")
    async def open_row(self) -> None:
        await self.action_command("row.open")

    async def do_list_filter(self) -> None:
        line = self.query_one(FilterLine)
        line.value = self.filter_text
        # At once, not after a refresh: the keys that follow are the filter's.
        line.open(True)
        self.set_focus(line)

    @on(Input.Changed, "#filter")
    def check_filter(self, event: Input.Changed) -> None:
        try:
            query.parse(event.value, query.SCREENS[self.NAME])
        except query.QueryError as error:
            self.filter_error = f"{error}: {event.value[error.start : error.end]}"
        else:
            self.filter_error = ""
        self.paint_complaint()
        event.input.set_class(bool(self.filter_error), "wrong")

    @on(Input.Submitted, "#filter")
    def submit_filter(self, event: Input.Submitted) -> None:
        if not self.filter_error:
            self.set_filter(event.value.strip())
            self.table.focus()

    def set_filter(self, text: str) -> None:
        """Another filter. Raises QueryError."""
        fields = query.SCREENS[self.NAME]
        conditions = query.parse(text, fields)
        self.terms, self.filter_cluster = query.terms(conditions, fields), query.cluster_of(conditions)
        self.filter_text, self.filter_error = text, ""
        line = self.query_one(FilterLine)
        line.value = text
        line.open(bool(text))
        self.paint_complaint()
        self.change_view()
        self.console.note_place()

    async def do_app_back(self) -> None:
        line = self.query_one(FilterLine)
        if line.has_focus and line.value != self.filter_text:
            line.value = self.filter_text
        elif self.console.helping:
            self.toggle_help()
        elif self.filter_text:
            self.set_filter("")
        elif self.marks:
            await self.do_mark_none()
        self.filter_error = ""
        line.open(bool(self.filter_text))
        self.paint_complaint()
        self.table.focus()

    async def do_list_sort(self) -> None:
        sorts = [column.sort for column, _ in self.table.shown if column.sort]
        at = sorts.index(self.sort_by) if self.sort_by in sorts else -1
        self.sort_by = sorts[(at + 1) % len(sorts)]
        self.change_view()

    async def do_list_reverse(self) -> None:
        self.descending = not self.descending
        self.change_view()

    @on(DataTable.HeaderSelected, "#table")
    def sort_by_header(self, event: DataTable.HeaderSelected) -> None:
        column = next((c for c, _ in self.table.shown if c.name == event.column_key.value and c.sort), None)
        if column is not None:
            self.descending = not self.descending if column.sort == self.sort_by else False
            self.sort_by = column.sort
            self.change_view()

    async def do_mark_toggle(self) -> None:
        key = self.table.cursor_key
        if key is not None and self._kept(self.marks.toggle(key, self.rows[key])):
            self.table.action_cursor_down()

    async def do_mark_range(self) -> None:
        keys, here = self.table.keys, self.table.cursor_row
        marked = [number for number, key in enumerate(keys) if key in self.marks]
        start = min(marked, key=lambda number: abs(number - here), default=here)
        self._kept(
            self.marks.add({key: self.rows[key] for key in keys[min(start, here) : max(start, here) + 1]})
        )

    async def do_mark_all(self) -> None:
        if self.page is not None and self.wanted_since is None:
            self.marks.matching(self.terms, self.filter_text, self.page.total, self.rows)
        self._kept(self.page is not None)

    async def do_mark_none(self) -> None:
        self.marks.clear()
        self._kept(True)

    def _kept(self, done: bool) -> bool:
        """Shows what is marked now; a word when that was not possible."""
        if not done and self.marks.terms is None:
            self.console.say(
                f"at most {count_text(MARKED_ROWS_MAX)} rows are marked one by one; * marks all", "warning"
            )
        elif not done:
            self.console.say("all that matches another filter is marked: u takes that off first", "warning")
        self.table.paint_marks()
        self.paint_frame()
        return done

    def looked_at(self) -> RowT | None:
        if self._pinned is None:
            return self.current
        key, row = self._pinned
        self._pinned = key, self.rows.get(key, row)
        return self._pinned[1]

    async def do_view_pin(self) -> None:
        key, row = self.table.cursor_key, self.current
        self._pinned = None if self.is_pinned or key is None or row is None else (key, row)
        self.is_pinned = self._pinned is not None
        self.paint_detail()

    async def do_view_zoom(self) -> None:
        self.toggle_class("zoomed")
        self.paint_frame()

    async def do_view_top(self) -> None:
        if self.anchors or self.from_end:
            self.change_view()
        self.table.move_cursor(row=0)

    async def do_view_end(self) -> None:
        page = self.page
        if page is not None and page.total > len(page.rows) and not self.from_end:
            self.anchors.clear()
            self.from_end = self.is_partial = True
            self.change_view(restart=False)
        self.table.move_cursor(row=max(0, self.table.row_count - 1))

    async def do_row_json(self) -> None:
        row = self.current
        assert row is not None
        text = orjson.dumps(row, option=orjson.OPT_INDENT_2, default=repr).decode()
        lines = [self.pen.cell(line) for line in text.splitlines()]
        self.console.open_page(f"{self.NOUN} {self.name_of(row)}", Text("\n", end="").join(lines))

    async def do_row_history(self) -> None:
        row = self.current
        assert row is not None
        self.console.show_history(self.name_of(row), *self.place_of(row))

    async def do_list_export(self) -> None:
        """What is marked, else what is in the window, or everything that matches."""
        marked = list(self.marks.rows.values())
        near = marked or [self.rows[key] for key in self.table.keys]
        what = f"{count_text(len(near))} {'marked' if marked else 'shown'}"
        total = self.total_text(self.page) if self.page is not None else "0"
        everything = f"all {total} matching"
        if self.marks.terms is not None:
            everything = f"all {count_text(len(self.marks))} marked"
        choices = [(f"{word}, {form}", f"{word}|{form}") for word in (what, everything) for form in FORMATS]

        def chosen(choice: str | None) -> None:
            if choice is not None:
                word, _, form = choice.rpartition("|")
                view, without = self.marked_view(), frozenset(self.marks.without)
                self.console.save_rows(self, form, word, view, without, None if word == everything else near)

        hint = "a number saves it, esc closes"
        self.app.push_screen(ChoiceDialog(self.pen, "Export", choices, hint, show_values=False), chosen)

    async def do_row_copy(self) -> None:
        row = self.current
        assert row is not None
        names = [column.title for column, _ in self.table.shown]
        rows = [[cell.plain.strip() for cell in self.table.cells_of(key)] for key in self.table.keys]
        lines = ["\t".join(words) for words in [names, *rows]]
        self.console.choose_copy(
            [
                *self.copies_of(row),
                ("row as JSON", orjson.dumps(row, default=repr).decode()),
                (f"{plural(len(self.rows), 'row')} as TSV", "\n".join(lines)),
            ]
        )
