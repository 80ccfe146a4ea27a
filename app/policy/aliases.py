"""What a policy's texts stand for: aliases, ports, protocols, durations. Pure.

Every refusal is a ValueError whose sentence is the official service's where the policy corpus
shows one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from app.policy.addresses import EVERYTHING, Range, parse_range

PortRange = tuple[int, int]
ALL_PORTS: PortRange = (0, 65535)

#: Names that stand for sets of devices by what their users are (tailscale.com/kb/1337, autogroups).
ROLE_AUTOGROUPS = (
    "autogroup:owner",
    "autogroup:admin",
    "autogroup:it-admin",
    "autogroup:network-admin",
    "autogroup:billing-admin",
    "autogroup:auditor",
)
MEMBER = "autogroup:member"
TAGGED = "autogroup:tagged"
SELF = "autogroup:self"
INTERNET = "autogroup:internet"
NONROOT = "autogroup:nonroot"
DANGER_ALL = "autogroup:danger-all"
_SPELLINGS = {"autogroup:members": MEMBER}

#: IANA numbers by the names that policies use.
PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "ipv4": 4,
    "ip-in-ip": 4,
    "tcp": 6,
    "egp": 8,
    "igp": 9,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "sctp": 132,
    "fc": 133,
}
#: The protocols that know ports.
WITH_PORTS = frozenset({6, 17, 132})

_TAG = re.compile(r"tag:[A-Za-z][A-Za-z0-9-]*")
_NUMBER = re.compile(r"[0-9]{1,5}")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
#: Go counts nanoseconds in 63 bits.
_MAX_DURATION_S = (2**63 - 1) / 1e9
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Kind(Enum):
    """What sort of thing an alias names."""

    ANY = "*"
    USER = "user"
    DOMAIN = "user:*@"
    GROUP = "group"
    TAG = "tag"
    AUTOGROUP = "autogroup"
    ADDRESSES = "addresses"


@dataclass(frozen=True, slots=True)
class Alias:
    """One source or destination. `name` is its canonical text; `span` is set for ADDRESSES.

    `host` is the name in `hosts` it was given by, empty otherwise.
    """

    kind: Kind
    name: str
    span: Range | None = None
    host: str = ""

    @property
    def is_devices(self) -> bool:
        """Whether it stands for devices by what they are, not by address."""
        return self.kind not in (Kind.ANY, Kind.ADDRESSES) and self.name not in (INTERNET, DANGER_ALL)


ANY = Alias(Kind.ANY, "*")


@dataclass(frozen=True, slots=True)
class Names:
    """The names that a policy defines itself."""

    groups: frozenset[str]
    tags: frozenset[str]
    hosts: dict[str, tuple[str, Range]]

    def alias(self, text: str, autogroups: frozenset[str]) -> Alias:
        """The alias of a text; `autogroups` are those allowed in its place. Raises ValueError."""
        text = text.strip()
        if text == "*":
            return ANY
        if text.startswith("tag:"):
            if text not in self.tags:
                raise ValueError(f'tag not found: "{text}"')
            return Alias(Kind.TAG, text)
        if text.startswith("group:"):
            if text not in self.groups:
                raise ValueError(f'group not found: "{text}"')
            return Alias(Kind.GROUP, text)
        if text.startswith("autogroup:"):
            name = _SPELLINGS.get(text, text)
            if name not in autogroups:
                raise ValueError(f'"{text}" cannot be used here')
            return Alias(Kind.AUTOGROUP, name)
        if text.startswith("user:*@"):
            return Alias(Kind.DOMAIN, text[len("user:*@") :])
        if text in self.hosts:
            written, span = self.hosts[text]
            return Alias(Kind.ADDRESSES, written, span, host=text)
        bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        span_or_none = parse_range(bare)
        if span_or_none is not None:
            return Alias(Kind.ADDRESSES, bare, span_or_none)
        if "@" in text:
            return Alias(Kind.USER, text.lower())
        if text.startswith(("ipset:", "svc:", "posture:")):
            raise ValueError(f'"{text}": {text.partition(":")[0]} is not supported')
        raise ValueError(f'"{text}" is no user, group, tag, autogroup, host or address')


def is_everything(alias: Alias) -> bool:
    """Whether it is written as the whole of a family, which the service wants said otherwise."""
    return alias.span in EVERYTHING


def tag_name(text: str) -> None:
    """Raises ValueError unless the text is a well-formed tag."""
    if not text.startswith("tag:"):
        raise ValueError("tag names must start with 'tag:'")
    if not _TAG.match(text):
        raise ValueError("tag names must start with a letter, after 'tag:'")
    if not _TAG.fullmatch(text):
        raise ValueError("tag names can only contain numbers, letters, or dashes")


def port_ranges(text: str) -> tuple[PortRange, ...]:
    """`*`, `22`, `80-443` or a list of these with commas. Raises ValueError."""
    if text == "*":
        return (ALL_PORTS,)
    return tuple(_port_range(part.strip()) for part in text.split(","))


def _port_range(text: str) -> PortRange:
    if text == "*":
        return ALL_PORTS
    first_text, dash, last_text = text.partition("-")
    first = _port(first_text)
    if first is None:
        raise ValueError(f'port range "{text}": invalid first integer')
    if not dash:
        return first, first
    last = _port(last_text)
    if last is None:
        raise ValueError(f'port range "{text}": invalid last integer')
    if last < first:
        raise ValueError(f'port range "{text}": first port is greater than last port')
    return first, last


def _port(text: str) -> int | None:
    if not _NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if number <= ALL_PORTS[1] else None


def protocol(text: str) -> tuple[int, ...]:
    """The IANA numbers of a `proto`; none for an empty one, which means TCP, UDP and both ICMPs."""
    text = text.strip().lower()
    if not text:
        return ()
    if text in PROTOCOLS:
        return (PROTOCOLS[text],)
    if re.fullmatch(r"[0-9]{1,3}", text) and int(text) <= 255:
        return (int(text),)
    raise ValueError(f'proto "{text}" is neither a known protocol nor a number from 0 to 255')


def check_ports(protos: tuple[int, ...], ports: tuple[PortRange, ...]) -> None:
    """Raises ValueError when ports are named for a protocol without any."""
    if protos and not WITH_PORTS.intersection(protos) and ports != (ALL_PORTS,):
        raise ValueError(f'protocol {protos[0]} has no ports, only "*" can be used')


def ip_capability(text: str) -> tuple[tuple[int, ...], tuple[PortRange, ...]]:
    """Protocols and ports of one entry of a grant's `ip`: `*`, `22`, `80-443`, `tcp:443`, `icmp:*`."""
    text = text.strip()
    name, colon, ports_text = text.rpartition(":")
    if not colon:
        return (), port_ranges(text)
    protos = () if name == "*" else protocol(name)
    ports = port_ranges(ports_text)
    check_ports(protos, ports)
    return protos, ports


def duration(text: str) -> float:
    """Seconds of a Go duration such as `12h30m`. Raises ValueError in Go's words."""
    sign, body = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if body == "0":
        return 0.0
    total, at = 0.0, 0
    for match in _DURATION.finditer(body):
        if match.start() != at:
            break
        total += float(match.group(1)) * _UNITS[match.group(2)]
        at = match.end()
    if not body or at != len(body) or total > _MAX_DURATION_S:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * total


def go_duration(seconds: float) -> str:
    """Seconds as Go writes a duration: `1h30m0s`."""
    sign, left = ("-", -seconds) if seconds < 0 else ("", seconds)
    if left and left < 1:
        return f"{sign}{left * 1000:g}ms"
    hours, rest = divmod(left, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{rest:g}s"
    if hours or minutes:
        text = f"{minutes:g}m" + text
    if hours:
        text = f"{hours:g}h" + text
    return sign + text


def is_single(span: Range) -> bool:
    """Whether a range is one address."""
    return span[0] == span[1]
