"""Policies of this cluster's tenants -> hub: stored ones, and the home tenant's file where it has one.

What a policy that has changed entails is done in `settle`: routes that need nobody's approval any more
are approved, and a policy that does not pass is shouted about. What the database cannot do now is done
at the next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Protocol

from app import log
from app.errors import HsError, Unavailable
from app.model import ClusterSnapshot, Device, DeviceId, StoredPolicy, TenantId, User
from app.policy.check import accept
from app.policy.hujson import PolicyError
from app.policy.reader import read
from app.policy.routes import auto_approved
from node.hub import Hub
from node.policy_file import PolicyFile

_log = log.get("policies")


class PolicyStore(Protocol):
    """What is needed of the database (app.db.Scoped)."""

    async def load_policy(self, tenant_id: TenantId) -> StoredPolicy | None: ...

    async def list_users(self, tenant_id: TenantId) -> list[User]: ...

    async def list_devices(self, tenant_id: TenantId) -> list[Device]: ...

    async def routers(self, tenant_id: TenantId) -> list[Device]: ...

    async def add_approvals(
        self, tenant_id: TenantId, approvals: Mapping[DeviceId, Sequence[str]]
    ) -> list[DeviceId]: ...


class TenantPolicies:
    """Keeps the hub's policies equal to what is committed, or to the file."""

    def __init__(
        self,
        store: PolicyStore,
        hub: Hub,
        *,
        file: PolicyFile | None,
        may_write: Callable[[], bool],
        on_invalid: Callable[[str, bool], None],
    ) -> None:
        """`on_invalid` hears of a tenant by name, and whether its policy does not pass."""
        #: Whoever takes over reads and writes through another object from then on.
        self.store = store
        self._hub = hub
        self._file = file
        self._may_write = may_write
        self._on_invalid = on_invalid
        self._in_force: dict[TenantId, StoredPolicy] = {}
        self._unjudged: set[TenantId] = set()
        self._unapproved: set[TenantId] = set()
        self._reading_file = asyncio.Lock()
        #: Names under which tenants were reported as invalid.
        self._reported: dict[TenantId, str] = {}

    # -- from the database ----------------------------------------------------------------------

    def held_in(self, snapshot: ClusterSnapshot) -> set[TenantId]:
        """Tenants of a snapshot that have a policy, stored or in the file."""
        held = {stored.tenant_id for stored in snapshot.policies}
        if self._file is not None:
            held |= {tenant.id for tenant in snapshot.tenants if tenant.is_home}
        return held

    async def load(self, snapshot: ClusterSnapshot, only: Set[TenantId] | None = None) -> None:
        """All policies of a snapshot, right after the hub has taken it in. `only`: it is of these tenants."""
        found = {stored.tenant_id: stored for stored in snapshot.policies}
        for tenant in snapshot.tenants:
            if tenant.is_home and self._file is not None:
                found[tenant.id] = self._file.stored(tenant.id)
        gone = self._in_force.keys() - found.keys()
        if only is not None:
            gone &= only
        for tenant_id in sorted({*found, *gone}):
            self._put(tenant_id, found.get(tenant_id))
            await asyncio.sleep(0)
        # While no owner was there a policy or an announcement may have changed.
        self._unapproved |= {
            device.tenant_id
            for device in snapshot.devices
            if device.announced_routes and not set(device.announced_routes) <= set(device.approved_routes)
        } & found.keys()
        self._unjudged |= found.keys()

    async def reload(self, tenant_ids: Iterable[TenantId]) -> None:
        """Read the policies of tenants again."""
        for tenant_id in sorted(tenant_ids):
            tenant = self._hub.tenant(tenant_id)
            if tenant is None or (tenant.is_home and self._file is not None):
                continue
            stored = await self.store.load_policy(tenant_id)
            if stored != self._in_force.get(tenant_id):
                self._put(tenant_id, stored)
                self._unapproved.add(tenant_id)
                self._unjudged.add(tenant_id)

    def _put(self, tenant_id: TenantId, stored: StoredPolicy | None) -> None:
        if self._in_force.get(tenant_id) == stored == self._hub.policies.stored(tenant_id):
            return
        if stored is None:
            self._in_force.pop(tenant_id, None)
            self._report(tenant_id, None)
        else:
            self._in_force[tenant_id] = stored
        if self._hub.tenant(tenant_id) is not None:
            self._hub.policies.put(tenant_id, stored)
        if stored is not None:
            _log.info("policy_in_force", tenant=tenant_id, version=stored.version, hash=stored.hash[:12])

    # -- from the file --------------------------------------------------------------------------

    async def reload_file(self) -> None:
        """Take the file as it is now; one that does not pass is refused, and what was in force stays."""
        file = self._file
        if file is None:
            return
        async with self._reading_file:
            home = next((tenant for tenant in self._hub.tenants() if tenant.is_home), None)
            try:
                text = file.read()
                if home is not None:
                    await self._accept(home.id, text)
            except PolicyError as error:
                _log.error("policy_file_refused", reason=file.refusal(error).message)
                return
            except HsError as error:
                _log.error("policy_file_refused", reason=error.message)
                return
            file.text = text
            if home is not None:
                self._put(home.id, file.stored(home.id))
                self._unapproved.add(home.id)
                self._unjudged.add(home.id)

    # -- what follows ---------------------------------------------------------------------------

    async def settle(self) -> set[tuple[TenantId, DeviceId]]:
        """Do what changed policies entail; the devices that got routes approved."""
        changed: set[tuple[TenantId, DeviceId]] = set()
        try:
            for tenant_id in sorted(self._unjudged):
                await self._judge(tenant_id)
                self._unjudged.discard(tenant_id)
            for tenant_id in sorted(self._unapproved):
                if self._may_write():
                    changed |= {(tenant_id, device_id) for device_id in await self._approve(tenant_id)}
                    self._unapproved.discard(tenant_id)
        except Unavailable as error:
            _log.warning(
                "policies_wait",
                judging=len(self._unjudged),
                approving=len(self._unapproved),
                reason=error.message,
            )
        return changed

    async def _judge(self, tenant_id: TenantId) -> None:
        tenant, stored = self._hub.tenant(tenant_id), self._in_force.get(tenant_id)
        if tenant is None or stored is None:
            return
        try:
            await self._accept(tenant_id, stored.text)
        except PolicyError as error:
            # It is in force all the same: taking it away could open what it closed.
            _log.error("policy_invalid", tenant=tenant.name, version=stored.version, reason=error.message)
            self._report(tenant_id, tenant.name)
        else:
            self._report(tenant_id, None)
        # Many tenants are judged at a start: the loop must breathe.
        await asyncio.sleep(0)

    def _report(self, tenant_id: TenantId, invalid: str | None) -> None:
        """The policy of a tenant does not pass, under this name; None: it does, or there is none."""
        known = self._reported.pop(tenant_id, None)
        if known is not None and known != invalid:
            self._on_invalid(known, False)
        if invalid is not None:
            self._reported[tenant_id] = invalid
            self._on_invalid(invalid, True)

    async def _accept(self, tenant_id: TenantId, text: str) -> None:
        """Raises PolicyError for what may not be used for this tenant."""
        policy = read(text)
        if policy.tests or policy.ssh_tests or policy.ssh:
            users = await self.store.list_users(tenant_id)
            devices = await self.store.list_devices(tenant_id)
            # For 10,000 devices it takes a large part of a second, and nothing here is touched by it.
            await asyncio.to_thread(accept, text, users, devices)

    async def _approve(self, tenant_id: TenantId) -> list[DeviceId]:
        in_force = self._hub.policies.in_force(tenant_id)
        if in_force is None:
            return []
        policy, directory = in_force
        if not (policy.route_approvers or policy.exit_approvers):
            return []
        missing: dict[DeviceId, tuple[str, ...]] = {}
        for device in await self.store.routers(tenant_id):
            routes = set(device.announced_routes).difference(device.approved_routes)
            wanted = auto_approved(policy, directory, device.user_id, device.tags, routes)
            if wanted:
                missing[device.id] = wanted
        if not missing:
            return []
        approved = await self.store.add_approvals(tenant_id, missing)
        _log.info("routes_approved", tenant=tenant_id, devices=len(approved))
        return approved
