"""Policies of tenants: versions that are only ever added; the highest is in force."""

from __future__ import annotations

import hashlib

from app.db import rows
from app.db.base import ScopedBase
from app.db.holdings import read_policies
from app.errors import BadRequest, Conflict, NotFound
from app.model import StoredPolicy, TenantId
from app.policy.hujson import MAX_POLICY_CHARS
from app.sql import QUERIES

MAX_NOTE = 1000
MAX_AUTHOR = 255
MAX_HISTORY = 1000


class Policies(ScopedBase):
    """The part of Scoped about policies. Whether a text may be used is judged by app.policy.check."""

    async def load_policy(self, tenant_id: TenantId) -> StoredPolicy | None:
        """The policy in force, None when the tenant has none yet."""
        found = await self.policy_history(tenant_id, 1)
        return found[0] if found else None

    async def policy_history(self, tenant_id: TenantId, limit: int = 50) -> list[StoredPolicy]:
        """The newest versions, newest first. Raises BadRequest for a limit that is none."""
        if not 1 <= limit <= MAX_HISTORY:
            raise BadRequest(f"a history has 1 to {MAX_HISTORY} versions", code="bad_limit")
        return await read_policies(self._fetch, self.cluster_id, tenant_id, limit)

    async def policy_version(self, tenant_id: TenantId, version: int) -> StoredPolicy:
        """One version. Raises NotFound."""
        # Larger numbers do not fit the column.
        row = None
        if 0 < version < 1 << 31:
            row = await self._fetchrow(QUERIES["policy_version"], self.cluster_id, tenant_id, version)
        if row is None:
            raise NotFound(f"there is no version {version} of this tenant's policy")
        return rows.policy(row)

    async def set_policy(
        self,
        tenant_id: TenantId,
        text: str,
        *,
        author: str,
        note: str = "",
        expected_version: int | None = None,
    ) -> StoredPolicy:
        """The next version, in force from now on. `expected_version` is that of the policy it was made from.

        0 expects that there is none yet, None expects nothing. Raises BadRequest for what cannot be stored,
        Conflict when another version is in force.
        """
        _check(text, author, note)
        digest = hashlib.sha256(text.encode()).hexdigest()
        async with self._tenant_tx(tenant_id) as conn:
            # One at a time: each sees the version of the one before.
            await self._lock_counters(conn, tenant_id)
            head = await conn.fetchrow(QUERIES["current_policy_version"], self.cluster_id, tenant_id)
            current: int = 0 if head is None else head["version"]
            if expected_version is not None and expected_version != current:
                changed = {"version": [expected_version, current]}
                raise Conflict(
                    _changed(expected_version, current),
                    code="policy_changed",
                    version=current,
                    changed=changed,
                )
            row = await conn.fetchrow(
                QUERIES["insert_policy"], self.cluster_id, tenant_id, current + 1, text, digest, author, note
            )
            assert row is not None
            before = None if head is None else {"version": current, "hash": head["hash"]}
            after = {"version": current + 1, "hash": digest, "note": note}
            await self._audit(conn, tenant_id, author, "policy_set", "policy", before, after)
            return rows.policy(row)


def _changed(expected: int, current: int) -> str:
    now = f"version {current} is in force" if current else "there is none yet"
    was = f"made from version {expected}" if expected else "meant to be the first"
    return f"the policy was changed meanwhile: {now}, this one was {was}"


def _check(text: str, author: str, note: str) -> None:
    if len(text) > MAX_POLICY_CHARS:
        raise BadRequest(
            f"the policy has {len(text)} characters, more than {MAX_POLICY_CHARS}", code="policy_too_large"
        )
    if len(note) > MAX_NOTE or len(author) > MAX_AUTHOR:
        raise BadRequest(f"a note has at most {MAX_NOTE} characters, an author {MAX_AUTHOR}", code="bad_note")
    for value in (text, author, note):
        if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise BadRequest("a policy and its note are Unicode without NUL", code="bad_policy_text")
