"""Rounds of one tenant, with tunnels that only note: what the wire cannot show or not in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from app.compression import compress
from app.keys import DiscoKey, MachineKey, NodeKey
from app.model import Device, DeviceId, Tenant, TenantId, User, UserId
from app.netmap.dns import DnsPlan
from app.netmap.flush import Flush
from app.netmap.tenant import STEP_ROWS, TenantNetmap
from app.netmap.variant import Variant
from app.policy.reader import read
from node import fanout as fanout_module
from node.fanout import (
    ANNOUNCE_BOUND_S,
    GATHER_LOADED_S,
    GATHER_S,
    SLICE_VIEWERS,
    TICK_MAX_S,
    TICK_MIN_S,
    RoundStats,
    TenantFanout,
)
from node.session import CAUGHT_UP_BYTES, MAX_BACKLOG_BYTES, MapSession, SessionState
from node.ticks import Ticks
from node.turns import MAP_SHARE, SLICE_S, Turns
from tests.node.kit import until


def device(number: int, **facts: Any) -> Device:
    return Device(
        id=DeviceId(number),
        tenant_id=TenantId(1),
        user_id=UserId(1),
        machine_key=MachineKey(number.to_bytes(32, "big")),
        node_key=NodeKey((1000 + number).to_bytes(32, "big")),
        disco_key=DiscoKey((2000 + number).to_bytes(32, "big")),
        ipv4=f"100.64.{number // 250}.{number % 250 + 1}",
        ipv6=f"fd7a:115c:a1e0::{number:x}",
        hostname=f"d{number}",
        given_name=f"d{number}",
        **facts,
    )


class NotingTunnel:
    """Takes what a session writes; its backlog is whatever the test says."""

    def __init__(self, note: Callable[[], None]) -> None:
        self.note = note
        self.sent: list[bytes] = []
        self.unsent = 0
        self.ended = self.dropped = self.aborted = False
        self.on_send: Callable[[], None] = lambda: None
        self.ticks = Ticks()

    def send(self, stream_id: int, data: bytes) -> None:
        self.on_send()
        self.note()
        self.sent.append(data[4:])

    def send_at_once(self, stream_id: int, data: bytes) -> bool:
        if not self.unsent:
            self.send(stream_id, data)
        return not self.unsent

    def backlog(self, stream_id: int) -> int:
        return self.unsent

    def end_stream(self, stream_id: int, *, drop_queued: bool = False) -> None:
        self.ended, self.dropped = True, drop_queued

    def abort(self) -> None:
        self.aborted = True

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [orjson.loads(body) for body in self.sent]


class Place:
    """A tenant with so many devices, and who was written to in which order."""

    def __init__(self, devices: int) -> None:
        self.netmap = TenantNetmap(
            Tenant(TenantId(1), "default", "default"),
            compress=compress,
            dns=DnsPlan("hs.internal"),
            derp_map=b"{}",
        )
        self.netmap.put_user(User(UserId(1), TenantId(1), "alice"))
        for number in range(1, devices + 1):
            self.netmap.put(device(number))
        self.netmap.commit()
        self.rounds: list[RoundStats] = []
        self.order: list[int] = []
        self.fanout = TenantFanout(
            self.netmap,
            turns=Turns(),
            control_time=lambda: "2026-01-01T00:00:00Z",
            on_round=lambda _, stats: self.rounds.append(stats),
        )

    def session_caught_up(self, session: MapSession) -> None:
        self.fanout.join(session)

    def session_closed(self, session: MapSession) -> None:
        if self.fanout.sessions.get(session.device_id) is session:
            del self.fanout.sessions[session.device_id]

    def connect(self, number: int, *, live: bool = False) -> tuple[MapSession, NotingTunnel]:
        tunnel = NotingTunnel(lambda: self.order.append(number))
        session = MapSession(
            tunnel,  # type: ignore[arg-type]
            1,
            device_id=DeviceId(number),
            node_key=(1000 + number).to_bytes(32, "big"),
            variant=Variant.PLAIN,
            keeper=self,
            jitter=0.0,
        )
        self.fanout.sessions[DeviceId(number)] = session
        if live:
            session.state = SessionState.LIVE
        else:
            self.fanout.join(session)
        return session, tunnel

    def change(self, number: int, endpoint: str = "192.0.2.1:1") -> None:
        self.netmap.put(replace(device(number), endpoints=(endpoint,)))
        self.fanout.mark()

    async def rounds_done(self, count: int) -> None:
        await until(lambda: len(self.rounds) >= count, f"{count} rounds")

    def close(self) -> None:
        self.fanout.stop()
        for session in list(self.fanout.sessions.values()):
            session.end()


async def test_a_newcomers_map_comes_after_all_announcements() -> None:
    viewers = SLICE_VIEWERS * 2 + 5
    place = Place(viewers)
    for number in range(1, viewers + 1):
        place.connect(number, live=True)
    place.netmap.put(device(viewers + 1))
    place.connect(viewers + 1)
    await place.rounds_done(1)
    assert place.order == [*range(1, viewers + 1), viewers + 1]
    (stats,) = place.rounds
    assert (stats.frames, stats.maps, stats.late_maps, stats.devices) == (viewers, 1, 0, 1)
    place.close()


async def test_after_the_bound_a_newcomers_map_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's clock runs ahead while the first slice is written, as on an overloaded machine."""
    viewers = SLICE_VIEWERS * 2
    place = Place(viewers)
    loop = asyncio.get_running_loop()
    late = 0.0
    monkeypatch.setattr(
        place.fanout,
        "_loop",
        SimpleNamespace(time=lambda: loop.time() + late, call_at=loop.call_at, create_task=loop.create_task),
    )

    def delay() -> None:
        nonlocal late
        late = ANNOUNCE_BOUND_S + 0.001

    for number in range(1, viewers + 1):
        _, tunnel = place.connect(number, live=True)
        tunnel.on_send = delay
    place.netmap.put(device(viewers + 1))
    place.connect(viewers + 1)
    await place.rounds_done(1)
    # One slice was told, then the newcomer got its map, then the others were told. What had to be
    # encoded was long enough for a slice of its own.
    assert place.order.index(viewers + 1) == 1
    assert len(place.order) == viewers + 1
    assert place.rounds[0].late_maps == 1
    place.close()


