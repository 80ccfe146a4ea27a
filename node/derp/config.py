"""What a relay process is told, what it says when it is ready, and its region for the DERP map."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Literal

import msgspec

from app.derpmap import MAX_REGION_ID
from app.errors import ConfigError

#: Value that tells clients not to try an address family (tailcfg/derpmap.go DERPNode.IPv6).
NO_ADDRESS = "none"


class DerpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One relay. Ports: 0 = any free one. Holds no secrets.

    `hostname` is what clients dial and what the certificate names; `ipv4`/`ipv6` spare them DNS,
    empty = look up, `none` = never. `stun_port` -1 = no STUN. `verify_url` empty = everybody may use
    the relay. `bootstrap_dns` maps host names to addresses. `rate_bytes_per_s` is per client, 0 = off.
    """

    data_dir: str
    hostname: str
    region_id: int
    region_code: str
    region_name: str
    cluster_id: str = "default"
    listen_host: str = "0.0.0.0"
    listen_port: int = 0
    stun_host: str = "0.0.0.0"
    stun_port: int = 0
    ipv4: str = ""
    ipv6: str = NO_ADDRESS
    verify_url: str = ""
    rate_bytes_per_s: int = 0
    bootstrap_dns: dict[str, list[str]] = {}
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


class Ready(msgspec.Struct, frozen=True):
    """What a relay process listens on and how clients know it; `public_key` is hex."""

    pid: int
    derp_port: int
    stun_port: int
    cert_pin: str
    public_key: str


def parse_config(text: bytes) -> DerpConfig:
    """JSON of a DerpConfig, checked. Raises ConfigError."""
    try:
        config = msgspec.json.decode(text, type=DerpConfig)
    except msgspec.DecodeError as error:
        raise ConfigError(f"the relay's configuration is not understood: {error}") from error
    check_config(config)
    return config


def check_config(config: DerpConfig) -> None:
    """Raises ConfigError naming key, value and reason."""
    if not 1 <= config.region_id <= MAX_REGION_ID:
        raise _wrong("region_id", config.region_id, f"must be 1 to {MAX_REGION_ID}")
    for key, port, least in (("listen_port", config.listen_port, 0), ("stun_port", config.stun_port, -1)):
        if not least <= port <= 65535:
            raise _wrong(key, port, f"must be {least} to 65535")
    for key, address, version in (("ipv4", config.ipv4, 4), ("ipv6", config.ipv6, 6)):
        if address not in ("", NO_ADDRESS) and _version(address) != version:
            raise _wrong(key, address, f"must be an IPv{version} address, empty, or {NO_ADDRESS!r}")
    for key, host in (("listen_host", config.listen_host), ("stun_host", config.stun_host)):
        if not _version(host):
            raise _wrong(key, host, "must be an address")
    if not config.hostname or not config.region_code:
        raise _wrong("hostname, region_code", f"{config.hostname!r}, {config.region_code!r}", "must be set")
    if config.rate_bytes_per_s < 0:
        raise _wrong("rate_bytes_per_s", config.rate_bytes_per_s, "must not be negative")


def certificate_names(config: DerpConfig) -> list[str]:
    """Names of the relay's certificate, the dialled one first."""
    return [config.hostname, *(a for a in (config.ipv4, config.ipv6) if a not in ("", NO_ADDRESS))]


def region_json(config: DerpConfig, ready: Ready) -> dict[str, Any]:
    """The relay as tailcfg.DERPRegion."""
    node: dict[str, Any] = {
        "Name": f"{config.region_id}a",
        "RegionID": config.region_id,
        "HostName": config.hostname,
        "CertName": ready.cert_pin,
        "IPv4": config.ipv4 or _literal(config.hostname, 4),
        "IPv6": config.ipv6 or _literal(config.hostname, 6),
        "STUNPort": ready.stun_port,
        "DERPPort": ready.derp_port,
    }
    return {
        "RegionID": config.region_id,
        "RegionCode": config.region_code,
        "RegionName": config.region_name or config.region_code,
        "Nodes": [{name: field for name, field in node.items() if field != ""}],
    }


def _literal(host: str, version: int) -> str:
    return host if _version(host) == version else ""


def _version(host: str) -> int:
    try:
        return ip_address(host).version
    except ValueError:
        return 0


def _wrong(key: str, value: object, reason: str) -> ConfigError:
    return ConfigError(f"derp.{key} = {value!r}: {reason}")
