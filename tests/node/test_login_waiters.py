"""Requests that wait for a login: woken by what is heard, by a look when nothing is, and bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest

from app.db.listen import Resync, Wake
from app.errors import Unavailable
from app.keys import NodeKey, node_key_text
from app.model import DeviceId, Login, LoginAsk
from app.wire.tailcfg import parse_register
from node import login as login_module
from node.login import (
    LOGIN_CHANNEL,
    MAX_WAITERS,
    MAX_WAITERS_PER_LOGIN,
    LoginFlow,
    Waiters,
    login_id_of,
    network_of,
)
from tests.node.test_login_page import ID, login

DEADLINE_S = 10.0


class Desk:
    """Answers with these states, after so many failures."""

    def __init__(self, *states: str, failures: int = 0) -> None:
        self.states = states
        self.failures = failures

    async def look(self, ids: Sequence[str]) -> list[Login]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        return [login(state) for state in self.states]


async def test_a_notification_wakes_the_one_it_names() -> None:
    waiters = Waiters(Desk().look)
    with waiters.place("a") as first, waiters.place("b") as second:
        assert first is not None
        assert second is not None
        assert waiters.heard(Wake(LOGIN_CHANNEL, "b"))
        assert (first.done(), second.done()) == (False, True)
        assert not waiters.heard(Wake("netmap_dirty_x", "a"))
        assert not first.done()
    assert len(waiters) == 0


@pytest.mark.parametrize(
    ("event", "is_for_logins_only"), [(Wake(LOGIN_CHANNEL, ""), True), (Resync("g", False), False)]
)
async def test_what_may_mean_anybody_wakes_all(event: Wake | Resync, is_for_logins_only: bool) -> None:
    waiters = Waiters(Desk().look)
    with waiters.place("a") as first, waiters.place("b") as second:
        assert waiters.heard(event) == is_for_logins_only
        assert first is not None
        assert second is not None
        assert await first
        assert await second


@pytest.mark.parametrize("states", [(), ("approved",), ("denied",), ("expired",)])
async def test_a_look_finds_what_no_notification_told(
    monkeypatch: pytest.MonkeyPatch, states: tuple[str, ...]
) -> None:
    monkeypatch.setattr(login_module, "POLL_EVERY_S", 0.01)
    waiters = Waiters(Desk(*states, failures=2).look)
    task = asyncio.create_task(waiters.run())
    try:
        with waiters.place(ID) as woken:
            assert woken is not None
            async with asyncio.timeout(DEADLINE_S):
                assert await woken
    finally:
        task.cancel()


async def test_nobody_waits_where_nobody_looks_any_more() -> None:
    waiters = Waiters(Desk().look)
    task = asyncio.create_task(waiters.run())
    with waiters.place("a") as woken:
        await asyncio.sleep(0)
        task.cancel()
        assert woken is not None
        async with asyncio.timeout(DEADLINE_S):
            assert await woken is False


async def test_one_login_too_many_makes_room() -> None:
    waiters = Waiters(Desk().look)
    with ExitStack() as stack:
        places = [stack.enter_context(waiters.place("a")) for _ in range(MAX_WAITERS_PER_LOGIN + 2)]
        assert [place is not None and place.done() for place in places[:3]] == [True, True, False]
        for place in places[:2]:
            assert place is not None
            assert await place is False
        waiters.heard(Wake(LOGIN_CHANNEL, "a"))
        for place in places[2:]:
            assert place is not None
            assert await place is True


async def test_no_more_wait_than_there_is_room() -> None:
    waiters = Waiters(Desk().look)
    with ExitStack() as stack:
        for number in range(MAX_WAITERS):
            assert stack.enter_context(waiters.place(str(number))) is not None
        with waiters.place("one more") as place:
            assert place is None
        assert len(waiters) == MAX_WAITERS
    with waiters.place("again") as place:
        assert place is not None


async def test_who_wakes_late_is_in_too() -> None:
    """Several requests wait: the first one's device uses the approval up, the others are that device."""
    used = replace(login("approved"), device_id=DeviceId(7))

    class Used(Desk):
        async def logins(self, ids: Sequence[str] | None = None) -> list[Login]:
            return [used]

        async def open_login(self, ask: LoginAsk, fresh_id: str) -> str:
            raise AssertionError("a new login was opened")

    flow = LoginFlow(Used(), Waiters(Desk().look), "https://hs.example.com", bytes)
    body = {"NodeKey": node_key_text(used.node_key[:-1] + b"\1"), "Followup": flow.url(ID)}
    used = replace(used, node_key=NodeKey(used.node_key[:-1] + b"\1"))
    assert await flow.stand(used.machine_key, parse_register(json.dumps(body).encode()), "") == used


@pytest.mark.parametrize(
    ("followup", "expected"),
    [
        (f"https://hs.example.com/register/{ID}", ID),
        (f"http://[::1]:8080/prefix/register/{ID}", ID),
        ("", None),
        (f"https://hs.example.com/register/{ID}0", None),
        (f"https://hs.example.com/register/{ID.upper()}", None),
        (f"https://hs.example.com/{ID}", None),
        ("http://[bad", None),
        ("https://hs.example.com/register/", None),
    ],
)
def test_the_login_of_a_followup(followup: str, expected: str | None) -> None:
    assert login_id_of(followup) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("?", "?"),
    ],
)
def test_what_counts_as_one_stranger(address: str, expected: str) -> None:
    assert network_of(address) == expected
