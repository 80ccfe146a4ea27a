"""What a device says about itself (tailcfg.Hostinfo), and the part of it that peers may see.

A peer that cannot decode one member loses its whole map poll, so everything relayed is on a
list with its type checked; Go matches names without case, hence no unknown name passes. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec
import orjson

from app.errors import BadRequest

MAX_HOSTINFO_BYTES: Final = 32 * 1024
#: Longest host name kept, in characters; the rest is cut off.
MAX_HOSTNAME: Final = 255
MAX_ROUTABLE_IPS: Final = 256
MAX_REQUEST_TAGS: Final = 64
#: DERP region ids travel as uint16 in places (tailcfg.LegacyDERPString).
MAX_DERP_REGION: Final = 65535

_Wire = TypeVar("_Wire")
_NEEDS_ESCAPE = re.compile(r'[\x00-\x1f"\\]')
_PLAIN = {code: " " for code in range(0x20)} | {ord('"'): "'", ord("\\"): "/"}


def clean_text(text: str) -> str:
    """`text` without characters that JSON must escape, which the Rust client cannot read.

    Control characters become spaces, quotes apostrophes, backslashes slashes
    (tailscale-rs ts_control_serde borrows strings from the buffer).
    """
    return text.translate(_PLAIN) if _NEEDS_ESCAPE.search(text) else text


class Service(msgspec.Struct, frozen=True):
    """One tailcfg.Service: `proto` is tcp, udp, peerapi4, peerapi6 or peerapi-dns-proxy."""

    proto: str
    port: int
    description: str = ""


class Hostinfo(msgspec.Struct, frozen=True):
    """The members the server acts on, normalised; `raw` is the whole JSON object as sent.

    `preferred_derp` 0 means unknown: keep the previous home.
    """

    raw: bytes = b"{}"
    hostname: str = ""
    os: str = ""
    os_version: str = ""
    ipn_version: str = ""
    app: str = ""
    routable_ips: tuple[str, ...] = ()
    request_tags: tuple[str, ...] = ()
    services: tuple[Service, ...] = ()
    ssh_host_keys: tuple[str, ...] = ()
    preferred_derp: int = 0


class _ServiceWire(msgspec.Struct, rename="pascal"):
    proto: str | None = None
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    description: str | None = None


class _NetInfoWire(msgspec.Struct, rename={"preferred_derp": "PreferredDERP"}):
    preferred_derp: Annotated[int, msgspec.Meta(ge=0, le=MAX_DERP_REGION)] | None = None


class _HostinfoWire(
    msgspec.Struct,
    rename={
        "hostname": "Hostname",
        "os": "OS",
        "os_version": "OSVersion",
        "ipn_version": "IPNVersion",
        "app": "App",
        "routable_ips": "RoutableIPs",
        "request_tags": "RequestTags",
        "services": "Services",
        "ssh_host_keys": "sshHostKeys",
        "net_info": "NetInfo",
    },
):
    # Go reads null as "leave at zero" for every type, so null is as good as absent everywhere.
    hostname: str | None = None
    os: str | None = None
    os_version: str | None = None
    ipn_version: str | None = None
    app: str | None = None
    routable_ips: list[str] | None = None
    request_tags: list[str] | None = None
    services: list[_ServiceWire] | None = None
    ssh_host_keys: list[str] | None = None
    net_info: _NetInfoWire | None = None


_decode_hostinfo = msgspec.json.Decoder(_HostinfoWire).decode


def parse_hostinfo(raw: bytes) -> Hostinfo:
    """Decode one Hostinfo object. Raises BadRequest naming the member and the reason."""
    if len(raw) > MAX_HOSTINFO_BYTES:
        raise BadRequest(f"Hostinfo has {len(raw)} bytes, more than {MAX_HOSTINFO_BYTES}")
    wire = decode_request(_decode_hostinfo, raw, "Hostinfo")
    tags = wire.request_tags or ()
    if len(tags) > MAX_REQUEST_TAGS:
        raise BadRequest(f"Hostinfo.RequestTags has {len(tags)} entries, more than {MAX_REQUEST_TAGS}")
    return Hostinfo(
        raw=raw,
        hostname=clean_text(wire.hostname or "")[:MAX_HOSTNAME],
        os=clean_text(wire.os or ""),
        os_version=clean_text(wire.os_version or ""),
        ipn_version=clean_text(wire.ipn_version or ""),
        app=clean_text(wire.app or ""),
        routable_ips=_routable_ips(wire.routable_ips or ()),
        request_tags=tuple(clean_text(tag) for tag in tags),
        services=tuple(
            Service(clean_text(entry.proto or ""), entry.port or 0, clean_text(entry.description or ""))
            for entry in wire.services or ()
        ),
        ssh_host_keys=tuple(clean_text(key) for key in wire.ssh_host_keys or ()),
        preferred_derp=(wire.net_info.preferred_derp or 0) if wire.net_info else 0,
    )


def decode_request(decode: Callable[[bytes], _Wire], body: bytes, what: str) -> _Wire:
    """Run a msgspec decoder; its errors become BadRequest sentences that name `what` and the member."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise BadRequest(f"{what}{path.rstrip('`')}: {reason[:1].lower()}{reason[1:]}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{what} is not readable JSON: {error}") from error


