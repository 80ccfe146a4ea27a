"""Who does what when. Pure: chance comes in as numbers in [0, 1), time as seconds since the start."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

from app.errors import BadRequest
from app.simulation.markers import USUAL

Kind = Literal["endpoints", "online", "join-leave", "storm"]
KINDS: Final[tuple[Kind, ...]] = ("endpoints", "online", "join-leave", "storm")
#: What can happen to a device: reports new endpoints, goes away, comes back, is replaced by a new
#: one, or loses its connection together with all others.
Action = Literal["endpoints", "away", "back", "replace", "storm"]

FULL_SHARE: Final = 50
FULL_AT_LEAST: Final = 20
#: How long a device that went away stays away: between these.
AWAY_S: Final = (1.0, 10.0)
#: The part of all devices that is away at most.
MAX_AWAY: Final = 0.2
_GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Spec:
    """One device as it shall be.

    `seed` makes its keys the same in every run; empty: new ones. `usual` are endpoints that stay.
    """

    url: str
    hostname: str
    auth_key: str | None
    tenant: int = 0
    full: bool = False
    ephemeral: bool = False
    os: str = "linux"
    seed: str = ""
    usual: tuple[str, ...] = USUAL


def default_full(devices: int) -> int:
    """One in FULL_SHARE, at least FULL_AT_LEAST, of small fleets all."""
    return min(devices, max(FULL_AT_LEAST, devices // FULL_SHARE))


def fleet(
    url: str,
    auth_keys: Sequence[str],
    devices: int,
    *,
    tenants: int | None = None,
    full: int | None = None,
    prefix: str = "sim",
    ephemeral: bool = False,
) -> list[Spec]:
    """Devices spread over the first `tenants` keys in equal parts, and over full and thin evenly.

    Raises BadRequest when the numbers do not fit.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise BadRequest(f"not a control server's URL: {url!r}")
    if devices < 1:
        raise BadRequest("a simulation needs a device at least")
    tenants = len(auth_keys) if tenants is None else tenants
    if not 1 <= tenants <= len(auth_keys):
        raise BadRequest(f"{tenants} tenants need as many auth keys, one of each; given: {len(auth_keys)}")
    if tenants > devices:
        raise BadRequest(f"{devices} devices cannot be in {tenants} tenants")
    wanted = default_full(devices) if full is None else min(full, devices)
    return [
        Spec(
            url,
            f"{prefix}-{number}",
            auth_keys[number * tenants // devices],
            tenant=number * tenants // devices,
            full=(number + 1) * wanted // devices > number * wanted // devices,
            ephemeral=ephemeral,
        )
        for number in range(devices)
    ]


def join_order(devices: int) -> list[int]:
    """All indexes, mixed, so that tenants and kinds grow side by side; the same in every run."""
    return sorted(range(devices), key=lambda number: number * _GOLDEN % 1)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that shall happen: at `at_s`, to the device with this index (storms: to all)."""

    at_s: float
    action: Action
    device: int = 0


@dataclass(slots=True)
class Churn:
    """What happens to a joined fleet, one step after the other, for ever.

    Kinds of single devices share `rate` events per second each; between two events lies an
    exponential time, as between independent causes.
    """

    devices: int
    kinds: Sequence[Kind]
    rate: float
    storm_every_s: float
    chance: Callable[[], float]
    _due: list[tuple[float, int, Kind | Literal["back"], int]] = field(default_factory=list)
    _away: set[int] = field(default_factory=set)
    _made: int = 0

    def __post_init__(self) -> None:
        if self.kinds and not (self.rate > 0 and self.storm_every_s > 0):
            raise BadRequest("churn needs a rate and a storm interval above zero")
        for kind in self.kinds:
            self._push(self._next(kind, 0.0), kind)

    @property
    def away(self) -> frozenset[int]:
        """Who went away and has not come back."""
        return frozenset(self._away)

    def steps(self, until_s: float) -> Iterator[Step]:
        """All steps due before this moment that were not given yet, in order."""
        while self._due and self._due[0][0] < until_s:
            at_s, _, kind, device = heapq.heappop(self._due)
            if kind != "back":
                self._push(self._next(kind, at_s), kind)
            step = self._step(at_s, kind, device)
            if step is not None:
                yield step

    def _step(self, at_s: float, kind: Kind | Literal["back"], device: int) -> Step | None:
        if kind == "back":
            self._away.discard(device)
            return Step(at_s, "back", device)
        if kind == "storm":
            return Step(at_s, "storm")
        device = int(self.chance() * self.devices)
        if device in self._away:
            return None
        if kind == "endpoints":
            return Step(at_s, "endpoints", device)
        if kind == "join-leave":
            return Step(at_s, "replace", device)
        if len(self._away) >= self.devices * MAX_AWAY:
            return None
        self._away.add(device)
        low, high = AWAY_S
        self._push(at_s + low + (high - low) * self.chance(), "back", device)
        return Step(at_s, "away", device)

    def _next(self, kind: Kind, at_s: float) -> float:
        if kind == "storm":
            return at_s + self.storm_every_s
        return at_s - math.log(1 - self.chance()) / self.rate

    def _push(self, at_s: float, kind: Kind | Literal["back"], device: int = 0) -> None:
        self._made += 1  # breaks ties, so that equal times keep their order
        heapq.heappush(self._due, (at_s, self._made, kind, device))
