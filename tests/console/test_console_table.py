"""Cursor, screen line, marks and order follow the keys, whatever a refresh brings."""

from __future__ import annotations

import random

import pytest
from rich.text import Text
from textual.app import App, ComposeResult

from console.cells import Pen
from console.table import MARK_WIDTH, REBUILD_ABOVE, Column, ResourceTable, choose

COLUMNS = (Column("name", "NAME", 10, 1, 1), Column("value", "VALUE", 6, 2), Column("rare", "RARE", 20, 3))
ROUNDS = 30


class OneTable(App[None]):
    def compose(self) -> ComposeResult:
        yield ResourceTable(Pen(), COLUMNS)


def rows(keys: list[str], generation: int = 0) -> list[tuple[str, list[Text]]]:
    return [(key, [Text(key), Text(str(generation))]) for key in keys]


@pytest.mark.parametrize(
    ("width", "names"), [(12, ["name"]), (24, ["name", "value"]), (60, ["name", "value", "rare"])]
)
def test_columns_by_priority(width: int, names: list[str]) -> None:
    shown = choose(COLUMNS, width)
    assert [column.name for column, _ in shown] == names
    assert sum(size + 1 for _, size in shown) + MARK_WIDTH <= width or names == ["name"]


async def test_random_refreshes_keep_object_line_marks_and_order() -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    app = OneTable()
    async with app.run_test(size=(60, 20)) as pilot:
        table = app.query_one(ResourceTable)
        table.lay_out(24, "", False)
        keys = [f"k{number:03}" for number in range(300)]
        table.apply(rows(keys))
        table.move_cursor(row=150)
        marks = table.marks = {"k149", "k151", "k299"}
        table.paint_marks()
        await pilot.pause()
        for generation in range(ROUNDS):
            held = table.cursor_key
            line = table.cursor_row - int(table.scroll_y)
            for gone in chance.sample([key for key in keys if key not in (held, "k149", "k151")], 5):
                keys.remove(gone)
            keys.append(f"n{generation:03}")
            chance.shuffle(keys) if generation % 5 == 0 else keys.sort(reverse=generation % 2 == 0)
            table.apply(rows(keys, generation))
            await pilot.pause()
            assert table.keys == keys, seed
            assert table.cursor_key == held, seed
            top = table.cursor_row - line
            if 0 <= top <= len(keys) - table.size.height:
                assert table.cursor_row - int(table.scroll_y) == line, (seed, generation)
            marked = {key for key in keys if table.get_cell(key, "mark").plain.endswith("✓")}
            assert marked == marks & set(keys), seed
            assert [key for key in keys if table.get_cell(key, "mark").plain[0] == "►"] == [held], seed
            assert {table.get_cell(key, "value").plain for key in keys} == {str(generation)}


async def test_a_removed_row_is_told_and_the_cursor_keeps_its_line() -> None:
    app = OneTable()
    async with app.run_test(size=(60, 20)):
        table = app.query_one(ResourceTable)
        table.lay_out(24, "", False)
        assert table.apply(rows(["a", "b", "c"])) is None
        table.move_cursor(row=1)
        assert table.apply(rows(["a", "c"])) == "b"
        assert table.cursor_key == "c"
        assert table.apply(rows([])) == "c"
        assert table.cursor_key is None
        assert table.apply(rows(["x"])) is None
        assert table.cursor_key == "x"


async def test_many_new_rows_are_put_in_at_once() -> None:
    app = OneTable()
    async with app.run_test(size=(60, 20)):
        table = app.query_one(ResourceTable)
        table.lay_out(24, "", False)
        table.apply(rows([f"a{number}" for number in range(REBUILD_ABOVE)] + ["kept"]))
        table.move_to("kept")
        table.apply(rows([f"b{number}" for number in range(REBUILD_ABOVE)] + ["kept"]))
        assert table.cursor_key == "kept"
        assert table.row_count == REBUILD_ABOVE + 1
