"""Plans for moving tenants: 10,000 of them on 100 clusters, and what a simple way would move (`planner`)."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import replace

from app.placement import ClusterLoad, Wish, refusal
from app.planner import BAND, Seat, drain, rebalance
from bench.report import Table
from bench.system import Lab

TENANTS, CLUSTERS = 10_000, 100
BUDGET_S = 1.0
SEED = 7


def picture(tenants: int, clusters: int) -> tuple[list[ClusterLoad], list[Seat]]:
    """Tenants of 1 to 500 devices; a tenth of the clusters is new and empty, some hold twice as much."""
    chance = random.Random(SEED)
    old = clusters - clusters // 10
    weights = [2.0 if number % 5 == 0 else 1.0 for number in range(clusters)]
    seats = []
    for number in range(tenants):
        home = f"c{min(int(chance.paretovariate(1.2)) * 7 + chance.randrange(old), 10**6) % old}"
        wish = Wish(region="eu" if number % 10 == 0 else "", devices=min(500, int(chance.paretovariate(0.9))))
        seats.append(Seat(number, f"t{number}", home, wish))
    loads = [
        ClusterLoad(f"c{number}", region="eu" if number % 2 else "us", weight=weights[number])
        for number in range(clusters)
    ]
    return counted(loads, seats), seats


def counted(loads: list[ClusterLoad], seats: list[Seat]) -> list[ClusterLoad]:
    tenants: dict[str, int] = {}
    devices: dict[str, int] = {}
    for seat in seats:
        tenants[seat.cluster_id] = tenants.get(seat.cluster_id, 0) + 1
        devices[seat.cluster_id] = devices.get(seat.cluster_id, 0) + seat.wish.devices
    return [
        replace(load, tenants=tenants.get(load.cluster_id, 0), reserved=devices.get(load.cluster_id, 0))
        for load in loads
    ]


def left_over(loads: list[ClusterLoad], after: Mapping[str, int], mean: float) -> int:
    """Devices above the share of their cluster."""
    return round(sum(max(0.0, after[x.cluster_id] - x.weight * mean * (1 + BAND)) for x in loads))


def naive(loads: list[ClusterLoad], seats: list[Seat]) -> tuple[int, int, dict[str, int]]:
    """(tenants, devices) moved and what is where then, by the simple way: the largest of the fullest to the
    emptiest, all counted anew after each step."""
    seats, moved, devices = list(seats), 0, 0
    mean = sum(load.reserved for load in loads) / sum(load.weight for load in loads)
    stuck: set[int] = set()
    while True:
        loads = counted(loads, seats)
        over = [x for x in loads if x.reserved > x.weight * mean * (1 + BAND)]
        if not over:
            break
        fullest = max(over, key=lambda x: x.reserved / x.weight)
        movable = [s for s in seats if s.cluster_id == fullest.cluster_id and s.tenant_id not in stuck]
        if not movable:
            break
        seat = max(movable, key=lambda s: s.wish.devices)
        fitting = [x for x in loads if x is not fullest and refusal(seat.wish, x) is None]
        target = min(fitting, key=lambda x: x.reserved / x.weight, default=None)
        if target is None or target.reserved + seat.wish.devices > target.weight * mean * (1 + BAND):
            stuck.add(seat.tenant_id)
            continue
        seats[seats.index(seat)] = replace(seat, cluster_id=target.cluster_id)
        moved += 1
        devices += seat.wish.devices
    return moved, devices, {load.cluster_id: load.reserved for load in loads}


def run(lab: Lab) -> Table:
    tenants, clusters, rounds = (500, 10, 1) if lab.quick else (TENANTS, CLUSTERS, 5)
    table = Table("planner", f"plans for {tenants:,} tenants on {clusters} clusters, a tenth of them new")
    loads, seats = picture(tenants, clusters)
    seconds, drains = [], []
    fullest = max(loads, key=lambda load: load.tenants).cluster_id
    for _ in range(rounds):
        began = time.process_time()
        plan = rebalance(loads, seats)
        seconds.append(time.process_time() - began)
        began = time.process_time()
        emptied = drain(fullest, loads, seats)
        drains.append(time.process_time() - began)
    began = time.process_time()
    naive_tenants, naive_devices, naive_after = naive(loads, seats)
    naive_s = time.process_time() - began
    table.add("a rebalance is planned", "s CPU", seconds, budget=BUDGET_S, naive=[naive_s])
    table.add("  tenants it moves", "", [len(plan.steps)], naive=[naive_tenants])
    table.add("  devices it moves", "", [plan.devices], naive=[naive_devices])
    mean = sum(load.reserved for load in loads) / sum(load.weight for load in loads)
    left = [left_over(loads, after, mean) for after in (plan.before, plan.after, naive_after)]
    table.add("  devices above their cluster's share, before", "", [left[0]])
    table.add("  and after it", "", [left[1]], naive=[left[2]])
    table.add(f"the fullest is drained: {len(emptied.steps)} tenants", "s CPU", drains, budget=BUDGET_S)
    table.beside("naive")
    table.notes[-1] = (
        "Naive: the largest tenant of the fullest cluster to the emptiest, again and again, everything"
        " counted anew after each step, until the fullest has nobody who fits."
    )
    return table
