"""The question the netmap engine asks of a policy, and the answer when there is none. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from app.model import Device

ClassKey = Hashable

#: tailcfg.FilterRule that lets everything in (PROTOCOL.md 6.3, "no policy at all").
ALLOW_ALL_RULES: tuple[dict[str, Any], ...] = (
    {"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}]},
)


class Visibility(Protocol):
    """Devices of equal class see, and are seen by, exactly the same classes.

    Answers must depend only on the arguments, so that frames can be shared by class.
    """

    def class_of(self, device: Device) -> ClassKey:
        """The class a device belongs to, by owner, tags and whatever the policy looks at."""

    def sees(self, viewer: ClassKey, member: ClassKey) -> bool:
        """Whether devices of class `viewer` have devices of class `member` among their peers."""

    def packet_filter(self, viewer: ClassKey) -> tuple[dict[str, Any], ...]:
        """The tailcfg.FilterRule list a device of this class enforces on incoming packets."""


class AllowAll:
    """One class; everyone sees and reaches everyone."""

    def class_of(self, device: Device) -> ClassKey:
        return 0

    def sees(self, viewer: ClassKey, member: ClassKey) -> bool:
        return True

    def packet_filter(self, viewer: ClassKey) -> tuple[dict[str, Any], ...]:
        return ALLOW_ALL_RULES
