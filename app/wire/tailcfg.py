"""The JSON of registration and map polls: requests read into records, answers built.

Normalised on the way in: absent, null and zero are the same; all-zero keys and times of year 1
mean "none"; keys become 32 bytes and times seconds since 1970. Unknown members are ignored.
Dialect: PROTOCOL 2.3; types: tailscale tailcfg/tailcfg.go. Pure.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
import orjson

from app.errors import BadRequest
from app.keys import (
    ZERO_KEY,
    DiscoKey,
    NodeKey,
    disco_key_text,
    machine_key_text,
    node_key_text,
    parse_disco_key,
    parse_node_key,
)
from app.model import TAGGED_DEVICES_USER_ID, Device, DeviceId
from app.wire.hostinfo import (
    MAX_HOSTINFO_BYTES,
    Hostinfo,
    Service,
    clean_text,
    decode_request,
    parse_hostinfo,
    peer_hostinfo,
)

__all__ = [
    "FIRST_SECOND",
    "LAST_SECOND",
    "MAX_ENDPOINTS",
    "MAX_HOSTINFO_BYTES",
    "WHOLE",
    "Hostinfo",
    "MapRequest",
    "RegisterRequest",
    "Service",
    "Whole",
    "clean_text",
    "live_fields",
    "parse_map",
    "parse_register",
    "parse_time",
    "patch",
    "peer_hostinfo",
    "register_response",
    "rfc3339",
    "ssh_rejection",
    "static_fields",
    "user_profile",
    "utc",
]

#: Endpoints kept per device; real clients report up to about 20.
MAX_ENDPOINTS: Final = 64
#: Longest text looked at as an endpoint; an IPv6 address with port has up to 53 characters.
MAX_ENDPOINT_TEXT: Final = 64
#: The times that RFC 3339 can write; a row with any other would break every map it stands in.
FIRST_SECOND: Final = datetime(1, 1, 1, tzinfo=UTC).timestamp()
LAST_SECOND: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
#: The capability version has 16 bits in the Noise initiation.
MAX_CAPVER: Final = 65535

# ---------------------------------------------------------------------------------------- requests


class RegisterRequest(msgspec.Struct, frozen=True):
    """One tailcfg.RegisterRequest. `expiry` in the past means logout."""

    version: int
    node_key: NodeKey
    old_node_key: NodeKey | None
    auth_key: str | None
    expiry: float | None
    followup: str
    hostinfo: Hostinfo
    ephemeral: bool
    tailnet: str


class MapRequest(msgspec.Struct, frozen=True):
    """One tailcfg.MapRequest. `hostinfo` is None when the request had none.

    `endpoints` are unicast `ip:port` in canonical form, without link-local ones, without
    repetition, MAX_ENDPOINTS at most.
    """

    version: int
    node_key: NodeKey
    disco_key: DiscoKey | None
    hostinfo: Hostinfo | None
    endpoints: tuple[str, ...]
    stream: bool
    omit_peers: bool
    read_only: bool
    keep_alive: bool
    zstd: bool


_Key = TypeVar("_Key", NodeKey, DiscoKey)
_Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_CAPVER)]


class _AuthWire(msgspec.Struct, rename="pascal"):
    auth_key: str | None = None


class _RegisterWire(msgspec.Struct, rename="pascal"):
    version: _Version | None = None
    node_key: str | None = None
    old_node_key: str | None = None
    auth: _AuthWire | None = None
    expiry: str | None = None
    followup: str | None = None
    hostinfo: msgspec.Raw = msgspec.Raw(b"null")
    ephemeral: bool | None = None
    tailnet: str | None = None


class _MapWire(msgspec.Struct, rename="pascal"):
    version: _Version | None = None
    compress: str | None = None
    keep_alive: bool | None = None
    node_key: str | None = None
    disco_key: str | None = None
    stream: bool | None = None
    hostinfo: msgspec.Raw = msgspec.Raw(b"null")
    endpoints: list[str] | None = None
    omit_peers: bool | None = None
    read_only: bool | None = None


_decode_register = msgspec.json.Decoder(_RegisterWire).decode
_decode_map = msgspec.json.Decoder(_MapWire).decode


def parse_register(body: bytes) -> RegisterRequest:
    """Raises BadRequest with a sentence that names the member and the reason."""
    wire = decode_request(_decode_register, body, "RegisterRequest")
    auth_key = (wire.auth.auth_key or "").strip() if wire.auth else ""
    return RegisterRequest(
        version=wire.version or 0,
        node_key=_required_node_key(wire.node_key),
        old_node_key=_key(parse_node_key, wire.old_node_key, "OldNodeKey"),
        auth_key=auth_key or None,
        expiry=parse_time(wire.expiry, "Expiry") if wire.expiry is not None else None,
        followup=wire.followup or "",
        hostinfo=_hostinfo(wire.hostinfo) or Hostinfo(),
        ephemeral=bool(wire.ephemeral),
        tailnet=wire.tailnet or "",
    )


def parse_map(body: bytes) -> MapRequest:
    """Raises BadRequest with a sentence that names the member and the reason."""
    wire = decode_request(_decode_map, body, "MapRequest")
    if wire.compress not in (None, "", "zstd"):
        raise BadRequest(f"Compress: {clean_text(wire.compress)[:20]!r} is not known, only zstd")
    return MapRequest(
        version=wire.version or 0,
        node_key=_required_node_key(wire.node_key),
        disco_key=_key(parse_disco_key, wire.disco_key, "DiscoKey"),
        hostinfo=_hostinfo(wire.hostinfo),
        endpoints=_endpoints(wire.endpoints or []),
        stream=bool(wire.stream),
        omit_peers=bool(wire.omit_peers),
        read_only=bool(wire.read_only),
        keep_alive=bool(wire.keep_alive),
        zstd=wire.compress == "zstd",
    )


def _key(parse: Callable[[str], _Key], text: str | None, name: str) -> _Key | None:
    if text is None:
        return None
    try:
        key = parse(text)
    except BadRequest as error:
        raise BadRequest(f"{name}: {error.message}", code=error.code) from error
    return None if key == ZERO_KEY else key


def _required_node_key(text: str | None) -> NodeKey:
    key = _key(parse_node_key, text, "NodeKey")
    if key is None:
        raise BadRequest("NodeKey: missing", code="bad_key")
    return key


def _hostinfo(raw: msgspec.Raw) -> Hostinfo | None:
    data = bytes(raw)
    return None if data == b"null" else parse_hostinfo(data)


def _endpoints(texts: list[str]) -> tuple[str, ...]:
    kept: dict[str, None] = {}
    for text in texts:
        endpoint = _endpoint(text) if len(text) <= MAX_ENDPOINT_TEXT else None
        if endpoint is not None:
            kept[endpoint] = None
            if len(kept) == MAX_ENDPOINTS:
                break
    return tuple(kept)


@lru_cache(maxsize=8192)
def _endpoint(text: str) -> str | None:
    """Canonical text of one endpoint, `None` when peers have no use for it."""
    host, colon, port_text = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port_text.isascii() and port_text.isdigit()) or len(port_text) > 5 or "%" in host:
        return None
    port = int(port_text)
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        return None
    if bracketed != (address.version == 6) or not 0 < port <= 65535:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_link_local or address.is_unspecified or address.is_multicast:
        return None
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d{1,9})?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII
)


def parse_time(text: str, name: str) -> float | None:
    """RFC 3339 to seconds since 1970; year 1 means None. Raises BadRequest naming `name`."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise BadRequest(f"{name}: not an RFC 3339 time")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    if year <= 1:
        return None
    offset = timedelta()
    if sign:
        offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
        offset = -offset if sign == "-" else offset
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone(offset))
    except ValueError as error:
        raise BadRequest(f"{name}: no such time") from error
    return min(moment.timestamp() + float(fraction or 0), LAST_SECOND)


