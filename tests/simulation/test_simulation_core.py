"""Scenario, statistics, markers and the thin devices' check: pure, so cases and properties."""

from __future__ import annotations

import random
from collections import Counter

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.compression import compress
from app.errors import BadRequest, RemoteProtocolError
from app.simulation import markers, scenario
from app.simulation.mapcheck import Digester, Ids, MapCheck, digest
from app.simulation.scenario import KINDS, MAX_AWAY, Churn, default_full, fleet, join_order
from app.simulation.stats import MAX_TEXTS, RESOLUTION, Histogram, Texts, line

# -- scenario -----------------------------------------------------------------------------------


@given(st.integers(1, 2000), st.integers(1, 30))
def test_a_fleet_is_spread_evenly_over_tenants_and_kinds(devices: int, tenants: int) -> None:
    keys = [f"key{number}" for number in range(30)]
    if tenants > devices:
        with pytest.raises(BadRequest):
            fleet("http://x", keys, devices, tenants=tenants)
        return
    specs = fleet("http://x", keys, devices, tenants=tenants)
    sizes = Counter(spec.tenant for spec in specs)
    assert set(sizes) == set(range(tenants))
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert sum(spec.full for spec in specs) == default_full(devices)
    assert all(spec.auth_key == keys[spec.tenant] for spec in specs)
    assert sorted(join_order(devices)) == list(range(devices))


@pytest.mark.parametrize(("devices", "full"), [(5, 5), (60, 20), (1000, 20), (3000, 60)])
def test_one_in_fifty_is_full_and_twenty_at_least(devices: int, full: int) -> None:
    assert default_full(devices) == full


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    with pytest.raises(BadRequest, match="3 tenants need as many auth keys"):
        fleet("http://x", ["a", "b"], 10, tenants=3)
    with pytest.raises(BadRequest, match="not a control server's URL"):
        fleet("ftp://x", ["a"], 10)
    with pytest.raises(BadRequest, match="needs a device"):
        fleet("http://x", ["a"], 0)
    with pytest.raises(BadRequest, match="above zero"):
        Churn(10, ["endpoints"], 0, 20, random.Random(1).random)


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_churn_is_in_order_and_leaves_most_here(seed: int, devices: int) -> None:
    churn = Churn(devices, KINDS, 20.0, 3.0, random.Random(seed).random)
    away: set[int] = set()
    last_s, seen = 0.0, Counter[str]()
    for until_s in range(1, 31):
        for step in churn.steps(until_s):
            assert last_s <= step.at_s < until_s
            last_s = step.at_s
            seen[step.action] += 1
            assert 0 <= step.device < devices
            if step.action == "back":
                away.remove(step.device)
            elif step.action != "storm":
                assert step.device not in away
            if step.action == "away":
                away.add(step.device)
            assert len(away) <= devices * MAX_AWAY + 1
            assert away == churn.away or step.action == "back"
    assert seen["storm"] == 9
    if devices >= 20:
        assert seen["endpoints"]
        assert seen["replace"]


def test_the_same_chance_makes_the_same_churn() -> None:
    runs = [
        [*Churn(50, KINDS, 5.0, 3.0, random.Random(4).random).steps(20.0)],
        [*Churn(50, KINDS, 5.0, 3.0, random.Random(4).random).steps(20.0)],
    ]
    assert runs[0] == runs[1]
    assert [*Churn(50, (), 5.0, 3.0, random.Random(4).random).steps(20.0)] == []


# -- markers ------------------------------------------------------------------------------------


@given(st.integers(0, markers.MARKERS - 1))
def test_a_marker_carries_its_number(number: int) -> None:
    assert markers.number_of(markers.marker(number)) == number
    assert [markers.number_of(text) for text in markers.endpoints(number)].count(number) == 1


@pytest.mark.parametrize("text", ["198.51.100.1:5000", "198.18.0.1:80", "198.18.0:2000", "198.18.x.1:2000"])
def test_other_endpoints_carry_none(text: str) -> None:
    assert markers.number_of(text) is None


