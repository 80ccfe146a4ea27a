"""Where machines belong, as an entry remembers it: one question for many, doubts, a database that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from app.entry import machines as machines_module
from app.entry.machines import Machines
from app.errors import Unavailable


class Database:
    def __init__(self) -> None:
        self.places: dict[bytes, str] = {}
        self.asked: list[list[bytes]] = []
        self.error: Exception | None = None

    async def __call__(self, keys: Sequence[bytes]) -> Mapping[bytes, str]:
        self.asked.append(list(keys))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return {key: self.places[key] for key in keys if key in self.places}


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


async def test_many_who_ask_at_once_are_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines_module, "MAX_ASKED", 50)
    database = Database()
    database.places = {key(n): f"c{n % 3}" for n in range(80)}
    machines = Machines(database)
    found = await asyncio.gather(*(machines.find(key(n % 100)) for n in range(200)))
    assert found == [f"c{n % 100 % 3}" if n % 100 < 80 else None for n in range(200)]
    assert [len(keys) for keys in database.asked] == [50, 50]
    assert machines.remembered(key(1)) == ("c1", True)
    assert machines.remembered(key(99)) == (None, False), "who is not known is asked about again"


async def test_doubts_ask_again_and_memory_helps_while_the_database_is_away() -> None:
    database = Database()
    database.places = {key(1): "east", key(2): "east"}
    machines = Machines(database)
    assert await machines.find(key(1)) == await machines.find(key(2)) == "east"
    machines.doubt(key(1))
    assert machines.remembered(key(1)) == ("", False)
    machines.doubt_all()
    assert machines.remembered(key(2)) == ("east", False)
    database.error = Unavailable("away")
    assert await machines.find(key(2)) == "east"
    assert await machines.find(key(1)) is None
    database.error = None
    database.places[key(1)] = "west"
    assert await machines.find(key(1)) == "west"


async def test_a_defect_leaves_nobody_waiting() -> None:
    database = Database()
    database.error = RuntimeError("a defect")
    machines = Machines(database)
    assert await asyncio.wait_for(machines.find(key(1)), 5) is None
    assert machines._asking is not None
    with pytest.raises(RuntimeError):
        await machines._asking


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines_module, "MAX_KNOWN", 3)
    machines = Machines(Database())
    for number in range(5):
        machines.learn(key(number), "east")
    assert [machines.remembered(key(number))[0] for number in range(5)] == [
        None,
        None,
        "east",
        "east",
        "east",
    ]