def utc(epoch: float) -> datetime:
    """Seconds since 1970 as a time, cut to the years 1 to 9999 that texts can hold."""
    return datetime.fromtimestamp(min(max(epoch, FIRST_SECOND), LAST_SECOND), UTC)


def rfc3339(epoch: float) -> str:
    """Seconds since 1970 as UTC text with `Z`, fraction only when there is one."""
    return utc(epoch).isoformat().replace("+00:00", "Z")


# ----------------------------------------------------------------------------------------- answers


def user_profile(user_id: int, login_name: str, display_name: str, picture_url: str = "") -> dict[str, Any]:
    """One tailcfg.UserProfile; names without characters that JSON must escape."""
    return {
        "ID": user_id,
        "LoginName": clean_text(login_name),
        "DisplayName": clean_text(display_name),
        "ProfilePicURL": picture_url if _is_plain_url(picture_url) else "",
    }


def _is_plain_url(text: str) -> bool:
    # The Rust client wants an absolute URL or nothing.
    return re.fullmatch(r"https?://[!#-\[\]-~]+", text) is not None


def register_response(
    user_id: int,
    login_name: str,
    display_name: str,
    *,
    error: str = "",
    auth_url: str = "",
    node_key_expired: bool = False,
    machine_authorized: bool = True,
) -> bytes:
    """A tailcfg.RegisterResponse with every member the Rust client insists on (PROTOCOL 2.3)."""
    display_name = clean_text(display_name)
    return orjson.dumps(
        {
            "User": {"ID": user_id, "DisplayName": display_name},
            "Login": {
                "ID": user_id,
                "Provider": "",
                "LoginName": clean_text(login_name),
                "DisplayName": display_name,
            },
            "NodeKeyExpired": node_key_expired,
            "MachineAuthorized": machine_authorized,
            "AuthURL": auth_url,
            "Error": clean_text(error),
        }
    )


