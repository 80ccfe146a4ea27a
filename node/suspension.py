"""Tenants that are suspended or deleted: their devices are cut off, and not logged out.

A connected device is told that it has no peers and that nobody may reach it; then its stream ends, and
neither its polls nor its registrations are answered until the tenant is active again. Its key stays good.
"""

from __future__ import annotations

import asyncio
from itertools import islice

import orjson

from app.db.registering import SENTENCES
from app.model import DeviceId, Tenant, TenantId
from app.netmap.variant import Compress, Variant, encode
from app.policy.classes import DeviceClass
from node.fanout import TenantFanout
from node.session import SessionState

_CODES = {"suspended": "tenant_suspended", "deleted": "tenant_deleted"}
#: Sessions cut off at a time, and the pause between: the message to each may be long.
WAVE = 200
PAUSE_S = 0.05


def why_cut_off(tenant: Tenant | None) -> tuple[str, str] | None:
    """(code, sentence for the device's user) of a tenant that is cut off, None of any other."""
    code = None if tenant is None else _CODES.get(tenant.status)
    return None if code is None else (code, SENTENCES[code](0))


class Suspensions:
    """Ends the sessions of tenants that are cut off, in waves."""

    def __init__(self, compress: Compress) -> None:
        self._compress = compress
        self._under_way: dict[TenantId, asyncio.Task[None]] = {}

    def begin(self, fanout: TenantFanout) -> None:
        """The tenant is cut off from now on; no new session of it begins meanwhile."""
        tenant_id = fanout.netmap.tenant.id
        if fanout.sessions and tenant_id not in self._under_way:
            task = asyncio.create_task(self._cut_off(fanout), name=f"cut off[{tenant_id}]")
            self._under_way[tenant_id] = task
            task.add_done_callback(lambda _: self._under_way.pop(tenant_id))

    async def _cut_off(self, fanout: TenantFanout) -> None:
        last_words: dict[tuple[DeviceClass, Variant], bytes] = {}
        # Until it is resumed, or nobody is left: one that ends is a session no more.
        while why_cut_off(fanout.netmap.tenant) is not None and fanout.sessions:
            for device_id, session in list(islice(fanout.sessions.items(), WAVE)):
                if session.state is SessionState.LIVE and fanout.netmap.is_committed(device_id):
                    key = fanout.netmap.engine.class_of(device_id), session.variant
                    if key not in last_words:
                        last_words[key] = self._last_word(fanout, *key)
                    session.send_last(last_words[key])
                else:
                    session.end()
            await asyncio.sleep(PAUSE_S)

    def _last_word(self, fanout: TenantFanout, viewer: DeviceClass, variant: Variant) -> bytes:
        """Takes all peers away: an empty list of peers would change nothing (PROTOCOL.md 4.3)."""
        peers: set[DeviceId] = set()
        for cls in fanout.netmap.engine.visible(viewer):
            peers |= cls.members
        text = orjson.dumps({"PacketFilters": {"*": None, "base": []}, "PeersRemoved": sorted(peers)})
        return encode(text, variant, self._compress)
