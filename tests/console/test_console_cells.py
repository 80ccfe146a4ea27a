"""No text of a tenant reaches the terminal as anything but text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from console.cells import MAX_CHARS, Pen, age, fit, safe, size_text, until
from tests.console.hostile import NAMES

BAD = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def is_harmless(text: str) -> bool:
    return all(unicodedata.category(char) not in BAD for char in text)


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("\x1b[31mred", "␛[31mred"),
        ("a\nb\tc", "a␊b␉c"),
        ("\x7f", "␡"),
        ("\x9b31m", "·31m"),
        ("\u202eevil", "·evil"),
        ("a\u200db", "a·b"),
        ("[/]", "[/]"),
        ("e\u0301", "é"),
        ("a\u00a0b", "a b"),
        ("日本", "日本"),
    ],
)
def test_what_becomes_of_it(given_text: str, shown: str) -> None:
    assert safe(given_text) == shown


@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_nothing_that_moves_or_hides_is_left(given_text: str) -> None:
    shown = safe(given_text)
    assert is_harmless(shown)
    assert safe(shown) == shown


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_hostile_names_take_exactly_their_width(name: str, ascii_only: bool) -> None:
    cell = Pen(ascii_only).cell(name, "", 12)
    assert cell.cell_len == 12
    assert is_harmless(cell.plain)
    assert not cell.spans
    assert not ascii_only or cell.plain.isascii()


def test_long_texts_are_cut_before_they_are_looked_at() -> None:
    assert len(safe("x" * (MAX_CHARS * 10))) == MAX_CHARS


@pytest.mark.parametrize(
    ("given_text", "width", "shown"),
    [
        ("abc", 5, "abc  "),
        ("abcdef", 4, "abc…"),
        ("日本語", 4, "日 …"),
        ("日本語", 5, "日本…"),
        ("abc", 0, ""),
    ],
)
def test_fitting(given_text: str, width: int, shown: str) -> None:
    assert fit(given_text, width) == shown
    assert cell_len(fit(given_text, width)) == width


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "now"), (12, "12 s"), (61, "1 m"), (3 * 3600, "3 h"), (61 * 86400, "61 d")],
)
def test_ages(seconds: float, shown: str) -> None:
    assert age(seconds) == shown
    if seconds >= 1:
        assert until(seconds) == shown
        assert until(-seconds) == "-" + shown


@pytest.mark.parametrize(
    ("numbers", "width", "unicode", "plain"),
    [
        ([], 8, "", ""),
        ([0, 0], 8, "▁▁", "__"),
        ([0, 7, None, 14], 8, "▁▅ █", "_= #"),
        ([1, 2, 3, 4], 2, "▅█", "=#"),
        ([None, None, 4, None], 2, " █", " #"),
        ([1, 2], 0, "", ""),
    ],
)
def test_spark_lines(numbers: list[float | None], width: int, unicode: str, plain: str) -> None:
    assert Pen().spark(numbers, width) == unicode
    assert Pen(ascii=True).spark(numbers, width) == plain


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (999, "999 B"), (88_400_000, "88 M"), (1_100_000_000, "1.1 G")]
)
def test_sizes(size: float, said: str) -> None:
    assert size_text(size) == said
