"""The line between memory and database: nothing is lost, nothing grows, nobody waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from app.errors import HsError, LeaseLost, NotFound, Unavailable
from app.model import Device, DeviceId
from app.model import HotState as HotRow
from node import hotstate as hotstate_module
from node.hotstate import FLUSH_EVERY_S, FLUSH_ROWS, HotState
from tests.node.kit import until
from tests.node.test_fanout import device


class Store:
    def __init__(self) -> None:
        self.error: HsError | None = None
        self.batches: list[list[HotRow]] = []
        self.durable: list[dict[str, Any]] = []
        self.routes: list[tuple[int, tuple[str, ...], tuple[str, ...]]] = []
        self.deleted: set[int] = set()
        #: Approvals that the tenant may not have any more.
        self.too_many: set[str] = set()

    async def update_device(self, tenant_id: int, device_id: int, **facts: Any) -> bool:
        if self.error is not None:
            raise self.error
        self.durable.append({"id": device_id, **facts})
        return True

    async def set_device_routes(self, tenant_id: int, device_id: int, **routes: Any) -> Device:
        if self.error is not None:
            raise self.error
        if device_id in self.deleted:
            raise NotFound("gone")
        self.routes.append((device_id, routes["announced"], routes["add_approved"]))
        kept = tuple(route for route in routes["add_approved"] if route not in self.too_many)
        return replace(device(device_id), announced_routes=routes["announced"], approved_routes=kept)

    async def flush_state(self, batch: list[HotRow]) -> int:
        if self.error is not None:
            raise self.error
        self.batches.append(batch)
        return len(batch)


class Line:
    def __init__(self) -> None:
        self.store = Store()
        self.devices: dict[DeviceId, Device] = {}
        self.may_write = True
        self.asked = 0
        self.corrected: list[tuple[int, tuple[str, ...]]] = []
        self.hot = HotState(
            *(self.store, self.devices.get, self._may_write),
            on_routes=lambda device_id, approved: self.corrected.append((device_id, approved)),
        )

    def _may_write(self) -> bool:
        self.asked += 1
        return self.may_write

    def change(self, number: int, **facts: Any) -> None:
        row = replace(self.devices.get(DeviceId(number), device(number)), **facts)
        self.devices[row.id] = row
        self.hot.mark(row)


async def test_only_the_newest_state_of_a_device_is_written() -> None:
    line = Line()
    for port in range(1, 50):
        line.change(1, endpoints=(f"192.0.2.1:{port}",))
    line.change(2, online=True, home_derp=900)
    assert line.hot.waiting == 2
    assert await line.hot.flush() == 2
    (batch,) = line.store.batches
    assert [(r.device_id, r.endpoints, r.home_derp, r.online) for r in batch] == [
        (1, ("192.0.2.1:49",), 0, False),
        (2, (), 900, True),
    ]
    assert (await line.hot.flush(), line.hot.waiting) == (0, 0)


async def test_large_lines_go_in_batches() -> None:
    assert FLUSH_ROWS == 1000
    line = Line()
    for number in range(1, 2 * FLUSH_ROWS + 2):
        line.change(number, online=True)
    assert await line.hot.flush() == 2 * FLUSH_ROWS + 1
    assert [len(batch) for batch in line.store.batches] == [FLUSH_ROWS, FLUSH_ROWS, 1]


async def test_what_fails_stays_in_line() -> None:
    line = Line()
    line.change(1, online=True)
    line.store.error = Unavailable("away")
    with pytest.raises(Unavailable):
        await line.hot.flush()
    line.change(1, endpoints=("192.0.2.1:1",))
    line.change(2, online=True)
    assert line.hot.waiting == 2
    line.store.error = None
    await line.hot.flush()
    assert [(r.device_id, r.online, r.endpoints) for r in line.store.batches[0]] == [
        (1, True, ("192.0.2.1:1",)),
        (2, True, ()),
    ]


async def test_the_durable_part_waits_too_and_is_written_as_it_is_then() -> None:
    line = Line()
    line.change(1)
    line.store.error = Unavailable("away")
    await line.hot.store(replace(line.devices[DeviceId(1)], hostname="first"))
    line.devices[DeviceId(1)] = replace(line.devices[DeviceId(1)], hostname="second")
    line.store.error = None
    await line.hot.flush()
    assert [row["hostname"] for row in line.store.durable] == ["second"]
    assert line.hot.waiting == 0


async def test_a_device_deleted_meanwhile_is_not_written() -> None:
    line = Line()
    line.change(1, online=True)
    line.store.error = Unavailable("away")
    await line.hot.store(line.devices[DeviceId(1)])
    line.store.error = None
    del line.devices[DeviceId(1)]
    assert await line.hot.flush() == 0
    assert (line.store.batches, line.store.durable, line.hot.waiting) == ([], [], 0)


async def test_nothing_is_written_while_the_lease_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotstate_module, "FLUSH_EVERY_S", 0.001)
    line = Line()
    line.change(1, online=True)
    line.may_write = False
    await line.hot.store(line.devices[DeviceId(1)])
    running = asyncio.create_task(line.hot.run())
    await until(lambda: line.asked > 5, "the writer has looked several times")
    assert (line.store.batches, line.store.durable, line.hot.waiting) == ([], [], 2)
    line.may_write = True
    await until(lambda: line.hot.waiting == 0, "all is written")
    assert (len(line.store.batches), len(line.store.durable)) == (1, 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_writer_goes_on_after_failures_and_ends_with_the_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert FLUSH_EVERY_S == 1.0
    monkeypatch.setattr(hotstate_module, "FLUSH_EVERY_S", 0.001)
    line = Line()
    line.store.error = Unavailable("away")
    line.change(1, online=True)
    running = asyncio.create_task(line.hot.run())
    line.may_write = False
    await asyncio.sleep(0)
    line.may_write = True
    line.store.error = None
    await until(lambda: line.store.batches, "it has written")
    line.store.error = LeaseLost("taken over")
    line.change(1, online=False)
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(10):
            await running


async def test_routes_are_written_once_with_every_approval_that_was_missed() -> None:
    line = Line()
    line.store.error = Unavailable("away")
    ten, net = ("10.0.0.0/8",), ("192.0.2.0/24",)
    for announced, approvals in ((ten, ten), (net, net), ((), ())):
        line.change(1, announced_routes=announced)
        await line.hot.store(line.devices[DeviceId(1)], approvals)
    assert line.store.routes == []
    line.store.error = None
    await line.hot.flush()
    assert line.store.routes == [(1, (), (*ten, *net))]
    await line.hot.store(line.devices[DeviceId(1)])
    assert len(line.store.routes) == 1
    assert len(line.store.durable) == 2


async def test_what_the_database_kept_of_approvals_is_told() -> None:
    """At once to who stores, and later where it could not be stored then."""
    line, ten, net = Line(), "10.0.0.0/8", "192.0.2.0/24"
    line.store.too_many = {net}
    line.change(1, announced_routes=(ten, net), approved_routes=(ten, net))
    assert await line.hot.store(line.devices[DeviceId(1)], (ten, net)) == (ten,)
    line.store.error = Unavailable("away")
    assert await line.hot.store(line.devices[DeviceId(1)], (ten, net)) is None
    assert line.corrected == []
    line.store.error = None
    await line.hot.flush()
    assert line.corrected == [(1, (ten,))]


async def test_routes_of_a_device_that_is_gone_hold_nobody_up() -> None:
    line = Line()
    line.change(1)
    line.store.deleted = {1}
    await line.hot.store(line.devices[DeviceId(1)], ())
    line.may_write = False
    for number in (2, 3):
        line.change(number)
        await line.hot.store(line.devices[DeviceId(number)], ())
    line.may_write = True
    del line.devices[DeviceId(2)]
    await line.hot.flush()
    assert (line.store.routes, line.hot.waiting, line.hot._routes) == ([(3, (), ())], 0, {})
