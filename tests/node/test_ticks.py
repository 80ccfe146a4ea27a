"""Timers of connections: never early, soon enough, and independent of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from node.ticks import TICK_S, Ticks

DEADLINE_S = 10.0
DELAY_S = 0.05


class Bell:
    """Notes when it rang."""

    def __init__(self) -> None:
        self.rang: list[float] = []
        self.done = asyncio.Event()

    def ring(self) -> None:
        self.rang.append(asyncio.get_running_loop().time())
        self.done.set()


def in_one_tick(ticks: Ticks, *callbacks: Callable[[], None]) -> int:
    """All of them due in the same tick, whatever the clock says just now."""
    while True:
        numbers = [ticks.later(2 * TICK_S, callback) for callback in callbacks]
        if len({*numbers}) == 1:
            return numbers[0]
        for number, callback in zip(numbers, callbacks, strict=True):
            ticks.forget(number, callback)


async def test_none_is_early_and_those_of_one_tick_come_together() -> None:
    ticks, bells = Ticks(), [Bell() for _ in range(50)]
    started = asyncio.get_running_loop().time()
    numbers = {ticks.later(DELAY_S, bell.ring) for bell in bells}
    async with asyncio.timeout(DEADLINE_S):
        for bell in bells:
            await bell.done.wait()
    assert len(numbers) <= 2
    assert all(len(bell.rang) == 1 for bell in bells)
    # The loop's clock has milliseconds.
    assert min(bell.rang[0] for bell in bells) >= started + DELAY_S - 0.002
    assert not ticks._due


async def test_each_is_called_in_the_tick_after_its_delay() -> None:
    ticks, loop = Ticks(), asyncio.get_running_loop()
    now = loop.time()
    for delay_s in (0.0, TICK_S, 35.0, 120.0):
        due = ticks.later(delay_s, Bell().ring) * TICK_S
        assert now + delay_s < due <= loop.time() + delay_s + TICK_S


async def test_what_is_forgotten_is_not_called_not_even_by_another_of_its_tick() -> None:
    ticks, one, other, third = Ticks(), Bell(), Bell(), Bell()
    ticks.forget(ticks.later(DELAY_S, third.ring), third.ring)
    came = asyncio.Event()

    def one_comes() -> None:
        one.ring()
        came.set()
        ticks.forget(number, other_comes)

    def other_comes() -> None:
        other.ring()
        came.set()
        ticks.forget(number, one_comes)

    number = in_one_tick(ticks, one_comes, other_comes)
    async with asyncio.timeout(DEADLINE_S):
        await came.wait()
        after = Bell()
        ticks.later(DELAY_S, after.ring)
        await after.done.wait()
    assert len(one.rang) + len(other.rang) == 1
    assert not third.rang
    ticks.forget(number, one_comes)  # long over: nothing happens


async def test_one_that_fails_does_not_hold_the_others_up() -> None:
    ticks, bells = Ticks(), [Bell(), Bell()]
    in_one_tick(ticks, bells[0].ring, lambda: divmod(1, 0) and None, bells[1].ring)
    async with asyncio.timeout(DEADLINE_S):
        for bell in bells:
            await bell.done.wait()
