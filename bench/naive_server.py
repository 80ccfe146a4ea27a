"""The real `hs-node serve` with a naive netmap: `python -m bench.naive_server serve`.

Everything else is the product's, so the difference between the two servers is what sharing and classes are
worth from the request to the wire. Per viewer: peers found pair by pair, json.dumps, a new zstd context.
"""

from __future__ import annotations

from typing import Any

import orjson

from app.model import DeviceId
from app.netmap.flush import RESYNC, Flush, Resync
from app.netmap.row import Row
from app.netmap.tenant import TenantNetmap
from app.netmap.variant import Variant
from bench import naive
from node import cli

_nodes: dict[Row, dict[str, Any]] = {}


def node_of(row: Row) -> dict[str, Any]:
    """Kept, so that only encoding is per viewer."""
    known = _nodes.get(row)
    if known is None:
        known = _nodes[row] = orjson.loads(row.json())
    return known


def message_for(self: Flush, viewer: DeviceId, variant: Variant) -> bytes | Resync | None:
    """Instead of Flush.message_for, for the changes the benchmark makes."""
    own = self.rows.get(viewer)
    change = self.changes.get(viewer)
    if own is None or self.swap is not None or (change is not None and change.old is None):
        return RESYNC
    peers = {i for i, row in self.rows.items() if i != viewer and own.cls.sees & row.cls.bit}
    message: dict[str, list[Any]] = {"PeersRemoved": [], "PeersChanged": [], "PeersChangedPatch": []}
    for device_id, changed in self.changes.items():
        if device_id == viewer:
            continue
        if changed.new is None:
            message["PeersRemoved"].append(device_id)
        elif device_id in peers:
            difference = changed.new.json() if changed.old is None else changed.new.patch_from(changed.old)
            if difference is changed.new.json():
                message["PeersChanged"].append(node_of(changed.new))
            elif difference is not None:
                message["PeersChangedPatch"].append(orjson.loads(difference))
    owners = {self.rows[row["ID"]].owner for row in message["PeersChanged"]}
    message["UserProfiles"] = [orjson.loads(self.profiles[owner]) for owner in sorted(owners)]
    filled = {name: rows for name, rows in message.items() if rows}
    return naive.encode(filled, thrifty=False) if filled else None


def full_map(self: TenantNetmap, device_id: DeviceId, variant: Variant, control_time: str) -> bytes:
    """Instead of TenantNetmap.full_map."""
    own = self._rows[device_id]
    common = orjson.loads(b'{"UserProfiles":[{}' + self._class_part(own.cls).plain + b"]}")
    common["UserProfiles"] = common["UserProfiles"][1:]
    peers = [node_of(row) for i, row in self._rows.items() if i != device_id and own.cls.sees & row.cls.bit]
    message = {"Node": node_of(own), "ControlTime": control_time, **common, "Peers": peers}
    return naive.encode(message, thrifty=False)


if __name__ == "__main__":
    Flush.message_for = message_for  # type: ignore[method-assign]
    TenantNetmap.full_map = full_map  # type: ignore[method-assign]
    cli.main()
