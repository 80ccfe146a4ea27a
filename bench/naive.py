"""The plain way: every viewer's message is made for that viewer, visibility is asked pair by pair.

Correct and what one would write first; kept simple on purpose. `thrifty=True` is the same with the fast
libraries that the product uses (orjson, one compressor at level 1), to tell design from libraries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import zstandard

from app.model import Device, DeviceId
from app.policy.attributes import BASELINE
from app.wire import tailcfg

#: Whether the first device has the second among its peers.
Sees = Callable[[Device, Device], bool]

#: A registration as a transaction of single statements: each waits for the one before.
REGISTRATION_STATEMENTS = (
    "begin",
    "find key",
    "find machine",
    "next address",
    "insert",
    "count use",
    "commit",
)

#: What every device finds in its own record (app.policy.attributes).
SELF_CAPS = BASELINE | {"default-auto-update": [False]}

_shared = zstandard.ZstdCompressor(level=1)


def encode(message: dict[str, Any], *, thrifty: bool) -> bytes:
    if thrifty:
        return _shared.compress(orjson.dumps(message))
    return zstandard.ZstdCompressor().compress(json.dumps(message).encode())


def node(device: Device, domain: str) -> dict[str, Any]:
    """A device as its peers see it. Callers keep it: only encoding is per viewer."""
    fields = tailcfg.static_fields(device, f"{device.given_name}.{domain}") | tailcfg.live_fields(device)
    return fields | {"Hostinfo": json.loads(device.hostinfo)}


def full_map(
    viewer: Device,
    devices: Iterable[Device],
    nodes: dict[DeviceId, dict[str, Any]],
    sees: Sees,
    common: dict[str, Any],
    *,
    thrifty: bool,
) -> bytes:
    """The complete map of one viewer."""
    peers = [nodes[device.id] for device in devices if device.id != viewer.id and sees(viewer, device)]
    own = nodes[viewer.id] | {"CapMap": SELF_CAPS}
    return encode({"Node": own, **common, "Peers": peers}, thrifty=thrifty)


def deltas(
    old: Device,
    new: Device,
    viewers: Iterable[Device],
    devices: list[Device] | None,
    sees: Sees,
    *,
    thrifty: bool,
) -> list[bytes]:
    """One changed device, told to everybody who sees it.

    With `devices` each viewer's peers are looked up first, pair by pair, as a server does that keeps
    no classes; without, the one question is asked per viewer.
    """
    messages = []
    for viewer in viewers:
        if viewer.id == new.id:
            continue
        if devices is not None:
            visible = {device.id for device in devices if sees(viewer, device)}
            if new.id not in visible:
                continue
        elif not sees(viewer, new):
            continue
        change = tailcfg.patch(new.id, old, new)
        messages.append(encode({"PeersChangedPatch": [change]}, thrifty=thrifty))
    return messages