async def test_backlogged_viewers_hold_no_newcomer_up() -> None:
    place = Place(2)
    behind, tunnel = place.connect(1, live=True)
    tunnel.unsent = MAX_BACKLOG_BYTES + 1
    place.connect(2)
    place.change(2)
    await place.rounds_done(1)
    assert behind.state is SessionState.LAGGING
    assert place.order == [2]
    assert (place.rounds[0].frames, place.rounds[0].late_maps) == (0, 0)
    place.close()


@pytest.mark.parametrize(
    ("unsent", "caught_up"), [(0, True), (CAUGHT_UP_BYTES, True), (CAUGHT_UP_BYTES + 1, False)]
)
async def test_a_lagging_viewer_gets_one_full_map_when_it_has_read(unsent: int, caught_up: bool) -> None:
    """The way may never be reported empty: a transport says when it has room again, and then is silent."""
    place = Place(3)
    session, tunnel = place.connect(1, live=True)
    tunnel.unsent = MAX_BACKLOG_BYTES + 1
    place.change(2)
    await place.rounds_done(1)
    place.change(2, "192.0.2.2:2")
    await place.rounds_done(2)
    assert (session.state, tunnel.sent) == (SessionState.LAGGING, [])
    tunnel.unsent = unsent
    session.stream_drained()
    if caught_up:
        await place.rounds_done(3)
        (whole,) = tunnel.messages
        assert [p["ID"] for p in whole["Peers"]] == [2, 3]
        assert whole["Peers"][0]["Endpoints"] == ["192.0.2.2:2"]
        assert session.state is SessionState.LIVE
    else:
        assert session.state is SessionState.LAGGING
    place.close()


async def test_a_delta_at_the_limit_is_still_written() -> None:
    place = Place(2)
    session, tunnel = place.connect(1, live=True)
    tunnel.unsent = MAX_BACKLOG_BYTES
    place.change(2)
    await place.rounds_done(1)
    assert (session.state, len(tunnel.sent)) == (SessionState.LIVE, 1)
    place.close()


