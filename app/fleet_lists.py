"""Lists of the console that one statement serves (`fleet_window`): a record for each, by name. Pure.

Times are seconds since the Unix epoch of the database's clock, `None` for never or unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant where it lives, and what it uses of its limits; a limit of None is none."""

    tenant_id: int
    id: int
    cluster_id: str
    name: str
    state: str
    plan: str
    region: str
    dedicated: bool
    pinned: str
    is_home: bool
    devices: int
    max_devices: int | None
    users: int
    max_users: int | None
    keys: int
    max_keys: int | None
    online: int
    created: float
    version: int


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A plan for moving tenants. `before`, `after`: devices a cluster counts for."""

    id: int
    purpose: str
    subject: str
    state: str
    why: str
    before: dict[str, int]
    after: dict[str, int]
    notes: tuple[str, ...]
    error: str
    created_by: str
    created: float
    approved_by: str
    ended: float | None
    version: int
    steps: int
    devices: int
    done: int
    failed: int
    connected_before: int | None
    connected_after: int | None


@dataclass(frozen=True, slots=True)
class MoveRow:
    """One tenant of a plan. `connected_*`: its devices that were connected before the move, and after."""

    id: int
    plan: int
    step: int
    tenant_id: int
    tenant: str
    source: str
    target: str
    devices: int
    state: str
    error: str
    connected_before: int | None
    connected_after: int | None
    ended: float | None
    plan_state: str
    plan_version: int


#: List -> its rows.
LISTS: Final[Mapping[str, type[Any]]] = {
    "tenants": TenantRow,
    "rebalance": PlanRow,
    "moves": MoveRow,
}
