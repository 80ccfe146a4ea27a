"""Packet filters and SSH policies as map messages carry them, and what each class was told. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from app.policy.classes import DeviceClass
from app.policy.engine import PolicyEngine
from app.policy.filters import Template

Told = tuple[Template, bytes]


def filter_member(rules: bytes) -> bytes:
    """A map message's member that replaces the whole packet filter; an empty list lets nothing in
    (PROTOCOL.md 6.2)."""
    return b'"PacketFilters":{"*":null,"base":%b}' % rules


def ssh_member(rules: bytes) -> bytes:
    """A map message's member with the whole SSH policy; absent it would mean "unchanged"."""
    return b'"SSHPolicy":{"rules":%b}' % rules


class Access:
    """What devices of each class are told of who may reach them, by filter and by SSH."""

    def __init__(self, engine: PolicyEngine) -> None:
        self._engine = engine
        self._told: dict[DeviceClass, Told] = {}

    def of(self, cls: DeviceClass) -> Told:
        """(filter, SSH rules) of a class; from now on it counts as told."""
        told = self._told.get(cls)
        if told is None:
            told = self._told[cls] = (self._engine.template(cls), self._engine.ssh_rules(cls))
        return told

    def renew(self, touched: Iterable[DeviceClass]) -> dict[DeviceClass, Told]:
        """Make anew what was told to these classes; returns what had been told where it differs."""
        before: dict[DeviceClass, Told] = {}
        for cls in touched:
            told = self._told.get(cls)
            if told is None:
                continue
            if not cls.members:
                del self._told[cls]
                continue
            now = (self._engine.template(cls), self._engine.ssh_rules(cls))
            if now != told:
                before[cls] = told
                self._told[cls] = now
        return before

    def all_told(self) -> dict[DeviceClass, Told]:
        return dict(self._told)

    def forget_empty(self) -> None:
        """Classes without devices are told nothing any more."""
        self._told = {cls: told for cls, told in self._told.items() if cls.members}
