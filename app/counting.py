"""Numbers with what they count. Pure."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
