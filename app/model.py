"""Frozen records that cross module borders. No I/O, no clock.

Times are seconds since the Unix epoch as float, `None` for "never" or "unknown". Keys are raw
32-byte values (app.keys). Addresses are text without prefix length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NewType

from app.keys import DiscoKey, MachineKey, NodeKey

TenantId = NewType("TenantId", int)
UserId = NewType("UserId", int)
DeviceId = NewType("DeviceId", int)
RequestId = NewType("RequestId", int)

#: Pseudo owner shown for tagged devices, the id the official service uses (tailcfg has none;
#: headscale hscontrol/types/users.go TaggedDevices).
TAGGED_DEVICES_USER_ID = UserId(2147455555)


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer = one tailnet. `dns_label` is empty for a home tenant alone in its deployment."""

    id: TenantId
    cluster_id: str
    name: str
    dns_label: str = ""
    status: str = "active"
    is_home: bool = False
    created: float = 0.0
    #: Requests of its devices a minute.
    max_requests: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """One cluster as an operator sees it; `owner` is None while nobody holds its lease.

    `lease_age_s`: seconds since the owner renewed its lease, None when it was given back.
    """

    cluster_id: str
    state: str
    region: str
    created: float
    tenants: int
    users: int
    devices: int
    connected: int
    owner: str | None
    epoch: int
    lease_age_s: float | None


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What was found in a database, without changing it; `todo` says what is missing, empty when nothing."""

    version: str
    login: str
    schema: int
    todo: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    """An owner of devices inside a tenant."""

    id: UserId
    tenant_id: TenantId
    name: str
    display_name: str = ""
    email: str = ""
    profile_pic_url: str = ""
    created: float = 0.0
    #: What the user may do in the official service's words: member, admin, owner, ... (app.policy.people).
    role: str = "member"


@dataclass(frozen=True, slots=True)
class Device:
    """A machine running Tailscale: the durable part and the hot part, as last known.

    `given_name` is the DNS label, `hostname` what the client says. `hostinfo` is the client's
    tailcfg.Hostinfo as JSON bytes, already cut down to what peers may see (app.wire.tailcfg).
    `user_id` is None exactly when `tags` is not empty. `expiry` None = never.
    """

    id: DeviceId
    tenant_id: TenantId
    user_id: UserId | None
    machine_key: MachineKey
    node_key: NodeKey
    disco_key: DiscoKey
    ipv4: str
    ipv6: str
    hostname: str
    given_name: str
    tags: tuple[str, ...] = ()
    ephemeral: bool = False
    expiry: float | None = None
    created: float = 0.0
    auth_key_id: int | None = None
    register_method: str = "auth_key"
    capver: int = 0
    hostinfo: bytes = b"{}"
    #: Routes it offers to carry (Hostinfo.RoutableIPs), and those it may: canonical CIDRs, sorted.
    announced_routes: tuple[str, ...] = ()
    approved_routes: tuple[str, ...] = ()
    # hot part, kept in `node_state`
    endpoints: tuple[str, ...] = ()
    home_derp: int = 0
    online: bool = False
    last_seen: float | None = None

    @property
    def active_routes(self) -> tuple[str, ...]:
        """Routes that it carries: announced and approved."""
        if not self.announced_routes or not self.approved_routes:
            return ()
        return tuple(route for route in self.announced_routes if route in self.approved_routes)


@dataclass(frozen=True, slots=True)
class AuthKey:
    """A pre-auth key as shown in lists: never its secret, which exists only where it was made."""

    id: int
    tenant_id: TenantId
    prefix: str
    user_id: UserId | None
    reusable: bool
    ephemeral: bool
    tags: tuple[str, ...]
    used: bool
    uses: int
    revoked: bool
    expiration: float | None
    created: float


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """One version of a tenant's policy. `version` counts from 1 in each tenant; `hash` is the SHA-256
    of `text`; `author` is who set it, `note` what they said about it."""

    tenant_id: TenantId
    version: int
    text: str
    hash: str
    author: str
    note: str
    created: float


@dataclass(frozen=True, slots=True)
class Change:
    """One row of `changes`: something that can alter netmaps was committed.

    `kind` is the table or event (`node`, `node-delete`, `user`, `policy`, `tenant`, `tenant-in`,
    `tenant-out`, `derp`); `scope_key` as in DESIGN.md section 2; `origin` the instance that wrote
    it, empty for anybody who is not the owner.
    """

    id: int
    tenant_id: TenantId | None
    kind: str
    scope_key: str
    origin: str
    at: float


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """Everything one cluster's owner keeps in memory, read in one transaction.

    `position` is the change reader's state that belongs to exactly this picture.
    """

    cluster_id: str
    tenants: tuple[Tenant, ...]
    users: tuple[User, ...]
    devices: tuple[Device, ...]
    position: str
    generation: str
    #: The policy in force of every tenant that has one.
    policies: tuple[StoredPolicy, ...] = ()


@dataclass(frozen=True, slots=True)
class Permit:
    """Who may have something: these users (or all of them), and devices with one of these tags."""

    users: frozenset[UserId] = frozenset()
    tags: frozenset[str] = frozenset()
    anyone: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """What a device asks for at `/machine/register`."""

    machine_key: MachineKey
    node_key: NodeKey
    old_node_key: NodeKey | None
    auth_key: str | None
    hostname: str
    label: str
    hostinfo: bytes
    capver: int
    ephemeral: bool
    request_tags: tuple[str, ...] = ()
    expiry_wish: float | None = None
    #: An approved login instead of an auth key.
    login_id: str | None = None
    announced_routes: tuple[str, ...] = ()
    #: Who may take which of the tags asked for, and announce which of the routes without approval.
    permits: Mapping[str, Permit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RegistrationResult:
    """Outcome of one registration: a device, or a refusal with a code and a sentence.

    status: created, refreshed, rotated | needs_login, expired, refused, wrong_cluster.
    """

    status: str
    device: Device | None = None
    user: User | None = None
    tenant: Tenant | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class LoginAsk:
    """A device without an auth key asks to be let in. `network` is what the bound per address counts."""

    machine_key: MachineKey
    node_key: NodeKey
    hostname: str
    os: str
    version: str
    capver: int
    ephemeral: bool
    address: str
    network: str


@dataclass(frozen=True, slots=True)
class Login:
    """A login without an auth key: of no cluster and no tenant until somebody approves it.

    `seen_in` is the cluster that the device asked. state: pending, approved, denied, expired.
    `device_id` is the device that used the approval up.
    """

    id: str
    seen_in: str
    machine_key: MachineKey
    node_key: NodeKey
    hostname: str
    os: str
    version: str
    capver: int
    ephemeral: bool
    address: str
    state: str
    tenant_id: TenantId | None
    user_id: UserId | None
    device_id: DeviceId | None
    created: float
    expires: float


@dataclass(frozen=True, slots=True)
class HotState:
    """One device's presence and endpoints, written in batches and never captured."""

    tenant_id: TenantId
    device_id: DeviceId
    endpoints: tuple[str, ...]
    home_derp: int
    online: bool
    last_seen: float | None


