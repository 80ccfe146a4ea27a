"""The configuration file: found, read, parsed to plain values. Raises ConfigError with path and line."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from app.errors import ConfigError

MAX_CONFIG_BYTES = 1024 * 1024
FILE_NAMES = ("config.yaml", "config.json")


def search_places(home: str, cwd: Path) -> tuple[Path, ...]:
    """Directories in order: ours, then the three of headscale."""
    at_home = [Path(home)] if home else []
    return (
        Path("/etc/headscale-cluster"),
        *(path / ".headscale-cluster" for path in at_home),
        Path("/etc/headscale"),
        *(path / ".headscale" for path in at_home),
        cwd,
    )


def find(given: str | None, home: str, cwd: Path) -> Path | None:
    """The file to read: the given one, else the first that exists."""
    if given:
        return (cwd / given).absolute()
    for place in search_places(home, cwd):
        for name in FILE_NAMES:
            path = place / name
            try:
                if path.is_file():
                    return path.absolute()
            except PermissionError as error:
                raise ConfigError(
                    f"{path}: {error.strerror}; give another file with --config, or /dev/null for none"
                ) from error
    return None


def read(path: Path) -> dict[str, Any]:
    """The file's mapping; an empty file is an empty one. `.json` is JSON, all else YAML."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; give another file with --config, or /dev/null for none"
        ) from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, which no configuration is")
    try:
        text = data.decode("utf-8-sig")
        # yaml.load is safe here: the loader is a SafeLoader.
        found = json.loads(text) if path.suffix == ".json" and text.strip() else yaml.load(text, _Loader)  # noqa: S506
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: must contain keys and values, not a {type(found).__name__}")
    return found


class _Loader(yaml.SafeLoader):
    """YAML as Go's readers take it: no octal or base-60 numbers, no dates, no yes/no, no double keys."""


def _plain_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | str:
    text = str(loader.construct_scalar(node))
    digits = text.removeprefix("-")
    return int(text) if digits.isdigit() and str(int(digits)) == digits else text


def _plain_bool(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool | str:
    text = str(loader.construct_scalar(node))
    return {"true": True, "false": False}.get(text.lower(), text)


def _plain_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _plain_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    loader.flatten_mapping(node)
    found: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable) or key in found:
            raise yaml.MarkedYAMLError(
                problem=f"the key {key!r} stands here twice", problem_mark=key_node.start_mark
            )
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor("tag:yaml.org,2002:int", _plain_int)
_Loader.add_constructor("tag:yaml.org,2002:bool", _plain_bool)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _plain_text)
_Loader.add_constructor("tag:yaml.org,2002:map", _plain_mapping)
