"""Committed rows, and the lists of peers that classes of viewers are shown. Pure.

A list is in order of ids, as the protocol wants it (tailscale tailcfg.go MapResponse.Peers), so it
belongs to a set of visible classes, not to one class of members. Classes of viewers that see the same
rows in the same form share one, and a changed row spoils one block of each list it stands in.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.model import DeviceId, UserId
from app.netmap.blocks import BlockList, JsonOf
from app.netmap.row import PLAIN, Form, Row
from app.policy.classes import DeviceClass
from app.policy.engine import PolicyEngine

#: Lists kept; the one not asked for longest gives way. Of 10,000 peers one is about 1.5 MB.
MAX_LISTS = 64


class PeerList:
    """The peers of some classes of viewers, who all see the same rows in the same form."""

    __slots__ = ("blocks", "viewers")

    def __init__(self, blocks: BlockList, viewer: DeviceClass) -> None:
        self.blocks = blocks
        self.viewers = [viewer]

    def sees(self, cls: DeviceClass) -> bool:
        return bool(self.viewers[0].sees & cls.bit)


class Members:
    """The rows of one tenant, found by id and owner, and the lists they stand in."""

    def __init__(self) -> None:
        self.rows: dict[DeviceId, Row] = {}
        self._by_owner: dict[UserId, set[DeviceId]] = {}
        self._list_of: dict[DeviceClass, PeerList] = {}

    def put(self, device_id: DeviceId, old: Row | None, new: Row | None) -> None:
        """Keep rows, owners and lists in step."""
        if old is not None and (new is None or new.owner != old.owner):
            self._by_owner[old.owner].discard(device_id)
        if new is None:
            del self.rows[device_id]
        else:
            self.rows[device_id] = new
            self._by_owner.setdefault(new.owner, set()).add(device_id)
        if _looks_the_same_way(old, new):
            assert new is not None
            for peers in self._lists():
                if peers.sees(new.cls):
                    peers.blocks.touch(device_id)
        else:
            self._move(device_id, old, new)

    def _move(self, device_id: DeviceId, old: Row | None, new: Row | None) -> None:
        is_router = any(row is not None and row.cls.shape.subnets for row in (old, new))
        for peers in self._lists():
            if is_router and any(row is not None and peers.sees(row.cls) for row in (old, new)):
                self._drop(peers)
                continue
            if old is not None and peers.sees(old.cls):
                peers.blocks.discard(device_id)
            if new is not None:
                self._part(peers, new.cls)
                if peers.sees(new.cls):
                    peers.blocks.add(device_id)

    def _part(self, peers: PeerList, cls: DeviceClass) -> None:
        """Viewers that do not agree with the first about a class get a list of their own when needed."""
        sees = peers.sees(cls)
        for viewer in [v for v in peers.viewers if bool(v.sees & cls.bit) != sees]:
            peers.viewers.remove(viewer)
            del self._list_of[viewer]

    def _lists(self) -> list[PeerList]:
        return list(dict.fromkeys(self._list_of.values()))

    def _drop(self, peers: PeerList) -> None:
        for viewer in peers.viewers:
            del self._list_of[viewer]

    def rebuild(self, rows: dict[DeviceId, Row]) -> None:
        """All rows at once, after every class has changed."""
        self._by_owner = {}
        for device_id, row in rows.items():
            self._by_owner.setdefault(row.owner, set()).add(device_id)
        self.rows.clear()
        self.rows.update(rows)
        self._list_of = {}

    def forget_empty(self) -> None:
        """Classes without devices look at nothing; what they saw is not kept up any more."""
        for viewer in [v for v in self._list_of if not v.members]:
            self._list_of.pop(viewer).viewers.remove(viewer)

    def forget_lists(self) -> None:
        """Routes may be shown differently: all lists are made anew when they are needed."""
        self._list_of = {}

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

    def peers_of(self, viewer: DeviceClass, engine: PolicyEngine) -> tuple[BlockList, JsonOf]:
        """The peers of a class, and how their rows are written for it."""
        peers = self._list_of.pop(viewer, None) or self._find_or_make(viewer, engine)
        self._list_of[viewer] = peers
        while len(self._list_of) > MAX_LISTS:
            oldest = next(iter(self._list_of))
            self._list_of.pop(oldest).viewers.remove(oldest)
        rows = self.rows
        return peers.blocks, lambda device_id: rows[device_id].json(form_for(viewer, rows[device_id], engine))

    def _find_or_make(self, viewer: DeviceClass, engine: PolicyEngine) -> PeerList:
        visible = engine.visible(viewer)
        routers = [i for cls in visible if cls.shape.subnets for i in cls.members]
        forms = {i: form_for(viewer, self.rows[i], engine) for i in routers if i in self.rows}
        for peers in self._lists():
            other = peers.viewers[0]
            if (
                other.sees == viewer.sees
                and other.shape.no_v4 == viewer.shape.no_v4
                and all(form_for(other, self.rows[i], engine) == form for i, form in forms.items())
            ):
                peers.viewers.append(viewer)
                return peers
        return PeerList(BlockList(i for cls in visible for i in cls.members if i in self.rows), viewer)


def _looks_the_same_way(old: Row | None, new: Row | None) -> bool:
    """Whether a row stands in the same lists as before, in the same forms."""
    return old is not None and new is not None and old.cls is new.cls and old.primaries == new.primaries


def form_for(viewer: DeviceClass, row: Row, engine: PolicyEngine) -> Form:
    """How a row looks to a class of viewers; remembered in the row where it may change."""
    if not row.cls.shape.subnets and not viewer.shape.no_v4:
        return PLAIN
    form = row.told.get(viewer)
    if form is None:
        routes = engine.shown_routes(viewer, row.device.id) if row.cls.shape.subnets else ()
        form = row.told[viewer] = Form(routes, not viewer.shape.no_v4)
    return form
