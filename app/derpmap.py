"""DERP maps: read leniently, check strictly, merge, write canonically. Pure.

Source: tailscale tailcfg/derpmap.go (DERPMap, DERPRegion, DERPNode); headscale hscontrol/derp/derp.go
(order of sources, null removes a region). Names are accepted in any case, as headscale's YAML
files write them in lower case. Fields that tailcfg does not have are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, cast

import orjson

from app.errors import ConfigError

#: Region ids travel as 16 bits in places (tailcfg LegacyDERPString).
MAX_REGION_ID = 65535
MAX_REGIONS = 1000
MAX_NODES_PER_REGION = 64
MAX_TEXT_CHARS = 255
#: Degrees and scores are small; this only keeps out what JSON cannot carry.
MAX_NUMBER = 1e9

Region = Mapping[str, Any]

_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?", re.ASCII
)
_PIN = re.compile(r"sha256-raw:[0-9a-fA-F]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DerpMapPart:
    """What one source says. A region None removes that region of earlier sources.

    `scores` is HomeParams.RegionScore, None when the source does not speak of it.
    """

    source: str
    regions: Mapping[int, Region | None]
    scores: Mapping[int, float] | None = None


@dataclass(frozen=True, slots=True)
class DerpMap:
    """Merged regions, with the source of each. Immutable: `merge` gives a new one."""

    regions: Mapping[int, Region] = field(default_factory=dict)
    sources: Mapping[int, str] = field(default_factory=dict)
    scores: Mapping[int, float] = field(default_factory=dict)


def parse_map(document: object, source: str) -> DerpMapPart:
    """A decoded YAML or JSON DERP map. Raises ConfigError naming source, region and field."""
    where = source
    top = _fold(document, where)
    if "regions" not in top and "homeparams" not in top:
        raise ConfigError(f"{where}: a DERP map must have `regions`")
    regions: dict[int, Region | None] = {}
    for key, value in _mapping(top.get("regions"), f"{where}: regions").items():
        region_id = _region_id(key, f"{where}: regions")
        if region_id in regions:
            raise ConfigError(f"{where}: region {region_id} is there twice")
        regions[region_id] = None if value is None else parse_region(value, source, region_id)
    if len(regions) > MAX_REGIONS:
        raise ConfigError(f"{where}: {len(regions)} regions, more than {MAX_REGIONS}")
    home = _fold(top.get("homeparams"), f"{where}: homeparams")
    scores = None
    if home.get("regionscore") is not None:
        raw = _mapping(home["regionscore"], f"{where}: regionscore")
        scores = {
            _region_id(key, f"{where}: regionscore"): _score(value, where) for key, value in raw.items()
        }
    return DerpMapPart(source, regions, scores)


def parse_region(document: object, source: str, region_id: int) -> Region:
    """One tailcfg.DERPRegion in canonical form. Raises ConfigError."""
    where = f"{source}: region {region_id}"
    raw = _fold(document, where)
    region = _fields(raw, _REGION_FIELDS, where)
    if region.setdefault("RegionID", region_id) != region_id:
        raise ConfigError(f"{where}: RegionID is {region['RegionID']}")
    if not region.get("RegionCode"):
        raise ConfigError(f"{where}: RegionCode is missing")
    nodes = raw.get("nodes")
    if not isinstance(nodes, list) or not 1 <= len(nodes) <= MAX_NODES_PER_REGION:
        raise ConfigError(f"{where}: Nodes must list 1 to {MAX_NODES_PER_REGION} relays")
    region["Nodes"] = [_node(node, region_id, f"{where}: Nodes[{index}]") for index, node in enumerate(nodes)]
    names = [node["Name"] for node in region["Nodes"]]
    if len(set(names)) != len(names):
        raise ConfigError(f"{where}: two relays have the same Name")
    return {name: region[name] for name in (*_REGION_FIELDS.values(), "Nodes") if _is_set(name, region)}


def merge(base: DerpMap, part: DerpMapPart) -> DerpMap:
    """`base` with one more source: its regions replace, None removes. Raises ConfigError when names clash."""
    regions, sources = dict(base.regions), dict(base.sources)
    for region_id, region in part.regions.items():
        regions.pop(region_id, None)
        sources.pop(region_id, None)
        if region is not None:
            regions[region_id] = region
            sources[region_id] = part.source
    owner_of: dict[str, int] = {}
    for region_id, region in regions.items():
        for node in region["Nodes"]:
            other = owner_of.setdefault(node["Name"], region_id)
            if other != region_id:
                raise ConfigError(
                    f"{sources[region_id]}: region {region_id} and region {other} of {sources[other]} "
                    f"both have a relay named {node['Name']!r}"
                )
    return DerpMap(
        regions, sources, dict(base.scores) if part.scores is None else {**base.scores, **part.scores}
    )


def merge_all(parts: Iterable[DerpMapPart]) -> DerpMap:
    """All sources in their order. Raises ConfigError."""
    merged = DerpMap()
    for part in parts:
        merged = merge(merged, part)
    return merged


def encode(merged: DerpMap) -> bytes:
    """tailcfg.DERPMap as JSON; equal maps give equal bytes.

    `omitDefaultRegions` (that spelling) keeps Tailscale's own relays out.
    """
    document: dict[str, Any] = {"Regions": {str(key): merged.regions[key] for key in sorted(merged.regions)}}
    scores = {str(key): merged.scores[key] for key in sorted(merged.scores) if key in merged.regions}
    if scores:
        document["HomeParams"] = {"RegionScore": scores}
    document["omitDefaultRegions"] = True
    return orjson.dumps(document)


def _node(document: object, region_id: int, where: str) -> Region:
    node = _fields(_fold(document, where), _NODE_FIELDS, where)
    if node.setdefault("RegionID", region_id) != region_id:
        raise ConfigError(f"{where}: RegionID is {node['RegionID']}, not {region_id}")
    if not node.get("Name"):
        raise ConfigError(f"{where}: Name is missing")
    if not _is_host(node.get("HostName", "")):
        raise ConfigError(f"{where}: HostName {node.get('HostName', '')!r} is no host name and no address")
    for name, version in (("IPv4", 4), ("IPv6", 6)):
        if node.get(name, "") not in ("", "none") and _version(node[name]) != version:
            raise ConfigError(f"{where}: {name} {node[name]!r} is no IPv{version} address and not `none`")
    if node.get("STUNTestIP") and not _version(node["STUNTestIP"]):
        raise ConfigError(f"{where}: STUNTestIP {node['STUNTestIP']!r} is no address")
    for name, least in (("DERPPort", 0), ("STUNPort", -1)):
        if not least <= node.get(name, 0) <= 65535:
            raise ConfigError(f"{where}: {name} {node[name]} is not within {least} and 65535")
    cert_name = node.get("CertName", "")
    if cert_name and not (_PIN.fullmatch(cert_name) or _is_host(cert_name)):
        raise ConfigError(f"{where}: CertName {cert_name!r} is no host name and no sha256-raw pin")
    return {name: node[name] for name in _NODE_FIELDS.values() if _is_set(name, node)}


def _is_set(name: str, values: Mapping[str, Any]) -> bool:
    return name == "RegionID" or bool(values.get(name))


def _fields(raw: Mapping[str, Any], names: Mapping[str, str], where: str) -> dict[str, Any]:
    result = {}
    for folded, name in names.items():
        value = raw.get(folded)
        if value is None:
            continue
        if not _CHECKS[name](value):
            raise ConfigError(f"{where}: {name} has a value of the wrong type: {str(value)[:40]!r}")
        result[name] = value
    return result


def _fold(document: object, where: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in _mapping(document, where).items():
        folded = str(key).lower()
        if folded in result:
            raise ConfigError(f"{where}: {key} is there twice, in different cases")
        result[folded] = value
    return result


def _mapping(document: object, where: str) -> Mapping[Any, Any]:
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: must be a mapping, not {type(document).__name__}")
    return document


def _region_id(key: object, where: str) -> int:
    text = str(key)
    if (
        isinstance(key, bool)
        or not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII)
        or not 1 <= int(text) <= MAX_REGION_ID
    ):
        raise ConfigError(f"{where}: region id {text[:40]!r} is not within 1 and {MAX_REGION_ID}")
    return int(text)


def _score(value: object, where: str) -> float:
    if isinstance(value, int | float) and _is_number(value) and value > 0:
        return float(value)
    raise ConfigError(f"{where}: a RegionScore must be a number above 0")


def _version(host: str) -> int:
    try:
        return ip_address(host).version
    except ValueError:
        return 0


def _is_host(host: str) -> bool:
    return bool(_version(host) or _HOST.fullmatch(host))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARS and value.isprintable()


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(cast(float, value)) <= MAX_NUMBER


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


_TYPES: Mapping[Callable[[object], bool], tuple[str, ...]] = {
    _is_text: ("RegionCode", "RegionName", "Name", "HostName", "CertName", "IPv4", "IPv6", "STUNTestIP"),
    _is_int: ("RegionID", "STUNPort", "DERPPort"),
    _is_number: ("Latitude", "Longitude"),
    _is_bool: ("Avoid", "NoMeasureNoHome", "STUNOnly", "InsecureForTests", "CanPort80"),
}
_CHECKS = {name: check for check, names in _TYPES.items() for name in names}


def _folded(*names: str) -> dict[str, str]:
    return {name.lower(): name for name in names}


#: Folded name to tailcfg's name, in the order in which they are written.
_REGION_FIELDS = _folded(
    "RegionID", "RegionCode", "RegionName", "Latitude", "Longitude", "Avoid", "NoMeasureNoHome"
)
_NODE_FIELDS = _folded(
    *("Name", "RegionID", "HostName", "CertName", "IPv4", "IPv6", "STUNPort", "STUNOnly"),
    *("DERPPort", "InsecureForTests", "STUNTestIP", "CanPort80"),
)
