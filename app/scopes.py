"""Scopes: what part of a cluster's netmaps something is about (DESIGN.md section 2). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from app.errors import BadRequest
from app.model import Device

KINDS = ("device", "user", "tag", "tenant", "cluster")


@dataclass(frozen=True, slots=True)
class Scope:
    """`device:<id>`, `user:<id>`, `tag:<name>`, `tenant` or `cluster`; `value` is empty for the last two."""

    kind: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind

    @property
    def id(self) -> int:
        """The id of a device or user."""
        return int(self.value)

    def holds(self, device: Device) -> bool:
        """Whether a device of the right tenant is inside."""
        match self.kind:
            case "device":
                return device.id == self.id
            case "user":
                return device.user_id == self.id
            case "tag":
                return f"tag:{self.value}" in device.tags
        return True


def parse_scope(text: str) -> Scope:
    """The scope of a text. Raises BadRequest."""
    kind, colon, value = text.partition(":")
    if kind not in KINDS or bool(colon) != (kind not in ("tenant", "cluster")) or (colon and not value):
        raise BadRequest(
            f"{text!r} is no scope: device:<id>, user:<id>, tag:<name>, tenant or cluster", code="bad_scope"
        )
    if kind in ("device", "user") and not (value.isascii() and value.isdigit() and len(value) < 19):
        raise BadRequest(f"{text!r}: a {kind} is named by its id", code="bad_scope")
    return Scope(kind, value)
