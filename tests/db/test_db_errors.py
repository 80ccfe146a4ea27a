"""Every way the driver can fail has one member of our family."""

from __future__ import annotations

import asyncpg
import pytest

from app.db.base import ATTEMPTS, again_when_busy, rows_touched
from app.db.errors import translated
from app.errors import (
    BadRequest,
    ConfigError,
    Conflict,
    HsError,
    LeaseLost,
    Refused,
    Unavailable,
    WrongCluster,
)


def postgres(state: str, text: str = "text") -> asyncpg.PostgresError:
    return asyncpg.PostgresError.new({"C": state, "M": text, "S": "ERROR"})


@pytest.mark.parametrize(
    ("state", "expected", "code"),
    [
        ("HS409", LeaseLost, "lease_lost"),
        ("HS403", WrongCluster, "wrong_cluster"),
        ("23505", Conflict, "conflict"),
        ("23503", Conflict, "conflict"),
        ("23514", BadRequest, "bad_value"),
        ("22P02", BadRequest, "bad_value"),
        ("42501", Refused, "not_permitted"),
        ("40P01", Unavailable, "busy"),
        ("40001", Unavailable, "busy"),
        ("55P03", Unavailable, "busy"),
        ("57P01", Unavailable, "unavailable"),
        ("57P03", Unavailable, "unavailable"),
        ("57014", Unavailable, "unavailable"),
        ("53300", Unavailable, "unavailable"),
        ("08006", Unavailable, "unavailable"),
        ("58030", Unavailable, "unavailable"),
        ("28P01", ConfigError, "database_login"),
        ("3D000", ConfigError, "database_login"),
        ("42P01", HsError, "schema"),
        ("42703", HsError, "schema"),
        ("42601", HsError, "database"),
    ],
)
def test_sqlstates(state: str, expected: type[HsError], code: str) -> None:
    with pytest.raises(HsError) as raised, translated():
        raise postgres(state)
    assert (type(raised.value), raised.value.code) == (expected, code)


def test_pooler_in_the_way() -> None:
    with pytest.raises(ConfigError, match="directly"), translated():
        raise postgres("08P01", "unsupported startup parameter: role")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        OSError("no route"),
        asyncpg.InterfaceError("pool is closed"),
        asyncpg.InternalClientError("cannot switch to state"),
    ],
)
def test_everything_else_that_breaks(error: Exception) -> None:
    with pytest.raises(Unavailable), translated():
        raise error


def test_values_the_driver_refuses() -> None:
    with pytest.raises(BadRequest), translated():
        raise asyncpg.DataError("value out of int32 range")


async def test_busy_is_tried_again_a_few_times() -> None:
    calls = 0

    async def attempt() -> int:
        nonlocal calls
        calls += 1
        if calls < ATTEMPTS:
            raise Unavailable("x", code="busy")
        return calls

    assert await again_when_busy(attempt) == ATTEMPTS

    async def never() -> int:
        nonlocal calls
        calls += 1
        raise Unavailable("x", code="busy")

    calls = 0
    with pytest.raises(Unavailable):
        await again_when_busy(never)
    assert calls == ATTEMPTS


def test_command_tags() -> None:
    assert [rows_touched(tag) for tag in ("UPDATE 3", "INSERT 0 1", "DELETE 0")] == [3, 1, 0]
