"""A tenant's users and devices, and the policy over them, at one moment. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from app.model import Device, User
from app.policy.document import NO_POLICY, NOTHING_ALLOWED, Policy
from app.policy.hujson import PolicyError
from app.policy.reader import read


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a policy is applied to. `version` 0: there is no stored one."""

    users: list[User]
    devices: list[Device]
    version: int
    text: str | None

    @property
    def policy(self) -> Policy:
        """The policy as it is served."""
        if self.text is None:
            return NO_POLICY
        try:
            return read(self.text)
        except PolicyError:
            return NOTHING_ALLOWED