def test_a_receipt_counts_once_for_each_device() -> None:
    ledger = markers.Ledger(10)
    ledger.send(7, 2, 100.0)
    assert ledger.receive(7, 3, 100.5) == 0.5
    assert ledger.receive(7, 3, 101.0) is None
    assert ledger.receive(7, 900, 102.0) == 2.0  # joined later
    assert ledger.receive(8, 3, 102.0) is None
    assert (ledger.sent, ledger.expected, ledger.receipts) == (1, 2, 2)
    ledger.send(9, 2, 103.0)
    ledger.withdraw(9, 2)
    assert (ledger.sent, ledger.expected) == (1, 2)


def test_who_hears_of_the_later_change_needs_not_hear_of_the_earlier() -> None:
    ledger = markers.Ledger(10)
    ledger.send(1, 3, 0.0)
    ledger.send(2, 3, 0.0, before=1)
    ledger.send(3, 3, 0.0, before=2)
    ledger.send(50, 3, 0.0)  # another device's
    assert ledger.receive(1, 4, 1.0) == 1.0
    assert [ledger.receive(3, device, 1.0) for device in (4, 5, 6)] == [1.0] * 3
    assert (ledger.receipts, ledger.superseded) == (4, 5)
    # Out of order: it was superseded already.
    assert ledger.receive(2, 4, 1.0) is None
    # Who was not expected does not count.
    assert ledger.receive(3, 7, 1.0) == 1.0
    assert (ledger.receipts, ledger.superseded, ledger.expected) == (5, 5, 12)


def test_the_ledger_forgets_the_oldest() -> None:
    ledger = markers.Ledger(10)
    for number in range(markers.MAX_OPEN + 1):
        ledger.send(number, 1, 0.0)
    assert ledger.receive(0, 1, 1.0) is None
    assert ledger.receive(1, 1, 1.0) == 1.0


# -- statistics ---------------------------------------------------------------------------------


@given(st.lists(st.floats(0.0001, 1000), min_size=1, max_size=300))
def test_percentiles_are_exact_to_the_resolution(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    ordered = sorted(values)
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        exact = ordered[max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1)]
        found = histogram.at(share)
        assert found is not None
        above = [value for value in ordered if value >= exact]
        assert exact / RESOLUTION <= found <= (above[1] if len(above) > 1 else exact) * RESOLUTION**2
    assert histogram.summary()["max_ms"] == round(max(values) * 1000, 3)


def test_nothing_measured_is_null_and_none() -> None:
    empty = Histogram().summary()
    assert empty == {"count": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None, "max_ms": None}
    assert line(empty) == "none"


def test_texts_are_bounded() -> None:
    texts = Texts()
    for number in range(10_000):
        texts.add(f"device {number}: {'x' * 10_000}")
    assert texts.total == 10_000
    assert len(texts.rows()) == MAX_TEXTS
    assert len(texts.rows()[0]["what"]) < 1000


# -- the thin devices' check --------------------------------------------------------------------

NODE = {"Node": {"ID": 1, "Name": "self."}}


def rows(*ids: int) -> list[dict[str, int]]:
    return [{"ID": number} for number in ids]


def notes_of(*messages: dict[str, object]) -> list[str]:
    check = MapCheck(Ids())
    return [note for one in messages for note in check.apply(digest(orjson.dumps(one), zstd=False))]


