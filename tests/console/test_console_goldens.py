"""Every screen at every size, in colour and without, as it is meant to look."""

from __future__ import annotations

import pytest

from console.actions import SCREENS
from tests.console.pictures import SIZES, check, settled, styled_of, utc  # noqa: F401
from tests.console.support import filled, running, text, until


@pytest.mark.parametrize("colour", ["colour", "nocolour"])
@pytest.mark.parametrize("screen", SCREENS)
async def test_goldens(screen: str, colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read, the same without colour; and, in a directory of its own, what each cell looks like."""
    if colour == "nocolour":
        monkeypatch.setenv("NO_COLOR", "1")
    async with running(filled(), screen, SIZES[0]) as (app, pilot):
        for size in SIZES:
            await settled(app, pilot, size)
            name = f"{screen}-{size[0]}x{size[1]}"
            check(name, text(app))
            check(f"{colour}/{name}", styled_of(app.export_screenshot()))
            if (screen, colour) == ("devices", "colour") and size in SIZES[::2]:
                await pilot.press("question_mark")
                await settled(app, pilot, size)
                check(f"help-{size[0]}x{size[1]}", text(app))
                await pilot.press("question_mark")


@pytest.mark.parametrize("colour", ["colour", "nocolour"])
async def test_goldens_of_a_dialog(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if colour == "nocolour":
        monkeypatch.setenv("NO_COLOR", "1")
    async with running(filled(), "devices", (100, 30)) as (app, pilot):
        await settled(app, pilot, (100, 30))
        await pilot.press("space", "x")
        await until(pilot, lambda: "Cancel" in text(app) and "It carries no route" in text(app))
        await pilot.pause()
        check(f"{colour}/dialog-100x30", styled_of(app.export_screenshot()))
