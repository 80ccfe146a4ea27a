"""Themes: `hs-safe` first, those of an operator from a TOML file; what roles of text look like in each."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from textual.color import Color, ColorParseError
from textual.theme import BUILTIN_THEMES, Theme

from app.errors import ConfigError
from console.cells import STYLES

#: Okabe-Ito on near black: told apart with every kind of colour vision, at least 4.8:1.
HS_SAFE = Theme(
    name="hs-safe",
    primary="#56B4E9",
    secondary="#CC79A7",
    accent="#56B4E9",
    success="#009E73",
    warning="#E69F00",
    error="#D55E00",
    background="#121212",
    surface="#1c1c1c",
    panel="#262626",
    foreground="#e4e4e4",
    dark=True,
)
_FIELDS = {field.name for field in dataclasses.fields(Theme)} - {"name", "variables", "ansi"}
_NUMBERS = frozenset({"luminosity_spread", "text_alpha"})
_MUTED = {True: "#8a8a8a", False: "#666666"}


def read_themes(path: Path | None) -> list[Theme]:
    """One table for each theme, by its name; its keys are Textual's. Raises ConfigError."""
    if path is None:
        return []
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"console.themes: {path}: {error}", code="config") from error
    return [_theme(path, name, table) for name, table in tables.items()]


def _theme(path: Path, name: str, table: object) -> Theme:
    def wrong(why: str) -> ConfigError:
        return ConfigError(f"console.themes: {path}: [{name}]: {why}", code="config")

    if not isinstance(table, dict) or "primary" not in table:
        raise wrong("a theme is a table with at least a primary colour")
    if name == HS_SAFE.name or name in BUILTIN_THEMES:
        raise wrong("there is a theme of this name")
    for key, value in table.items():
        if key not in _FIELDS:
            raise wrong(f"{key}: there are {', '.join(sorted(_FIELDS))}")
        if key == "dark" or key in _NUMBERS:
            if not isinstance(value, bool if key == "dark" else float):
                raise wrong(f"{key}: {value!r} is not {'true or false' if key == 'dark' else 'a number'}")
            continue
        try:
            Color.parse(value)
        except (ColorParseError, TypeError, AttributeError) as error:
            raise wrong(f"{key}: {value!r} is not a colour") from error
    return Theme(name=name, **table)


def choose_theme(name: str, themes: list[Theme]) -> str:
    """The name, when there is a theme of it. Raises ConfigError."""
    known = [HS_SAFE.name, *(theme.name for theme in themes), *BUILTIN_THEMES]
    if name not in known:
        raise ConfigError(f"there is no theme {name}: {', '.join(known)}", code="config")
    return name


def styles_of(theme: Theme) -> Mapping[str, str]:
    """Roles of text -> Rich styles."""
    muted = _MUTED[theme.dark]
    accent = _rich(theme.accent or theme.primary)
    return MappingProxyType(
        {
            **STYLES,
            "ok": _rich(theme.success) or STYLES["ok"],
            "attention": _rich(theme.warning) or STYLES["attention"],
            "failed": _rich(theme.error) or STYLES["failed"],
            "change": accent,
            "off": muted,
            "muted": muted,
            "key": f"bold {accent}",
        }
    )


def _rich(colour: str | None) -> str:
    """Textual's names of a terminal's own colours are not Rich's."""
    if colour is None:
        return ""
    return colour.removeprefix("ansi_") if colour.startswith("ansi_") else Color.parse(colour).hex6.lower()
