"""Admission against a real HTTP server on the loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from node.derp import admission
from node.derp.admission import Admission

KEY = b"\x01" * 32
OTHER = b"\x02" * 32


@dataclass
class Parent:
    """A /verify page: what it answers, and what it was asked."""

    url: str = ""
    status: int = 200
    body: bytes = b'{"Allow":true}'
    hang: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)

    async def verify(self, request: web.Request) -> web.Response:
        self.asked.append(json.loads(await request.read()))
        if self.hang:
            await asyncio.Event().wait()
        return web.Response(status=self.status, body=self.body)


@pytest.fixture
async def parent() -> AsyncIterator[Parent]:
    it = Parent()
    app = web.Application()
    app.router.add_post("/verify", it.verify)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    it.url = f"http://127.0.0.1:{runner.addresses[0][1]}/verify"
    yield it
    await runner.cleanup()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ask(parent: Parent, clock: Clock) -> AsyncIterator[Admission]:
    it = Admission(parent.url, clock=clock)
    yield it
    await it.aclose()


async def test_question_is_tailscales(parent: Parent, ask: Admission) -> None:
    assert await ask(KEY, "192.0.2.1") is True
    assert parent.asked == [{"NodePublic": "nodekey:" + KEY.hex(), "Source": "192.0.2.1"}]


async def test_yes_is_cached_for_a_while(parent: Parent, ask: Admission, clock: Clock) -> None:
    assert await ask(KEY, "::1")
    clock.now += admission.POSITIVE_TTL_S - 0.1
    assert await ask(KEY, "::1")
    assert len(parent.asked) == 1
    clock.now += 0.2
    assert await ask(KEY, "::1")
    assert len(parent.asked) == 2


async def test_no_is_never_cached(parent: Parent, ask: Admission) -> None:
    parent.body = b'{"Allow":false}'
    assert not await ask(KEY, "::1")
    parent.body = b'{"Allow":true}'
    assert await ask(KEY, "::1")


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"{}"), (200, b"[]"), (200, b'{"Allow":"true"}'), (403, b'{"Allow":true}'), (404, b"")],
)
async def test_everything_but_a_clear_yes_refuses(
    parent: Parent, ask: Admission, clock: Clock, status: int, body: bytes
) -> None:
    assert await ask(KEY, "::1")
    clock.now += 60
    parent.status, parent.body = status, body
    assert not await ask(KEY, "::1")
    parent.status = 500
    assert not await ask(KEY, "::1"), "a no ends what was known before"


@pytest.mark.parametrize(
    ("status", "body"), [(500, b""), (200, b"no json"), (200, b" " * (admission.MAX_ANSWER_BYTES + 1))]
)
async def test_without_an_answer_only_known_keys_are_admitted(
    parent: Parent, ask: Admission, clock: Clock, status: int, body: bytes
) -> None:
    assert await ask(KEY, "::1")
    clock.now += 1e6
    parent.status, parent.body = status, body
    assert await ask(KEY, "::1")
    assert not await ask(OTHER, "::1")
    assert ask.stats.unreachable == 2


async def test_parent_that_hangs_is_given_up(
    parent: Parent, ask: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert admission.VERIFY_DEADLINE_S == 5.0
    monkeypatch.setattr(admission, "VERIFY_DEADLINE_S", 0.2)
    parent.hang = True
    assert not await ask(KEY, "::1")
    assert ask.stats.unreachable == 1


async def test_parent_that_is_not_there() -> None:
    ask = Admission("http://127.0.0.1:1/verify")
    assert not await ask(KEY, "::1")
    await ask.aclose()


async def test_remembered_keys_are_bounded(ask: Admission, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_REMEMBERED_KEYS", 3)
    for number in range(10):
        assert await ask(bytes((number,)) * 32, "::1")
    assert list(ask._admitted) == [bytes((number,)) * 32 for number in (7, 8, 9)]
