"""Which devices an alias stands for, as bits. Pure.

Every alias of a policy that means devices by what they are (users, groups, tags, autogroups, via
tags) has a bit, every address range another. What a device is to the policy is then two numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.model import UserId
from app.policy import aliases as a
from app.policy.addresses import Range
from app.policy.aliases import Alias, Kind
from app.policy.people import Directory


class Selectors:
    """The bits of one policy. Built once; `bit` only looks up afterwards."""

    def __init__(self, aliases: Iterable[Alias], directory: Directory) -> None:
        self._bits: dict[Alias, int] = {}
        self._literals: dict[Range, int] = {}
        for alias in aliases:
            if alias.is_devices and alias not in self._bits:
                self._bits[alias] = 1 << len(self._bits)
            elif alias.span is not None and alias.span not in self._literals:
                self._literals[alias.span] = 1 << len(self._literals)
        self._users: dict[Alias, frozenset[UserId]] = {}
        self._identities: dict[tuple[UserId | None, tuple[str, ...]], int] = {}
        self.reread(directory)

    def reread(self, directory: Directory) -> None:
        """Users came, went or changed."""
        self._users = {
            alias: users for alias in self._bits if (users := directory.users_of(alias)) is not None
        }
        self._identities.clear()

    def mask(self, aliases: Iterable[Alias]) -> int:
        """The bits of all device aliases among these."""
        mask = 0
        for alias in aliases:
            mask |= self._bits.get(alias, 0)
        return mask

    def spans(self, aliases: Iterable[Alias]) -> tuple[Range, ...]:
        return tuple(alias.span for alias in aliases if alias.span is not None)

    def literal_mask(self, spans: Iterable[Range]) -> int:
        mask = 0
        for span in spans:
            mask |= self._literals.get(span, 0)
        return mask

    def identity(self, user_id: UserId | None, tags: tuple[str, ...]) -> int:
        """The bits of a device by owner or tags; tagged devices belong to nobody."""
        key = (None if tags else user_id, tags)
        mask = self._identities.get(key)
        if mask is None:
            mask = 0
            for alias, bit in self._bits.items():
                if self._matches(alias, *key):
                    mask |= bit
            self._identities[key] = mask
        return mask

    def _matches(self, alias: Alias, user_id: UserId | None, tags: tuple[str, ...]) -> bool:
        if alias.kind is Kind.TAG:
            return alias.name in tags
        if alias.name == a.TAGGED:
            return bool(tags)
        return not tags and user_id in self._users.get(alias, ())

    def holding(self, addresses: Iterable[int]) -> int:
        """The bits of all address ranges that hold one of these addresses."""
        mask = 0
        for at in addresses:
            for (low, high), bit in self._literals.items():
                if low <= at <= high:
                    mask |= bit
        return mask
