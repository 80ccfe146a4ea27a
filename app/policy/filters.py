"""Packet filters of whole classes, with holes where a device's own addresses go. Pure.

A device gets those destinations that hold one of its addresses or overlap one of its approved
subnet routes, and as an exit node what lies in the internet (policy-corpus, "Reduction per node").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.policy import aliases as a
from app.policy.addresses import INTERNET, Range, covers, overlap, written, written_as_range
from app.policy.aliases import Alias, Kind, PortRange
from app.policy.classes import DeviceClass

#: Stand for a device's own addresses in a template. No JSON text holds a control character.
OWN_V4 = b"\x01"
OWN_V6 = b"\x02"
_OWN = (OWN_V4, OWN_V6)


@dataclass(frozen=True, slots=True)
class Template:
    """A tailcfg.FilterRule list as JSON, with holes for a device's own addresses."""

    json: bytes

    @property
    def is_shared(self) -> bool:
        """Whether every device of the class gets the same bytes."""
        return OWN_V4 not in self.json and OWN_V6 not in self.json

    def filled(self, ipv4: str, ipv6: str) -> bytes:
        return self.json.replace(OWN_V4, ipv4.encode()).replace(OWN_V6, ipv6.encode())


@dataclass(slots=True)
class Line:
    """One filter rule of a class: its sources as JSON, and what is in reach."""

    source_json: bytes
    protos: tuple[int, ...]
    ports: list[bytes] = field(default_factory=list)
    grants: list[bytes] = field(default_factory=list)

    def json(self) -> bytes:
        if self.grants:
            return b'{"SrcIPs":%b,"CapGrant":[%b]}' % (self.source_json, b",".join(self.grants))
        protos = b',"IPProto":' + orjson.dumps(self.protos) if self.protos else b""
        return b'{"SrcIPs":%b,"DstPorts":[%b]%b}' % (self.source_json, b",".join(self.ports), protos)


def template(lines: Iterable[Line]) -> Template:
    """Lines with the same sources and protocols become one; those with capabilities never do."""
    merged: dict[Any, Line] = {}
    for at, line in enumerate(lines):
        key = ("caps", at) if line.grants else (line.source_json, line.protos)
        known = merged.get(key)
        if known is None:
            merged[key] = line
        else:
            known.ports += line.ports
    return Template(b"[" + b",".join(line.json() for line in merged.values()) + b"]")


def own_texts(cls: DeviceClass, target: Alias | None = None) -> tuple[bytes, ...]:
    """The holes for the addresses of a device of this class; of the target's family if it is a range."""
    own = _OWN[1:] if cls.shape.no_v4 else _OWN
    if target is None or target.span is None:
        return own
    is_v4 = target.span[1] < 1 << 32
    return tuple(hole for hole in own if (hole == OWN_V4) == is_v4)


def destinations(
    cls: DeviceClass,
    target: Alias,
    *,
    is_member: bool,
    holds_own: bool,
    has_via: bool,
    others: Sequence[bytes],
) -> list[bytes]:
    """How a target is written in the filter of a class; nothing if it concerns none of its devices.

    `is_member`: the target is a set of devices and this class is of it. `holds_own`: it is a range
    with the device's own address. `has_via`: only routes count. `others`: addresses of the target's
    devices that lie inside the routes of this class.
    """
    shape = cls.shape
    if target.kind is Kind.ANY or target.name == a.DANGER_ALL:
        if not has_via:
            return [b"*"]
        # What lies behind the router, not the router itself.
        internet = [written_as_range(span).encode() for span in INTERNET] if shape.is_exit else []
        return [written(span).encode() for span in cls.spans] + internet
    if target.name == a.INTERNET:
        spans = INTERNET if shape.is_exit else [s for s in INTERNET if any(overlap(s, r) for r in cls.spans)]
        return [written_as_range(span).encode() for span in spans]
    if target.span is not None:
        in_reach = any(overlap(target.span, route) for route in cls.spans)
        if not has_via:
            in_reach = in_reach or holds_own or (shape.is_exit and covers(INTERNET, target.span))
        return [written(target.span).encode()] if in_reach else []
    if has_via:
        return list(others)
    return [*(own_texts(cls) if is_member else ()), *others]


def port_entries(dsts: Iterable[bytes], ports: Iterable[PortRange]) -> list[bytes]:
    """tailcfg.NetPortRange of every destination and port range."""
    return [
        b'{"IP":"%b","Ports":{"First":%d,"Last":%d}}' % (dst, first, last)
        for dst in dsts
        for first, last in ports
    ]


def grant_entry(cls: DeviceClass, target: Alias, dsts: Sequence[bytes], caps: bytes) -> bytes:
    """tailcfg.CapGrant of one target: cut to the device's own addresses, but a range that overlaps a
    route is kept whole."""
    if target.span is not None and any(overlap(target.span, route) for route in cls.spans):
        nets = [_net(target.span)]
    else:
        wide = target.kind is Kind.ANY or target.span is not None or dsts == [b"*"]
        own = own_texts(cls, target)
        holes = own if wide else [dst for dst in dsts if dst in _OWN]
        nets = [hole + (b"/32" if hole == OWN_V4 else b"/128") for hole in holes]
        nets += [_host_net(dst) for dst in dsts if dst not in _OWN and not wide]
    return b'{"Dsts":[%b],"CapMap":%b}' % (b",".join(b'"%b"' % net for net in nets), caps)


def _net(span: Range) -> bytes:
    text = written(span)
    if "/" not in text:
        text += "/128" if ":" in text else "/32"
    return text.encode()


def _host_net(text: bytes) -> bytes:
    return text + (b"/128" if b":" in text else b"/32")
