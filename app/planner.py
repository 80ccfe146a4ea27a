"""Which tenants move where: a decision over a picture of all clusters and tenants. Pure.

Invariants, each tested as a property: every step fits what `app.placement` demands of its target at that
moment; no step brings a target above its ceiling or its room; home tenants stay; the same picture gives the
same plan; planning again after the plan was carried out gives nothing. Of what one cluster sheds no other
choice of tenants would move fewer devices, as long as all of them find a place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from app.placement import ClusterLoad, Wish, place, refusal

#: A cluster may be fuller than the mean by this share before anybody moves: else tenants would go to and fro.
BAND = 0.10
#: Above so many devices to shed, the choice of tenants is made by size alone: exact would cost too much.
MAX_EXACT = 65_536
#: Tenants that a note names.
NAMED = 8

REBALANCE, DRAIN, EVACUATE, MOVE = "rebalance", "drain", "evacuate", "move"
PURPOSES = (REBALANCE, DRAIN, EVACUATE, MOVE)


@dataclass(frozen=True, slots=True)
class Seat:
    """One tenant where it lives. `wish.devices` is what it counts for."""

    tenant_id: int
    name: str
    cluster_id: str
    wish: Wish
    is_home: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One tenant moves. `devices` is what it counts for."""

    tenant_id: int
    tenant: str
    source: str
    target: str
    devices: int


