"""What the console shows, as frozen records: windows over all clusters of a deployment. Pure.

Times are seconds since the Unix epoch of the database's clock, `None` for never or unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.health import ProcessFacts
from app.model import DeviceId, TenantId, UserId
from app.placement import Verdict

#: Rows of one window; a console never holds more of a table.
WINDOW_ROWS = 500


@dataclass(frozen=True, slots=True)
class Term:
    """One condition of a filter. All terms of a filter must hold.

    `op`: `like` (any of `patterns`, lower case, SQL wildcards) or `lt`, `gt`, `eq` (against `number`).
    `field` `any` stands for a free word.
    """

    field: str
    op: str = "like"
    patterns: tuple[str, ...] = ()
    number: float = 0.0
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a row stands in its order: sort keys, then identity."""

    text: str
    number: float
    tenant_id: int
    id: int


@dataclass(frozen=True, slots=True)
class View:
    """Which rows to show: a scope, a filter, an order, and the row the window starts after."""

    terms: tuple[Term, ...] = ()
    sort: str = "name"
    descending: bool = False
    after: Anchor | None = None
    cluster_id: str | None = None
    limit: int = WINDOW_ROWS
    #: Rows that stand before `after`, for lists too long to be counted.
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A cluster as a whole. `lease_left_s` below zero: expired so long ago; None: never owned.

    It runs down by itself, so that two pictures of a cluster are alike without it. `expiring`: within a day;
    `waiting`: requests not carried out yet. `home_id`: of its home tenant. `max_devices`: None for no limit.
    """

    cluster_id: str
    home_id: TenantId | None
    state: str
    owner: str
    epoch: int
    lease_left_s: float | None = field(compare=False)
    instances: int
    tenants: int
    users: int
    keys: int
    devices: int
    online: int
    expired: int
    expiring: int
    waiting: int
    max_devices: int | None


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device with its owner and its presence."""

    cluster_id: str
    tenant_id: TenantId
    tenant: str
    id: DeviceId
    name: str
    hostname: str
    user_id: UserId | None
    user: str
    tags: tuple[str, ...]
    ipv4: str
    ipv6: str
    os: str
    version: str
    online: bool
    last_seen: float | None
    expiry: float | None
    created: float
    ephemeral: bool
    auth_key_id: int | None
    register_method: str
    capver: int
    home_derp: int
    endpoints: tuple[str, ...]
    node_key: str
    machine_key: str


@dataclass(frozen=True, slots=True)
class UserRow:
    """An owner of devices, and how much it owns."""

    cluster_id: str
    tenant_id: TenantId
    tenant: str
    id: UserId
    name: str
    display_name: str
    email: str
    created: float
    devices: int
    online: int
    keys: int
    role: str


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A pre-auth key without its secret, and how many devices joined with it and are still here."""

    cluster_id: str
    tenant_id: TenantId
    tenant: str
    id: int
    prefix: str
    user_id: UserId | None
    user: str
    tags: tuple[str, ...]
    reusable: bool
    ephemeral: bool
    used: bool
    uses: int
    revoked: bool
    expiration: float | None
    created: float
    devices: int


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One line of the audit log; what was before and after as JSON, where it was asked for."""

    id: int
    cluster_id: str
    at: float
    actor: str
    action: str
    object: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class TenantRef:
    """A tenant and where it lives, as forms let an operator choose it."""

    cluster_id: str
    id: TenantId
    name: str
    is_home: bool


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """What became of a device at a time (epoch seconds). `origin`: who asked; of presence the cluster."""

    at: float
    event: str
    origin: str
    error: str


@dataclass(frozen=True, slots=True)
class TenantCard:
    """What is known of one tenant besides its row. `registered`, `peaks`: devices, most connected at once.

    Both by spans of CARD_SPAN_HOURS, the oldest first, None where nobody measured; the sums below are of all
    of them. `former`: limits that come back when an override ends. `reserved`: devices it counts for.
    `told`: the newest lines of the audit log about it.
    """

    registered: tuple[int | None, ...]
    peaks: tuple[int | None, ...]
    device_hours: float
    map_bytes: int
    registrations: int
    routes: int
    max_routes: int | None
    max_requests: int | None
    override_ends: float | None
    override_by: str
    former: dict[str, int | None]
    moved: float | None
    moved_from: str
    labels: dict[str, str]
    reserved: int
    told: tuple[AuditRow, ...]
    #: What placement would say of each other cluster now, the best first.
    verdicts: tuple[Verdict, ...] = ()


#: A week.
CARD_SPANS, CARD_SPAN_HOURS = 28, 6


@dataclass(frozen=True, slots=True)
class Named:
    """Something an operator can name. `kind`: cluster, tenant, user or device; `tenant`: whose it is."""

    kind: str
    cluster_id: str
    tenant_id: TenantId
    id: int
    name: str
    tenant: str


RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True)
class Page(Generic[RowT]):
    """One window: its rows, how many match in all, how many stand before it, and the database's time.

    `counted`: false when more than `total` match.
    """

    rows: tuple[RowT, ...]
    anchors: tuple[Anchor, ...]
    total: int
    before: int
    now: float
    counted: bool = True

    @property
    def more(self) -> bool:
        """Whether rows come after this window."""
        return self.before + len(self.rows) < self.total or not self.counted


#: Minutes that the console shows of what is measured by the minute.
HISTORY_MINUTES = 60


@dataclass(frozen=True, slots=True)
class OpenAlarm:
    """An alarm that is open. `id` 0: found by this console, because no hs-acs leads that would keep it."""

    id: int
    cluster_id: str
    severity: str
    rule: str
    object: str
    text: str
    raised: float
    acknowledged_by: str = ""
    acknowledged: float | None = None


@dataclass(frozen=True, slots=True)
class LoadHistory:
    """A cluster by minutes, the oldest first; None where nothing was measured.

    `connected` is a count, the others are a second.
    """

    connected: tuple[float | None, ...]
    changes: tuple[float | None, ...]
    frames: tuple[float | None, ...]
    bytes: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """All clusters, the newest lines of the audit log, and the database's time.

    `leader`: the hs-acs that leads and judges alarms; without one ('' for none now, None where none has ever
    led) the console judges itself. `processes`: those that were heard of lately. `load`: by cluster.
    """

    clusters: tuple[ClusterRow, ...]
    recent: tuple[AuditRow, ...]
    now: float
    alarms: tuple[OpenAlarm, ...] = ()
    leader: str | None = None
    processes: tuple[ProcessFacts, ...] = ()
    load: Mapping[str, LoadHistory] = field(default_factory=dict)