def _routable_ips(texts: list[str] | tuple[()]) -> tuple[str, ...]:
    if len(texts) > MAX_ROUTABLE_IPS:
        raise BadRequest(f"Hostinfo.RoutableIPs has {len(texts)} entries, more than {MAX_ROUTABLE_IPS}")
    prefixes: dict[str, None] = {}
    for place, text in enumerate(texts):
        prefix = _prefix(text)
        if prefix is None:
            raise BadRequest(f"Hostinfo.RoutableIPs[{place}]: not an address prefix")
        prefixes[prefix] = None
    return tuple(prefixes)


def _prefix(text: object) -> str | None:
    """Canonical `address/bits` with host bits zero; `None` when it is none Go would read."""
    if not isinstance(text, str) or "%" in text or not re.fullmatch(r"[0-9A-Fa-f:.]+/[0-9]{1,3}", text):
        return None
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return None


# What peers see: checkers return the cleaned value, or None to leave the member out.


def _text(value: object) -> str | None:
    return clean_text(value) if isinstance(value, str) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _texts(value: object) -> list[str] | None:
    return [clean_text(text) for text in value if isinstance(text, str)] if isinstance(value, list) else None


def _integer(value: object, highest: int) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= highest else None


def _is_degrees(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -180 <= value <= 180


def _service(value: object) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    proto, port = _text(value.get("Proto")), _integer(value.get("Port"), 65535)
    if not proto or port is None:
        return None
    description = _text(value.get("Description"))
    return {"Proto": proto, "Port": port} | ({"Description": description} if description else {})


def _services(value: object) -> list[dict[str, Any]] | None:
    if not isinstance(value, list):
        return None
    return [service for entry in value if (service := _service(entry)) is not None]


def _location(value: object) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    kept: dict[str, Any] = {}
    for name in ("Country", "CountryCode", "City", "CityCode"):
        if text := _text(value.get(name)):
            kept[name] = text
    for name in ("Latitude", "Longitude"):
        if _is_degrees(value.get(name)):
            kept[name] = value[name]
    priority = _integer(value.get("Priority"), 2**31)
    if priority is not None:
        kept["Priority"] = priority
    return kept


#: Members relayed to peers (tailcfg.Hostinfo). Left out on purpose: log ids, push token, NetInfo,
#: RequestTags, TPM (nobody else's business), ShareeNode and RoutableIPs (the server's to say).
_PEER_MEMBERS: Final[dict[str, Callable[[object], Any]]] = {
    **dict.fromkeys(
        (
            *("IPNVersion", "OS", "OSVersion", "Env", "Distro", "DistroVersion", "DistroCodeName", "App"),
            *("Package", "DeviceModel", "Hostname", "Machine", "GoArch", "GoArchVar", "GoVersion", "Cloud"),
            *("ServicesHash", "ExitNodeID"),
        ),
        _text,
    ),
    **dict.fromkeys(
        (
            *("ShieldsUp", "NoLogsNoSupport", "WireIngress", "IngressEnabled", "AllowsUpdate"),
            *("Container", "Desktop", "Userspace", "UserspaceRouter", "AppConnector", "StateEncrypted"),
        ),
        _flag,
    ),
    "WoLMACs": _texts,
    "sshHostKeys": _texts,
    "Services": _services,
    "Location": _location,
}


def peer_hostinfo(raw: bytes) -> bytes:
    """The part of a Hostinfo that peers may see, as JSON without escapes.

    Whatever has the wrong type is left out. Raises BadRequest above MAX_HOSTINFO_BYTES.
    """
    if len(raw) > MAX_HOSTINFO_BYTES:
        raise BadRequest(f"Hostinfo has {len(raw)} bytes, more than {MAX_HOSTINFO_BYTES}")
    try:
        members = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return b"{}"
    if not isinstance(members, dict):
        return b"{}"
    kept: dict[str, Any] = {}
    for name, value in members.items():
        check = _PEER_MEMBERS.get(name)
        if check is not None and (checked := check(value)) is not None:
            kept[name] = checked
    return orjson.dumps(kept)
