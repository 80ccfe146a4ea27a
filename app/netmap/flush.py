"""The difference between two commits of a tenant's netmap, encoded once per class and variant.

Invariants (tests/netmap/test_properties.py): a viewer that sees none of the changed rows gets no
message; a patch only goes to who saw the row before and sees it now; an id is never both in
PeersRemoved and in PeersChanged (CLIENTS.md 6b: the Go client would drop the peer).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import orjson

from app.model import DeviceId, UserId
from app.netmap.access import Access, filter_member, ssh_member
from app.netmap.blocks import BLOCK_ROWS, BlockList, encode_lists
from app.netmap.members import form_for
from app.netmap.row import PLAIN, Form, Row
from app.netmap.variant import Compress, Variant, encode
from app.policy.classes import DeviceClass
from app.policy.engine import PolicyEngine
from app.policy.filters import Template


class Resync(Enum):
    """Answer instead of a message: only a full map is right for this viewer."""

    RESYNC = "resync"


RESYNC = Resync.RESYNC


@dataclass(frozen=True, slots=True)
class RowChange:
    """One device before and after; None where it did not or does not exist."""

    old: Row | None
    new: Row | None


@dataclass(frozen=True, slots=True)
class Swap:
    """Another policy came into force: the class every device had before, and devices without any other
    change grouped by their class before and after."""

    old_classes: Mapping[DeviceId, DeviceClass]
    groups: Mapping[tuple[DeviceClass, DeviceClass], list[DeviceId]]


class _ClassDelta:
    """What viewers of one class are told, in its plain parts, and the finished shared message.

    `template`: a new packet filter with holes for each viewer's own addresses.
    """

    __slots__ = ("_shared", "has_access", "head", "ids", "patches", "removed", "template", "whole")

    def __init__(self, removed: list[DeviceId], whole: dict[DeviceId, bytes], patches: dict[DeviceId, bytes]):
        self.removed = removed
        self.whole = whole
        self.patches = patches
        self.ids = {*removed, *whole, *patches}
        self.head: list[bytes] = []
        self.template: Template | None = None
        self.has_access = False
        self._shared: dict[Variant, bytes | None] = {}

    @property
    def kind(self) -> str:
        """The weightiest thing it tells; empty for nothing."""
        if self.whole or self.removed:
            return "peers"
        if self.has_access:
            return "access"
        if self.patches:
            return "patch"
        return "settings" if self.head else ""

    def shared(self, variant: Variant, compress: Compress) -> bytes | None:
        if variant not in self._shared:
            self._shared[variant] = self.message(variant, compress, without=None, own=[])
        return self._shared[variant]

    def message(
        self, variant: Variant, compress: Compress, *, without: DeviceId | None, own: list[bytes]
    ) -> bytes | None:
        """The message with `own` members of one viewer, or None when nothing is left to say."""
        members = [*self.head, *own]
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
                blocks = [(BlockList(rows), rows.__getitem__)]
                pieces += encode_lists(blocks, variant, compress, without)
                text = b"]"
        pieces.append(encode(text + b"}", variant, compress))
        return b"".join(pieces)


@dataclass(slots=True, kw_only=True)
class Flush:
    """What one commit changed, for whoever was connected before it.

    `access_before`: what each class had been told of its filter and SSH policy, where that may differ
    now. `profile_classes`: changed users, and the classes that their devices are in.
    """

    changes: Mapping[DeviceId, RowChange]
    engine: PolicyEngine
    compress: Compress
    rows: Mapping[DeviceId, Row]
    profiles: Mapping[UserId, bytes]
    profile_classes: Mapping[UserId, frozenset[DeviceClass]]
    common: list[bytes]
    access: Access
    access_before: Mapping[DeviceClass, tuple[Template, bytes]]
    swap: Swap | None = None
    encodings: int = 0
    #: Messages made so far by what is in them: peers, patch, access, self, settings.
    kinds: Counter[str] = field(default_factory=Counter)
    _deltas: dict[tuple[DeviceClass, DeviceClass] | None, _ClassDelta] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (
            self.changes or self.common or self.profile_classes or self.access_before or self.swap is not None
        )

    def message_for(self, viewer: DeviceId, variant: Variant) -> bytes | Resync | None:
        """What to write to a viewer that was connected before the commit: bytes, nothing, or RESYNC.

        A viewer that no longer exists gets RESYNC too; its caller knows it is gone.
        """
        change = self.changes.get(viewer)
        row = self.rows.get(viewer)
        if row is None or (change is not None and change.old is None):
            return RESYNC
        old = row if change is None or change.old is None else change.old
        before = old.cls if self.swap is None else self.swap.old_classes.get(viewer, old.cls)
        after = row.viewer_class
        own: list[bytes] = []
        if self._hears_of_itself(old, before, row):
            own.append(b'"Node":' + row.self_json())
            if after is None and old.owner != row.owner and row.owner in self.profiles:
                own.append(b'"UserProfiles":[' + self.profiles[row.owner] + b"]")
        if after is not None and (old.expired or old.owner != row.owner):
            return RESYNC
        if after is not None and before is not after and self.swap is None:
            return RESYNC
        delta = self._delta(None if after is None else (before, after))
        if delta.template is not None and not delta.template.is_shared:
            own.append(filter_member(delta.template.filled(row.device.ipv4, row.device.ipv6)))
        if own or viewer in delta.ids:
            self.encodings += 1
            message = delta.message(variant, self.compress, without=viewer, own=own)
        else:
            message = delta.shared(variant, self.compress)
        if message is not None:
            self.kinds[delta.kind or "self"] += 1
        return message

    @staticmethod
    def _hears_of_itself(old: Row, before: DeviceClass, row: Row) -> bool:
        if old is not row and row.differs_for_itself(old):
            return True
        after = row.cls
        return before is not after and (before.shape.no_v4, before.self_caps) != (
            after.shape.no_v4,
            after.self_caps,
        )

    def _delta(self, classes: tuple[DeviceClass, DeviceClass] | None) -> _ClassDelta:
        delta = self._deltas.get(classes)
        if delta is None:
            if classes is None:
                # An expired device hears of itself and of settings, of nobody else.
                delta = _ClassDelta([], {}, {})
                delta.head = list(self.common)
            else:
                delta = self._build(*classes)
            self._deltas[classes] = delta
            self.encodings += 1
        return delta

    def _build(self, before: DeviceClass, after: DeviceClass) -> _ClassDelta:
        removed: list[DeviceId] = []
        whole: dict[DeviceId, bytes] = {}
        patches: dict[DeviceId, bytes] = {}
        owners: set[UserId] = set()
        for device_id, change in self.changes.items():
            old, new = change.old, change.new
            saw = old is not None and bool(before.sees & old.cls.bit)
            if new is None or not after.sees & new.cls.bit:
                if saw:
                    removed.append(device_id)
                continue
            form = form_for(after, new, self.engine)
            if not saw or old is None:
                whole[device_id] = new.json(form)
                owners.add(new.owner)
                continue
            difference = self._difference(before, old, new, form)
            if difference is None:
                continue
            if difference is new.json(form):
                whole[device_id] = difference
                if new.owner != old.owner:
                    owners.add(new.owner)
            else:
                patches[device_id] = difference
        if self.swap is not None:
            self._add_swapped(before, after, removed, whole, owners)
        owners.update(u for u, seen in self.profile_classes.items() if any(after.sees & c.bit for c in seen))
        delta = _ClassDelta(removed, whole, patches)
        delta.head = list(self.common)
        self._add_access(delta, before, after)
        if owners:
            texts = [self.profiles[u] for u in sorted(owners) if u in self.profiles]
            delta.head.append(b'"UserProfiles":[' + b",".join(texts) + b"]")
        return delta

    @staticmethod
    def _difference(before: DeviceClass, old: Row, new: Row, form: Form) -> bytes | None:
        """A patch, the whole row in its form (the same object), or None for no difference to see."""
        is_plain = not old.cls.shape.subnets and not before.shape.no_v4
        told = PLAIN if is_plain else old.told.get(before)
        difference = new.patch_from(old)
        if told != form or difference is new.json():
            return new.json(form)
        return difference

    def _add_swapped(
        self,
        before: DeviceClass,
        after: DeviceClass,
        removed: list[DeviceId],
        whole: dict[DeviceId, bytes],
        owners: set[UserId],
    ) -> None:
        """Devices that did not change themselves, but came into sight or went out of it."""
        assert self.swap is not None
        for (old_class, new_class), ids in self.swap.groups.items():
            saw, sees = bool(before.sees & old_class.bit), bool(after.sees & new_class.bit)
            if saw and not sees:
                removed += ids
            elif sees and (not saw or before.shape.no_v4 != after.shape.no_v4):
                for device_id in ids:
                    row = self.rows[device_id]
                    whole[device_id] = row.json(form_for(after, row, self.engine))
                    owners.add(row.owner)

    def _add_access(self, delta: _ClassDelta, before: DeviceClass, after: DeviceClass) -> None:
        """The packet filter and SSH policy, where they differ from what was told."""
        told = self.access_before.get(before)
        if told is None:
            return
        template, ssh = self.access.of(after)
        delta.has_access = (template, ssh) != told
        if template != told[0]:
            if template.is_shared:
                delta.head.append(filter_member(template.json))
            else:
                delta.template = template
        if ssh != told[1]:
            delta.head.append(ssh_member(ssh))