@dataclass(frozen=True, slots=True)
class MovePlan:
    """Steps in order, what each cluster counts for before and after them, and sentences on what cannot be."""

    purpose: str
    steps: tuple[Step, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def devices(self) -> int:
        return sum(step.devices for step in self.steps)


class _Board:
    """The picture as it is after the steps so far."""

    def __init__(self, clusters: Iterable[ClusterLoad], seats: Iterable[Seat]) -> None:
        self.loads = {load.cluster_id: load for load in clusters}
        self.seats: dict[str, dict[int, Seat]] = {cluster_id: {} for cluster_id in self.loads}
        for seat in seats:
            if not seat.is_home and seat.cluster_id in self.seats:
                self.seats[seat.cluster_id][seat.tenant_id] = seat
        self.before = {cluster_id: load.reserved for cluster_id, load in self.loads.items()}
        self.steps: list[Step] = []
        self.notes: list[str] = []

    def move(self, seat: Seat, target: str) -> None:
        source = self.loads[seat.cluster_id]
        self.loads[source.cluster_id] = replace(
            source,
            tenants=source.tenants - 1,
            reserved=source.reserved - seat.wish.devices,
            dedicated=tuple(name for name in source.dedicated if name != seat.name),
        )
        to = self.loads[target]
        self.loads[target] = replace(
            to,
            tenants=to.tenants + 1,
            reserved=to.reserved + seat.wish.devices,
            dedicated=(*to.dedicated, seat.name) if seat.wish.dedicated else to.dedicated,
        )
        del self.seats[seat.cluster_id][seat.tenant_id]
        self.seats[target][seat.tenant_id] = replace(seat, cluster_id=target)
        self.steps.append(Step(seat.tenant_id, seat.name, seat.cluster_id, target, seat.wish.devices))

    def plan(self, purpose: str) -> MovePlan:
        after = {cluster_id: load.reserved for cluster_id, load in self.loads.items()}
        return MovePlan(purpose, tuple(self.steps), self.before, after, tuple(self.notes))


def drain(
    cluster_id: str, clusters: Sequence[ClusterLoad], seats: Sequence[Seat], purpose: str = DRAIN
) -> MovePlan:
    """Everybody out of a cluster, the largest first; notes name those that fit nowhere."""
    board = _Board(clusters, seats)
    for seat in _by_size(board.seats.get(cluster_id, {}).values()):
        others = [load for load in board.loads.values() if load.cluster_id != cluster_id]
        placement = place(seat.wish, others)
        if placement.chosen is None:
            why = "; ".join(placement.explanation[1:]) or "there is no other cluster"
            board.notes.append(f"tenant {seat.name!r} fits nowhere: {why}")
        else:
            board.move(seat, placement.chosen)
    return board.plan(purpose)


def move(tenant_id: int, target: str, clusters: Sequence[ClusterLoad], seats: Sequence[Seat]) -> MovePlan:
    """One tenant to a cluster; a note says why not."""
    board = _Board(clusters, seats)
    seat = next((seat for seat in seats if seat.tenant_id == tenant_id), None)
    load = board.loads.get(target)
    if seat is None or load is None:
        board.notes.append("there is no such tenant" if seat is None else f"there is no cluster {target!r}")
    elif seat.is_home:
        board.notes.append("a home tenant lives and ends with its cluster")
    elif seat.cluster_id == target:
        board.notes.append(f"tenant {seat.name!r} lives in {target} already")
    elif (reason := refusal(seat.wish, load)) is not None:
        board.notes.append(f"{target} cannot take tenant {seat.name!r}: {reason}")
    else:
        board.move(seat, target)
    return board.plan(MOVE)


def checked(
    purpose: str, steps: Sequence[Step], clusters: Sequence[ClusterLoad], seats: Sequence[Seat]
) -> MovePlan:
    """These steps over the picture of now: what comes of them, and a note on each that would be refused."""
    board = _Board(clusters, seats)
    for step in steps:
        seat = board.seats.get(step.source, {}).get(step.tenant_id)
        load = board.loads.get(step.target)
        if seat is None or load is None:
            board.notes.append(f"tenant {step.tenant!r} cannot go from {step.source} to {step.target} now")
        elif (reason := refusal(seat.wish, load)) is not None:
            board.notes.append(f"{step.target} cannot take tenant {step.tenant!r}: {reason}")
        else:
            board.move(seat, step.target)
    return board.plan(purpose)


def rebalance(clusters: Sequence[ClusterLoad], seats: Sequence[Seat], *, band: float = BAND) -> MovePlan:
    """As few devices as can be, so that no cluster is fuller than the mean by more than the band.

    Counted in devices for each unit of weight, over the clusters that may take tenants.
    """
    board = _Board(clusters, seats)
    taking = [load for load in clusters if load.state == "active" and load.is_owned]
    weight = sum(load.weight for load in taking)
    if not weight:
        board.notes.append("no cluster takes tenants now")
        return board.plan(REBALANCE)
    mean = sum(load.reserved for load in taking) / weight
    ceilings = {load.cluster_id: load.weight * mean * (1 + band) for load in taking}
    for cluster_id in sorted(ceilings):
        staying = [s.name for s in _by_size(board.seats[cluster_id].values()) if s.wish.pinned == cluster_id]
        if staying and board.loads[cluster_id].reserved > ceilings[cluster_id]:
            names = ", ".join(staying[:NAMED]) + (" and others" if len(staying) > NAMED else "")
            board.notes.append(f"pinned to {cluster_id}, so staying there: {names}")
    progress = True
    while progress:
        progress = False
        excess = {c: board.loads[c].reserved - ceiling for c, ceiling in ceilings.items()}
        for cluster_id in sorted(excess, key=lambda c: (-excess[c], c)):
            if excess[cluster_id] > 0:
                progress |= _shed(board, cluster_id, ceilings)
    for cluster_id in sorted(ceilings):
        over = board.loads[cluster_id].reserved - ceilings[cluster_id]
        if over > 0:
            board.notes.append(
                f"{cluster_id} stays {over:.0f} devices above its share: nobody else fits elsewhere"
            )
    return board.plan(REBALANCE)


def _shed(board: _Board, cluster_id: str, ceilings: Mapping[str, float]) -> bool:
    """Tenants away until the cluster is under its ceiling, or nobody fits anywhere. Whether any moved."""
    moved = False
    stuck: set[int] = set()
    while (excess := board.loads[cluster_id].reserved - ceilings[cluster_id]) > 0:
        seats = [
            s
            for s in board.seats[cluster_id].values()
            if s.tenant_id not in stuck and s.wish.pinned != cluster_id
        ]
        chosen = choose(_by_size(seats), excess)
        if not chosen:
            return moved
        for seat in chosen:
            target = _target(board, seat, ceilings)
            if target is None:
                stuck.add(seat.tenant_id)
                break
            board.move(seat, target)
            moved = True
    return moved


def _target(board: _Board, seat: Seat, ceilings: Mapping[str, float]) -> str | None:
    """The emptiest cluster that may take a tenant and stays under its ceiling."""
    fitting = [
        load
        for load in board.loads.values()
        if load.cluster_id != seat.cluster_id
        and load.reserved + seat.wish.devices <= ceilings.get(load.cluster_id, 0.0)
        and refusal(seat.wish, load) is None
    ]
    best = min(fitting, key=lambda load: (load.reserved / load.weight, load.cluster_id), default=None)
    return None if best is None else best.cluster_id


def choose(seats: Sequence[Seat], excess: float) -> list[Seat]:
    """Those that together count for at least `excess`, as little above it as can be; all when too few."""
    counted = [seat for seat in seats if seat.wish.devices > 0]
    most = sum(seat.wish.devices for seat in counted)
    need = int(-(-excess // 1))
    if most < need:
        return counted
    largest = counted[0].wish.devices if counted else 0
    # Nobody need go beyond `need` by more than one tenant.
    limit = min(most, need + largest)
    if limit > MAX_EXACT:
        return _by_size_alone(counted, need)
    # Bit n of reach[i]: the first i of them can count for n in all.
    mask = (1 << (limit + 1)) - 1
    reach = [1]
    for seat in counted:
        reach.append((reach[-1] | reach[-1] << seat.wish.devices) & mask)
    above = reach[-1] >> need
    total = need + (above & -above).bit_length() - 1
    chosen: list[Seat] = []
    for index in range(len(counted), 0, -1):
        if not reach[index - 1] >> total & 1:
            chosen.append(counted[index - 1])
            total -= counted[index - 1].wish.devices
    return _by_size(chosen)


def _by_size_alone(seats: Sequence[Seat], need: int) -> list[Seat]:
    chosen: list[Seat] = []
    for position, seat in enumerate(seats):
        smaller = seats[position + 1 :]
        if seat.wish.devices >= need and smaller and smaller[0].wish.devices >= need:
            continue  # a smaller one alone would do
        chosen.append(seat)
        need -= seat.wish.devices
        if need <= 0:
            break
    return chosen


def _by_size(seats: Iterable[Seat]) -> list[Seat]:
    return sorted(seats, key=lambda seat: (-seat.wish.devices, seat.tenant_id))
