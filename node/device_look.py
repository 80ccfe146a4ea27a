"""A look at one device as its owner has it: its poll, what it was told last, and what it would get now."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from app.client.mapblob import decode_blob
from app.errors import Refused
from app.model import DeviceId
from app.netmap.variant import Variant
from node.hub import Hub

#: Bytes of a look that is stored as a request's result.
MAX_LOOK_BYTES = 128 * 1024
#: Entries of any list that are kept: as many as fit into the bytes.
LOOK_ENTRIES = (100, 50, 20, 5, 1, 0)
MAX_LOOK_TEXT = 2_000


async def device_facts(hub: Hub, device_id: DeviceId) -> dict[str, Any]:
    """A device's poll and netmap as this process has them. Raises NotFound."""
    now = asyncio.get_running_loop().time()
    session = hub.session(device_id)
    facts: dict[str, Any] = {
        "would_get": orjson.loads(await hub.full_map(device_id, Variant.PLAIN)),
        "session": None,
    }
    if session is not None:
        told = (
            None
            if session.last_delta is None
            else decode_blob(session.last_delta, zstd=bool(session.variant))
        )
        facts["session"] = {
            "state": session.state.value,
            "form": session.variant.name.lower(),
            "open_s": round(now - session.opened_at, 1),
            "messages": session.messages,
            "bytes": session.bytes_sent,
            "unsent_bytes": session.unsent,
            "last_sent_s_ago": round(now - session.last_sent, 1),
            "last_map_s_ago": None if session.last_map is None else round(now - session.last_map[0], 1),
            "last_map_bytes": None if session.last_map is None else session.last_map[1],
            "last_delta": told,
            "missed": session.missed(),
        }
    return facts


def bounded(facts: dict[str, Any], max_bytes: int = MAX_LOOK_BYTES) -> dict[str, Any]:
    """Facts in at most so many bytes of JSON: lists are cut.

    `cut` tells where, and how many entries there were: `{"would_get.Peers": 1204}`. Raises Refused.
    """
    for entries in LOOK_ENTRIES:
        cut: dict[str, int] = {}
        kept = {**{name: _cut(value, name, entries, cut) for name, value in facts.items()}, "cut": cut}
        if len(orjson.dumps(kept)) <= max_bytes:
            return kept
    raise Refused("what is known of this device is too long to be shown", code="too_long")


def _cut(value: Any, path: str, entries: int, cut: dict[str, int]) -> Any:
    if isinstance(value, list):
        if len(value) > entries:
            # The same list of each of many entries is told once, by its longest.
            cut[path] = max(len(value), cut.get(path, 0))
        return [_cut(one, path, entries, cut) for one in value[:entries]]
    if isinstance(value, dict):
        return {name: _cut(one, f"{path}.{name}", entries, cut) for name, one in value.items()}
    return value[:MAX_LOOK_TEXT] if isinstance(value, str) else value
