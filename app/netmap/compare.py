"""What a client holds against what it would be sent now: the difference, in words. Pure."""

from __future__ import annotations

from typing import Any

#: Members of a peer that must agree; a client keeps the rest in forms of its own.
_COMPARED = (
    "Name",
    "User",
    "Key",
    "DiscoKey",
    "Addresses",
    "AllowedIPs",
    "PrimaryRoutes",
    "Online",
    "HomeDERP",
)
#: Differences listed; a client that is wrong in all would fill the screen.
MAX_LISTED = 200


def differences(would_get: dict[str, Any], has: dict[str, Any]) -> list[str]:
    """`would_get`: a full tailcfg.MapResponse; `has`: a client's netmap (control to node /debug/netmap).

    Empty when the client holds what it should.
    """
    out: list[str] = []
    ours = {peer["ID"]: peer for peer in would_get.get("Peers") or []}
    theirs = {peer["ID"]: peer for peer in has.get("Peers") or []}
    for peer_id in sorted(ours.keys() - theirs.keys()):
        out.append(f"peer {peer_id} ({ours[peer_id]['Name']}) is missing at the client")
    for peer_id in sorted(theirs.keys() - ours.keys()):
        out.append(f"peer {peer_id} ({theirs[peer_id].get('Name')}) should not be at the client")
    for peer_id in sorted(ours.keys() & theirs.keys()):
        out += _member_differences(f"peer {peer_id}", ours[peer_id], theirs[peer_id])
    own = has.get("SelfNode")
    if own is not None:
        out += _member_differences("itself", would_get["Node"], own)
    return _bounded(out)


def missed(would_get: dict[str, Any], changed: list[int]) -> list[str]:
    """Devices that changed since a client was told anything, against the full map it would get now."""
    rows = {row["ID"]: row for row in [*(would_get.get("Peers") or []), would_get["Node"]]}
    out = [
        f"peer {device_id} ({rows[device_id]['Name']}) has changed, it was not told yet"
        if device_id in rows
        else f"peer {device_id} is gone, it was not told yet"
        for device_id in changed
    ]
    return _bounded(out)


def _bounded(out: list[str]) -> list[str]:
    return out if len(out) <= MAX_LISTED else [*out[:MAX_LISTED], f"and {len(out) - MAX_LISTED} more"]


def _member_differences(what: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return [
        f"{what}: {name} is {_shown(theirs.get(name))}, should be {_shown(ours.get(name))}"
        for name in _COMPARED
        if _plain(ours.get(name)) != _plain(theirs.get(name))
    ]


def _plain(value: Any) -> Any:
    """Go leaves out what is empty, and order says nothing."""
    if isinstance(value, list):
        return sorted(value) or None
    return value or None


def _shown(value: Any) -> str:
    return str(value) if value else "nothing"