class SlowClock:
    """The loop's clock as a fan-out sees it, where each message sent takes so long, and nothing else does."""

    def __init__(self, place: Place, send_s: float) -> None:
        loop = asyncio.get_running_loop()
        begun, self.spent = loop.time(), 0.0
        #: Messages written before each turn of the loop that followed the first.
        self.turns: list[int] = []

        def time() -> float:
            return begun + self.spent

        def sent() -> None:
            # A little more, so that rounding never ends a slice one message later.
            self.spent += send_s * 1.001
            loop.call_soon(lambda: self.turns.append(len(place.order)))

        self.sent = sent
        clock: Any = SimpleNamespace(
            time=time,
            call_at=lambda at, run: loop.call_at(at - self.spent, run),
            call_soon=loop.call_soon,
            create_task=loop.create_task,
            create_future=loop.create_future,
        )
        place.fanout._loop = place.fanout._turns._loop = clock


async def test_the_loop_gets_its_turn_between_slices() -> None:
    viewers = SLICE_VIEWERS * 3
    place = Place(viewers)
    clock = SlowClock(place, SLICE_S / SLICE_VIEWERS)
    for number in range(1, viewers + 1):
        _, tunnel = place.connect(number, live=True)
        tunnel.on_send = clock.sent
    place.netmap.put(device(viewers + 1))
    place.fanout.mark()
    await place.rounds_done(1)
    assert set(clock.turns) == {SLICE_VIEWERS, 2 * SLICE_VIEWERS, 3 * SLICE_VIEWERS}
    place.close()


async def test_full_maps_are_made_in_slices_too() -> None:
    place = Place(9)
    clock = SlowClock(place, SLICE_S / 2)
    for number in range(1, 10):
        _, tunnel = place.connect(number)
        tunnel.on_send = clock.sent
    await place.rounds_done(1)
    assert place.rounds[0].maps == 9
    assert set(clock.turns) >= {2, 4, 6, 8}
    assert all(late - early <= 2 for early, late in pairwise(sorted(set(clock.turns))))
    place.close()


async def test_one_tenant_at_a_time_and_changes_before_maps() -> None:
    """However many tenants have something to do, between two of their slices the loop looks around."""
    turns = Turns()
    loop = asyncio.get_running_loop()
    order: list[str] = []

    async def work(name: str, *, for_map: bool) -> None:
        for _ in range(3):
            await turns.take(for_map=for_map)
            order.append(name)
            loop.call_soon(order.append, "loop")

    await asyncio.gather(
        *(work("map", for_map=True) for _ in range(2)), *(work("change", for_map=False) for _ in range(3))
    )
    assert all("loop" in pair for pair in pairwise(order)), "no two slices without a look around"
    slices = [name for name in order if name != "loop"]
    assert slices[:MAP_SHARE] == ["change"] * (MAP_SHARE - 1) + ["map"]
    assert (slices.count("change"), slices.count("map")) == (9, 6)
    assert slices[-3:] == ["map"] * 3
    assert turns.waiting == (0, 0)


