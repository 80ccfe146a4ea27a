"""Rebuilds of netmaps: the request for one, and its result in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.model import TenantId
from console.cells import plural
from console.store import Ask

KIND: Final = "netmap_rebuild"
NOTHING_TO_UNDO: Final = "What is stored stays as it is, so there is nothing to be undone."


def rebuild_ask(cluster_id: str, tenant_id: TenantId, scope: str, label: str) -> Ask:
    """An equal wish that still waits for the owner is not asked twice; `hs-node rebuild` words it alike."""
    dedup = f"{tenant_id}:{scope}"
    return Ask(cluster_id, tenant_id, KIND, {"scope": scope}, scope, label, dedup)


def rebuild_text(result: Mapping[str, Any]) -> str:
    """What a rebuild made, sent and took."""
    words = [
        plural(result["devices"], "device"),
        plural(result["maps"], "frame"),
        plural(result["bytes"], "byte"),
        f"{result['ms']:,} ms",
    ]
    if result["waiting"]:
        words.append(f"{plural(result['waiting'], 'device')} did not take it in time")
    return ", ".join(words)
