"""Tab in the filter line: fields and values that are known, and nothing hostile."""

from __future__ import annotations

import pytest

from console.completion import complete
from console.query import DEVICE_FIELDS
from tests.console.support import filled, running, shown, until

KNOWN = {"os": ["linux", "li\x1b[31m", "li nux"], "cluster": ["eu-1"], "tag": ["tag:ci"], "state": ["online"]}


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("se", "seen<"),
        ("word !st", "word !state:"),
        ("os:", "os:linux"),
        ("!os=macOS|li", "!os=macOS|linux"),
        ("x @e", "x @eu-1"),
        ("tag:tag", "tag:tag:ci"),
        ("os:linux", None),
        ("nothing:a", None),
        ("os:linux ", None),
        ("", None),
    ],
)
def test_the_last_word_is_completed(text: str, whole: str | None) -> None:
    assert complete(text, DEVICE_FIELDS, lambda field: KNOWN.get(field, [])) == whole


async def test_tab_takes_the_completion_and_keeps_the_line() -> None:
    async with running(filled()) as (app, pilot):
        base = await shown(app, pilot)
        await pilot.press("slash", *"os:l")
        line = base.query_one("#filter")
        await until(pilot, lambda: line._suggestion == "os:linux")  # type: ignore[attr-defined]
        await pilot.press("tab", "enter")
        await until(pilot, lambda: base.filter_text == "os:linux")