async def test_who_gave_up_waiting_takes_no_turn() -> None:
    turns = Turns()
    waiting = [asyncio.ensure_future(turns.take()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    assert await asyncio.wait_for(waiting[2], 5) > 0


async def test_a_policy_for_many_is_taken_in_steps_while_changes_go_on() -> None:
    """Between the steps of a commit devices change, and a map that somebody asks for once waits."""
    place = Place(STEP_ROWS * 3)
    _, tunnel = place.connect(1)
    await place.rounds_done(1)
    place.netmap.set_policy(read('{"acls":[{"action":"accept","src":["*"],"dst":["*:22"]}]}'))
    steps = 0
    commit_steps = place.netmap.commit_steps

    def counted() -> Generator[None, None, Flush]:
        nonlocal steps
        flush = commit_steps()
        while True:
            try:
                next(flush)
            except StopIteration as done:
                return done.value
            steps += 1
            if steps == 2:
                place.change(5)
                asked.append(asyncio.ensure_future(place.fanout.full_map(DeviceId(2), Variant.PLAIN)))
            yield

    asked: list[asyncio.Future[bytes]] = []
    place.netmap.commit_steps = counted  # type: ignore[method-assign]
    place.fanout.mark()
    await place.rounds_done(3)
    assert steps >= 3
    _, first, second = tunnel.messages
    assert "PacketFilters" in first
    assert [p["NodeID"] for p in second["PeersChangedPatch"]] == [5]
    whole = orjson.loads(await asked[0])
    assert whole["PacketFilters"]["base"] == first["PacketFilters"]["base"]
    place.close()


async def test_changes_during_a_round_share_the_next() -> None:
    place = Place(4)
    _, tunnel = place.connect(1, live=True)
    once = iter([True])

    def more() -> None:
        if next(once, False):
            for number in (2, 3, 4):
                place.change(number, "192.0.2.9:9")

    tunnel.on_send = more
    place.change(2)
    await place.rounds_done(2)
    first, second = tunnel.messages
    assert [p["NodeID"] for p in first["PeersChangedPatch"]] == [2]
    assert [p["NodeID"] for p in second["PeersChangedPatch"]] == [2, 3, 4]
    place.close()


async def test_a_joiner_that_left_before_its_map_costs_nothing() -> None:
    place = Place(2)
    session, tunnel = place.connect(1)
    session.stream_closed()
    place.connect(2)
    await place.rounds_done(1)
    assert (tunnel.sent, place.rounds[0].maps) == ([], 1)
    place.close()


async def test_a_joiner_whose_device_was_deleted_meanwhile_is_ended() -> None:
    place = Place(2)
    session, tunnel = place.connect(1)
    place.netmap.remove(DeviceId(1))
    await place.rounds_done(1)
    assert (session.state, tunnel.sent, tunnel.ended) == (SessionState.CLOSED, [], True)
    place.close()


async def test_a_round_that_fails_ends_all_streams_so_that_clients_start_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place(3)
    (live, live_tunnel), (waiting, waiting_tunnel) = place.connect(1, live=True), place.connect(2)

    def broken(*_: object) -> bytes:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(place.netmap, "full_map", broken)
        place.change(3)
        await until(lambda: not place.fanout.sessions, "all sessions have ended")
    assert live.state is waiting.state is SessionState.CLOSED
    assert live_tunnel.ended
    assert waiting_tunnel.ended
    # The next poll is served as if nothing had been.
    _, tunnel = place.connect(1)
    await place.rounds_done(1)
    assert [p["ID"] for p in tunnel.messages[0]["Peers"]] == [2, 3]
    place.close()


async def test_a_viewer_without_peers_left_is_ended_and_polls_anew() -> None:
    """A Go client takes an empty Peers for "no change": only a new stream can empty its map."""
    place = Place(1)
    session, tunnel = place.connect(1, live=True)
    place.netmap.put(replace(device(1), tags=("tag:x",), user_id=None))
    place.fanout.mark()
    await place.rounds_done(1)
    assert (session.state, tunnel.ended) == (SessionState.CLOSED, True)
    place.close()


async def test_a_stuck_queue_is_reset_and_a_live_one_flushed() -> None:
    place = Place(2)
    lagging, lagging_tunnel = place.connect(1, live=True)
    _, live_tunnel = place.connect(2, live=True)
    lagging.state = SessionState.LAGGING
    place.close()
    assert (lagging_tunnel.ended, lagging_tunnel.dropped) == (True, True)
    assert (live_tunnel.ended, live_tunnel.dropped) == (True, False)


def test_the_pace_is_what_the_design_says() -> None:
    # DESIGN.md section 7.
    assert (GATHER_S, GATHER_LOADED_S, ANNOUNCE_BOUND_S) == (0.020, 0.100, 0.250)
    assert (TICK_MIN_S, TICK_MAX_S) == (0.100, 0.500)
    assert (SLICE_VIEWERS, SLICE_S, MAP_SHARE) == (64, 0.004, 4)
    assert fanout_module.LAZY_S == 0.250
