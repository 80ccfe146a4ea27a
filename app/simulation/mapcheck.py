"""What a thin device looks at: order of messages and ids, without keeping any row. Pure.

Rules: tailscale tailcfg.go MapResponse (Peers and PeersChanged ascend by id), controlclient/map.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import msgspec

from app.client.mapblob import decompress
from app.errors import RemoteProtocolError
from app.simulation.markers import number_of

#: Deltas are the same bytes for many viewers: looked at once, while they are this small and this new.
MAX_REMEMBERED_BYTES: Final = 64 * 1024
MAX_REMEMBERED: Final = 512
_NULL: Final = msgspec.Raw(b"null")


class _Peer(msgspec.Struct, gc=False):
    ID: int


class _Changed(msgspec.Struct):
    ID: int
    Endpoints: list[str] | None = None


class _Patch(msgspec.Struct):
    NodeID: int
    Endpoints: list[str] | None = None


class _Message(msgspec.Struct):
    """Every member that says something; of rows only what is looked at."""

    KeepAlive: bool = False
    Node: _Peer | None = None
    Peers: list[_Peer] | None = None
    PeersRemoved: list[int] | None = None
    PeersChanged: list[_Changed] | None = None
    PeersChangedPatch: list[_Patch] | None = None
    PeerSeenChange: dict[str, Any] | None = None
    OnlineChange: dict[str, Any] | None = None
    PingRequest: msgspec.Raw = _NULL
    PopBrowserURL: str = ""
    DERPMap: msgspec.Raw = _NULL
    DNSConfig: msgspec.Raw = _NULL
    CollectServices: bool | str | None = None
    Domain: str = ""
    PacketFilter: msgspec.Raw = _NULL
    PacketFilters: msgspec.Raw = _NULL
    UserProfiles: msgspec.Raw = _NULL
    Health: msgspec.Raw = _NULL
    DisplayMessages: msgspec.Raw = _NULL
    SSHPolicy: msgspec.Raw = _NULL
    TKAInfo: msgspec.Raw = _NULL
    DomainDataPlaneAuditLogID: str = ""
    Debug: msgspec.Raw = _NULL
    ControlDialPlan: msgspec.Raw = _NULL
    ClientVersion: msgspec.Raw = _NULL
    DefaultAutoUpdate: bool | None = None


_decode = msgspec.json.Decoder(_Message).decode
_DEVICES: Final = (
    *("KeepAlive", "Peers", "PeersRemoved", "PeersChanged", "PeersChangedPatch"),
    *("PeerSeenChange", "OnlineChange"),
)


@dataclass(frozen=True, slots=True)
class Digest:
    """One message: whom it names, in the order it names them."""

    keepalive: bool
    own: int | None
    peers: tuple[int, ...]
    removed: tuple[int, ...]
    changed: tuple[int, ...]
    patched: tuple[int, ...]
    flags: tuple[int, ...]
    markers: tuple[int, ...]
    notes: tuple[str, ...]  # wrong for whoever receives it


def digest(blob: bytes, *, zstd: bool) -> Digest:
    """Raises RemoteProtocolError when a client could not read the message."""
    try:
        message = _decode(decompress(blob) if zstd else blob)
        flags = [*map(int, message.PeerSeenChange or ()), *map(int, message.OnlineChange or ())]
    except (msgspec.DecodeError, ValueError) as error:
        raise RemoteProtocolError(f"a map message cannot be read: {error}") from error
    changed, patches = message.PeersChanged or [], message.PeersChangedPatch or []
    peers = tuple([row.ID for row in message.Peers or ()])
    removed = tuple(message.PeersRemoved or ())
    changed_ids = tuple([row.ID for row in changed])
    notes = [*_order("Peers", peers), *_order("PeersChanged", changed_ids), *_twice("PeersRemoved", removed)]
    notes += [
        f"device {device_id} is in PeersRemoved and PeersChanged of one message"
        for device_id in sorted(set(removed) & set(changed_ids))
    ]
    if not message.KeepAlive and not any(_says(message, name) for name in _Message.__struct_fields__):
        notes.append("a message says nothing")
    return Digest(
        keepalive=message.KeepAlive,
        own=None if message.Node is None else message.Node.ID,
        peers=peers,
        removed=removed,
        changed=changed_ids,
        patched=tuple([row.NodeID for row in patches]),
        flags=tuple(flags),
        markers=tuple(
            [*_markers(row.Endpoints for row in changed), *_markers(row.Endpoints for row in patches)]
        ),
        notes=tuple(notes),
    )


class Digester:
    """Digests of messages; of small ones each is looked at once, however many devices receive it."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Digest] = {}

    def __call__(self, blob: bytes, *, zstd: bool = True) -> Digest:
        """Raises as `digest`."""
        known = self._known.get(blob)
        if known is None:
            known = digest(blob, zstd=zstd)
            if len(blob) <= MAX_REMEMBERED_BYTES:
                if len(self._known) >= MAX_REMEMBERED:
                    del self._known[next(iter(self._known))]
                self._known[blob] = known
        return known


