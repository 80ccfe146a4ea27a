"""Keys of the settings: parsed, clashes told, shown everywhere, and in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigError
from app.settings import load
from console.actions import BY_ID
from console.keymap import keys_of
from console.palette import RegistryCommands
from tests.console.support import filled, running, shown, text, toasts, until

SWAP = ("device.expire=R", "device.rebuild=x", "app.help=f1", "screen.users=ctrl+u")


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["device.expire=D"], "D is the key of device.expire and device.delete on devices"),
        (["view.pause=x"], "x is the key of device.expire and view.pause on devices"),
        (["view.pause=2"], "2 is the key of screen.devices and view.pause on overview, devices"),
        (["device.expir=E"], "there is no action device.expir"),
        (["row.open=o"], "there is no action row.open"),
        (["device.expire=E", "device.expire=F"], "has a key already"),
        *[
            ([f"device.expire={key}"], "not a key to be had")
            for key in ("", "EE", "j", "ctrl+c", "enter", ",")
        ],
    ],
)
def test_what_is_wrong_is_told_at_the_start(texts: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        keys_of(texts)
    assert told in caught.value.message


def test_they_are_a_setting(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "HS_CONSOLE__KEYS": "device.expire=E,view.pause=f5"}
    keys = keys_of(load(None, environ, tmp_path).settings.console.keys)
    assert (keys.of(BY_ID["device.expire"]), keys.shown(BY_ID["screen.users"])) == ("E", "3")
    assert keys.shown(BY_ID["view.pause"]) == "f5"


async def test_other_keys_are_in_force_and_shown_in_footer_help_and_palette() -> None:
    async with running(filled(), keys=keys_of(SWAP)) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        assert "R expire" in text(app)
        assert "f1 help" in text(app)
        helps = {hit.text: hit.help or "" async for hit in RegistryCommands(base).discover()}
        assert helps["expire"].startswith("R  ")
        await pilot.press("question_mark")
        assert app.screen is base
        await pilot.press("f1")
        await until(pilot, lambda: "      R  expire" in text(app))
        assert "     ^u  Users" in app.base.query_one("#helptext").content.plain  # type: ignore[union-attr]
        await pilot.press("escape", "R")
        await until(pilot, lambda: "Expire 1 device" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is base)
        await pilot.press("x")
        await until(pilot, lambda: "Rebuild netmaps" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is base)
        await pilot.press("ctrl+u")
        await until(pilot, lambda: app.base is not None and app.base.NAME == "users")
        assert toasts(app) == []
