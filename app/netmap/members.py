"""Committed rows by class, and the lists of peers that a class of viewers is shown. Pure.

Rows that look the same to all viewers stand in blocks shared by everybody; routers, and everything for
viewers without IPv4, in lists of each class of viewers.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.model import DeviceId, UserId
from app.netmap.blocks import BlockList, JsonOf
from app.netmap.row import PLAIN, Form, Row
from app.policy.classes import DeviceClass
from app.policy.engine import PolicyEngine


class Members:
    """The rows of one tenant, found by id, class and owner."""

    def __init__(self) -> None:
        self.rows: dict[DeviceId, Row] = {}
        self._by_class: dict[DeviceClass, BlockList] = {}
        self._by_owner: dict[UserId, set[DeviceId]] = {}
        self._special: dict[DeviceClass, BlockList] = {}

    def put(self, device_id: DeviceId, old: Row | None, new: Row | None) -> None:
        """Keep rows, class members and owners in step."""
        if old is not None and (new is None or new.cls is not old.cls):
            members = self._by_class[old.cls]
            members.discard(device_id)
            if not members.blocks:
                del self._by_class[old.cls]
        if old is not None and (new is None or new.owner != old.owner):
            self._by_owner[old.owner].discard(device_id)
        if any(row is not None and row.cls.shape.subnets for row in (old, new)):
            self._special.clear()
        elif self._special:
            # Only viewers without IPv4 have ordinary devices in lists of their own.
            self._special = {v: blocks for v, blocks in self._special.items() if not v.shape.no_v4}
        if new is None:
            del self.rows[device_id]
            return
        self.rows[device_id] = new
        self._by_owner.setdefault(new.owner, set()).add(device_id)
        members = self._by_class.setdefault(new.cls, BlockList())
        if old is not None and new.cls is old.cls:
            members.touch(device_id)
        else:
            members.add(device_id)

    def rebuild(self, rows: dict[DeviceId, Row]) -> None:
        """All rows at once, after every class has changed."""
        by_class: dict[DeviceClass, list[DeviceId]] = {}
        self._by_owner = {}
        for device_id, row in rows.items():
            by_class.setdefault(row.cls, []).append(device_id)
            self._by_owner.setdefault(row.owner, set()).add(device_id)
        self.rows.clear()
        self.rows.update(rows)
        self._by_class = {cls: BlockList(ids) for cls, ids in by_class.items()}
        self._special = {}

    def forget_special(self) -> None:
        """Classes came or went, or routes are shown differently: lists of single viewers are made anew."""
        self._special = {}

    def visible(self, viewer: DeviceClass) -> list[DeviceClass]:
        """Classes with devices that a class sees."""
        return [cls for cls in self._by_class if viewer.sees & cls.bit]

    def count_visible(self, viewer: DeviceClass) -> int:
        return sum(len(self._by_class[cls]) for cls in self.visible(viewer))

    def owners_in(self, classes: Iterable[DeviceClass]) -> list[UserId]:
        """Owners of any device of these classes, in order."""
        wanted = set(classes)
        return sorted(
            user
            for user, devices in self._by_owner.items()
            if any(self.rows[device_id].cls in wanted for device_id in devices)
        )

    def classes_owned_by(self, user_id: UserId) -> frozenset[DeviceClass]:
        return frozenset(self.rows[i].cls for i in self._by_owner.get(user_id, ()))

    def lists_for(self, viewer: DeviceClass, engine: PolicyEngine) -> list[tuple[BlockList, JsonOf]]:
        """The peers of a class as block lists, each with how its rows are written."""
        visible = self.visible(viewer)
        plain = [] if viewer.shape.no_v4 else [cls for cls in visible if not cls.shape.subnets]
        lists: list[tuple[BlockList, JsonOf]] = [(self._by_class[cls], self._plain_json) for cls in plain]
        special = self._special.get(viewer)
        if special is None:
            ordinary = set(plain)
            ids = (i for cls in visible if cls not in ordinary for i in self._by_class[cls])
            special = self._special[viewer] = BlockList(ids)
        if special.blocks:
            lists.append((special, lambda device_id: self._json_for(viewer, device_id, engine)))
        return lists

    def _plain_json(self, device_id: DeviceId) -> bytes:
        return self.rows[device_id].json()

    def _json_for(self, viewer: DeviceClass, device_id: DeviceId, engine: PolicyEngine) -> bytes:
        row = self.rows[device_id]
        return row.json(form_for(viewer, row, engine))


def form_for(viewer: DeviceClass, row: Row, engine: PolicyEngine) -> Form:
    """How a row looks to a class of viewers; remembered in the row where it may change."""
    if not row.cls.shape.subnets and not viewer.shape.no_v4:
        return PLAIN
    form = row.told.get(viewer)
    if form is None:
        routes = engine.shown_routes(viewer, row.device.id) if row.cls.shape.subnets else ()
        form = row.told[viewer] = Form(routes, not viewer.shape.no_v4)
    return form
