"""Where a connection goes once its cluster is known: a decision without doing. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from app.model import ClusterOwner


@dataclass(frozen=True, slots=True)
class Here:
    """This process serves the cluster."""


@dataclass(frozen=True, slots=True)
class Relay:
    """Hand the bytes to the owner."""

    owner: ClusterOwner


@dataclass(frozen=True, slots=True)
class Park:
    """Nobody can take the connection now: hold it. Never a refusal, that costs Go clients 10 s."""


Route: TypeAlias = Here | Relay | Park


def decide(
    *, serves: bool, instance: str, owner: ClusterOwner | None, unreachable: ClusterOwner | None = None
) -> Route:
    """`serves`: this process, `instance`, serves the cluster now. `unreachable`: found out a moment ago."""
    if serves:
        return Here()
    # Named as owner without serving: it is about to, or has just ceased to.
    if owner is None or owner == unreachable or owner.instance == instance:
        return Park()
    return Relay(owner)