def test_a_regular_poll_has_nothing_wrong() -> None:
    messages = [
        {**NODE, "Peers": rows(2, 3, 900)},
        {"KeepAlive": True},
        {"PeersChanged": rows(4), "PeersRemoved": [900, 3]},
        {"PeersChangedPatch": [{"NodeID": 4, "Endpoints": [markers.marker(5)]}]},
        {"OnlineChange": {"2": True}, "PeerSeenChange": {"4": False}},
        {"PacketFilter": []},
        {"Peers": rows(5, 6)},
        {"PingRequest": {"URL": "x"}},
        NODE,
    ]
    check = MapCheck(Ids())
    assert [check.apply(digest(orjson.dumps(one), zstd=False)) for one in messages] == [[]] * len(messages)
    assert check.peers == 2
    assert digest(orjson.dumps(messages[3]), zstd=False).markers == (5,)


@pytest.mark.parametrize(
    ("message", "note"),
    [
        ({}, "a message says nothing"),
        ({"PeersChanged": [], "PeersRemoved": None}, "a message says nothing"),
        ({"ControlTime": "2026-01-01T00:00:00Z"}, "a message says nothing"),
        ({"Peers": []}, "a message says nothing"),
        ({"Peers": rows(3, 2)}, "Peers does not ascend by id"),
        ({"Peers": rows(2, 2)}, "an id stands in Peers twice"),
        ({"PeersChanged": rows(6, 5)}, "PeersChanged does not ascend by id"),
        ({"PeersChanged": rows(5, 5)}, "an id stands in PeersChanged twice"),
        ({"PeersRemoved": [2, 2]}, "an id stands in PeersRemoved twice"),
        ({"PeersRemoved": [9]}, "removal of device 9, which is no peer"),
        ({"PeersRemoved": [2], "PeersChanged": rows(2)}, "device 2 is in PeersRemoved and PeersChanged"),
        ({"PeersChangedPatch": [{"NodeID": 9, "Cap": 1}]}, "patch for device 9, which is no peer"),
        ({"OnlineChange": {"9": True}}, "presence of device 9, which is no peer"),
        ({"PeersChanged": rows(1)}, "the own device is among the peers"),
        ({"Peers": rows(2), "PeersRemoved": [3]}, "a delta beside Peers is ignored"),
    ],
)
def test_what_is_wrong_is_noted(message: dict[str, object], note: str) -> None:
    assert any(note in text for text in notes_of({**NODE, "Peers": rows(2, 3)}, message))


@pytest.mark.parametrize("blob", [b"[]", b"{", b'{"Peers":[{"ID":"x"}]}', b'{"OnlineChange":{"x":true}}'])
def test_what_cannot_be_read_ends_the_poll(blob: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        digest(blob, zstd=False)
    with pytest.raises(RemoteProtocolError):
        digest(b"no zstd" + blob, zstd=True)


def test_a_first_message_without_node_ends_the_poll() -> None:
    with pytest.raises(RemoteProtocolError, match="lacks Node"):
        notes_of({"Peers": rows(2)})


def test_equal_small_messages_are_looked_at_once() -> None:
    digester = Digester()
    blob = compress(orjson.dumps({"PeersRemoved": [4]}))
    assert digester(blob) is digester(bytes(bytearray(blob)))
    for number in range(2000):
        digester(compress(orjson.dumps({"PeersRemoved": [number]})))
    assert digester(blob).removed == (4,)
    assert len(digester._known) <= 512


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(2, 2**60), max_size=6)), max_size=20))
def test_bits_are_the_set_of_peers(changes: list[tuple[bool, set[int]]]) -> None:
    check, known = MapCheck(Ids()), set[int]()
    check.apply(digest(orjson.dumps({"Node": {"ID": 1}}), zstd=False))
    for add, ids in changes:
        ordered = sorted(ids)
        message = {"PeersChanged": rows(*ordered)} if add else {"PeersRemoved": ordered}
        wrong = [note for note in check.apply(digest(orjson.dumps(message), zstd=False)) if "no peer" in note]
        assert len(wrong) == (0 if add else len(ids - known))
        known = known | ids if add else known - ids
        assert check.peers == len(known)


def test_the_kinds_of_churn_are_those_of_the_command() -> None:
    from node.cli_simulate import CHURN

    assert CHURN == scenario.KINDS
