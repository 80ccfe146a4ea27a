"""Devices that are the same to a policy share one class. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.model import DeviceId, UserId
from app.policy.addresses import CGNAT, EXIT_ROUTES, TAILNET, Range, overlap, overlaps_any, prefix

if TYPE_CHECKING:
    from app.policy.filters import Template


@dataclass(frozen=True, slots=True)
class ClassShape:
    """What a policy looks at: which aliases a device matches, by identity and by address; its user,
    where a rule is cut down to devices of the same user; its approved routes; which families it has.

    `declared` is `literals` before IPv4 was taken away, which is what nodeAttrs go by.
    `alone`: a router whose routes may hold addresses of devices, its twin's among them, shares with nobody.
    """

    identity: int
    literals: int
    user: UserId | None
    subnets: tuple[str, ...]
    is_exit: bool
    no_v4: bool
    declared: int = 0
    alone: DeviceId | None = None


@dataclass(eq=False, slots=True)
class DeviceClass:
    """One class. `sees` has the bit of every class its devices have as peers; always symmetric.

    `targets`: the numbers of the rules that concern it as a target.
    `self_caps`: the CapMap of its devices' own records, `peer_caps`: as peers see them (JSON, empty
    for none).
    """

    shape: ClassShape
    index: int
    members: set[DeviceId] = field(default_factory=set)
    spans: tuple[Range, ...] = ()
    sees: int = 0
    targets: tuple[int, ...] = ()
    template: Template | None = None
    shows: dict[str, bool] = field(default_factory=dict)
    steered: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    self_caps: bytes = b"{}"
    peer_caps: bytes = b""

    @property
    def bit(self) -> int:
        return 1 << self.index

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True, slots=True)
class Facts:
    """One device as the engine holds it; `tags` is how many it has."""

    cls: DeviceClass
    v4: int
    v6: int
    user: UserId | None
    tags: int
    subnets: tuple[str, ...]

    @property
    def addresses(self) -> tuple[int, ...]:
        """Those it has as far as anybody is told, on the line of app.policy.addresses."""
        return (self.v6,) if self.cls.shape.no_v4 else (self.v4, self.v6)


def split_routes(routes: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """(subnet routes, whether it is an exit node): exit routes come as a pair or count for nothing."""
    subnets = tuple(sorted(route for route in routes if route not in EXIT_ROUTES))
    return subnets, any(route in EXIT_ROUTES for route in routes)


def spans_of(subnets: tuple[str, ...]) -> tuple[Range, ...]:
    return tuple(prefix(route) for route in subnets)


def may_hold_devices(subnets: tuple[str, ...]) -> bool:
    """Whether some route overlaps what devices have their own addresses from."""
    return any(overlap(span, CGNAT) or overlaps_any(TAILNET, span) for span in spans_of(subnets))
