"""Reading what others committed, while this process writes too. The source answers when the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import pytest

from app.compression import compress
from app.db.listen import Resync, Wake
from app.errors import Unavailable
from app.model import (
    Change,
    ClusterSnapshot,
    Device,
    DeviceId,
    StoredPolicy,
    Tenant,
    TenantId,
    User,
    UserId,
)
from app.netmap.dns import DnsPlan
from node import refresh as refresh_module
from node.hub import Hub
from node.policies import TenantPolicies
from node.refresh import Refresher
from tests.node.kit import until
from tests.node.test_fanout import device

TENANT = Tenant(TenantId(1), "default", "default")
USER = User(UserId(1), TenantId(1), "alice")


class Database:
    """Committed rows and changes; a read takes its picture at once and gives it when let through."""

    def __init__(self) -> None:
        self.rows: dict[DeviceId, Device] = {}
        self.log: list[Change] = []
        self.held: tuple[str, ...] = ()
        self.go_on = asyncio.Event()
        self.down = False
        self.reads: list[str] = []
        self.policies: dict[TenantId, StoredPolicy] = {}

    def commit(self, *changed: Device, origin: str = "", removed: Sequence[int] = ()) -> None:
        for row in changed:
            self.rows[row.id] = row
        for number in removed:
            del self.rows[DeviceId(number)]
        for number in (*(row.id for row in changed), *removed):
            self.tell(f"device:{number}", origin=origin)

    def tell(self, scope_key: str, *, kind: str = "node", origin: str = "") -> None:
        self.log.append(Change(len(self.log) + 1, TenantId(1), kind, scope_key, origin, 0.0))

    def hold(self, *reads: str) -> None:
        """Answers of these reads wait until the next call."""
        self.held = reads
        self.go_on.set()
        self.go_on = asyncio.Event()

    async def _pass(self, what: str) -> None:
        self.reads.append(what)
        if self.down:
            raise Unavailable("the database does not answer now")
        if what in self.held:
            await self.go_on.wait()

    async def load(self, only: Sequence[TenantId] | None = None) -> ClusterSnapshot:
        rows, position = tuple(self.rows.values()), str(len(self.log))
        await self._pass("load")
        policies = tuple(self.policies.values())
        return ClusterSnapshot("default", (TENANT,), (USER,), rows, position, "g1", policies)

    async def load_tenants(self, tenant_ids: Sequence[TenantId]) -> list[Tenant]:
        return [TENANT]

    async def load_devices(self, devices: Sequence[tuple[TenantId, DeviceId]]) -> list[Device]:
        found = [self.rows[i] for _, i in devices if i in self.rows]
        await self._pass("devices")
        return found

    async def load_users(self, users: Sequence[tuple[TenantId, UserId]]) -> list[User]:
        await self._pass("users")
        return [USER]

    async def load_policy(self, tenant_id: TenantId) -> StoredPolicy | None:
        await self._pass("policy")
        return self.policies.get(tenant_id)

    async def list_users(self, tenant_id: TenantId) -> list[User]:
        await self._pass("all users")
        return [USER]

    async def list_devices(self, tenant_id: TenantId) -> list[Device]:
        await self._pass("all devices")
        return list(self.rows.values())

    async def routers(self, tenant_id: TenantId) -> list[Device]:
        await self._pass("routers")
        return [row for row in self.rows.values() if row.announced_routes]

    async def add_approvals(
        self, tenant_id: TenantId, approvals: Mapping[DeviceId, Sequence[str]]
    ) -> list[DeviceId]:
        await self._pass("approvals")
        for device_id, routes in approvals.items():
            row = self.rows[device_id]
            approved = tuple(sorted({*row.approved_routes, *routes}))
            self.commit(replace(row, approved_routes=approved), origin="me")
        return list(approvals)

    async def changes(self, position: str) -> tuple[str, list[Change]]:
        new = self.log[int(position) :]
        position = str(len(self.log))
        await self._pass("changes")
        return position, new


class Parts:
    def __init__(self) -> None:
        self.database = Database()
        self.derp = 0
        self.hub = Hub(
            compress=compress,
            dns=DnsPlan("hs.internal"),
            derp_map=b"{}",
            clock=lambda: 1_000_000.0,
            control_time=lambda: "2026-01-01T00:00:00Z",
            offline_grace_s=10.0,
            on_hot=lambda _: None,
            on_round=lambda *_: None,
        )
        self.invalid: dict[str, bool] = {}
        self.may_write = True
        self.policies = TenantPolicies(
            self.database,
            self.hub,
            file=None,
            may_write=lambda: self.may_write,
            on_invalid=self.invalid.__setitem__,
        )
        self.refresher = Refresher(
            self.database,
            self.hub,
            self.policies,
            instance="me",
            on_derp=self._on_derp,
            on_rows=lambda _, __: None,
            clock=lambda: 0.0,
        )

    async def _on_derp(self) -> None:
        self.derp += 1

    def names(self) -> dict[int, str]:
        return {i: d.hostname for i in range(1, 20) if (d := self.hub.device(DeviceId(i))) is not None}

    def own_commit(self, row: Device) -> None:
        """What a registration here does: the database first, then memory."""
        self.database.commit(row, origin="me")
        self.hub.put_device(row)


@pytest.fixture
async def parts() -> AsyncIterator[Parts]:
    found = Parts()
    found.database.commit(device(1), device(2))
    await found.refresher.load()
    found.database.reads.clear()
    yield found
    for tenant_id in [t.id for t in found.hub.tenants()]:
        found.hub.remove_tenant(tenant_id)


async def test_what_others_commit_arrives(parts: Parts) -> None:
    parts.database.commit(replace(device(1), hostname="renamed"), device(3), removed=[2])
    assert await parts.refresher.catch_up() == 3
    assert parts.names() == {1: "renamed", 3: "d3"}
    assert await parts.refresher.catch_up() == 0
    parts.database.tell("derp", kind="derp")
    await parts.refresher.catch_up()
    assert parts.derp == 1


async def test_own_rows_are_not_read_again(parts: Parts) -> None:
    parts.own_commit(device(5))
    parts.database.reads.clear()
    assert await parts.refresher.catch_up() == 0
    assert parts.database.reads == ["changes"]
    assert 5 in parts.names()


@pytest.mark.parametrize("how", ["load", "catch_up"])
async def test_a_registration_during_a_read_is_not_undone(parts: Parts, how: str) -> None:
    """The picture was taken before the registration and is applied after it: it must not win."""
    if how == "catch_up":
        parts.database.tell("tenant", kind="tenant")  # asks for everything
    parts.database.hold("load")
    reading = asyncio.create_task(getattr(parts.refresher, how)())
    await until(lambda: parts.database.reads[-1:] == ["load"], "the picture is taken")
    parts.own_commit(device(7))
    parts.own_commit(replace(device(1), hostname="newer"))
    parts.database.hold()
    await reading
    assert parts.names()[7] == "d7"
    assert parts.names()[1] == "newer"
    # What was left out is settled by the next read, also when somebody else was later still.
    parts.database.commit(replace(device(1), hostname="newest"))
    await parts.refresher.catch_up()
    assert parts.names() == {1: "newest", 2: "d2", 7: "d7"}


async def test_what_others_wrote_after_us_counts_although_the_picture_was_left_out(parts: Parts) -> None:
    """Our write is applied here while a picture is read that has a later write of somebody else."""
    ours = replace(device(1), hostname="ours")
    parts.database.commit(ours, origin="me")
    parts.database.commit(replace(device(1), hostname="theirs, later"))
    parts.database.hold("load")
    reading = asyncio.create_task(parts.refresher.load())
    await until(lambda: parts.database.reads[-1:] == ["load"], "the picture is taken")
    parts.hub.put_device(ours)
    parts.database.hold()
    await reading
    assert parts.names()[1] == "theirs, later"


async def test_an_older_row_does_not_replace_what_was_written_here_meanwhile(parts: Parts) -> None:
    parts.database.commit(replace(device(1), hostname="by an operator"))
    original = parts.database.load_devices

    async def slow(devices: Sequence[tuple[TenantId, DeviceId]]) -> list[Device]:
        found = await original(devices)
        parts.database.load_devices = original  # type: ignore[method-assign]
        parts.own_commit(replace(device(1), node_key=device(9).node_key, hostname="rotated"))
        return found

    parts.database.load_devices = slow  # type: ignore[method-assign]
    await parts.refresher.catch_up()
    assert parts.names()[1] == "rotated"
    assert parts.hub.device_by_node_key(device(9).node_key) is not None
    await parts.refresher.catch_up()
    assert parts.names()[1] == "rotated"
    assert parts.database.rows[DeviceId(1)].hostname == "rotated"


async def test_a_device_that_is_written_all_the_time_does_not_hold_up_the_others(parts: Parts) -> None:
    parts.database.commit(replace(device(1), hostname="by an operator"), replace(device(2), hostname="new"))
    original = parts.database.load_devices

    async def busy(devices: Sequence[tuple[TenantId, DeviceId]]) -> list[Device]:
        found = await original(devices)
        parts.own_commit(replace(device(1), hostname="busy"))
        return found

    parts.database.load_devices = busy  # type: ignore[method-assign]
    await parts.refresher.catch_up()
    assert parts.names() == {1: "busy", 2: "new"}
    parts.database.load_devices = original  # type: ignore[method-assign]
    parts.database.rows[DeviceId(1)] = replace(device(1), hostname="at last")
    await parts.refresher.catch_up()
    assert parts.names() == {1: "at last", 2: "new"}


async def test_a_deletion_here_is_not_undone_by_an_older_picture(parts: Parts) -> None:
    parts.database.hold("load")
    reading = asyncio.create_task(parts.refresher.load())
    await until(lambda: parts.database.reads[-1:] == ["load"], "the picture is taken")
    parts.database.commit(origin="me", removed=[2])
    parts.hub.remove_device(DeviceId(2))
    parts.database.hold()
    await reading
    await parts.refresher.catch_up()
    assert parts.names() == {1: "d1"}


async def test_after_an_outage_everything_that_was_missed_arrives(parts: Parts) -> None:
    events: asyncio.Queue[Wake | Resync] = asyncio.Queue()

    async def feed() -> AsyncIterator[Wake | Resync]:
        while True:
            yield await events.get()

    parts.database.down = True
    running = asyncio.create_task(parts.refresher.run(feed()))
    events.put_nowait(Wake("c", ""))
    parts.database.reads.clear()
    await until(lambda: parts.database.reads == ["changes"], "one attempt has failed")
    parts.database.commit(device(3), removed=[1])
    parts.database.down = False
    events.put_nowait(Resync("g1", False))
    await until(lambda: parts.names() == {2: "d2", 3: "d3"}, "it has caught up")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_another_history_of_the_database_is_loaded_whole(parts: Parts) -> None:
    events: asyncio.Queue[Wake | Resync] = asyncio.Queue()

    async def feed() -> AsyncIterator[Wake | Resync]:
        while True:
            yield await events.get()

    parts.database.down = True
    running = asyncio.create_task(parts.refresher.run(feed()))
    parts.database.reads.clear()
    events.put_nowait(Resync("g2", True))
    await until(lambda: "load" in parts.database.reads, "it tried to load")
    parts.database.log.clear()  # positions of the old history mean nothing
    parts.database.rows = {DeviceId(8): device(8)}
    parts.database.down = False
    events.put_nowait(Wake("c", ""))
    await until(lambda: parts.names() == {8: "d8"}, "the new history is here")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_many_changed_devices_are_one_load(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refresh_module.RELOAD_ABOVE == 5000
    assert refresh_module.POLL_EVERY_S == 1.0
    monkeypatch.setattr(refresh_module, "RELOAD_ABOVE", 2)
    parts.database.commit(device(3), device(4), device(5))
    parts.database.reads.clear()
    await parts.refresher.catch_up()
    assert parts.database.reads == ["changes", "load"]
    assert set(parts.names()) == {1, 2, 3, 4, 5}


async def test_a_user_written_here_during_a_load_is_read_after_it(parts: Parts) -> None:
    parts.database.reads.clear()
    parts.database.hold("load")
    loading = asyncio.create_task(parts.refresher.load())
    await until(lambda: parts.database.reads == ["load"], "the picture is taken")
    reading = asyncio.create_task(parts.refresher.reload_user(TENANT.id, USER.id))
    await asyncio.sleep(0)
    assert parts.database.reads == ["load"]
    parts.database.go_on.set()
    await asyncio.gather(loading, reading)
    assert parts.database.reads[:2] == ["load", "users"]


async def test_a_device_that_waits_for_the_next_read_is_not_forgotten_for_another(parts: Parts) -> None:
    """A request's own reading of one device leaves alone what the last reading could not settle."""
    waiting = (TENANT.id, DeviceId(1))
    parts.refresher._again = {waiting}
    await parts.refresher.reload_device(TENANT.id, DeviceId(2))
    assert parts.refresher._again == {waiting}
    parts.database.commit(replace(device(1), hostname="renamed"), origin="me")
    await parts.refresher.catch_up()
    assert parts.names()[1] == "renamed"
    assert parts.refresher._again == set()
