"""What carries out requests: woken or polling, through faults of its own and of the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.db.lease import LeaseState
from app.db.requests import RequestDesk
from app.db.setup import Database
from app.model import OperatorRequest, RequestId, Tenant
from app.request_outcome import MAX_ATTEMPTS
from node import requests
from node.requests import HANDLERS, Work
from tests.node.kit import DatabaseGate, in_process
from tests.node.support import DEADLINE_S, admin, run_sql

NEVER_S = 3600.0
#: Frozen soon, and owner again after the gap.
LONG = {"HS_TIMING__LEASE_TTL": "2s"}


@pytest.fixture
async def prepared(database: str) -> str:
    await (await Database.prepare(database)).ensure_cluster("default")
    return database


@pytest.fixture
async def home(prepared: str) -> Tenant:
    async with admin(prepared) as administration:
        return administration.tenant


@pytest.fixture
async def desk(prepared: str) -> AsyncIterator[RequestDesk]:
    opened = await RequestDesk.open(prepared)
    yield opened
    await opened.close()


async def ask(desk: RequestDesk, home: Tenant, name: str) -> RequestId:
    return await desk.submit("default", home.id, "user_create", {"name": name}, actor="ops", what="x")


async def end_of(desk: RequestDesk, request_id: RequestId) -> OperatorRequest:
    return [request async for request in desk.follow(request_id, deadline_s=DEADLINE_S)][-1]


async def test_a_notification_is_enough(
    monkeypatch: pytest.MonkeyPatch, prepared: str, desk: RequestDesk, home: Tenant, tmp_path: Path
) -> None:
    monkeypatch.setattr(requests, "POLL_EVERY_S", NEVER_S)
    async with in_process(prepared, tmp_path):
        for name in ("one", "two"):
            assert (await end_of(desk, await ask(desk, home, name))).state == "done"


async def test_without_any_notification_the_poll_finds_it(
    prepared: str, desk: RequestDesk, home: Tenant, tmp_path: Path
) -> None:
    await run_sql(prepared, "ALTER TABLE hs.requests DISABLE TRIGGER z_i")
    async with in_process(prepared, tmp_path):
        assert (await end_of(desk, await ask(desk, home, "one"))).state == "done"


async def test_own_writes_are_in_the_hub_at_once(
    monkeypatch: pytest.MonkeyPatch, prepared: str, desk: RequestDesk, home: Tenant, tmp_path: Path
) -> None:
    async with in_process(prepared, tmp_path) as server:
        made = await end_of(desk, await ask(desk, home, "one"))
        assert made.result is not None
        user = server.owner.hub.user(made.result["user_id"])
        assert (user.name, user.tenant_id) == ("one", home.id)
        gone = await desk.submit(
            "default", home.id, "user_delete", {"user_id": user.id}, actor="ops", what="x"
        )
        assert (await end_of(desk, gone)).state == "done"
        assert server.owner.hub.user(user.id) is None


async def test_what_never_ends_is_given_up(
    prepared: str, desk: RequestDesk, home: Tenant, tmp_path: Path
) -> None:
    request_id = await ask(desk, home, "one")
    await run_sql(prepared, "UPDATE hs.requests SET attempts = $1", MAX_ATTEMPTS)
    async with in_process(prepared, tmp_path):
        end = await end_of(desk, request_id)
        assert end.state == "failed"
        assert "given up after 10 attempts" in (end.error or "")
    async with admin(prepared) as administration:
        assert await administration.scoped.list_users(home.id) == []


async def test_a_defect_ends_one_request_only(
    monkeypatch: pytest.MonkeyPatch, prepared: str, desk: RequestDesk, home: Tenant, tmp_path: Path
) -> None:
    carry_out = HANDLERS["user_create"]

    async def sometimes(work: Work, args: Any) -> dict[str, Any]:
        if args.name == "bad":
            raise ZeroDivisionError(args.name)
        return await carry_out(work, args)

    monkeypatch.setitem(HANDLERS, "user_create", sometimes)
    async with in_process(prepared, tmp_path):
        bad, good = await ask(desk, home, "bad"), await ask(desk, home, "good")
        end = await end_of(desk, bad)
        assert (end.state, end.error) == ("failed", "a defect of the server: its log says more")
        assert (await end_of(desk, good)).state == "done"


@pytest.mark.parametrize("how", ["refuse", "hang"])
async def test_asked_while_the_owner_has_no_database(
    prepared: str, desk: RequestDesk, home: Tenant, tmp_path: Path, how: str
) -> None:
    async def away(gate: DatabaseGate) -> None:
        if how == "refuse":
            await gate.refuse()
        else:
            gate.hang()

    async with DatabaseGate(prepared) as gate, in_process(gate.dsn, tmp_path, LONG) as server:
        await away(gate)
        request_id = await ask(desk, home, "one")
        assert server.serving.lease is not None
        await server.serving.lease.wait_for(LeaseState.FROZEN)
        assert not (await desk.get(request_id)).is_finished
        await gate.open()
        end = await end_of(desk, request_id)
        assert (end.state, end.error) == ("done", None)
    async with admin(prepared) as administration:
        assert [user.name for user in await administration.scoped.list_users(home.id)] == ["one"]
