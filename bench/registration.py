"""What a registration costs: connection, Noise, HTTP/2, `/machine/register`, one decision in the database."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable

from bench.load import Member, each
from bench.naive import REGISTRATION_STATEMENTS
from bench.pgcount import CountingWay
from bench.report import Table, percentile
from bench.system import Lab, Target, children_cpu_s, cpu_s, in_load_process

CALLERS = 16
#: PostgreSQL publishes what a session did about a second later.
STATISTICS_DELAY_S = 2.0


async def _batches(target: Target, batches: int, size: int, callers: int) -> list[dict[str, float]]:
    """Registers `batches` times `size` new devices; what each batch cost per registration."""
    found = []
    for batch in range(-1, batches):
        members = [Member(target, f"c{callers}b{batch}n{number}") for number in range(size)]
        seconds: list[float] = []

        async def register(member: Member, seconds: list[float] = seconds) -> None:
            started = time.monotonic()
            await member.register()
            seconds.append(time.monotonic() - started)
            member.abort()

        node, database = cpu_s(target.pid), children_cpu_s(target.pg_pid)
        caller = time.process_time()
        started = time.monotonic()
        await each(members, register, callers)
        elapsed = time.monotonic() - started
        if batch >= 0:  # the first warms up
            found.append(
                {
                    "cpu_ms": (cpu_s(target.pid) - node) * 1000 / size,
                    "pg_ms": (children_cpu_s(target.pg_pid) - database) * 1000 / size,
                    "caller_ms": (time.process_time() - caller) * 1000 / size,
                    "per_s": size / elapsed,
                    "p50_ms": percentile(seconds, 0.5) * 1000,
                    "p99_ms": percentile(seconds, 0.99) * 1000,
                }
            )
    return found


async def _refreshes(target: Target, batches: int, size: int) -> list[float]:
    """CPU milliseconds of a known device that registers again over its open connection."""
    member = Member(target, "again")
    await member.register()
    return await _timed(target, batches, size, member.register)


async def _timed(
    target: Target, batches: int, size: int, work: Callable[[], Awaitable[object]]
) -> list[float]:
    found = []
    for _ in range(batches):
        before = cpu_s(target.pid)
        for _ in range(size):
            await work()
        found.append((cpu_s(target.pid) - before) * 1000 / size)
    return found


async def _connects(target: Target, batches: int, size: int) -> list[float]:
    """CPU milliseconds of a connection with Noise and HTTP/2, and nothing asked."""
    member = Member(target, "knock")

    async def connect() -> None:
        await member.connect()
        member.abort()

    return await _timed(target, batches, size, connect)


def _round_trips(lab: Lab, count: int) -> float:
    """Round trips on the wire per registration, what the server does besides taken off."""
    way = CountingWay(lab.directory / "count")
    with lab.server("counted", through=way) as server:
        in_load_process(_batches, server.target, 1, 20, 1, deadline_s=60)  # prepares statements
        before, started = way.round_trips, time.monotonic()
        found = in_load_process(_batches, server.target, 1, count, 1, deadline_s=120)
        during, seconds = way.round_trips - before, time.monotonic() - started
        before = way.round_trips
        time.sleep(seconds)
        beside = way.round_trips - before
    assert found
    return (during - beside) / (2 * count)  # a warm-up batch of the same size runs too


def _rows_read(lab: Lab) -> float:
    """Rows of `nodes` looked at per row inserted."""
    time.sleep(STATISTICS_DELAY_S)
    return float(
        lab.postgres.value(
            "SELECT (seq_tup_read + idx_tup_fetch)::float8 / n_tup_ins FROM pg_stat_user_tables"
            " WHERE relname = 'nodes'",
            "bench_registration",
        )
    )


def _fdatasync_ms(lab: Lab) -> list[float]:
    """What a commit has to wait for here."""
    found = []
    with (lab.directory / "fdatasync").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(bytes(8192))
            started = time.monotonic()
            os.fdatasync(file.fileno())
            found.append((time.monotonic() - started) * 1000)
    return found


def run(lab: Lab) -> Table:
    table = Table("registration", "a new device with an auth key, over a new connection")
    batches, one, many = (2, 40, 200) if lab.quick else (7, 100, 500)
    with lab.server("registration") as server:
        target = server.target
        alone = in_load_process(_batches, target, batches, one, 1, deadline_s=120)
        crowd = in_load_process(_batches, target, batches, many, CALLERS, deadline_s=240)
        rows_read = _rows_read(lab)
        again = in_load_process(_refreshes, target, batches, one, deadline_s=120)
        knock = in_load_process(_connects, target, batches, one, deadline_s=120)
    table.add("CPU of the node, one caller", "ms", [b["cpu_ms"] for b in alone], budget=1.2)
    table.add(f"CPU of the node, {CALLERS} callers", "ms", [b["cpu_ms"] for b in crowd], budget=1.2)
    table.add("  of it: connection, Noise, HTTP/2", "ms", knock)
    table.add("known device again, open connection", "ms", again)
    table.add("CPU of PostgreSQL, one caller", "ms", [b["pg_ms"] for b in alone])
    table.add(f"CPU of PostgreSQL, {CALLERS} callers", "ms", [b["pg_ms"] for b in crowd])
    table.add("rows of table nodes read, per registration", "", [rows_read])
    table.add(f"CPU of the load process, {CALLERS} callers", "ms", [b["caller_ms"] for b in crowd])
    trips = _round_trips(lab, 40 if lab.quick else 200)
    table.add(
        "database round trips (Sync and Query messages)",
        "",
        [round(trips, 2)],
        budget=1,
        naive=[len(REGISTRATION_STATEMENTS)],
    )
    table.add("latency p50, one caller", "ms wall", [b["p50_ms"] for b in alone])
    table.add("latency p99, one caller", "ms wall", [b["p99_ms"] for b in alone])
    table.add(f"registrations per second, {CALLERS} callers", "1/s", [b["per_s"] for b in crowd])
    table.add("  one fdatasync on this disk", "ms wall", _fdatasync_ms(lab))
    total = (batches + 1) * (one + many)
    table.notes.append(
        f"{total:,} devices are registered in a fresh database that PostgreSQL has not analysed yet; rows "
        "read that grow with the fleet mean that a statement runs through it."
    )
    table.notes.append(
        "Registrations of one tenant commit one after the other (row locks of its counters and of the auth "
        "key), each with one flush to disk, so 1 / fdatasync is a ceiling of their rate."
    )
    table.notes.append(
        "Node, PostgreSQL (fsync on) and the callers share the cores: their CPU together is another ceiling."
    )
    table.notes.append(
        "With one caller no two requests share a wake-up of the process. A profile with native frames "
        "(py-spy) gives: writes to sockets 31 %, event loop and tasks 14 %, Noise 14 % "
        "(the handshake prescribes four X25519 exchanges), database driver 8 %, reading requests and wording "
        "answers 6 %, HTTP/2 5 %, background jobs 5 %, netmap 4 %, accepting 4 %, records 3 %. Fewer "
        "writes would need the server's SETTINGS acknowledgement to wait for the answer."
    )
    table.notes.append(f"Naive round trips: {', '.join(REGISTRATION_STATEMENTS)}.")
    return table