def ssh_rejection(message: str) -> bytes:
    """A tailcfg.SSHAction that ends a session; its user reads the message."""
    return orjson.dumps({"message": f"{clean_text(message)}\n", "reject": True})


class Whole(enum.Enum):
    """Type of `WHOLE`."""

    WHOLE = "whole"


#: "No patch can say this, send the whole row."
WHOLE: Final = Whole.WHOLE


def static_fields(
    device: Device,
    fqdn: str,
    *,
    expired: bool = False,
    has_v4: bool = True,
    primary_routes: tuple[str, ...] = (),
    other_routes: tuple[str, ...] = (),
    cap_map: bytes = b"",
) -> dict[str, Any]:
    """The members of a tailcfg.Node that only a whole row can change.

    `fqdn` with or without its trailing dot. Both kinds of routes stand in AllowedIPs. `cap_map` is
    JSON, empty for none. The client's own rule for what fits a patch: tailscale
    control/controlclient/map.go peerChangeDiff.
    """
    addresses = [device.ipv4 + "/32", device.ipv6 + "/128"] if has_v4 else [device.ipv6 + "/128"]
    fields: dict[str, Any] = {
        "ID": device.id,
        "StableID": str(device.id),
        "Name": fqdn.rstrip(".") + ".",
        "User": TAGGED_DEVICES_USER_ID if device.user_id is None else device.user_id,
        "Machine": machine_key_text(device.machine_key),
        "Addresses": addresses,
        "AllowedIPs": [*addresses, *primary_routes, *other_routes],
        "Hostinfo": orjson.Fragment(device.hostinfo),
        "Created": rfc3339(device.created),
        "MachineAuthorized": True,
    }
    if device.tags:
        fields["Tags"] = list(device.tags)
    if primary_routes:
        fields["PrimaryRoutes"] = list(primary_routes)
    if cap_map:
        fields["CapMap"] = orjson.Fragment(cap_map)
    if expired:
        fields["Expired"] = True
    return fields


def live_fields(device: Device) -> dict[str, Any]:
    """The members of a tailcfg.Node that a patch can change.

    Endpoints are there even when empty: a Go client that turns this row into a patch itself takes
    an absent list for "unchanged".
    """
    fields: dict[str, Any] = {
        "Key": node_key_text(device.node_key),
        "Endpoints": list(device.endpoints),
        "Cap": device.capver,
        "Online": device.online,
    }
    if device.expiry is not None:
        fields["KeyExpiry"] = rfc3339(device.expiry)
    if device.disco_key != ZERO_KEY:
        fields["DiscoKey"] = disco_key_text(device.disco_key)
    if device.home_derp:
        fields["HomeDERP"] = device.home_derp
    if not device.online and device.last_seen is not None:
        fields["LastSeen"] = rfc3339(device.last_seen)
    return fields


def patch(device_id: DeviceId, old: Device, new: Device) -> dict[str, Any] | Literal[Whole.WHOLE] | None:
    """A tailcfg.PeerChange with the live members that differ; None when none does.

    WHOLE when a patch cannot say it: zero means "unchanged" there. Static members are not
    compared. A last-seen time is not told, nor cleared, while a device is online.
    """
    if _is_cleared(old, new):
        return WHOLE
    change: dict[str, Any] = {"NodeID": device_id}
    if old.node_key != new.node_key:
        change["Key"] = node_key_text(new.node_key)
    if old.expiry != new.expiry and new.expiry is not None:
        change["KeyExpiry"] = rfc3339(new.expiry)
    if old.endpoints != new.endpoints:
        change["Endpoints"] = list(new.endpoints)
    if old.home_derp != new.home_derp:
        change["DERPRegion"] = new.home_derp
    if old.capver != new.capver:
        change["Cap"] = new.capver
    if old.online != new.online:
        change["Online"] = new.online
    if old.disco_key != new.disco_key:
        change["DiscoKey"] = disco_key_text(new.disco_key)
        if new.online:
            # Without it clients since 1.98 may drop the key (map.go removeUnwantedDiscoUpdates).
            change["Online"] = True
    if not new.online and new.last_seen is not None and (old.online or old.last_seen != new.last_seen):
        change["LastSeen"] = rfc3339(new.last_seen)
    return change if len(change) > 1 else None


def _is_cleared(old: Device, new: Device) -> bool:
    return (
        (new.expiry is None and old.expiry is not None)
        or (new.disco_key == ZERO_KEY and old.disco_key != ZERO_KEY)
        or (not new.home_derp and bool(old.home_derp))
        or (not new.capver and bool(old.capver))
        or (not new.online and new.last_seen is None and (old.online or old.last_seen is not None))
    )
