"""The record of a device: what is stored, and what its owner tells when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.errors import Unavailable
from app.fleet import AuditRow
from app.model import RequestId
from console.cells import Pen
from console.record_text import filter_text, map_text, peers_text
from console.screens import record
from console.screens.record import RecordScreen
from tests.console.hostile import NAMES
from tests.console.pictures import check, utc  # noqa: F401
from tests.console.support import NOW, FakeStore, filled, request, running, shown, text, until
from tests.console.test_console_cells import is_harmless

SESSION: dict[str, Any] = {
    "state": "live", "form": "zstd", "open_s": 7200.0, "messages": 12, "bytes": 34_567, "unsent_bytes": 0,
    "last_sent_s_ago": 3.2, "last_map_s_ago": 7199.0, "last_map_bytes": 20_480,
    "last_delta": {"PeersChangedPatch": [{"NodeID": 2, "Online": False}]}, "missed": [],
}  # fmt: skip
FIRST = RequestId(1)


def peer(number: int, name: str = "peer", **changes: Any) -> dict[str, Any]:
    return {
        "ID": number, "Name": f"{name}.example.ts.net.", "Addresses": [f"100.64.0.{number}/32"],
        "AllowedIPs": [f"100.64.0.{number}/32"], "Online": number % 2 == 0, **changes,
    }  # fmt: skip


def look(*peers: dict[str, Any], session: Any = SESSION, **cut: int) -> dict[str, Any]:
    rules = [
        {"SrcIPs": ["100.64.0.2/32"], "DstPorts": [{"IP": "100.64.0.1", "Ports": {"First": 22, "Last": 22}}],
         "IPProto": [6]},
        {"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}]},
        {"SrcIPs": ["100.64.0.9"], "CapGrant": [{"Dsts": ["100.64.0.1/32"], "CapMap": {"a.b/cap": []}}]},
    ]  # fmt: skip
    wanted = {
        "Node": peer(1), "Peers": list(peers), "PacketFilters": {"*": None, "base": rules},
        "Domain": "example",
    }  # fmt: skip
    return {"would_get": wanted, "session": session, "cut": {f"would_get.{k}": v for k, v in cut.items()}}


TWO = look(
    peer(2, "web", AllowedIPs=["100.64.0.2/32", "10.1.0.0/16"]), peer(3, "old", Expired=True), Peers=1204
)


def answer(store: FakeStore, state: str, error: str | None = None, result: Any = None) -> None:
    store.requests[FIRST] = request(FIRST, store.asked[0], state, error, result)


async def test_the_owner_is_asked_once_for_three_tabs() -> None:
    store = filled()
    store.recent = [AuditRow(1, "eu-1", NOW - 30, "console:ops", "request_device_look", "device:1")]
    async with running(store, "devices") as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("enter")
        await until(pilot, lambda: "[1]summary" in text(app), "the record")
        assert "node key" in text(app)
        await pilot.press("5")
        await until(pilot, lambda: "It went offline 1 time in" in text(app), "the events")
        assert "○ offline  in cluster eu-1" in text(app)
        assert "◆ change of node  by console:ops" in text(app)
        await pilot.press("6")
        await until(pilot, lambda: "request_device_look" in text(app), "the audit log")
        assert store.asked == []
        await pilot.press("2")
        await until(pilot, lambda: "asking the owner of cluster eu-1" in text(app), "that it waits")
        await until(pilot, lambda: store.asked)
        assert [(ask.kind, ask.args, ask.what) for ask in store.asked] == [
            ("device_look", {"device_id": 1}, "device:1")
        ]
        answer(store, "done", result=TWO)
        await until(pilot, lambda: "1,204 peers" in text(app), "the peers")
        for size in ((80, 24), (120, 36)):
            await pilot.resize_terminal(*size)
            for key, tab in ("2", "peers"), ("3", "filter"), ("4", "map"):
                await pilot.press(key)
                await until(pilot, lambda tab=tab, key=key: f"[{key}]{tab}" in text(app))
                await pilot.pause()
                check(f"record-{tab}-{size[0]}x{size[1]}", text(app))
        await pilot.press(*["right"] * 3)
        await until(pilot, lambda: "[7]json" in text(app), "JSON")
        assert isinstance(app.screen, RecordScreen)
        assert '"Domain": "example"' in app.screen.text.plain
        await pilot.press("right")
        await until(pilot, lambda: "[1]summary" in text(app), "around the corner")
        assert len(store.asked) == 1
        await pilot.press("4", "r")
        await until(pilot, lambda: len(store.asked) == 2, "it is asked again")
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.base)


def refuse(store: FakeStore) -> None:
    answer(store, "failed", "there is no device 1 here")


def lose(store: FakeStore) -> None:
    store.error = Unavailable("the database has gone")


def forget(store: FakeStore) -> None:
    store.requests.clear()


def stay_away(store: FakeStore) -> None:
    assert not store.requests[FIRST].is_finished


STATES: list[tuple[Callable[[FakeStore], None], str]] = [
    (refuse, "the owner refuses: there is no device 1 here"),
    (lose, "no answer: the database has gone"),
    (forget, "the request is gone, its outcome is not known"),
    (stay_away, "the owner of cluster eu-1 has not answered for 0.5 s; r asks again"),
]


@pytest.mark.parametrize(("happens", "said"), STATES, ids=["refused", "disconnected", "gone", "away"])
async def test_no_answer_is_told_with_the_reason(
    happens: Callable[[FakeStore], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if happens is stay_away:
        monkeypatch.setattr(record, "LOOK_DEADLINE_S", 0.5)
    store = filled()
    async with running(store, "devices") as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("i")
        await until(pilot, lambda: store.asked, "the request")
        happens(store)
        await until(pilot, lambda: said in text(app), said)
        # What is stored is there all the same.
        await pilot.press("1")
        await until(pilot, lambda: "node key" in text(app), "the summary")


async def test_a_read_only_console_shows_what_is_stored() -> None:
    store = filled()
    store.writable = False
    async with running(store, "devices") as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("enter", "2")
        await until(pilot, lambda: "needs a console with write rights, because the owner" in text(app))
        await pilot.press("6")
        await until(pilot, lambda: "the audit log has nothing about it" in text(app))
        assert store.asked == []


async def test_a_database_that_is_away_when_asked() -> None:
    store = filled()
    async with running(store, "devices") as (app, pilot):
        await shown(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RecordScreen))
        store.error = Unavailable("no route")
        await pilot.press("2")
        await until(pilot, lambda: "no answer: no route; r asks again" in text(app))
        await pilot.press("5")
        await until(pilot, lambda: "no route; r reads again" in text(app))


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names(name: str) -> None:
    hostile = look(peer(2, name, AllowedIPs=[name]), session=SESSION | {"last_delta": {"Name": name}})
    hostile["would_get"]["Domain"] = name
    for shown_as in (peers_text, filter_text, map_text):
        lines = shown_as(Pen(), hostile).plain.split("\n")
        assert all(is_harmless(line) for line in lines)


DIFFERENCES: list[tuple[Any, list[str]]] = [
    (None, ["not connected to this owner"]),
    (SESSION, ["none is recorded: it is live", '"NodeID": 2', "last whole map: 1 h ago, 20 K"]),
    (SESSION | {"last_delta": None}, ["The last delta: none since that map"]),
    (
        SESSION | {"state": "opening", "last_map_s_ago": None},
        ["it is opening, not live", "whole map: none yet"],
    ),
    (
        SESSION | {"state": "lagging", "missed": [4, 5, 6, 7, 8]},
        ["not been told of changes of 5 devices", "ids 4, 5, 6, 7, 8"],
    ),
]


@pytest.mark.parametrize(("session", "said"), DIFFERENCES)
def test_the_difference_is_what_is_recorded(session: Any, said: list[str]) -> None:
    found = map_text(Pen(), look(session=session)).plain
    assert [words for words in said if words not in found] == []


def test_a_filter_that_lets_nobody_in() -> None:
    closed = look()
    closed["would_get"]["PacketFilters"] = {"*": None, "base": []}
    assert filter_text(Pen(), closed).plain == "It would let nobody in now."
