"""Where a tenant goes: a decision over a picture of all clusters, with a sentence about each. Pure.

The same picture gives the same answer. A cluster is refused for a named reason; among those left the one
wins that would be filled least, counted in devices reserved for each unit of weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Devices reserved for a tenant without a limit of its own.
RESERVE = 50


@dataclass(frozen=True, slots=True)
class ClusterLoad:
    """One cluster as placement sees it. `dedicated`: tenants that have it for themselves."""

    cluster_id: str
    state: str = "active"
    region: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0
    max_tenants: int | None = None
    max_devices: int | None = None
    version: int = 1
    tenants: int = 0
    devices: int = 0
    reserved: int = 0
    dedicated: tuple[str, ...] = ()
    is_owned: bool = True
    login_url: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a tenant needs: a region ('' for any), labels the cluster must have, one cluster by name,
    a cluster for itself, and how many devices to reserve."""

    region: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    pinned: str | None = None
    dedicated: bool = False
    devices: int = RESERVE


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one cluster: refused for a reason, or how full it would be."""

    cluster_id: str
    refused: str | None
    load: float

    @property
    def sentence(self) -> str:
        if self.refused is not None:
            return f"{self.cluster_id}: refused, {self.refused}"
        return f"{self.cluster_id}: would hold {self.load:g} devices for each unit of weight"


@dataclass(frozen=True, slots=True)
class Placement:
    """The cluster chosen, None when none fits, and the verdict on each in order of preference."""

    chosen: str | None
    verdicts: tuple[Verdict, ...]

    @property
    def explanation(self) -> list[str]:
        """A sentence about each cluster; the first says why."""
        said = [verdict.sentence for verdict in self.verdicts]
        if self.chosen is None:
            return ["no cluster fits", *said]
        return [f"{self.chosen}: chosen because it would be filled least", *said]


def place(wish: Wish, clusters: Sequence[ClusterLoad]) -> Placement:
    """The best cluster for a tenant."""
    verdicts = [_judge(wish, cluster) for cluster in clusters]
    by_id = {cluster.cluster_id: cluster for cluster in clusters}
    ordered = sorted(
        verdicts,
        key=lambda v: (v.refused is not None, v.load, by_id[v.cluster_id].tenants, v.cluster_id),
    )
    chosen = ordered[0].cluster_id if ordered and ordered[0].refused is None else None
    return Placement(chosen, tuple(ordered))


def _judge(wish: Wish, cluster: ClusterLoad) -> Verdict:
    return Verdict(
        cluster.cluster_id,
        refusal(wish, cluster),
        round((cluster.reserved + wish.devices) / cluster.weight, 6),
    )


def refusal(wish: Wish, cluster: ClusterLoad) -> str | None:
    """Why a cluster cannot take a tenant now; None when it can."""
    if cluster.state != "active":
        return f"it is {cluster.state}"
    if not cluster.is_owned:
        return "nobody serves it now"
    if wish.pinned is not None and wish.pinned != cluster.cluster_id:
        return f"the tenant is pinned to {wish.pinned}"
    if wish.region and wish.region != cluster.region:
        return f"its region is {cluster.region or 'not said'}, wished for is {wish.region}"
    for name, value in sorted(wish.labels.items()):
        if cluster.labels.get(name) != value:
            return f"it has no label {name}={value}"
    if cluster.dedicated:
        return f"it is dedicated to {', '.join(cluster.dedicated)}"
    if wish.dedicated and cluster.tenants:
        return f"it has {cluster.tenants} tenants already, wished for is one of its own"
    if cluster.max_tenants is not None and cluster.tenants >= cluster.max_tenants:
        return f"it is full: {cluster.tenants} of {cluster.max_tenants} tenants"
    if cluster.max_devices is not None and cluster.reserved + wish.devices > cluster.max_devices:
        left = max(0, cluster.max_devices - cluster.reserved)
        return f"it has room for {left} devices more, wished for are {wish.devices}"
    return None