class Ids:
    """Small numbers for device ids, shared by all devices of a process: a set of peers is a few bits."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def number(self, device_id: int) -> int:
        """The same small number for the same id, always."""
        return self._numbers.setdefault(device_id, len(self._numbers))


class MapCheck:
    """One poll as a thin device sees it: who its peers are, a bit for each."""

    __slots__ = ("_bits", "_ids", "_own", "messages")

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._bits = bytearray()
        self._own: int | None = None
        self.messages = 0

    def apply(self, message: Digest) -> list[str]:
        """What is wrong with this message at this place. Raises RemoteProtocolError for a poll that
        a client would end: the first message lacks Node."""
        if message.keepalive:
            return []
        if message.own is not None:
            self._own = message.own
        elif not self.messages:
            raise RemoteProtocolError("the first message lacks Node")
        self.messages += 1
        notes = list(message.notes)
        if message.peers:
            self._bits = bytearray()
            self._add(message.peers)
            if message.removed or message.changed or message.patched or message.flags:
                notes.append("a delta beside Peers is ignored")
        else:
            notes += self._change(message)
        if self._own in message.peers or self._own in message.changed:
            notes.append("the own device is among the peers")
        return notes

    def _change(self, message: Digest) -> list[str]:
        notes = []
        for device_id in message.removed:
            if not self._clear(device_id):
                notes.append(f"removal of device {device_id}, which is no peer")
        self._add(message.changed)
        for device_id in message.patched:
            if not self._has(device_id):
                notes.append(f"patch for device {device_id}, which is no peer")
        for device_id in message.flags:
            if not self._has(device_id):
                notes.append(f"presence of device {device_id}, which is no peer")
        return notes

    @property
    def peers(self) -> int:
        """How many peers there are."""
        return int.from_bytes(self._bits, "little").bit_count()

    def _add(self, device_ids: Sequence[int]) -> None:
        numbers = [self._ids.number(device_id) for device_id in device_ids]
        bits = self._bits
        if numbers and (more := (max(numbers) >> 3) + 1 - len(bits)) > 0:
            bits += bytes(more)
        for number in numbers:
            bits[number >> 3] |= 1 << (number & 7)

    def _has(self, device_id: int) -> bool:
        number = self._ids.number(device_id)
        return number >> 3 < len(self._bits) and bool(self._bits[number >> 3] >> (number & 7) & 1)

    def _clear(self, device_id: int) -> bool:
        was = self._has(device_id)
        if was:
            number = self._ids.number(device_id)
            self._bits[number >> 3] &= ~(1 << (number & 7))
        return was


def _order(name: str, ids: Sequence[int]) -> list[str]:
    if all(low < high for low, high in pairwise(ids)):
        return []
    return _twice(name, ids) or [f"{name} does not ascend by id"]


def _twice(name: str, ids: Sequence[int]) -> list[str]:
    return [f"an id stands in {name} twice"] if len(set(ids)) != len(ids) else []


def _says(message: _Message, name: str) -> bool:
    value = getattr(message, name)
    # A null or empty list of devices means the same as none; of other members empty is a value.
    return bool(value) if name in _DEVICES or isinstance(value, str) else value not in (None, _NULL)


def _markers(lists: Iterable[list[str] | None]) -> list[int]:
    return [number for texts in lists for text in texts or () if (number := number_of(text)) is not None]
