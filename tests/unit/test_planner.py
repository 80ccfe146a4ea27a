"""Plans for moving tenants: what always holds, and that few devices move."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.placement import ClusterLoad, Wish, refusal
from app.planner import BAND, DRAIN, MovePlan, Seat, choose, drain, move, rebalance

REGIONS = ("", "eu", "us")

Picture = tuple[list[ClusterLoad], list[Seat]]


def counted(clusters: list[ClusterLoad], seats: list[Seat]) -> list[ClusterLoad]:
    """Clusters with what their tenants count for."""
    found = []
    for cluster in clusters:
        there = [seat for seat in seats if seat.cluster_id == cluster.cluster_id]
        found.append(
            replace(
                cluster,
                tenants=sum(not seat.is_home for seat in there),
                reserved=sum(seat.wish.devices for seat in there),
                dedicated=tuple(seat.name for seat in there if seat.wish.dedicated),
            )
        )
    return found


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    names = [f"c{n}" for n in range(draw(st.integers(1, 5)))]
    clusters = [
        ClusterLoad(
            name,
            state=draw(st.sampled_from(("active", "active", "active", "draining", "joining"))),
            region=draw(st.sampled_from(REGIONS)),
            weight=draw(st.sampled_from((0.5, 1.0, 2.0))),
            max_tenants=draw(st.sampled_from((None, 3, 8))),
            max_devices=draw(st.sampled_from((None, 100, 400))),
            is_owned=draw(st.booleans()) or draw(st.booleans()),
        )
        for name in names
    ]
    seats = []
    for number in range(draw(st.integers(0, 14))):
        wish = Wish(
            region=draw(st.sampled_from(("", "", "eu"))),
            pinned=draw(st.sampled_from((None, None, None, *names))),
            dedicated=draw(st.integers(0, 9)) == 0,
            devices=draw(st.integers(0, 90)),
        )
        home = draw(st.integers(0, 7)) == 0
        seats.append(Seat(number, f"t{number}", draw(st.sampled_from(names)), wish, home))
    return counted(clusters, seats), seats


def carried_out(picture: Picture, plan: MovePlan, *, ceiling: float | None = None) -> Picture:
    """The picture after a plan, each step checked as it happens."""
    clusters, seats = picture
    for step in plan.steps:
        loads = {load.cluster_id: load for load in clusters}
        (seat,) = [seat for seat in seats if seat.tenant_id == step.tenant_id]
        assert not seat.is_home
        assert seat.cluster_id == step.source != step.target
        target = loads[step.target]
        assert refusal(seat.wish, target) is None
        if ceiling is not None:
            assert target.reserved + seat.wish.devices <= target.weight * ceiling + 1e-6
        seats = [replace(s, cluster_id=step.target) if s is seat else s for s in seats]
        clusters = counted(clusters, seats)
    assert {load.cluster_id: load.reserved for load in clusters} == plan.after
    return clusters, seats


@settings(max_examples=300, deadline=None)
@given(pictures())
def test_a_rebalance_keeps_every_promise(picture: Picture) -> None:
    clusters, seats = picture
    taking = [load for load in clusters if load.state == "active" and load.is_owned]
    weight = sum(load.weight for load in taking)
    ceiling = sum(load.reserved for load in taking) / weight * (1 + BAND) if weight else 0.0
    plan = rebalance(clusters, seats)
    assert plan == rebalance(list(reversed(clusters)), list(reversed(seats)))
    after = carried_out(picture, plan, ceiling=ceiling)
    assert rebalance(*after).steps == (), "nothing is left to do"
    over = {load.cluster_id for load in after[0] if load in taking or load.is_owned}
    assert {note.split()[0] for note in plan.notes if "above its share" in note} <= over
    if all(load.reserved <= load.weight * ceiling for load in taking):
        assert plan.steps == (), "within the band nobody moves"


@settings(max_examples=200, deadline=None)
@given(pictures(), st.integers(0, 4))
def test_a_drained_cluster_is_empty_or_it_is_said_who_stays(picture: Picture, which: int) -> None:
    clusters, seats = picture
    source = clusters[which % len(clusters)].cluster_id
    plan = drain(source, clusters, seats)
    assert plan.purpose == DRAIN
    assert all(step.source == source for step in plan.steps)
    _, after = carried_out(picture, plan)
    left = [s for s in after if s.cluster_id == source and not s.is_home]
    assert len(left) == len(plan.notes)
    assert all(repr(seat.name) in " ".join(plan.notes) for seat in left)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=9), st.integers(1, 120))
def test_no_choice_of_tenants_would_move_fewer_devices(sizes: list[int], excess: int) -> None:
    seats = [Seat(n, f"t{n}", "c", Wish(devices=size)) for n, size in enumerate(sorted(sizes, reverse=True))]
    chosen = sum(seat.wish.devices for seat in choose(seats, excess))
    sums = [sum(some) for size in range(len(sizes) + 1) for some in combinations(sizes, size)]
    enough = [total for total in sums if total >= excess]
    assert chosen == (min(enough) if enough else sum(sizes))


def test_an_empty_new_cluster_is_filled_and_the_band_is_left_alone() -> None:
    clusters = [ClusterLoad("a"), ClusterLoad("b"), ClusterLoad("new")]
    seats = [Seat(n, f"t{n}", "ab"[n % 2], Wish(devices=10)) for n in range(30)]
    plan = rebalance(counted(clusters, seats), seats)
    assert plan.before == {"a": 150, "b": 150, "new": 0}
    assert plan.after == {"a": 110, "b": 110, "new": 80}, "no more than the band asks for"
    assert plan.devices == 80


@pytest.mark.parametrize(
    ("tenant", "target", "note"),
    [
        (1, "b", None),
        (1, "a", "lives in a already"),
        (1, "x", "there is no cluster 'x'"),
        (9, "b", "no such tenant"),
        (2, "b", "home tenant"),
        (3, "b", "pinned to a"),
    ],
)
def test_one_tenant_moves_or_it_is_said_why_not(tenant: int, target: str, note: str | None) -> None:
    seats = [
        Seat(1, "one", "a", Wish(devices=5)),
        Seat(2, "home", "a", Wish(devices=0), True),
        Seat(3, "pinned", "a", Wish(pinned="a")),
    ]
    plan = move(tenant, target, counted([ClusterLoad("a"), ClusterLoad("b")], seats), seats)
    assert bool(plan.steps) == (note is None)
    if note is not None:
        assert note in plan.notes[0]
