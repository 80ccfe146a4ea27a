"""Named SQL blocks, the only statements the product sends, and the numbered migrations.

A block starts with `-- name --`, then one line of purpose, then one line naming `$1 $2 ...`, then the
statement. Values are always parameters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

_HEAD = re.compile(r"^-- ([a-z][a-z0-9_]*) --$", re.MULTILINE)
_MIGRATION = re.compile(r"^(\d{4})_([a-z_]+)\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step of the schema."""

    version: int
    name: str
    text: str


def _read_blocks() -> dict[str, str]:
    blocks: dict[str, str] = {}
    for file in sorted(resources.files(__package__).iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _HEAD.split(file.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in blocks:
                raise ValueError(f"SQL block {name} is defined twice")
            blocks[name] = text.strip()
    return blocks


def migrations() -> tuple[Migration, ...]:
    """All migrations of this version, in order and without gaps."""
    found = []
    for file in resources.files(__package__).joinpath("migrations").iterdir():
        match = _MIGRATION.match(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda step: step.version)
    if [step.version for step in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations must be numbered 1, 2, 3 ... without gaps")
    return tuple(found)


#: Name of a block -> its text.
QUERIES = _read_blocks()
