"""A device that announces routes while others change the policy, or what it may carry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest

from app.compression import compress
from app.keys import MachineKey, disco_key_text, node_key_text
from app.model import Device, DeviceId
from app.wire import http2
from node.machine import MachineApi
from node.rates import TenantRates
from tests.node.kit import until
from tests.node.test_fanout import device
from tests.node.test_policies import APPROVES, NET, TEN, approved, put
from tests.node.test_refresh import Parts

NUMBER = 1


class Line:
    """Stands for HotState: a write waits until the test lets it through, then it is committed."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.written: list[tuple[str, ...] | None] = []
        self.waiting = 0
        self.go_on = asyncio.Event()

    async def store(self, device: Device, approvals: tuple[str, ...] | None = None) -> None:
        self.waiting += 1
        await self.go_on.wait()
        row = self._parts.database.rows[device.id]
        both = tuple(sorted({*row.approved_routes, *(approvals or ())}))
        row = replace(row, announced_routes=device.announced_routes, approved_routes=both)
        self._parts.database.commit(row, origin="me")
        self.written.append(approvals)


class Tunnel:
    def __init__(self, machine_key: MachineKey) -> None:
        self.machine_key = machine_key
        self.closed = False
        self.answers: list[int] = []

    def answer(self, stream_id: int, status: int, *_: object) -> None:
        self.answers.append(status)


class Place:
    def __init__(self) -> None:
        self.parts = Parts()
        self.line = Line(self.parts)
        self.tunnel = Tunnel(device(NUMBER).machine_key)
        unused: Any = None
        self.api = MachineApi(
            hub=self.parts.hub,
            registrar=unused,
            hot=cast(Any, self.line),
            queries=unused,
            elsewhere=unused,
            find_tombstone=unused,
            rates=TenantRates(lambda: 0.0),
            compress=compress,
            clock=lambda: 1_000_000.0,
            control_time=lambda: "2026-01-01T00:00:00Z",
            count=lambda _: None,
        )

    async def announce(self, *routes: str) -> asyncio.Task[None]:
        """A lite update with these routes, up to the moment when it is being written."""
        told = device(NUMBER)
        body = {
            "Version": 113,
            "NodeKey": node_key_text(told.node_key),
            "DiscoKey": disco_key_text(told.disco_key),
            "Hostinfo": {"Hostname": told.hostname, "RoutableIPs": list(routes)},
            "OmitPeers": True,
        }
        request = http2.Request(1, "POST", "/machine/map", (), orjson.dumps(body))
        started = self.api.dispatch(cast(Any, self.tunnel), request)
        assert started is not None
        task = asyncio.create_task(cast(Any, started))
        await until(lambda: self.line.waiting == 1, "the routes are being written")
        return task


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    made.parts.database.commit(device(NUMBER))
    await made.parts.refresher.load()
    yield made
    made.parts.hub.remove_tenant(device(NUMBER).tenant_id)


async def test_a_policy_counts_at_once_for_what_is_announced(place: Place) -> None:
    put(place.parts, APPROVES)
    await place.parts.refresher.catch_up()
    task = await place.announce(TEN)
    place.line.go_on.set()
    await task
    assert place.line.written == [(TEN,)]
    assert approved(place.parts, NUMBER) == (TEN,)


async def test_a_policy_that_comes_while_routes_are_written_approves_them(place: Place) -> None:
    task = await place.announce(TEN, NET)
    put(place.parts, APPROVES)
    await place.parts.refresher.catch_up()
    place.line.go_on.set()
    await task
    assert place.line.written == [(), (TEN,)]
    assert approved(place.parts, NUMBER) == (TEN,)
    assert place.tunnel.answers == [200]


async def test_an_approval_that_comes_while_routes_are_written_stays(place: Place) -> None:
    task = await place.announce(TEN, NET)
    row = place.parts.database.rows[DeviceId(NUMBER)]
    place.parts.database.commit(replace(row, approved_routes=(NET,)))
    await place.parts.refresher.catch_up()
    place.line.go_on.set()
    await task
    assert approved(place.parts, NUMBER) == (NET,)
    found = place.parts.hub.device(DeviceId(NUMBER))
    assert found is not None
    assert found.announced_routes == (TEN, NET)
