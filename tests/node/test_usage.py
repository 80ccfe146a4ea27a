"""Usage as the owner counts it: by the hour, kept while it cannot be written, bounded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from app.billing import Usage
from app.errors import Unavailable
from app.model import TenantId
from node import usage as usage_module
from node.usage import HOUR_S, WRITE_EVERY_S, UsageMeter

ONE, TWO = TenantId(1), TenantId(2)
#: A minute before a full hour.
START = 500_000 * HOUR_S - 60.0


class World:
    """A clock, who is connected, and a database that may be away."""

    def __init__(self) -> None:
        self.now = START
        self.connected = {ONE: 3, TWO: 0}
        self.writes = True
        self.away = False
        self.rows: list[Usage] = []
        self.meter = UsageMeter(
            lambda: [(tenant, 5, count) for tenant, count in self.connected.items()],
            self.write,
            may_write=lambda: self.writes,
            clock=lambda: self.now,
        )

    async def write(self, rows: Sequence[Usage]) -> None:
        if self.away:
            raise Unavailable("away")
        self.rows += rows

    async def pass_time(self, seconds: float, step: float = 10.0) -> None:
        for _ in range(int(seconds / step)):
            self.now += step
            await self.meter.run_once()

    def total(self, tenant: TenantId) -> tuple[float, int, int]:
        """(connected seconds, map bytes, registrations) written."""
        rows = [row for row in self.rows if row.tenant_id == tenant]
        return (
            sum(row.connected_s for row in rows),
            sum(row.map_bytes for row in rows),
            sum(row.registrations for row in rows),
        )


async def test_hours_are_kept_apart_and_peaks_are_the_highest_look() -> None:
    world = World()
    world.meter.sent(ONE, 700)
    await world.pass_time(30)
    world.connected[ONE] = 9
    await world.pass_time(10)
    world.connected[ONE] = 1
    await world.pass_time(80)
    await world.meter.flush()
    first, second = START - START % HOUR_S, START - START % HOUR_S + HOUR_S
    by_hour = {(row.tenant_id, row.hour): row for row in world.rows if row.hour == first}
    assert by_hour[ONE, first].peak == 9
    assert by_hour[ONE, first].map_bytes == 700
    assert {row.hour for row in world.rows} == {first, second}
    assert world.total(ONE)[0] == 3 * 30 + 9 * 10 + 1 * 80
    assert {row.peak for row in world.rows if row.tenant_id == TWO} == {0}


@pytest.mark.parametrize("how", ["frozen", "away"])
async def test_nothing_is_lost_while_it_cannot_be_written(how: str) -> None:
    world = World()
    world.writes, world.away = how != "frozen", how == "away"
    for _ in range(3):
        world.meter.registered(ONE)
        world.meter.sent(ONE, 10)
        await world.pass_time(WRITE_EVERY_S)
    assert world.rows == []
    world.writes, world.away = True, False
    await world.meter.flush()
    assert world.total(ONE) == (3 * 3 * WRITE_EVERY_S, 30, 3)


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_module, "MAX_WAITING", 3)
    world = World()
    for number in range(5):
        world.meter.sent(TenantId(number), 1)
    await world.meter.flush()
    assert [row.tenant_id for row in world.rows] == [2, 3, 4]


async def test_a_machine_that_slept_was_not_connected() -> None:
    world = World()
    world.now += 8 * 3600
    world.meter.sample()
    await world.meter.flush()
    assert world.total(ONE)[0] == 3 * usage_module.MAX_SAMPLE_S
