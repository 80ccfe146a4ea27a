"""Where tenants go: refusals by name, the least filled of the rest, and bounds over many tenants."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.placement import ClusterLoad, Wish, place

A = ClusterLoad("a", region="eu", labels={"tier": "gold"}, reserved=100, tenants=2)


@pytest.mark.parametrize(
    ("wish", "cluster", "says"),
    [
        (Wish(), replace(A, state="joining"), "it is joining"),
        (Wish(), replace(A, state="draining"), "it is draining"),
        (Wish(), replace(A, is_owned=False), "nobody serves it"),
        (Wish(region="us"), A, "its region is eu, wished for is us"),
        (Wish(region="us"), replace(A, region=""), "its region is not said"),
        (Wish(labels={"tier": "iron"}), A, "it has no label tier=iron"),
        (Wish(pinned="b"), A, "the tenant is pinned to b"),
        (Wish(), replace(A, dedicated=("acme",)), "it is dedicated to acme"),
        (Wish(dedicated=True), A, "it has 2 tenants already"),
        (Wish(), replace(A, max_tenants=2), "it is full: 2 of 2 tenants"),
        (Wish(devices=60), replace(A, max_devices=150), "it has room for 50 devices more"),
        (Wish(devices=60), replace(A, max_devices=50), "it has room for 0 devices more"),
    ],
)
def test_a_cluster_is_refused_for_a_named_reason(wish: Wish, cluster: ClusterLoad, says: str) -> None:
    placement = place(wish, [cluster])
    assert placement.chosen is None
    assert says in placement.verdicts[0].sentence
    assert placement.explanation[0] == "no cluster fits"


def test_what_is_wished_for_is_found() -> None:
    wish = Wish(region="eu", labels={"tier": "gold"})
    clusters = [replace(A, cluster_id="full", max_tenants=2), A, replace(A, cluster_id="us", region="us")]
    placement = place(wish, clusters)
    assert placement.chosen == "a"
    assert len(placement.explanation) == 4
    assert place(Wish(dedicated=True), [A, ClusterLoad("empty")]).chosen == "empty"
    assert place(Wish(), []).chosen is None


names = st.sampled_from("abcdefgh")
loads = st.builds(
    ClusterLoad,
    names,
    state=st.sampled_from(["active", "active", "joining", "draining"]),
    region=st.sampled_from(["", "eu", "us"]),
    weight=st.sampled_from([0.5, 1.0, 2.0]),
    max_tenants=st.none() | st.integers(0, 5),
    max_devices=st.none() | st.integers(0, 500),
    tenants=st.integers(0, 5),
    reserved=st.integers(0, 500),
    dedicated=st.sampled_from([(), (), ("x",)]),
    is_owned=st.booleans(),
)


@given(
    st.lists(loads, max_size=6, unique_by=lambda load: load.cluster_id),
    st.builds(Wish, region=st.sampled_from(["", "eu"]), devices=st.integers(1, 100)),
    st.randoms(),
)
def test_the_answer_depends_on_the_picture_alone_and_overfills_nothing(clusters, wish, random) -> None:
    placement = place(wish, clusters)
    mixed = list(clusters)
    random.shuffle(mixed)
    assert place(wish, mixed) == placement
    assert {verdict.cluster_id for verdict in placement.verdicts} == {c.cluster_id for c in clusters}
    by_id = {cluster.cluster_id: cluster for cluster in clusters}
    if placement.chosen is None:
        assert all(verdict.refused for verdict in placement.verdicts)
        return
    chosen = by_id[placement.chosen]
    assert chosen.state == "active"
    assert chosen.is_owned
    assert wish.region in ("", chosen.region)
    assert chosen.max_tenants is None or chosen.tenants < chosen.max_tenants
    assert chosen.max_devices is None or chosen.reserved + wish.devices <= chosen.max_devices
    for verdict in placement.verdicts:
        if verdict.refused is None:
            other = by_id[verdict.cluster_id]
            assert (chosen.reserved + wish.devices) / chosen.weight <= (
                other.reserved + wish.devices
            ) / other.weight + 1e-5


def settled(weights: list[float], tenants: list[int]) -> dict[str, ClusterLoad]:
    clusters = {f"c{n}": ClusterLoad(f"c{n}", weight=weight) for n, weight in enumerate(weights)}
    for devices in tenants:
        chosen = place(Wish(devices=devices), list(clusters.values())).chosen
        assert chosen is not None
        load = clusters[chosen]
        clusters[chosen] = replace(load, tenants=load.tenants + 1, reserved=load.reserved + devices)
    return clusters


@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=5),
    st.lists(st.integers(1, 200), min_size=1, max_size=60),
)
def test_clusters_differ_by_no_more_than_one_tenant(weights: list[float], tenants: list[int]) -> None:
    """Per unit of weight: whoever got the last tenant was the least filled with it, so no cluster is
    fuller than another by more than the largest tenant would weigh there."""
    clusters = settled(weights, tenants).values()
    fullest = max(cluster.reserved / cluster.weight for cluster in clusters)
    emptiest = min((cluster.reserved + max(tenants)) / cluster.weight for cluster in clusters)
    assert fullest <= emptiest + 1e-6


def test_d13_a_new_cluster_gets_the_next_tenants() -> None:
    clusters = settled([1.0, 1.0], [50] * 10)
    grown = [*clusters.values(), ClusterLoad("new")]
    assert place(Wish(), grown).chosen == "new"
