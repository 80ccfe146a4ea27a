"""What a device says to its control server, as JSON (tailscale tailcfg.go). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from app.keys import ZERO_KEY, DiscoKey, NodeKey, disco_key_text, node_key_text

REGISTER_PATH: Final = "/machine/register"
MAP_PATH: Final = "/machine/map"
#: tailcfg.CurrentCapabilityVersion of the clients we play.
CAPVER: Final = 130
#: What a logout asks for (controlclient/direct.go doLogin).
LOGOUT_EXPIRY: Final = "1970-01-01T00:02:03Z"

_ZERO_TIME: Final = "0001-01-01T00:00:00Z"


def hostinfo(hostname: str, system: str = "linux") -> dict[str, Any]:
    """The least a device says of itself."""
    return {
        "IPNVersion": "1.90.9-simulated",
        "BackendLogID": "0" * 64,
        "OS": system,
        "Hostname": hostname,
    }


def register(
    node_key: NodeKey,
    info: dict[str, Any],
    *,
    auth_key: str | None = None,
    ephemeral: bool = False,
    capver: int = CAPVER,
) -> dict[str, Any]:
    """A RegisterRequest without an older key; callers replace members for anything else."""
    body: dict[str, Any] = {
        "Version": capver,
        "NodeKey": node_key_text(node_key),
        "OldNodeKey": node_key_text(ZERO_KEY),
        "Expiry": _ZERO_TIME,
        "Hostinfo": info,
        "Ephemeral": ephemeral,
    }
    if auth_key is not None:
        body["Auth"] = {"AuthKey": auth_key}
    return body


def map_poll(
    node_key: NodeKey,
    disco_key: DiscoKey,
    info: dict[str, Any],
    *,
    stream: bool,
    endpoints: Sequence[str] = (),
    zstd: bool = True,
    capver: int = CAPVER,
) -> dict[str, Any]:
    """A MapRequest: a poll, or with `stream=False` an update that asks for nothing."""
    request: dict[str, Any] = {
        "Version": capver,
        "KeepAlive": True,
        "NodeKey": node_key_text(node_key),
        "DiscoKey": disco_key_text(disco_key),
        "Stream": stream,
        "Hostinfo": info,
    }
    if zstd:
        request["Compress"] = "zstd"
    if endpoints:
        request["Endpoints"] = list(endpoints)
        request["EndpointTypes"] = [1] * len(endpoints)
    if not stream:
        request["OmitPeers"] = True
    return request
