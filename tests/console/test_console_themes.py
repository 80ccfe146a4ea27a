"""Themes, scopes and modes of the start: contrast, files, and what the screen makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.color import Color

from app.errors import ConfigError
from console.themes import HS_SAFE, choose_theme, read_themes, styles_of
from tests.console.support import device, filled, running, shown, text, until

ENOUGH = 4.8
PAPER = '[paper]\nprimary = "#003366"\nsuccess = "#005500"\nbackground = "#ffffff"\ndark = false\n'


def contrast(one: Color, other: Color) -> float:
    """WCAG 2's ratio."""

    def luminance(colour: Color) -> float:
        parts = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_hs_safe_is_told_apart_from_its_ground() -> None:
    ground = Color.parse(HS_SAFE.background or "")
    words = [style.removeprefix("bold ") for style in styles_of(HS_SAFE).values() if "#" in style]
    words += [HS_SAFE.primary, HS_SAFE.secondary or "", HS_SAFE.foreground or ""]
    assert len(set(words)) >= 6
    for word in words:
        assert contrast(Color.parse(word), ground) >= ENOUGH, word


def test_themes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "themes.toml"
    path.write_text(PAPER)
    themes = read_themes(path)
    assert choose_theme("paper", themes) == "paper"
    assert styles_of(themes[0])["ok"] == "#005500"
    assert (choose_theme("nord", []), choose_theme("hs-safe", []), read_themes(None)) == (
        "nord",
        "hs-safe",
        [],
    )
    with pytest.raises(ConfigError, match="there is no theme paper: hs-safe, "):
        choose_theme("paper", [])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[x]\ndark = true", "at least a primary colour"),
        ('[nord]\nprimary = "red"', "there is a theme of this name"),
        ('[x]\nprimary = "reddish"', "'reddish' is not a colour"),
        ('[x]\nprimary = "red"\nprimry = "red"', "primry: there are accent"),
        ('[x]\nprimary = "red"\ndark = "no"', "'no' is not true or false"),
        ("[x", "themes.toml"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "themes.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=told):
        read_themes(path)


async def test_a_theme_reaches_rows_and_can_be_changed_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "themes.toml"
    path.write_text(PAPER)
    async with running(filled(), theme="paper", themes=read_themes(path)) as (app, pilot):
        await shown(app, pilot)
        assert "#005500" in app.export_screenshot()
        app.theme = "hs-safe"
        await until(pilot, lambda: "#009e73" in app.export_screenshot())
        assert "#005500" not in app.export_screenshot()


async def test_a_start_without_live_shows_one_picture_and_more_when_asked() -> None:
    store = filled(3)
    async with running(store, live=False) as (app, pilot):
        base = await shown(app, pilot)
        store.device_rows.append(device(4))
        store.changed.set()
        await until(pilot, lambda: app.held > 0)
        assert base.table.row_count == 3
        await pilot.press("ctrl+r")
        await until(pilot, lambda: base.table.row_count == 4)
        assert app.paused


async def test_a_tenant_is_a_scope_of_every_list_that_knows_tenants() -> None:
    store = filled()
    async with running(store, tenant="acme") as (app, pilot):
        await shown(app, pilot)
        assert "tenant:acme" in text(app)
        for screen, field in (("devices", "tenant"), ("tenants", "name"), ("routes", "tenant")):
            app.go_to(screen)
            await until(pilot, lambda screen=screen: app.base is not None and screen == app.base.NAME)
            await shown(app, pilot)
            assert [(term.field, term.patterns) for term in store.views[-1].terms] == [(field, ("acme",))]
        app.go_to("jobs")
        await until(pilot, lambda: app.base is not None and app.base.NAME == "jobs")
        await shown(app, pilot)
        assert store.views[-1].terms == ()