@dataclass(frozen=True, slots=True)
class DerpRegion:
    """One relay region of this deployment, as it stands in a tailcfg.DERPMap (JSON bytes)."""

    region_id: int
    cluster_id: str
    region: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Instance:
    """One process, and where it is reached: by clients, by other entries, and by clients with a dial plan.

    `connected`: devices; None for a process that serves none.
    """

    id: str
    kind: str = "node"
    addr: str = ""
    version: str = ""
    internal_addr: str = ""
    advertise_addr: str = ""
    login_url: str = ""
    connected: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterOwner:
    """The instance that holds a cluster's lease, the epoch it has it under, and where entries reach it."""

    cluster_id: str
    instance: str
    epoch: int
    addr: str


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Proof that a device was deleted here, kept for 90 days."""

    tenant_id: TenantId
    device_id: DeviceId
    at: float


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """What somebody asked of a cluster's owner, and how far it is.

    `state`: queued, running, done (with a `result`), failed (with an `error`, a sentence). `attempts`
    counts how often an owner took it up. Kinds and arguments: app.request_kinds.
    """

    id: RequestId
    cluster_id: str
    tenant_id: TenantId | None
    kind: str
    args: dict[str, Any]
    dedup: str | None
    state: str
    requested_by: str
    requested_at: float
    attempts: int
    claimed_by: str | None
    claimed_epoch: int | None
    progress: dict[str, Any] | None
    result: dict[str, Any] | None
    error: str | None
    finished_at: float | None

    @property
    def is_finished(self) -> bool:
        return self.state in ("done", "failed")


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token for hs-acs, without its secret. Times in epoch seconds."""

    id: int
    prefix: str
    name: str
    #: admin, tenant-admin, billing or read-only.
    scope: str
    #: The one tenant a tenant-admin's token is for.
    tenant_id: TenantId | None
    created_by: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What tenants of a plan may have; None is no limit."""

    name: str
    max_devices: int | None
    max_users: int | None
    max_keys: int | None
    #: Approved routes of all its devices; map requests and registrations a minute.
    max_routes: int | None
    max_requests: int | None
    version: int


@dataclass(frozen=True, slots=True)
class TenantFacts:
    """A tenant as hs-acs keeps it, with what it has now. Times in epoch seconds."""

    id: TenantId
    cluster_id: str
    name: str
    dns_label: str
    status: str
    is_home: bool
    plan: str | None
    region: str
    labels: Mapping[str, str]
    dedicated: bool
    pinned: str | None
    max_devices: int | None
    max_users: int | None
    max_keys: int | None
    max_routes: int | None
    max_requests: int | None
    devices: int
    users: int
    keys: int
    routes: int
    version: int
    created_at: float
    deleted_at: float | None


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A job of the leading hs-acs and what came of its last run. Times in epoch seconds."""

    name: str
    every_s: float
    #: waiting (never run), running, done or failed.
    state: str
    #: Who ran it last.
    instance: str
    started_at: float | None
    duration_s: float | None
    result: str
    error: str | None
    runs: int
    failures: int
    #: Since when somebody wants it run now.
    requested_at: float | None


@dataclass(frozen=True, slots=True)
class JoinTokenFacts:
    """A token to join with, without its secret. Times in epoch seconds."""

    id: int
    prefix: str
    tenant: str
    user_name: str
    uses_left: int | None
    created_by: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None


@dataclass(frozen=True, slots=True)
class Rebalance:
    """A stored plan for moving tenants; `dry_run`: `before`, `after`, `notes` (app.planner.MovePlan)."""

    id: int
    purpose: str
    subject: str
    state: str
    why: str
    dry_run: Mapping[str, Any]
    error: str | None
    created_by: str
    created_at: float
    approved_by: str | None
    ended_at: float | None
    version: int
    steps: int
    devices: int
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class RebalanceStep:
    """One tenant of a plan. `connected_*`: its devices that were connected before the move, and after."""

    step: int
    tenant_id: int
    tenant: str
    source: str
    target: str
    devices: int = 0
    state: str = "waiting"
    error: str | None = None
    connected_before: int | None = None
    connected_after: int | None = None
    ended_at: float | None = None
