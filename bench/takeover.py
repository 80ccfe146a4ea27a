"""The owner of a cluster is killed: until its clients have a map again; and what relaying costs before."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from app.client.device import SimulatedDevice
from app.client.requests import CAPVER
from app.errors import RemoteProtocolError
from bench.load import DEADLINE_S, Member, Sink, connected, each, quiet, registered
from bench.report import Table, percentile
from bench.system import Lab, Server, Target, cpu_s, in_load_process, rss_bytes

#: Issue: kill -9 to next map, seconds.
NEXT_MAP_S = 5.0
WANTED_S = 2.0
#: Full maps asked for at a time, so that the relay is busy both ways.
READERS = 4


class Candidate(SimulatedDevice):
    """A device with a dial plan of owner and standby: where one fails it tries the other at once."""

    def __init__(self, urls: list[str], **options: Any) -> None:
        self._urls = urls
        super().__init__(urls[0], **options)

    @property
    def url(self) -> str:
        """The candidate whose turn it is."""
        failures = len(getattr(self, "failures", ()))
        return self._urls[failures % len(self._urls)]

    @url.setter
    def url(self, _: str) -> None:
        pass


async def _killed(target: Target, urls: list[str], owner_pid: int, count: int) -> list[float]:
    """Seconds from kill -9 of the owner to the next full map of each device."""
    devices = [
        Candidate(
            urls,
            hostname=f"k{number}",
            auth_key=target.auth_key,
            server_key=target.server_key,
            strict=number % 10 == 0,
        )
        for number in range(count)
    ]

    async def join(device: Candidate) -> None:
        answer = await device.register()
        if answer.get("Error"):
            raise RemoteProtocolError(str(answer["Error"]))
        await device.poll()
        await device.wait_for(lambda netmap: netmap.messages > 0, DEADLINE_S)

    await each(devices, join)
    # Presence is stored once a second.
    await asyncio.sleep(2)
    killed = time.monotonic()
    os.kill(owner_pid, signal.SIGKILL)

    def next_map(device: Candidate) -> float | None:
        found = [m.arrived_s for m in device.messages if m.kind == "full" and m.arrived_s > killed]
        return found[0] - killed if found else None

    def has_map(device: Candidate, _: object) -> bool:
        return next_map(device) is not None

    for device in devices:
        await device.wait_for(partial(has_map, device), DEADLINE_S)
    seconds = [found for device in devices if (found := next_map(device)) is not None]
    wrong = [violation for device in devices for violation in device.violations]
    for device in devices:
        await device.close()
    if wrong:
        raise RemoteProtocolError(f"{len(wrong)} violations, the first: {wrong[0]}")
    return seconds


async def _cost(direct: Target, entry: Target, fleet: int, rounds: int) -> dict[str, list[float]]:
    """What the entry's process spends, and what clients wait longer, compared with the owner itself."""
    found: dict[str, list[float]] = {}
    there = await registered(direct, fleet, "there")
    for name, target in (("direct", direct), ("relayed", entry)):
        member = Member(replace(target), f"one-{name}")
        await member.register()
        # A device whose poll nobody has seen yet is committed a moment later.
        await asyncio.sleep(1)
        found[f"{name}_ms"] = await _round_trips(member, rounds)
        before = cpu_s(entry.pid), cpu_s(direct.pid)
        others = [one.at(target) for one in there[: READERS - 1]]
        size = await _read_maps([member, *others], rounds // 8)
        mb = size / 1e6
        found[f"{name}_entry_ms_per_mb"] = [(cpu_s(entry.pid) - before[0]) * 1000 / mb]
        found[f"{name}_owner_ms_per_mb"] = [(cpu_s(direct.pid) - before[1]) * 1000 / mb]
        for one in (member, *others):
            one.abort()
    # Connections that only stand there, and what it takes to make them.
    sink = Sink()
    first = there[0].at(entry)
    await connected([first], sink)
    await quiet(sink)
    before_cpu, before_rss = cpu_s(entry.pid), rss_bytes(entry.pid)
    members = [one.at(entry) for one in there[1:]]
    await connected(members, sink)
    await quiet(sink)
    found["connect_ms"] = [(cpu_s(entry.pid) - before_cpu) * 1000 / len(members)]
    found["connection_kb"] = [(rss_bytes(entry.pid) - before_rss) / 1e3 / len(members)]
    for one in (first, *members):
        one.abort()
    return found


async def _round_trips(member: Member, rounds: int) -> list[float]:
    """Milliseconds of requests that only need an answer."""
    connection = await member.connect()
    times = []
    for _ in range(rounds):
        started = time.monotonic()
        await connection.request("/machine/update-health", b"{}", deadline_s=DEADLINE_S)
        times.append((time.monotonic() - started) * 1000)
    return times


async def _read_maps(members: list[Member], rounds: int) -> int:
    """Bytes of full maps, uncompressed, asked for again and again over open connections."""
    total = 0

    async def read(member: Member) -> None:
        nonlocal total
        connection = await member.connect()
        body = orjson.dumps({"Version": CAPVER, **member.keys})
        for _ in range(rounds):
            status, answer = await connection.request("/machine/map", body, deadline_s=DEADLINE_S)
            if status != 200:
                raise RemoteProtocolError(f"a map is answered with {status}: {answer[:200]!r}")
            total += len(answer)

    await each(members, read, callers=len(members))
    return total


def _kills(lab: Lab, name: str, count: int, *, by_plan: bool) -> list[float]:
    with lab.server(name) as owner, owner.standby() as standby:
        urls = [owner.target.url, standby.target.url] if by_plan else [standby.target.url]
        seconds: list[float] = in_load_process(_killed, owner.target, urls, owner.pid, count, deadline_s=120)
        return seconds


def run(lab: Lab) -> Table:
    table = Table("takeover", "kill -9 of a cluster's owner, with a warm standby; and the cost of relaying")
    count, rounds = (40, 1) if lab.quick else (200, 3)
    for what, by_plan in (("behind an entry", False), ("by dial plan", True)):
        name = "plan" if by_plan else "entry"
        runs = [_kills(lab, f"takeover_{name}{number}", count, by_plan=by_plan) for number in range(rounds)]
        medians = [percentile(run, 0.5) for run in runs]
        table.add(f"{count} devices {what}: kill to next map, median", "s wall", medians, budget=WANTED_S)
        table.add(
            f"{count} devices {what}: kill to next map, the last",
            "s wall",
            list(map(max, runs)),
            budget=NEXT_MAP_S,
        )
    with lab.server("relay") as owner, owner.standby() as standby:
        found = _relay_cost(lab, owner, standby)
    table.add("a request's round trip, at the owner", "ms wall", [percentile(found["direct_ms"], 0.5)])
    table.add("a request's round trip, by an entry", "ms wall", [percentile(found["relayed_ms"], 0.5)])
    table.add("relaying: CPU of the entry", "ms/MB", found["relayed_entry_ms_per_mb"])
    table.add(
        "  beside it: CPU of the owner, encoding and sealing", "ms/MB", found["relayed_owner_ms_per_mb"]
    )
    table.add("a device comes back by an entry: CPU of the entry", "ms", found["connect_ms"])
    table.add("a relayed connection: memory of the entry", "KB", found["connection_kb"])
    table.notes.append(
        "The standby waits until the owner's database connection has been gone for 1 s; TTL 5 s. "
        "Devices play both roles on the cores of the servers; every tenth checks all it is told."
    )
    table.notes.append(
        "By dial plan: devices that try the other of two addresses at once when one fails. A Go client does "
        "the same (tests/clients/test_takeover.py)."
    )
    return table


def _relay_cost(lab: Lab, owner: Server, standby: Server) -> dict[str, list[float]]:
    fleet, rounds = (100, 80) if lab.quick else (500, 400)
    found: dict[str, list[float]] = in_load_process(
        _cost, owner.target, standby.target, fleet, rounds, deadline_s=300
    )
    return found
