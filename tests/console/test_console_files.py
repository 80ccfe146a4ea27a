"""Lists as files, views to go back to, the history of an object, and the dialog of a lost database."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from app.errors import Unavailable
from app.fleet import WINDOW_ROWS, AuditRow
from console import export, files
from console.dialogs import LostDialog, PageDialog
from console.trail import Trail
from tests.console.hostile import NAMES
from tests.console.support import (
    NOW,
    FakeStore,
    cluster,
    device,
    filled,
    key,
    running,
    shown,
    text,
    toasts,
    until,
)
from tests.console.support import user as user_row


def is_plain(line: str) -> bool:
    """Nothing a terminal or spreadsheet could act on."""
    return all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for char in line)


def saved_lines(directory: Path) -> list[str]:
    """Of the one file there, which nobody else may read."""
    (saved,) = directory.iterdir()
    assert saved.stat().st_mode & 0o077 == 0
    return saved.read_text().splitlines()


@pytest.mark.parametrize(("choice", "count"), [("1", WINDOW_ROWS), ("3", 1_234)])
async def test_export_as_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, count: int
) -> None:
    monkeypatch.chdir(tmp_path)
    async with running(filled(1_234)) as (app, pilot):
        await shown(app, pilot)
        await pilot.press("e")
        await until(pilot, lambda: "all 1,234 matching, csv" in text(app))
        await pilot.press(choice)
        await until(pilot, lambda: any("saved in" in toast for toast in toasts(app)))
        assert f"{count} rows saved" in toasts(app)[-1].replace(",", "")
    first, *rest = saved_lines(tmp_path)
    assert first.startswith("# list: devices")
    assert "2026-11-2" in first
    rows = list(csv.DictReader(rest))
    assert [row["name"] for row in rows] == [f"device-{number:04}" for number in range(1, count + 1)]


async def test_export_of_marked_rows_as_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with running(filled(5)) as (app, pilot):
        await shown(app, pilot)
        await pilot.press("down", "space", "space", "e")
        await until(pilot, lambda: "2 marked, jsonl" in text(app))
        await pilot.press("2")
        await until(pilot, lambda: any("2 rows saved" in toast for toast in toasts(app)))
    head, *rows = [json.loads(line) for line in saved_lines(tmp_path)]
    assert head["list"] == "devices"
    assert [row["id"] for row in rows] == [2, 3]


async def test_an_export_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = filled(5)
    async with running(store) as (app, pilot):
        await shown(app, pilot)
        await pilot.press("e")
        store.error = Unavailable("connection refused")
        await pilot.press("3")
        await until(pilot, lambda: any("export: connection refused" in toast for toast in toasts(app)))


def hostile_rows(screen: str) -> list[Any]:
    makers: dict[str, Any] = {
        "overview": lambda n, name: cluster(name, owner=name),
        "devices": lambda n, name: device(n, name, user=name, os=name, tags=(name,), tenant=name),
        "users": lambda n, name: user_row(n, name, tenant=name, cluster_id=name),
        "keys": lambda n, name: key(n, user=name, prefix=name, tags=(name,), tenant=name),
    }
    return [makers[screen](number, name) for number, name in enumerate(NAMES, 1)]


@pytest.mark.parametrize("screen", ["overview", "devices", "users", "keys"])
def test_hostile_names_in_text_and_files(screen: str) -> None:
    rows = hostile_rows(screen)
    lines = export.table_text(screen, rows, NOW).split("\n")
    assert len(lines) == len(rows) + 1
    assert all(map(is_plain, lines))
    saved = "".join(files.lines("csv", rows, first=True))
    assert len(list(csv.reader(saved.splitlines()))) == len(rows) + 1
    for row in csv.reader(saved.splitlines()):
        assert all(is_plain(cell) and not cell.startswith(("=", "+", "@", "-")) for cell in row)
    as_json = "".join(files.lines("jsonl", rows, first=True))
    assert as_json.isascii()
    assert len(as_json.splitlines()) == len(rows)
    for form in files.FORMATS:
        for name in NAMES:
            assert is_plain(files.head(form, screen, name, name, NOW, "all").rstrip("\n"))


async def test_history_of_an_object_with_hostile_names() -> None:
    store = filled(3)
    store.recent = [
        AuditRow(number, "eu-1", NOW, name, f"rename {name}", "device:1", "", json.dumps({"name": name}))
        for number, name in enumerate(NAMES, 1)
    ]
    async with running(store) as (app, pilot):
        base = await shown(app, pilot)
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, PageDialog))
        dialog = app.screen
        assert isinstance(dialog, PageDialog)
        assert len(dialog.text.plain.splitlines()) == 2 * len(NAMES)
        assert all(map(is_plain, dialog.text.plain.splitlines()))
        await pilot.press("escape", "down", "l")
        await until(pilot, lambda: "the audit log has nothing about it" in text(app))
        await pilot.press("escape")
        assert app.screen is base


async def test_copying_a_row_or_the_window() -> None:
    store = filled(3)
    async with running(store) as (app, pilot):
        await shown(app, pilot)
        for choice, begin in (("6", '{"cluster_id":"eu-1"'), ("7", "NAME\t")):
            await pilot.press("c")
            await until(pilot, lambda: "3 rows as TSV" in text(app))
            await pilot.press(choice)
            await until(pilot, lambda begin=begin: app.clipboard.startswith(begin))
        assert [line.split("\t")[0] for line in app.clipboard.splitlines()[1:]] == [
            "device-0001", "device-0002", "device-0003",
        ]  # fmt: skip


def test_a_trail_goes_both_ways() -> None:
    trail = Trail()
    for place in (("overview", ""), ("devices", ""), ("devices", "os:linux"), ("devices", "os:linux")):
        trail.visit(place)
    assert trail.step(1) is None
    assert trail.step(-1) == ("devices", "")
    assert trail.step(-1) == ("overview", "")
    assert trail.step(-1) is None
    assert trail.step(1) == ("devices", "")
    trail.visit(("users", ""))
    assert trail.step(1) is None
    assert trail.last == ("devices", "")


async def test_views_are_come_back_to_with_their_filters() -> None:
    store = filled()
    async with running(store, "overview") as (app, pilot):
        await shown(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: app.base and app.base.filter_text.startswith("cluster=eu-1"))
        await pilot.press("3")
        await until(pilot, lambda: app.base and app.base.NAME == "users")
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: app.base and app.base.filter_text.startswith("cluster=eu-1"))
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: app.base and app.base.NAME == "overview")
        await pilot.press("minus")
        await until(pilot, lambda: app.base and app.base.NAME == "devices")
        await pilot.press("right_square_bracket", "right_square_bracket")
        await until(pilot, lambda: any("no further view" in toast for toast in toasts(app)))


async def test_the_dialog_of_a_lost_database_comes_once_and_goes_by_itself() -> None:
    store: FakeStore = filled()
    now = [NOW]
    async with running(store, clock=lambda: now[0]) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        store.where = "pg \x1b[31m[/]"
        store.error = Unavailable("refused \x1b[2J[red]")
        await until(pilot, lambda: app.link.kind == "down")
        assert app.screen is base
        now[0] += 3
        await until(pilot, lambda: isinstance(app.screen, LostDialog))
        await until(pilot, lambda: "refused ␛[2J[red]" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is base)
        now[0] += 3
        app.tick()
        await pilot.pause()
        assert app.screen is base
        store.error = None
        app.feed_kick()
        await until(pilot, lambda: app.link.is_up)
        store.error = Unavailable("again")
        await until(pilot, lambda: app.link.kind == "down")
        now[0] += 3
        await until(pilot, lambda: isinstance(app.screen, LostDialog))
        store.error = None
        await pilot.press("r")
        await until(pilot, lambda: app.screen is base)
