"""The difference between two commits of a tenant's netmap, encoded once per class and variant.

Invariants (tests/netmap/test_properties.py): a viewer that sees none of the changed rows gets no
message; a patch only goes to who saw the row before and sees it now; an id is never both in
PeersRemoved and in PeersChanged (CLIENTS.md 6b: the Go client would drop the peer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import orjson

from app.model import DeviceId, UserId
from app.netmap.blocks import BLOCK_ROWS, BlockList, encode_lists
from app.netmap.row import Row
from app.netmap.variant import Compress, Variant, encode
from app.policy.visibility import ClassKey, Visibility


class Resync(Enum):
    """Answer instead of a message: only a full map is right for this viewer."""

    RESYNC = "resync"


RESYNC = Resync.RESYNC


@dataclass(frozen=True, slots=True)
class RowChange:
    """One device before and after; None where it did not or does not exist."""

    old: Row | None
    new: Row | None


class _ClassDelta:
    """What one class of viewers is told, in its plain parts, and the finished shared message."""

    __slots__ = ("_shared", "head", "ids", "patches", "removed", "whole")

    def __init__(self, removed: list[DeviceId], whole: dict[DeviceId, bytes], patches: dict[DeviceId, bytes]):
        self.removed = removed
        self.whole = whole
        self.patches = patches
        self.ids = {*removed, *whole, *patches}
        self.head: list[bytes] = []
        self._shared: dict[Variant, bytes | None] = {}

    def shared(self, variant: Variant, compress: Compress) -> bytes | None:
        if variant not in self._shared:
            self._shared[variant] = self.message(variant, compress, without=None, node=None)
        return self._shared[variant]

    def message(
        self, variant: Variant, compress: Compress, *, without: DeviceId | None, node: bytes | None
    ) -> bytes | None:
        """The message, or None when nothing is left to say."""
        members = list(self.head)
        if node is not None:
            members.append(b'"Node":' + node)
        removed = [i for i in self.removed if i != without]
        if removed:
            members.append(b'"PeersRemoved":' + orjson.dumps(removed))
        lists = ((b'"PeersChanged":[', self.whole), (b'"PeersChangedPatch":[', self.patches))
        if len(self.whole) + len(self.patches) <= BLOCK_ROWS:
            for opening, rows in lists:
                texts = [rows[i] for i in sorted(rows) if i != without]
                if texts:
                    members.append(opening + b",".join(texts) + b"]")
            if not members:
                return None
            return encode(b"{" + b",".join(members) + b"}", variant, compress)
        pieces: list[bytes] = []
        text = b"{" + b",".join(members)
        for opening, rows in lists:
            if rows:
                text += opening if text == b"{" else b"," + opening
                pieces.append(encode(text, variant, compress))
                pieces += encode_lists([BlockList(rows)], rows.__getitem__, variant, compress, without)
                text = b"]"
        pieces.append(encode(text + b"}", variant, compress))
        return b"".join(pieces)


class Flush:
    """What one commit changed, for whoever was connected before it."""

    def __init__(
        self,
        changes: Mapping[DeviceId, RowChange],
        *,
        visibility: Visibility,
        compress: Compress,
        rows: Mapping[DeviceId, Row],
        profiles: Mapping[UserId, bytes],
        changed_profiles: Mapping[UserId, frozenset[ClassKey]],
        common: list[bytes],
        everyone_resyncs: bool,
    ) -> None:
        self.changes = changes
        self.everyone_resyncs = everyone_resyncs
        self._visibility = visibility
        self._compress = compress
        self._rows = rows
        self._profiles = profiles
        self._changed_profiles = changed_profiles
        self._common = common
        self._deltas: dict[ClassKey | None, _ClassDelta] = {}
        self.encodings = 0

    @property
    def is_empty(self) -> bool:
        return not (self.changes or self._common or self._changed_profiles or self.everyone_resyncs)

    def message_for(self, viewer: DeviceId, variant: Variant) -> bytes | Resync | None:
        """What to write to a viewer that was connected before the commit: bytes, nothing, or RESYNC.

        A viewer that no longer exists gets RESYNC too; its caller knows it is gone.
        """
        change = self.changes.get(viewer)
        row = self._rows.get(viewer)
        if row is None or self.everyone_resyncs:
            return RESYNC
        node: bytes | None = None
        if change is not None:
            if change.old is None:
                return RESYNC
            before, after = change.old.viewer_class, row.viewer_class
            if change.old is not row and row.differs_for_itself(change.old):
                node = row.json()
            if (before != after and after is not None) or change.old.owner != row.owner:
                return RESYNC
        delta = self._delta(row.viewer_class)
        if node is not None or viewer in delta.ids:
            self.encodings += 1
            return delta.message(variant, self._compress, without=viewer, node=node)
        return delta.shared(variant, self._compress)

    def _delta(self, viewer: ClassKey | None) -> _ClassDelta:
        delta = self._deltas.get(viewer)
        if delta is None:
            delta = self._deltas[viewer] = self._build(viewer)
            self.encodings += 1
        return delta

    def _build(self, viewer: ClassKey | None) -> _ClassDelta:
        if viewer is None:
            # An expired device hears of itself and of settings, of nobody else.
            delta = _ClassDelta([], {}, {})
            delta.head = list(self._common)
            return delta
        sees = self._visibility.sees
        removed: list[DeviceId] = []
        whole: dict[DeviceId, bytes] = {}
        patches: dict[DeviceId, bytes] = {}
        owners: set[UserId] = set()
        for device_id, change in self.changes.items():
            old, new = change.old, change.new
            saw = old is not None and sees(viewer, old.cls)
            if new is None or not sees(viewer, new.cls):
                if saw:
                    removed.append(device_id)
                continue
            if not saw or old is None:
                whole[device_id] = new.json()
                owners.add(new.owner)
                continue
            difference = new.patch_from(old)
            if difference is None:
                continue
            if difference is new.json():
                whole[device_id] = difference
                if new.owner != old.owner:
                    owners.add(new.owner)
            else:
                patches[device_id] = difference
        owners.update(u for u, seen in self._changed_profiles.items() if any(sees(viewer, c) for c in seen))
        delta = _ClassDelta(removed, whole, patches)
        delta.head = list(self._common)
        if owners:
            texts = [self._profiles[u] for u in sorted(owners) if u in self._profiles]
            delta.head.append(b'"UserProfiles":[' + b",".join(texts) + b"]")
        return delta
