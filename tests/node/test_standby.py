"""A hub that follows: presence is somebody else's until a takeover, and read again then."""

from __future__ import annotations

import asyncio

from app.compression import compress
from app.model import ClusterSnapshot, Device, DeviceId, HotState, Tenant, TenantId, User, UserId
from app.netmap.dns import DnsPlan
from node.hub import Hub
from node.loading import load, take_over
from tests.node.kit import until
from tests.node.test_fanout import device

TENANT = Tenant(TenantId(1), "default", "default")
USER = User(UserId(1), TenantId(1), "alice")
NOW = 1_000_000.0


def following(stored: list[Device]) -> Hub:
    return Hub(
        compress=compress,
        dns=DnsPlan("hs.internal"),
        derp_map=b"{}",
        clock=lambda: NOW,
        control_time=lambda: "2026-01-01T00:00:00Z",
        offline_grace_s=0.02,
        on_hot=stored.append,
        on_round=lambda *_: None,
        follows=True,
    )


def snapshot(*devices: Device) -> ClusterSnapshot:
    return ClusterSnapshot("default", (TENANT,), (USER,), devices, "1:1:", "g1")


def state(number: int, *, online: bool, endpoints: tuple[str, ...] = ()) -> HotState:
    return HotState(TenantId(1), DeviceId(number), endpoints, 900, online, None if online else NOW - 60)


async def test_a_takeover_knows_what_the_last_owner_stored() -> None:
    stored: list[Device] = []
    hub = following(stored)
    loaded = snapshot(device(1, online=True), device(2), device(3, online=True))
    await load(hub, loaded, loaded.devices)
    # While another instance owns the cluster nobody is seen to leave here, however long nothing is heard.
    assert not hub._departures
    hub.put_states(
        [
            state(1, online=True, endpoints=("192.0.2.1:1",)),
            state(2, online=True),
            state(3, online=False),
            state(9, online=True),  # deleted meanwhile
        ]
    )
    one, two, three = (hub.device(DeviceId(number)) for number in (1, 2, 3))
    assert one is not None
    assert two is not None
    assert three is not None
    assert (one.endpoints, one.home_derp, one.online) == (("192.0.2.1:1",), 900, True)
    assert (two.online, three.online, three.last_seen) == (True, False, NOW - 60)
    assert stored == []  # it came from there
    await take_over(hub)
    assert set(hub._departures) == {1, 2}
    # Who does not come back within the grace has left, and that is stored.
    await until(lambda: len(stored) == 2, "both have left")
    assert {(row.id, row.online, row.last_seen) for row in stored} == {(1, False, NOW), (2, False, NOW)}
    await hub.drain(wave=10, pause_s=0)
    await asyncio.sleep(0)


async def test_a_plan_reaches_tenants_that_come_later() -> None:
    hub = following([])
    hub.set_dial_plan(b'{"Candidates":[]}')
    await load(hub, snapshot(device(1)), [device(1)])
    netmap = hub._tenants[TenantId(1)].netmap
    assert netmap.commit().common == [b'"ControlDialPlan":{"Candidates":[]}']
    await hub.drain(wave=10, pause_s=0)
