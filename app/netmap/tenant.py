"""The netmaps of one tenant, held as rows, classes and shared blocks. Pure.

Changes are collected (`put`, `remove`, ...) and take effect in `commit()`. Full maps are made from
what is committed, so a full map at commit k is the starting point of the delta of commit k+1.
Nothing here is N x N: a viewer's peers are the members of the classes its class sees. What is long is
also offered in steps, between which its caller may do something else.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import Any

import orjson

from app.errors import NotFound
from app.keys import machine_key_text, node_key_text
from app.model import TAGGED_DEVICES_USER_ID, Device, DeviceId, Tenant, User, UserId
from app.netmap.access import Access, filter_member, ssh_member
from app.netmap.blocks import BlockCounts, encode_lists
from app.netmap.dns import DnsPlan, dns_config, suffix
from app.netmap.flush import Flush, RowChange, Swap
from app.netmap.members import Members
from app.netmap.row import Row
from app.netmap.variant import Compress, Piece, Variant, encode
from app.policy.classes import DeviceClass
from app.policy.document import NO_POLICY, Policy
from app.policy.engine import PolicyEngine
from app.policy.people import Directory
from app.wire import tailcfg

_TAGGED_PROFILE = orjson.dumps(
    tailcfg.user_profile(TAGGED_DEVICES_USER_ID, "tagged-devices", "Tagged Devices")
)
#: Rows compared and encoded, or put into another policy's classes, in one step of a commit.
STEP_ROWS = 64
#: Rows led to their class of another policy in one step.
STEP_RECLASSED = 512
#: Users taken in one step.
STEP_USERS = 32
#: Blocks of peers encoded in one step of a full map.
STEP_BLOCKS = 8
#: What a policy looks at in a device; anything else leaves its class alone.
_POLICY_FACTS = ("user_id", "tags", "ipv4", "ipv6", "active_routes")


def _profile(user: User) -> bytes:
    profile = tailcfg.user_profile(
        user.id, user.email or user.name, user.display_name or user.name, user.profile_pic_url
    )
    return orjson.dumps(profile)


def _same_to_policy(old: Device, new: Device) -> bool:
    if any(getattr(old, name) != getattr(new, name) for name in _POLICY_FACTS):
        return False
    # Presence decides who carries a route.
    return old.online == new.online or not new.active_routes


class TenantNetmap:
    """All a tenant's devices are told. One per tenant, used by one task at a time."""

    def __init__(
        self,
        tenant: Tenant,
        *,
        compress: Compress,
        dns: DnsPlan,
        derp_map: bytes,
        policy: Policy = NO_POLICY,
    ) -> None:
        self.tenant = tenant
        self._compress = compress
        self._dns_plan = dns
        self._dns = dns_config(dns, tenant.dns_label)
        self._derp_map = derp_map
        self._dial_plan = b""
        self._users: dict[UserId, User] = {}
        self.engine = PolicyEngine(policy, ())
        self._access = Access(self.engine)
        self._members = Members()
        self._profiles: dict[UserId, bytes] = {TAGGED_DEVICES_USER_ID: _TAGGED_PROFILE}
        self._class_parts: dict[DeviceClass, Piece] = {}
        #: Devices whose newest record cannot be told to anybody, and why.
        self.rejected: dict[DeviceId, str] = {}
        self._pending: dict[DeviceId, tuple[Device, bool] | None] = {}
        #: What the commit under way has taken from there.
        self._committing: dict[DeviceId, tuple[Device, bool] | None] = {}
        self._pending_users: dict[UserId, User | None] = {}
        self._pending_common: dict[str, bytes] = {}
        self._pending_policy: Policy | None = None
        self._committing_policy: Policy | None = None
        self._pending_renewal: set[DeviceId] = set()
        #: Since somebody last looked and reset them.
        self.puts = 0
        self.blocks = BlockCounts()

    # -- what is known now (committed or not) ---------------------------------------------------

    @property
    def _rows(self) -> dict[DeviceId, Row]:
        return self._members.rows

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, device_id: DeviceId) -> bool:
        return self.device(device_id) is not None

    def is_committed(self, device_id: DeviceId) -> bool:
        """Whether a full map of this device can be made now."""
        return device_id in self._rows

    def device(self, device_id: DeviceId) -> Device | None:
        """The newest picture of a device, None when there is none."""
        for changes in (self._pending, self._committing):
            if device_id in changes:
                pending = changes[device_id]
                return None if pending is None else pending[0]
        row = self._rows.get(device_id)
        return None if row is None else row.device

    def devices(self) -> list[Device]:
        """The newest picture of every device, committed or not."""
        known = {device_id: row.device for device_id, row in self._rows.items()}
        for changes in (self._committing, self._pending):
            for device_id, pending in changes.items():
                if pending is not None:
                    known[device_id] = pending[0]
                else:
                    known.pop(device_id, None)
        return list(known.values())

    def users(self) -> list[User]:
        """Every user, committed or not."""
        known = {**self._users, **self._pending_users}
        return [user for user in known.values() if user is not None]

    def policy(self) -> tuple[Policy, Directory]:
        """The newest policy, and the users as it names them, committed or not."""
        policy = self._newest_policy
        if policy is self.engine.policy and not self._pending_users:
            return policy, self.engine.directory
        return policy, Directory(self.users(), policy.groups)

    @property
    def _newest_policy(self) -> Policy:
        return next(
            (p for p in (self._pending_policy, self._committing_policy) if p is not None), self.engine.policy
        )

    def fqdn(self, device: Device) -> str:
        """A device's MagicDNS name without trailing dot."""
        return f"{device.given_name}.{suffix(self._dns_plan, self.tenant.dns_label)}"

    # -- changes --------------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        return bool(
            self._pending
            or self._pending_users
            or self._pending_common
            or self._pending_renewal
            or self._pending_policy is not None
        )

    def put(self, device: Device, *, expired: bool = False) -> None:
        """A device is new or has changed. `expired`: its key is, by the caller's clock."""
        self._pending[device.id] = (device, expired)
        self.puts += 1

    def remove(self, device_id: DeviceId) -> None:
        self._pending[device_id] = None

    def put_user(self, user: User) -> None:
        self._pending_users[user.id] = user

    def remove_user(self, user_id: UserId) -> None:
        self._pending_users[user_id] = None

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

    def set_policy(self, policy: Policy) -> None:
        """Another policy; NO_POLICY lets everybody reach everybody."""
        self._pending_policy = policy

    def renew(self, devices: set[DeviceId]) -> None:
        """Make the rows of these devices from scratch; of all of them, everything else as well."""
        self._pending_renewal |= devices
        if self._rows.keys() <= devices and self._pending_policy is None:
            self._pending_policy = self._newest_policy

    def commit(self) -> Flush:
        """Make all collected changes take effect and say what they were."""
        steps = self.commit_steps()
        while True:
            try:
                next(steps)
            except StopIteration as done:
                flush: Flush = done.value
                return flush

    def commit_steps(self) -> Generator[None, None, Flush]:
        """The same in steps. Between them changes may be collected for the next commit; full maps may
        not be asked for. Closed before its end, or failed, it leaves its changes to the next commit."""
        self._committing, self._pending = self._pending, {}
        policy, self._pending_policy = self._pending_policy, None
        self._committing_policy = policy
        common_parts, self._pending_common = self._pending_common, {}
        renewed, self._pending_renewal = self._pending_renewal, set()
        try:
            flush = yield from self._commit(policy, common_parts, renewed)
        except BaseException:
            self._pending = {**self._committing, **self._pending}
            self._pending_policy = policy if self._pending_policy is None else self._pending_policy
            self._pending_common = {**common_parts, **self._pending_common}
            self._pending_renewal |= renewed
            raise
        finally:
            self._committing, self._committing_policy = {}, None
        return flush

    def _commit(
        self, policy: Policy | None, common_parts: dict[str, bytes], renewed: set[DeviceId]
    ) -> Generator[None, None, Flush]:
        self._members.forget_empty()
        self._access.forget_empty()
        self.engine.sweep()
        changed_users, again = yield from self._commit_users()
        told_before = None
        if policy is not None:
            engine = yield from self._engine_of(policy)
            told_before = self._access.all_told()
            self.engine, self._access = engine, Access(engine)
        changes = yield from self._commit_rows(again, renewed)
        swap = None
        if told_before is not None:
            swap = yield from self._reclassify(changes)
        touched, routers = self.engine.take_touched()
        if swap is None:
            self._renew_routers(changes, routers)
        access_before = self._access.renew(touched) if told_before is None else told_before
        common = [orjson.dumps(name) + b":" + text for name, text in sorted(common_parts.items())]
        self._dns = common_parts.get("DNSConfig", self._dns)
        self._derp_map = common_parts.get("DERPMap", self._derp_map)
        self._dial_plan = common_parts.get("ControlDialPlan", self._dial_plan)
        if common or changed_users or swap is not None or self._changes_profiles(changes):
            self._class_parts.clear()
        for cls in access_before:
            self._class_parts.pop(cls, None)
        return Flush(
            changes=changes,
            engine=self.engine,
            compress=self._compress,
            rows=self._rows,
            profiles=self._profiles,
            profile_classes={u: self._members.classes_owned_by(u) for u in changed_users},
            common=common,
            access=self._access,
            access_before=access_before,
            swap=swap,
        )

    def _commit_users(self) -> Generator[None, None, tuple[list[UserId], set[DeviceId]]]:
        """(users whose profile changed, devices whose class may have)."""
        changed: list[UserId] = []
        again: set[DeviceId] = set()
        for done in itertools.count(1):
            if done % STEP_USERS == 0:
                yield
            if not self._pending_users:
                break
            user_id = next(iter(self._pending_users))
            user = self._pending_users.pop(user_id)
            if user is None:
                self._users.pop(user_id, None)
                self._profiles.pop(user_id, None)
                again |= self.engine.remove_user(user_id)
                continue
            self._users[user_id] = user
            again |= self.engine.put_user(user)
            profile = _profile(user)
            if self._profiles.get(user_id) != profile:
                self._profiles[user_id] = profile
                changed.append(user_id)
        return changed, again

    def _engine_of(self, policy: Policy) -> Generator[None, None, PolicyEngine]:
        """Another policy applied to all that is committed; the one in force stays as it is."""
        engine = PolicyEngine(policy, self._users.values())
        for done, row in enumerate(self._rows.values(), 1):
            engine.put(row.device)
            if done % STEP_ROWS == 0:
                yield
        return engine

    def _commit_rows(
        self, again: set[DeviceId], renewed: set[DeviceId]
    ) -> Generator[None, None, dict[DeviceId, RowChange]]:
        changes: dict[DeviceId, RowChange] = {}
        for device_id in (again | renewed) - self._committing.keys():
            row = self._rows.get(device_id)
            if row is not None:
                self._committing[device_id] = (row.device, row.expired)
        for done, (device_id, pending) in enumerate(self._committing.items(), 1):
            if done % STEP_ROWS == 0:
                yield
            old = self._rows.get(device_id)
            if pending is None:
                self.rejected.pop(device_id, None)
                if old is None:
                    continue
                self.engine.remove(device_id)
                new = None
            else:
                device, expired = pending
                fqdn = self.fqdn(device)
                if old is not None and (device, expired, fqdn) == (old.device, old.expired, old.fqdn):
                    is_reclassed = device_id in again and self.engine.put(device) is not old.cls
                    if not is_reclassed and device_id not in renewed:
                        continue
                try:
                    new = self._row(device, fqdn, expired, old, again)
                except (TypeError, ValueError, OverflowError) as error:
                    # One unreadable record must not blank anybody's map: its last good picture stays.
                    self.rejected[device_id] = str(error)
                    continue
                self.rejected.pop(device_id, None)
            self._members.put(device_id, old, new)
            changes[device_id] = RowChange(old, new)
        return changes

    def _row(self, device: Device, fqdn: str, expired: bool, old: Row | None, again: set[DeviceId]) -> Row:
        """A picture that can be told. Raises ValueError and its like, and has changed nothing then."""
        if old is not None and device.id not in again and _same_to_policy(old.device, device):
            row = self._row_in(self.engine.class_of(device.id), device, fqdn, expired)
            row.json()
            return row
        Row(device, fqdn, self.engine.untold_class, expired=expired).json()
        return self._row_in(self.engine.put(device), device, fqdn, expired)

    def _row_in(self, cls: DeviceClass, device: Device, fqdn: str, expired: bool) -> Row:
        carried = self.engine.carried_routes(device.id)
        return Row(device, fqdn, cls, expired=expired, primaries=carried)

    def _reclassify(self, changes: dict[DeviceId, RowChange]) -> Generator[None, None, Swap]:
        """After another policy: every row in its new class."""
        old_classes: dict[DeviceId, DeviceClass] = {}
        groups: dict[tuple[DeviceClass, DeviceClass], list[DeviceId]] = {}
        rows: dict[DeviceId, Row] = {}
        for done, (device_id, row) in enumerate(self._rows.items(), 1):
            if done % STEP_RECLASSED == 0:
                yield
            change = changes.get(device_id)
            if change is not None:
                if change.old is not None:
                    old_classes[device_id] = change.old.cls
                rows[device_id] = row
                continue
            old_classes[device_id] = before = row.cls
            after = self.engine.class_of(device_id)
            rows[device_id] = row
            if after.shape.subnets or (before.shape.no_v4, before.peer_caps) != (
                after.shape.no_v4,
                after.peer_caps,
            ):
                new = self._row_in(after, row.device, row.fqdn, row.expired)
                changes[device_id] = RowChange(row, new)
                rows[device_id] = new
            else:
                groups.setdefault((before, after), []).append(device_id)
                row.cls = after
                row.told = {}
        self._members.rebuild(rows)
        return Swap(old_classes, groups)

    def _renew_routers(self, changes: dict[DeviceId, RowChange], routers: set[DeviceId]) -> None:
        """Routes may be shown differently now: such routers are compared with what was told of them."""
        for device_id in routers - changes.keys():
            row = self._rows[device_id]
            new = self._row_in(row.cls, row.device, row.fqdn, row.expired)
            self._members.put(device_id, row, new)
            changes[device_id] = RowChange(row, new)
        if routers:
            self._members.forget_lists()

    @staticmethod
    def _changes_profiles(changes: dict[DeviceId, RowChange]) -> bool:
        return any(
            c.old is None or c.new is None or c.old.owner != c.new.owner or c.old.cls is not c.new.cls
            for c in changes.values()
        )

    # -- full maps ------------------------------------------------------------------------------

    def has_peers(self, device_id: DeviceId) -> bool:
        """Whether a full map of this device names any peer."""
        row = self._rows[device_id]
        if row.viewer_class is None:
            return False
        own = 1 if row.cls.sees & row.cls.bit else 0
        return sum(len(cls.members) for cls in self.engine.visible(row.cls)) > own

    def map_steps(self, device_id: DeviceId, variant: Variant) -> Iterator[None]:
        """Encodes, in steps, what a full map of a committed device needs and is not encoded yet."""
        row = self._rows.get(device_id)
        if row is None or row.viewer_class is None:
            return
        blocks, json_of = self._members.peers_of(row.viewer_class, self.engine)
        made = 0
        for place, block in enumerate(blocks.blocks):
            first = place == 0
            if not block.is_encoded(variant, first=first):
                block.encoded(json_of, variant, self._compress, first=first, without=None, counts=self.blocks)
                made += 1
                if made % STEP_BLOCKS == 0:
                    yield

    def full_map(self, device_id: DeviceId, variant: Variant, control_time: str) -> bytes:
        """The complete map of a committed device: a tailcfg.MapResponse that stands on its own.

        An expired device is told so and sees nobody. Raises NotFound.
        """
        row = self._rows.get(device_id)
        if row is None:
            raise NotFound(f"no device {device_id} in tenant {self.tenant.name}")
        own_profile = self._profiles.get(row.owner, _TAGGED_PROFILE)
        viewer = row.viewer_class
        own_access = b""
        if viewer is None:
            own_access = filter_member(b"[]") + b","
        else:
            template, _ = self._access.of(viewer)
            if not template.is_shared:
                own_access = filter_member(template.filled(row.device.ipv4, row.device.ipv6)) + b","
        head = b'{"Node":%b,"ControlTime":"%b",%b"UserProfiles":[%b' % (
            row.self_json(),
            control_time.encode(),
            own_access,
            own_profile,
        )
        if viewer is None:
            return encode(head + b"]," + self._settings_part() + b'"Peers":[]}', variant, self._compress)
        part = self._class_parts.get(viewer)
        if part is None:
            part = self._class_parts[viewer] = self._class_part(viewer)
        pieces = [encode(head, variant, self._compress), part.encoded(variant, self._compress)]
        peers = self._members.peers_of(viewer, self.engine)
        pieces += encode_lists([peers], variant, self._compress, device_id, self.blocks)
        pieces.append(encode(b"]}", variant, self._compress))
        return b"".join(pieces)

    def _class_part(self, viewer: DeviceClass) -> Piece:
        """What all devices of a class get between their own node and the list of peers."""
        owners = self._members.owners_in(self.engine.visible(viewer))
        profiles = b"".join(b"," + self._profiles[user] for user in owners if user in self._profiles)
        template, ssh = self._access.of(viewer)
        filters = filter_member(template.json) + b"," if template.is_shared else b""
        ssh_part = ssh_member(ssh) + b","
        return Piece(profiles + b"]," + self._settings_part() + filters + ssh_part + b'"Peers":[')

    def _settings_part(self) -> bytes:
        return b'"Domain":%b,"DNSConfig":%b,"DERPMap":%b,%b' % (
            orjson.dumps(suffix(self._dns_plan, self.tenant.dns_label)),
            self._dns,
            self._derp_map,
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
