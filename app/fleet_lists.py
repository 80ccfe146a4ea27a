"""Lists of the console that one statement serves (`fleet_window`): a record for each, by name. Pure.

Times are seconds since the Unix epoch of the database's clock, `None` for never or unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.fleet import KeyRow, UserRow


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant where it lives, and what it uses of its limits; a limit of None is none.

    `used`: per cent of the limit that it is nearest to, None without any.
    """

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
    used: int | None
    online: int
    created: float
    version: int


#: Devices of a plan that are counted; the statement says so too.
MOST_ONLINE: Final = 2_000


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A plan for moving tenants. `before`, `after`: devices a cluster counts for.

    `shifted`: of these, what steps that are done brought or took; `room`: how many a cluster may have.
    `left_out`: steps that an operator took out. `first`, `last`: when steps ended. `online`: devices of
    tenants that wait, MOST_ONLINE at most, None when the plan is over.
    """

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
    left_out: int
    first: float | None
    last: float | None
    connected_before: int | None
    connected_after: int | None
    shifted: dict[str, int]
    room: dict[str, int | None]
    online: int | None


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
    #: Warnings of the plan.
    plan_notes: int


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A route of a device. `ready`: how many devices of the tenant carry it and are online."""

    tenant_id: int
    id: int
    device_id: int
    cluster_id: str
    tenant: str
    route: str
    kind: str
    router: str
    state: str
    online: bool
    ready: int


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One version of a tenant's policy; `newest` is the one in force."""

    tenant_id: int
    id: int
    cluster_id: str
    tenant: str
    version: int
    newest: int
    state: str
    author: str
    note: str
    size: int
    created: float


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A change of a cluster's netmaps, or a rebuild with what it made (`state` of the request)."""

    tenant_id: int
    id: int
    cluster_id: str
    at: float
    event: str
    scope: str
    origin: str
    state: str
    devices: int | None
    bytes: int | None
    ms: float | None
    error: str
    maps: int | None
    waiting: int | None
    #: Stages of a rebuild.
    read_ms: float | None
    send_ms: float | None


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One line of the audit log; what was before and after as JSON."""

    tenant_id: int
    id: int
    cluster_id: str
    at: float
    actor: str
    action: str
    object: str
    tenant: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """An hs-node or hs-acs; `state`: owner or leader, standby, lost."""

    id: int
    name: str
    kind: str
    cluster_id: str
    addr: str
    version: str
    started: float
    heartbeat: float
    state: str
    epoch: int | None
    lease_ends: float | None
    #: Another version than that of the process that was started last.
    skewed: bool
    #: Devices when it was heard last; None for a process that serves none.
    connected: int | None
    #: Of its newest sample; None where it measures no such thing, or none is new.
    rss: int | None
    cpu_share: float | None
    loop_lag_s: float | None
    pool_used: int | None
    pool_size: int | None
    #: By minutes, the oldest first.
    lags: tuple[float, ...]
    sizes: tuple[int, ...]
    pools: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """An alarm, open or over. `state`: open, known (acknowledged), over."""

    id: int
    cluster_id: str
    severity: str
    rule: str
    object: str
    text: str
    state: str
    raised: float
    cleared: float | None
    acknowledged_by: str
    acknowledged: float | None


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job of the leading hs-acs."""

    id: int
    name: str
    every_s: float
    state: str
    instance: str
    started: float | None
    duration_s: float | None
    result: str
    error: str
    runs: int
    failures: int


@dataclass(frozen=True, slots=True)
class LoginRow:
    """A device that waits to be let in; `login` is what its page is found by."""

    id: int
    login: str
    hostname: str
    os: str
    version: str
    address: str
    cluster_id: str
    state: str
    created: float
    expires: float


#: List -> its rows.
LISTS: Final[Mapping[str, type[Any]]] = {
    "users": UserRow,
    "keys": KeyRow,
    "tenants": TenantRow,
    "rebalance": PlanRow,
    "moves": MoveRow,
    "routes": RouteRow,
    "policy": PolicyRow,
    "netmap": ChangeRow,
    "audit": AuditLine,
    "processes": ProcessRow,
    "jobs": JobRow,
    "alarms": AlarmRow,
    "logins": LoginRow,
}
