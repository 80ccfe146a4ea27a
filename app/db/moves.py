"""Tenants that move from one cluster to another: one transaction, ids, addresses and keys unchanged."""

from __future__ import annotations

from app.db.base import PoolBase, again_when_busy
from app.errors import HsError, NotFound, Refused
from app.model import TenantId
from app.placement import RESERVE
from app.sql import QUERIES


class Moves(PoolBase):
    """The part of Admission that moves tenants."""

    async def move_tenant(
        self, tenant_id: TenantId, source: str, target: str, *, actor: str, why: str = ""
    ) -> None:
        """A tenant and all that is its, to another cluster.

        Both owners hear of it by `changes`, entries by `hs_routing`. Raises NotFound when it does not live in
        `source` (any more) or there is no `target`, Refused, and Unavailable while its writers do not let go.
        """

        values = (tenant_id, source, target, RESERVE, actor, why)
        outcome = await again_when_busy(lambda: self._fetchval(QUERIES["move_tenant"], *values))
        if outcome != "moved":
            raise _refusal(outcome, tenant_id, source, target)


def _refusal(outcome: str, tenant_id: TenantId, source: str, target: str) -> HsError:
    match outcome:
        case "not_here":
            return NotFound(f"tenant {tenant_id} does not live in cluster {source!r}", code="not_here")
        case "target_unknown":
            return NotFound(f"there is no cluster {target!r}", code="target_unknown")
        case "home_tenant":
            return Refused("a home tenant lives and ends with its cluster", code="home_tenant")
        case "target_same":
            return Refused(f"tenant {tenant_id} lives in cluster {target!r} already", code="target_same")
        case "target_not_active":
            return Refused(f"cluster {target!r} takes no tenants now", code="target_not_active")
        case _:
            return Refused(f"cluster {target!r} has no room for tenant {tenant_id}", code="target_full")
