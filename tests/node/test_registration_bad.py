"""Wrong requests, old clients, hostile names: what each gets, and that nobody else suffers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from app.client.connection import ControlConnection
from app.client.device import SimulatedDevice
from app.keys import node_key_text
from app.wire.hostinfo import (
    MAX_HOSTINFO_BYTES,
    MAX_HOSTNAME,
    MAX_REQUEST_TAGS,
    MAX_ROUTABLE_IPS,
    peer_hostinfo,
)
from app.wire.http2 import MAX_BODY_BYTES
from app.wire.tailcfg import MAX_CAPVER
from node.register import MIN_CAPVER
from tests.node.support import (
    DEADLINE_S,
    Administration,
    ServeProcess,
    device,
    has_peers,
    join,
    own_id,
    peer,
    run_sql,
)

REGISTER, MAP = "/machine/register", "/machine/map"
NODE_KEY = "nodekey:" + "ab" * 32
OLD = MIN_CAPVER - 1
TOO_OLD = "this Tailscale client is too old (capability version 112): please update it to 1.80 or newer"


def body(**members: Any) -> bytes:
    return orjson.dumps({"Version": 130, "NodeKey": NODE_KEY, **members})


BOTH: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "{} is not readable JSON: "),
    "half an object": (b'{"Version":', "{} is not readable JSON: "),
    "bytes that are no text": (b'{"NodeKey":"\xff\xfe"}', "{} is not readable JSON: "),
    "an array": (b"[]", "{}: expected `object`, got `array`"),
    "null": (b"null", "{}: expected `object`, got `null`"),
    "deep nesting": (b'{"X":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "{} is not readable JSON: maximum"),
    "a number for a key": (body(NodeKey=5), "{}.NodeKey: expected `str | null`, got `int`"),
    "no node key": (body(NodeKey=None), "NodeKey: missing"),
    "a zero node key": (body(NodeKey="nodekey:" + "0" * 64), "NodeKey: missing"),
    "a short node key": (body(NodeKey="nodekey:ab"), "NodeKey: a nodekey must have 64 hex digits"),
    "a key of another kind": (body(NodeKey="mkey:" + "a" * 64), "NodeKey: a key must start with 'nodekey:'"),
    "a text for a version": (body(Version="130"), "{}.Version: expected `int | null`, got `str`"),
    "a negative version": (body(Version=-1), "{}.Version: expected `int` >= 0"),
    "a huge version": (body(Version=MAX_CAPVER + 1), "{}.Version: expected `int` <= 65535"),
    "a text for Hostinfo": (body(Hostinfo="x"), "Hostinfo: expected `object`, got `str`"),
    "a large Hostinfo": (body(Hostinfo={"X": "y" * MAX_HOSTINFO_BYTES}), "Hostinfo has 32776 bytes, more"),
    "a number for a hostname": (body(Hostinfo={"Hostname": 5}), "Hostinfo.Hostname: expected `str | null`"),
    "half a character": (
        b'{"Version":130,"NodeKey":"%b","Hostinfo":{"Hostname":"\\ud800"}}' % NODE_KEY.encode(),
        "{} is not readable JSON: ",
    ),
    "a route that is none": (
        body(Hostinfo={"RoutableIPs": ["10.0.0.0/8", "nope"]}),
        "Hostinfo.RoutableIPs[1]: not an address prefix",
    ),
    "too many routes": (
        body(Hostinfo={"RoutableIPs": ["10.0.0.0/8"] * (MAX_ROUTABLE_IPS + 1)}),
        "Hostinfo.RoutableIPs has 257 entries, more than 256",
    ),
    "too many tags": (
        body(Hostinfo={"RequestTags": ["tag:a"] * (MAX_REQUEST_TAGS + 1)}),
        "Hostinfo.RequestTags has 65 entries, more than 64",
    ),
}
REGISTER_ONLY: dict[str, tuple[bytes, str]] = {
    "an old key of another kind": (body(OldNodeKey="x"), "OldNodeKey: a key must start with 'nodekey:'"),
    "an expiry that is no time": (body(Expiry="tomorrow"), "Expiry: not an RFC 3339 time"),
    "a day that never was": (body(Expiry="2026-02-30T00:00:00Z"), "Expiry: no such time"),
    "a text for Auth": (body(Auth="key"), "RegisterRequest.Auth: expected `object | null`, got `str`"),
}
MAP_ONLY: dict[str, tuple[bytes, str]] = {
    "another compression": (body(Compress="brotli"), "Compress: 'brotli' is not known, only zstd"),
    "a disco key of another kind": (body(DiscoKey="x"), "DiscoKey: a key must start with 'discokey:'"),
    "a number for an endpoint": (body(Endpoints=[5]), "MapRequest.Endpoints["),
}
CASES = [
    *((f"register {name}", REGISTER, data, text) for name, (data, text) in {**BOTH, **REGISTER_ONLY}.items()),
    *((f"map {name}", MAP, data, text) for name, (data, text) in {**BOTH, **MAP_ONLY}.items()),
]


@pytest.fixture
async def tunnel(serve: ServeProcess, place: Administration) -> AsyncIterator[ControlConnection]:
    """A registered device's connection, under which a bystander's map must not suffer."""
    key = await place.auth_key()
    async with device(serve.url, key) as one, device(serve.url, key) as bystander:
        await join(one, poll=False)
        await join(bystander)
        await has_peers(bystander, one)
        connection = await ControlConnection.open(
            serve.url, machine_private=one.machine_private, capver=one.capver
        )
        yield connection
        # The same connection serves on, and the change it makes reaches the bystander.
        good = {"Version": 130, "NodeKey": node_key_text(one.node_key), "Hostinfo": {"OS": "good"}}
        good |= {"OmitPeers": True, "Endpoints": ["192.0.2.9:41641"]}
        assert (await connection.request(MAP, orjson.dumps(good)))[0] == 200
        await connection.close()
        await bystander.wait_for(
            lambda netmap: [row["Hostinfo"].get("OS") for row in netmap.peers.values()] == ["good"],
            DEADLINE_S,
        )
        assert bystander.polls == 1
        assert not bystander.violations


@pytest.mark.parametrize(("path", "data", "sentence"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
async def test_a_malformed_request_gets_a_sentence_and_harms_nobody(
    tunnel: ControlConnection, path: str, data: bytes, sentence: str
) -> None:
    status, answer = await tunnel.request(path, data)
    assert status == 400
    expected = sentence.format("RegisterRequest" if path == REGISTER else "MapRequest")
    assert answer.decode().startswith(expected)


@pytest.mark.parametrize("path", [REGISTER, MAP])
async def test_a_body_above_the_limit_is_413(tunnel: ControlConnection, path: str) -> None:
    assert (await tunnel.request(path, b" " * (MAX_BODY_BYTES + 1)))[0] == 413


async def test_a_body_at_the_limit_is_read(tunnel: ControlConnection) -> None:
    data = body().ljust(MAX_BODY_BYTES)
    assert (await tunnel.request(MAP, data))[0] == 404


NOT_OURS = [
    ("POST", "/machine/set-dns", 501),
    ("GET", "/machine/register", 501),
    ("POST", "/machine/unheard-of", 501),
    ("POST", "/elsewhere", 404),
    ("POST", "/machine/update-health", 204),
]


@pytest.mark.parametrize(("method", "path", "status"), NOT_OURS)
async def test_other_paths(tunnel: ControlConnection, method: str, path: str, status: int) -> None:
    assert (await tunnel.request(path, b"", method))[0] == status


# -- old clients --------------------------------------------------------------------------------


async def test_a_client_before_1_80_reads_why_it_cannot_register(
    serve: ServeProcess, place: Administration
) -> None:
    async with device(serve.url, await place.auth_key(), capver=OLD) as old:
        answer = await old.register()
        assert answer["Error"] == TOO_OLD
    assert await place.devices() == []


async def test_a_client_put_back_to_an_old_version_gets_no_map(
    serve: ServeProcess, place: Administration
) -> None:
    async with device(serve.url, await place.auth_key()) as one:
        await join(one, poll=False)
        data = orjson.dumps({"Version": OLD, "NodeKey": node_key_text(one.node_key), "Stream": True})
        connection = await ControlConnection.open(serve.url, machine_private=one.machine_private, capver=OLD)
        status, answer = await connection.request(MAP, data)
        await connection.close()
    assert (status, answer.decode()) == (400, TOO_OLD)


async def test_the_oldest_served_client_joins(serve: ServeProcess, place: Administration) -> None:
    async with device(serve.url, await place.auth_key(), capver=MIN_CAPVER) as one:
        await join(one)


KEY_QUERIES = [
    ("?v=38", 400, "this Tailscale client is too old: please update it to 1.80 or newer"),
    ("", 400, "/key needs the client's capability version: /key?v=<number>"),
    ("?v=-1", 400, "/key needs the client's capability version: /key?v=<number>"),
    ("?v=%D9%A3", 400, "/key needs the client's capability version: /key?v=<number>"),
    ("?v=" + "9" * 1000, 400, "/key needs the client's capability version: /key?v=<number>"),
    ("?v=39", 200, "publicKey"),
]


@pytest.mark.parametrize(("query", "status", "text"), KEY_QUERIES, ids=[q[:8] for q, *_ in KEY_QUERIES])
async def test_who_asks_for_the_key_oddly(serve: ServeProcess, query: str, status: int, text: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{serve.url}/key{query}")
    assert answer.status_code == status
    assert text in answer.text


# -- hostile texts ------------------------------------------------------------------------------

HOSTILE = {
    "300 characters": ("x" * 300, "x" * MAX_HOSTNAME, "x" * 63),
    "control characters": ("a\x00b\x1b[31m\nc", "a b [31m c", "a-b-31m-c"),
    "quotes": ('"},{"ID":1,"', "'},{'ID':1,'", "id-1"),
    "backslashes": ("C:\\Users", "C:/Users", "c-users"),
    "markup": ("<script>alert(1)</script>", None, "script-alert-1-script"),
    "a path": ("../../etc/passwd", None, "etc-passwd"),
    "dots": ("a..b.", None, "a-b"),
    "SQL": ("x'; DROP TABLE nodes; --", None, "x-drop-table-nodes"),
    "direction marks": ("\u202eevil\u2066", None, "evil"),
    "nothing left": ("☃☃☃", None, "node"),
    "only dashes": ("-----", None, "node"),
    "a long one of two bytes each": ("é" * 400, "é" * MAX_HOSTNAME, "node"),
}


@pytest.mark.parametrize(("name", "shown", "label"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_hostname_is_cleaned_for_peers(
    serve: ServeProcess, place: Administration, name: str, shown: str | None, label: str
) -> None:
    """The strict netmap of the viewer takes note of everything that a client could not read."""
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key, hostname=name) as hostile:
        hostile.hostinfo |= {"OS": name, "RequestTags": None, "Services": [{"Proto": name, "Port": 1}]}
        await join(viewer)
        await join(hostile)
        await has_peers(viewer, hostile)
        await has_peers(hostile, viewer)
        row = peer(viewer, hostile)
        assert row is not None
        assert row["Name"].split(".")[0] == label
        expected = name if shown is None else shown
        assert row["Hostinfo"]["Hostname"][:MAX_HOSTNAME] == expected
        assert not viewer.violations
        assert not hostile.violations
        assert (await place.devices())[-1].hostname == expected


# -- records that others wrote badly ------------------------------------------------------------

BAD_RECORDS = {
    "Hostinfo of another type": "host_info = '\"x\"'",
    "an array for Hostinfo": "host_info = '[1, 2]'",
    "a number for an OS": 'host_info = \'{"OS": 5, "Hostname": "x"}\'',
    "a broken route": 'host_info = \'{"RoutableIPs": ["nope"]}\'',
    "a large Hostinfo": "host_info = json_build_object('OS', repeat('x', 100000))",
    "an expiry at infinity": "expiry = 'infinity'",
    "an expiry after year 9999": "expiry = '20000-01-01'",
    "a creation at infinity": "created_at = 'infinity'",
    "a creation before time": "created_at = '-infinity'",
    "a hostname with control codes": "hostname = E'\\x1b[31m'",
}


@pytest.mark.parametrize("assignment", BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
async def test_a_record_that_others_wrote_badly_blanks_nobodys_map(
    serve: ServeProcess, place: Administration, assignment: str
) -> None:
    key = await place.auth_key()
    async with (
        device(serve.url, key) as viewer,
        device(serve.url, key) as bad,
        device(serve.url, key) as later,
    ):
        await join(viewer)
        await join(bad)
        await has_peers(viewer, bad)
        await run_sql(
            serve.dsn, f"UPDATE nodes SET {assignment}, given_name = 'seen' WHERE id = {own_id(bad)}"
        )
        await viewer.wait_for(lambda _: "seen." in _name(viewer, bad), DEADLINE_S)
        await bad.wait_for(lambda n: n.self_node is not None and "seen." in n.self_node["Name"], DEADLINE_S)
        await join(later)
        await has_peers(later, viewer, bad)
        await has_peers(viewer, later, bad)
        for row in (peer(viewer, bad), peer(later, bad), bad.netmap.self_node):
            assert row is not None
            assert orjson.dumps(row["Hostinfo"]) == peer_hostinfo(orjson.dumps(row["Hostinfo"]))
        assert not [note for one in (viewer, bad, later) for note in one.violations]
        assert viewer.polls == bad.polls == later.polls == 1
        assert (await serve.shell("nodes", "list", "--tenant", place.tenant.name)).code == 0


def _name(viewer: SimulatedDevice, other: SimulatedDevice) -> str:
    row = peer(viewer, other)
    return "" if row is None else str(row["Name"])


FAR_EXPIRIES = ["9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59-23:59"]


@pytest.mark.parametrize("wish", FAR_EXPIRIES)
async def test_an_expiry_at_the_end_of_time_breaks_nothing(
    serve: ServeProcess, place: Administration, wish: str
) -> None:
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key) as far:
        await join(viewer)
        assert not (await far.register(Expiry=wish))["Error"]
        await far.poll()
        await has_peers(viewer, far)
        await has_peers(far, viewer)
        assert viewer.polls == 1
        assert not viewer.violations
        assert (await place.device(far.hostname)).expiry is not None
        assert (await far.register())["Error"] == ""
