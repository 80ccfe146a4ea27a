"""The netmaps of one tenant, held as rows, classes and shared blocks. Pure.

Changes are collected (`put`, `remove`, ...) and take effect in `commit()`. Full maps are made from
what is committed, so a full map at commit k is the starting point of the delta of commit k+1.
Nothing here is N x N: a viewer's peers are the members of the classes its class sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from app.errors import NotFound
from app.keys import machine_key_text, node_key_text
from app.model import TAGGED_DEVICES_USER_ID, Device, DeviceId, Tenant, User, UserId
from app.netmap.blocks import BlockList, encode_lists
from app.netmap.dns import DnsPlan, dns_config, suffix
from app.netmap.flush import Flush, RowChange
from app.netmap.row import Row
from app.netmap.variant import Compress, Piece, Variant, encode
from app.policy.visibility import ClassKey, Visibility
from app.wire import tailcfg

_TAGGED_PROFILE = orjson.dumps(
    tailcfg.user_profile(TAGGED_DEVICES_USER_ID, "tagged-devices", "Tagged Devices")
)


def _profile(user: User) -> bytes:
    profile = tailcfg.user_profile(
        user.id, user.email or user.name, user.display_name or user.name, user.profile_pic_url
    )
    return orjson.dumps(profile)


class TenantNetmap:
    """All a tenant's devices are told. One per tenant, used by one task at a time."""

    def __init__(
        self, tenant: Tenant, *, visibility: Visibility, compress: Compress, dns: DnsPlan, derp_map: bytes
    ) -> None:
        self.tenant = tenant
        self._compress = compress
        self._visibility = visibility
        self._dns_plan = dns
        self._dns = dns_config(dns, tenant.dns_label)
        self._derp_map = derp_map
        self._dial_plan = b""
        self._rows: dict[DeviceId, Row] = {}
        self._members: dict[ClassKey, BlockList] = {}
        self._owned: dict[UserId, set[DeviceId]] = {}
        self._profiles: dict[UserId, bytes] = {TAGGED_DEVICES_USER_ID: _TAGGED_PROFILE}
        self._class_parts: dict[ClassKey, Piece] = {}
        #: Devices whose newest record cannot be told to anybody, and why.
        self.rejected: dict[DeviceId, str] = {}
        self._pending: dict[DeviceId, tuple[Device, bool] | None] = {}
        self._pending_profiles: dict[UserId, bytes | None] = {}
        self._pending_common: dict[str, bytes] = {}
        self._pending_visibility: Visibility | None = None

    # -- what is known now (committed or not) ---------------------------------------------------

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, device_id: DeviceId) -> bool:
        return self.device(device_id) is not None

    def is_committed(self, device_id: DeviceId) -> bool:
        """Whether a full map of this device can be made now."""
        return device_id in self._rows

    def device(self, device_id: DeviceId) -> Device | None:
        """The newest picture of a device, None when there is none."""
        if device_id in self._pending:
            pending = self._pending[device_id]
            return None if pending is None else pending[0]
        row = self._rows.get(device_id)
        return None if row is None else row.device

    def devices(self) -> Iterable[Device]:
        """Every committed device."""
        return [row.device for row in self._rows.values()]

    def fqdn(self, device: Device) -> str:
        """A device's MagicDNS name without trailing dot."""
        return f"{device.given_name}.{suffix(self._dns_plan, self.tenant.dns_label)}"

    # -- changes --------------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        return bool(
            self._pending or self._pending_profiles or self._pending_common or self._pending_visibility
        )

    def put(self, device: Device, *, expired: bool = False) -> None:
        """A device is new or has changed. `expired`: its key is, by the caller's clock."""
        self._pending[device.id] = (device, expired)

    def remove(self, device_id: DeviceId) -> None:
        self._pending[device_id] = None

    def put_user(self, user: User) -> None:
        self._pending_profiles[user.id] = _profile(user)

    def remove_user(self, user_id: UserId) -> None:
        self._pending_profiles[user_id] = None

    def set_derp_map(self, derp_map: bytes) -> None:
        if derp_map != self._derp_map:
            self._pending_common["DERPMap"] = derp_map

    def set_dial_plan(self, plan: bytes) -> None:
        """A tailcfg.ControlDialPlan: addresses at which clients reach the owner and its standbys."""
        if plan != self._dial_plan:
            self._pending_common["ControlDialPlan"] = plan

    def set_dns(self, plan: DnsPlan) -> None:
        """Global nameservers, search domains and so on; names of devices follow the base domain."""
        config = dns_config(plan, self.tenant.dns_label)
        if config != self._dns:
            self._pending_common["DNSConfig"] = config
        self._dns_plan = plan

    def set_visibility(self, visibility: Visibility) -> None:
        self._pending_visibility = visibility

    def commit(self) -> Flush:
        """Make all collected changes take effect and say what they were."""
        everyone_resyncs = self._pending_visibility is not None
        if self._pending_visibility is not None:
            self._visibility = self._pending_visibility
            self._reclassify()
        changes = self._commit_rows()
        changed_users = self._commit_profiles()
        common = [orjson.dumps(name) + b":" + text for name, text in sorted(self._pending_common.items())]
        self._dns = self._pending_common.get("DNSConfig", self._dns)
        self._derp_map = self._pending_common.get("DERPMap", self._derp_map)
        self._dial_plan = self._pending_common.get("ControlDialPlan", self._dial_plan)
        if common or changed_users or everyone_resyncs or self._changes_profiles(changes):
            self._class_parts.clear()
        self._pending = {}
        self._pending_profiles = {}
        self._pending_common = {}
        self._pending_visibility = None
        return Flush(
            changes,
            visibility=self._visibility,
            compress=self._compress,
            rows=self._rows,
            profiles=self._profiles,
            changed_profiles={u: self._classes_owned_by(u) for u in changed_users},
            common=common,
            everyone_resyncs=everyone_resyncs,
        )

    def _commit_rows(self) -> dict[DeviceId, RowChange]:
        changes: dict[DeviceId, RowChange] = {}
        for device_id, pending in self._pending.items():
            old = self._rows.get(device_id)
            new: Row | None = None
            if pending is not None:
                device, expired = pending
                fqdn = self.fqdn(device)
                if old is not None and device == old.device and (expired, fqdn) == (old.expired, old.fqdn):
                    continue
                new = Row(device, fqdn, self._visibility.class_of(device), expired=expired)
                try:
                    new.json()
                except (TypeError, ValueError, OverflowError) as error:
                    # One unreadable record must not blank anybody's map: its last good picture stays.
                    self.rejected[device_id] = str(error)
                    continue
                self.rejected.pop(device_id, None)
            else:
                self.rejected.pop(device_id, None)
                if old is None:
                    continue
            self._move(device_id, old, new)
            changes[device_id] = RowChange(old, new)
        return changes

    def _move(self, device_id: DeviceId, old: Row | None, new: Row | None) -> None:
        """Keep rows, class members and owners in step."""
        if old is not None and (new is None or new.cls != old.cls):
            members = self._members[old.cls]
            members.discard(device_id)
            if not members.blocks:
                del self._members[old.cls]
        if old is not None and (new is None or new.owner != old.owner):
            self._owned[old.owner].discard(device_id)
        if new is None:
            del self._rows[device_id]
            return
        self._rows[device_id] = new
        self._owned.setdefault(new.owner, set()).add(device_id)
        members = self._members.setdefault(new.cls, BlockList())
        if old is not None and new.cls == old.cls:
            members.touch(device_id)
        else:
            members.add(device_id)

    def _commit_profiles(self) -> list[UserId]:
        changed: list[UserId] = []
        for user_id, profile in self._pending_profiles.items():
            if profile is None:
                self._profiles.pop(user_id, None)
            elif self._profiles.get(user_id) != profile:
                self._profiles[user_id] = profile
                changed.append(user_id)
        return changed

    def _classes_owned_by(self, user_id: UserId) -> frozenset[ClassKey]:
        return frozenset(self._rows[i].cls for i in self._owned.get(user_id, ()))

    def _reclassify(self) -> None:
        self._members = {}
        for row in self._rows.values():
            row.cls = self._visibility.class_of(row.device)
        by_class: dict[ClassKey, list[DeviceId]] = {}
        for device_id, row in self._rows.items():
            by_class.setdefault(row.cls, []).append(device_id)
        self._members = {cls: BlockList(ids) for cls, ids in by_class.items()}

    @staticmethod
    def _changes_profiles(changes: dict[DeviceId, RowChange]) -> bool:
        return any(
            c.old is None or c.new is None or c.old.owner != c.new.owner or c.old.cls != c.new.cls
            for c in changes.values()
        )

    # -- full maps ------------------------------------------------------------------------------

    def visible_classes(self, viewer: ClassKey) -> list[ClassKey]:
        return [cls for cls in self._members if self._visibility.sees(viewer, cls)]

    def has_peers(self, device_id: DeviceId) -> bool:
        """Whether a full map of this device names any peer."""
        row = self._rows[device_id]
        if row.viewer_class is None:
            return False
        own = 1 if self._visibility.sees(row.cls, row.cls) else 0
        return sum(len(self._members[c]) for c in self.visible_classes(row.cls)) > own

    def full_map(self, device_id: DeviceId, variant: Variant, control_time: str) -> bytes:
        """The complete map of a committed device: a tailcfg.MapResponse that stands on its own.

        An expired device is told so and sees nobody. Raises NotFound.
        """
        row = self._rows.get(device_id)
        if row is None:
            raise NotFound(f"no device {device_id} in tenant {self.tenant.name}")
        own_profile = self._profiles.get(row.owner, _TAGGED_PROFILE)
        head = b'{"Node":%b,"ControlTime":"%b","UserProfiles":[%b' % (
            row.json(),
            control_time.encode(),
            own_profile,
        )
        viewer = row.viewer_class
        if viewer is None:
            text = head + b"]," + self._settings_part(()) + b"]}"
            return encode(text, variant, self._compress)
        part = self._class_parts.get(viewer)
        if part is None:
            part = self._class_parts[viewer] = self._class_part(viewer)
        lists = [self._members[cls] for cls in self.visible_classes(viewer)]
        pieces = [encode(head, variant, self._compress), part.encoded(variant, self._compress)]
        pieces += encode_lists(lists, self._json_of, variant, self._compress, device_id)
        pieces.append(encode(b"]}", variant, self._compress))
        return b"".join(pieces)

    def _json_of(self, device_id: DeviceId) -> bytes:
        return self._rows[device_id].json()

    def _class_part(self, viewer: ClassKey) -> Piece:
        """What all devices of a class get between their own node and the list of peers."""
        seen = set(self.visible_classes(viewer))
        owners = sorted(
            user
            for user, devices in self._owned.items()
            if user in self._profiles and any(self._rows[i].cls in seen for i in devices)
        )
        profiles = b"".join(b"," + self._profiles[user] for user in owners)
        return Piece(profiles + b"]," + self._settings_part(self._visibility.packet_filter(viewer)))

    def _settings_part(self, rules: tuple[dict[str, Any], ...]) -> bytes:
        filters = orjson.dumps({"*": None, "base": list(rules)})
        return b'"Domain":%b,"DNSConfig":%b,"DERPMap":%b,"PacketFilters":%b,%b"Peers":[' % (
            orjson.dumps(suffix(self._dns_plan, self.tenant.dns_label)),
            self._dns,
            self._derp_map,
            filters,
            b'"CollectServices":false,"Debug":{"DisableLogTail":true},' + self._dial_plan_member(),
        )

    def _dial_plan_member(self) -> bytes:
        return b'"ControlDialPlan":%b,' % self._dial_plan if self._dial_plan else b""


def farewell_map(
    device_id: DeviceId,
    *,
    node_key: bytes,
    machine_key: bytes,
    expired_at: float,
    addresses: tuple[str, str] | None = None,
) -> bytes:
    """Tells a deleted device that it is out: its own node with an expiry in the past and no peers.

    A Go client goes to NeedsLogin at once; on a mere 404 it would stay Running for ever
    (CLIENTS.md 6c). JSON, for either variant.
    """
    node: dict[str, Any] = {
        "ID": device_id,
        "StableID": str(device_id),
        "Name": "deleted.",
        "User": TAGGED_DEVICES_USER_ID,
        "Key": node_key_text(node_key),
        "Machine": machine_key_text(machine_key),
        "KeyExpiry": tailcfg.rfc3339(expired_at),
        "Expired": True,
        "MachineAuthorized": True,
    }
    if addresses is not None:
        node["Addresses"] = node["AllowedIPs"] = [addresses[0] + "/32", addresses[1] + "/128"]
    return orjson.dumps(
        {
            "Node": node,
            "UserProfiles": [orjson.Fragment(_TAGGED_PROFILE)],
            "PacketFilters": {"*": None, "base": []},
            "Peers": [],
        }
    )
