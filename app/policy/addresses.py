"""Sets of addresses on one line of integers, and how they are written in a packet filter. Pure.

IPv4 keeps its number, IPv6 is shifted by 2^128, so that the families never touch. A range is a
pair (first, last), both included.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache

Range = tuple[int, int]

_V6 = 1 << 128
_BITS = re.compile(r"0|[1-9][0-9]{0,2}")
#: The last place of IPv4.
V4_END = (1 << 32) - 1


@lru_cache(maxsize=65536)
def address(text: str) -> int:
    """The place of one address on the line. Raises ValueError."""
    ip = ipaddress.ip_address(text)
    return int(ip) if ip.version == 4 else int(ip) + _V6


@lru_cache(maxsize=65536)
def prefix(text: str) -> Range:
    """The range of an address or a CIDR; host bits are cleared. Raises ValueError."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    _, slash, bits = text.partition("/")
    if slash and not _BITS.fullmatch(bits):
        # Python would take 10.0.0.0/255.0.0.0 too, and 10.0.0.0/0.0.0.255 as its opposite.
        raise ValueError(f"{text!r} does not end in a number of bits")
    net = ipaddress.ip_network(text, strict=False)
    shift = 0 if net.version == 4 else _V6
    return int(net.network_address) + shift, int(net.broadcast_address) + shift


def parse_range(text: str) -> Range | None:
    """The range of an address, a CIDR or `a-b`; None when the text is none of these."""
    try:
        if "-" in text:
            first, _, last = text.partition("-")
            low, high = address(first.strip()), address(last.strip())
            return (low, high) if low <= high and (low < _V6) == (high < _V6) else None
        return prefix(text)
    except ValueError:
        return None


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same set as ascending ranges that neither overlap nor touch."""
    out: list[Range] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1 and (low < _V6) == (out[-1][0] < _V6):
            if high > out[-1][1]:
                out[-1] = (out[-1][0], high)
        else:
            out.append((low, high))
    return tuple(out)


def covers(ranges: Sequence[Range], wanted: Range) -> bool:
    """Whether one of the merged ranges holds the whole of `wanted`."""
    at = bisect_right(ranges, (wanted[0], 1 << 256)) - 1
    return at >= 0 and ranges[at][0] <= wanted[0] and wanted[1] <= ranges[at][1]


def overlap(a: Range, b: Range) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


def overlaps_any(ranges: Iterable[Range], wanted: Range) -> bool:
    return any(low <= wanted[1] and wanted[0] <= high for low, high in ranges)


def _ip(place: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv4Address(place) if place <= V4_END else ipaddress.IPv6Address(place - _V6)


def _bits(place: int) -> int:
    return 32 if place <= V4_END else 128


@lru_cache(maxsize=65536)
def written(span: Range) -> str:
    """A range as address, CIDR or `a-b`, whichever is shortest and exact (PROTOCOL.md 6.1)."""
    low, high = span
    size = high - low + 1
    if size == 1:
        return str(_ip(low))
    base = low if low <= V4_END else low - _V6
    if size & (size - 1) == 0 and base % size == 0:
        return f"{_ip(low)}/{_bits(low) - size.bit_length() + 1}"
    return f"{_ip(low)}-{_ip(high)}"


def written_as_range(span: Range) -> str:
    """A range always as `a-b`."""
    return f"{_ip(span[0])}-{_ip(span[1])}"


def complement_v4(holes: Iterable[str]) -> tuple[Range, ...]:
    """All of IPv4 but the holes."""
    at, out = 0, []
    for low, high in merged(prefix(hole) for hole in holes):
        if at < low:
            out.append((at, low - 1))
        at = high + 1
    if at <= V4_END:
        out.append((at, V4_END))
    return tuple(out)


#: Everything a device of a tailnet may have as its own address, less what the service keeps for
#: itself (tailscale net/tsaddr ChromeOSVMRange).
TAILNET: tuple[Range, ...] = (
    (address("100.64.0.0"), address("100.115.91.255")),
    (address("100.115.94.0"), address("100.127.255.255")),
    prefix("fd7a:115c:a1e0::/48"),
)
CGNAT = prefix("100.64.0.0/10")
#: autogroup:internet as captured from the official service (policy-corpus, "Aliases").
INTERNET: tuple[Range, ...] = (
    *complement_v4(("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")),
    prefix("2000::/3"),
)
EXIT_ROUTES = ("0.0.0.0/0", "::/0")
EVERYTHING: tuple[Range, ...] = (prefix("0.0.0.0/0"), prefix("::/0"))
