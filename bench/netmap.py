"""The netmap engine alone, in this process: full maps (`fullmap`) and deltas (`engine`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from app.client.mapblob import decode_blob
from app.model import Device, DeviceId
from app.netmap.flush import Resync
from app.netmap.tenant import TenantNetmap
from app.netmap.variant import Variant
from app.policy.document import NO_POLICY
from bench import naive
from bench.data import (
    DOMAIN,
    NOW,
    OWN_AND_SERVERS,
    TAGGED_EVERY,
    device,
    everybody,
    moved,
    netmap_of,
    own_and_servers,
)
from bench.report import Table
from bench.system import Lab

PEERS = 1_000


def cpu_ms(
    work: Callable[[], object], rounds: int, prepare: Callable[[], object] | None = None
) -> list[float]:
    """CPU milliseconds of each round of `work`; the first warms up and does not count."""
    found = []
    for _ in range(rounds + 1):
        if prepare is not None:
            prepare()
        before = time.process_time_ns()
        work()
        found.append((time.process_time_ns() - before) / 1e6)
    return found[1:]


def _rounds(lab: Lab, count: int) -> int:
    return max(3, count // 5) if lab.quick else count


def run_fullmap(lab: Lab) -> Table:
    table = Table("fullmap", f"one device's map of {PEERS:,} peers, engine only, CPU")
    devices = [device(number) for number in range(1, PEERS + 2)]
    netmap = netmap_of(devices)
    viewers = iter(range(10**9))

    def ours(variant: Variant) -> bytes:
        return netmap.full_map(devices[next(viewers) * 7 % len(devices)].id, variant, NOW)

    common = _common(netmap, devices[0])
    nodes = {one.id: naive.node(one, DOMAIN) for one in devices}

    def plainly(thrifty: bool) -> bytes:
        viewer = devices[next(viewers) * 7 % len(devices)]
        return naive.full_map(viewer, devices, nodes, everybody, common, thrifty=thrifty)

    _same_map(netmap, devices, nodes, common)
    rounds = _rounds(lab, 60)
    slow = cpu_ms(lambda: plainly(False), _rounds(lab, 15))
    thrifty = cpu_ms(lambda: plainly(True), _rounds(lab, 15))
    salts = iter(range(1, 10**9))

    def one_change() -> None:
        netmap.put(moved(devices[500], next(salts)))
        netmap.commit()

    def all_change() -> None:
        salt = next(salts)
        for one in devices:
            netmap.put(moved(one, salt))
        netmap.commit()

    zstd = cpu_ms(lambda: ours(Variant.ZSTD), rounds)
    table.add("zstd, blocks known", "ms", zstd, budget=1.0, naive=slow)
    table.add("  against naive with orjson, one zstd context", "ms", zstd, naive=thrifty)
    table.add("plain JSON, blocks known", "ms", cpu_ms(lambda: ours(Variant.PLAIN), rounds), budget=1.0)
    table.add(
        "zstd, one device changed since the last map",
        "ms",
        cpu_ms(lambda: ours(Variant.ZSTD), rounds, one_change),
        budget=1.0,
        naive=slow,
    )
    table.add(
        "zstd, every device changed since the last map",
        "ms",
        cpu_ms(lambda: ours(Variant.ZSTD), _rounds(lab, 15), all_change),
        naive=slow,
    )
    table.add("bytes, zstd", "KB", [len(ours(Variant.ZSTD)) / 1e3], naive=[len(plainly(False)) / 1e3])
    table.add("bytes, plain JSON", "KB", [len(ours(Variant.PLAIN)) / 1e3])
    table.notes.append(
        "Every round is another viewer, so its own block is encoded without it. The budget of 1 ms is for "
        "the whole delivery; sealing and writing are in `join`."
    )
    table.notes.append(
        "Naive: json.dumps of every peer (kept as dict), a new zstd context at its default level, per viewer."
    )
    return table


def _common(netmap: TenantNetmap, viewer: Device) -> dict[str, Any]:
    """What all maps share, taken from one of ours."""
    whole = orjson.loads(netmap.full_map(viewer.id, Variant.PLAIN, NOW))
    return {name: value for name, value in whole.items() if name not in ("Node", "Peers")}


def _same_map(
    netmap: TenantNetmap,
    devices: list[Device],
    nodes: dict[DeviceId, dict[str, Any]],
    common: dict[str, Any],
) -> None:
    """Both ways must say the same, or comparing them is worth nothing."""
    viewer = devices[0]
    ours = decode_blob(netmap.full_map(viewer.id, Variant.ZSTD, NOW), zstd=True)
    theirs = decode_blob(naive.full_map(viewer, devices, nodes, everybody, common, thrifty=False), zstd=True)
    for message in (ours, theirs):
        message["Peers"].sort(key=lambda peer: peer["ID"])
    if ours != theirs:
        raise AssertionError("the naive map differs from ours")


def run_engine(lab: Lab) -> Table:
    table = Table("engine", "changes to messages for all viewers, engine only, CPU")
    sizes = (100, 1_000) if lab.quick else (100, 1_000, 5_000)
    for count in sizes:
        devices = [device(number) for number in range(1, count + 1)]
        for label, policy, sees in (
            ("1 class", NO_POLICY, everybody),
            ("51 classes", OWN_AND_SERVERS, own_and_servers),
        ):
            netmap = netmap_of(devices, policy)
            slow, pairwise = _naive_round(lab, devices, sees)
            for changed in (1, min(50, count // TAGGED_EVERY)):
                taken = cpu_ms(_engine_round(netmap, devices, changed), _rounds(lab, 30))
                per_viewer = [ms * 1000 / count for ms in taken]
                table.add(
                    f"{changed} changed, {count:,} viewers, {label}: per viewer",
                    "us",
                    per_viewer,
                    naive=[us * changed for us in slow] if changed == 1 else None,
                )
                if changed == 1 and pairwise:
                    table.add(
                        f"  against looking {count:,} x {count:,} pairs up", "us", per_viewer, naive=pairwise
                    )
    table.notes.append(
        "commit() and message_for() of every viewer; the write to the connection is in `delta`. "
        "Changed = other endpoints (8). In the upper row of a pair naive asks one question per viewer, then "
        "encodes; in the lower it finds each viewer's peers first, as a server without classes does."
    )
    table.notes.append(
        "51 classes: 50 owners and tagged servers (a fifth); what changes is a server, everybody sees it."
    )
    return table


def _engine_round(netmap: TenantNetmap, devices: list[Device], changed: int) -> Callable[[], object]:
    salts = iter(range(1, 10**9))
    movers = [one for one in devices if one.tags][:changed]

    def work() -> int:
        salt = next(salts)
        for one in movers:
            netmap.put(moved(one, salt))
        flush = netmap.commit()
        sent = 0
        for viewer in devices:
            message = flush.message_for(viewer.id, Variant.ZSTD)
            if isinstance(message, Resync):
                raise AssertionError("endpoints never need a resync")
            sent += message is not None
        # A mover hears of the others; alone it hears nothing.
        if sent != len(devices) - (changed == 1):
            raise AssertionError(f"{sent} messages for {len(devices)} viewers")
        return sent

    return work


def _naive_round(lab: Lab, devices: list[Device], sees: naive.Sees) -> tuple[list[float], list[float]]:
    """Naive microseconds per viewer: without and with pairwise look-up (not at the largest size)."""
    old = next(one for one in devices if one.tags)
    viewers = devices[:200]
    per_viewer = 1000 / (len(viewers) - 1)

    def one_question() -> object:
        return naive.deltas(old, moved(old, 1), viewers, None, sees, thrifty=False)

    def all_pairs() -> object:
        return naive.deltas(old, moved(old, 1), viewers, devices, sees, thrifty=False)

    slow = [ms * per_viewer for ms in cpu_ms(one_question, _rounds(lab, 15))]
    pairwise = [ms * per_viewer for ms in cpu_ms(all_pairs, 3)]
    return slow, pairwise
