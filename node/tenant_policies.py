"""The policies of a cluster's tenants as the hub has them: what is stored, and what is in force."""

from __future__ import annotations

from collections.abc import Mapping, Set

from app.model import StoredPolicy, TenantId
from app.policy.document import NO_POLICY, NOTHING_ALLOWED, Policy
from app.policy.hujson import PolicyError
from app.policy.people import Directory
from app.policy.reader import read
from node.fanout import TenantFanout


class TenantPolicies:
    """Of the tenants in `fanouts`. A tenant that is not known to have none lets nobody reach anybody."""

    def __init__(self, fanouts: Mapping[TenantId, TenantFanout]) -> None:
        self._fanouts = fanouts
        self._stored: dict[TenantId, StoredPolicy] = {}
        self._unsure: set[TenantId] = set()

    def first(self, tenant_id: TenantId, *, sure: bool) -> Policy:
        """What a new tenant begins with. Not `sure`: whether it has a policy is not known yet."""
        if not sure:
            self._unsure.add(tenant_id)
        return NO_POLICY if sure else NOTHING_ALLOWED

    def forget(self, tenant_id: TenantId) -> None:
        """The tenant is gone."""
        self._stored.pop(tenant_id, None)
        self._unsure.discard(tenant_id)

    def be_sure(self, tenants: Set[TenantId], guarded: Set[TenantId]) -> None:
        """It is known now which of these tenants have a policy: the `guarded`, who get it by `put`."""
        for tenant_id in (self._unsure & tenants) - guarded:
            self._fanouts[tenant_id].netmap.set_policy(NO_POLICY)
            self._fanouts[tenant_id].mark()
        self._unsure -= tenants

    def put(self, tenant_id: TenantId, stored: StoredPolicy | None) -> None:
        """The policy a tenant has now; None lets everybody reach everybody.

        A text that cannot be read leaves what was in force, or at the start lets nobody reach anybody;
        node.policies says so.
        """
        fanout = self._fanouts.get(tenant_id)
        if fanout is None or (self._stored.get(tenant_id) == stored and tenant_id not in self._unsure):
            return
        had_one = tenant_id in self._stored
        self._unsure.discard(tenant_id)
        policy = NO_POLICY
        if stored is None:
            self._stored.pop(tenant_id, None)
        else:
            self._stored[tenant_id] = stored
            try:
                policy = read(stored.text)
            except PolicyError:
                if had_one:
                    return
                policy = NOTHING_ALLOWED
        fanout.netmap.set_policy(policy)
        fanout.mark()

    def stored(self, tenant_id: TenantId) -> StoredPolicy | None:
        """What is stored as a tenant's policy, whether or not it passes."""
        return self._stored.get(tenant_id)

    def in_force(self, tenant_id: TenantId) -> tuple[Policy, Directory] | None:
        """The policy and the users as it names them, from the moment they are put: who asks need not
        wait for the round that tells the devices. None for a tenant without a policy."""
        fanout = self._fanouts.get(tenant_id)
        if fanout is None or tenant_id not in self._stored:
            return None
        return fanout.netmap.policy()
