"""What operators may ask of a cluster's owner, or of hs-acs: the kinds of requests and their arguments. Pure.

One record for each kind; a request row holds it as a JSON object. Both who asks and who carries out
read it by `parse_request`, so a wrong argument is refused before it is written.

`seen`: how the thing was when the operator decided. Whoever carries it out compares that with what is stored,
in the transaction that writes; what differs is a conflict and nothing is written. A script may leave it out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from app.errors import BadRequest
from app.policy.hujson import MAX_POLICY_CHARS
from app.routes import RouteState

#: Seconds since the epoch of a time that can be stored: 2000-01-01 (exclusive) to about the year 5000.
EARLIEST_S = 946684800.0
LATEST_S = 1e11
Time = Annotated[float, msgspec.Meta(gt=EARLIEST_S, lt=LATEST_S)]


#: Characters of a reason, where one has to be given.
REASON_MIN, REASON_MAX = 8, 500


class _Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all arguments. `reason`: in the operator's words; the audit log keeps it."""

    reason: Annotated[str, msgspec.Meta(max_length=REASON_MAX)] = ""


class _Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of what the operator saw of a thing; a field that is left out is not compared."""


class DeviceSeen(_Seen, frozen=True):
    name: str | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    user_id: int | UnsetType | None = UNSET
    expiry: float | UnsetType | None = UNSET


class UserSeen(_Seen, frozen=True):
    name: str | UnsetType = UNSET
    role: str | UnsetType = UNSET


class KeySeen(_Seen, frozen=True):
    revoked: bool | UnsetType = UNSET
    expiration: float | UnsetType | None = UNSET
    uses: int | UnsetType = UNSET


class TenantSeen(_Seen, frozen=True):
    cluster: str | UnsetType = UNSET
    max_devices: int | UnsetType | None = UNSET


class ClusterSeen(_Seen, frozen=True):
    state: str | UnsetType = UNSET


#: Route -> how it stood (app.routes.state_of).
RoutesSeen = dict[str, RouteState]


def seen_of(seen: _Seen | RoutesSeen | None) -> dict[str, Any]:
    """What is to be compared: field -> as it was seen."""
    found: dict[str, Any] = msgspec.to_builtins(seen) or {}
    return found


class DeviceExpire(_Args, frozen=True):
    """End a device's login at a time (epoch seconds), or never (None)."""

    device_id: int
    at: Time | None
    seen: DeviceSeen | None = None


class DeviceRename(_Args, frozen=True):
    """Give a device its name, a DNS label."""

    device_id: int
    name: str
    seen: DeviceSeen | None = None


class DeviceDelete(_Args, frozen=True):
    """Delete a device."""

    device_id: int
    seen: DeviceSeen | None = None


class DeviceTag(_Args, frozen=True):
    """Give a device these tags and no others; it belongs to them from then on."""

    device_id: int
    tags: list[str]
    seen: DeviceSeen | None = None


class DeviceMoveUser(_Args, frozen=True):
    """Give a device to another user of its tenant."""

    device_id: int
    user_id: int
    seen: DeviceSeen | None = None


class DeviceLook(_Args, frozen=True):
    """Tell what the owner knows of a device and would send it now. Changes nothing."""

    device_id: int


class KeyCreate(_Args, frozen=True):
    """Store an auth key whose text only the asker knows: `prefix` and SHA-256 of its secret as hex."""

    prefix: str
    hash_hex: str
    user_id: int | None = None
    reusable: bool = False
    ephemeral: bool = False
    tags: list[str] = []
    expiration: Time | None = None


class KeyExpire(_Args, frozen=True):
    """End an auth key."""

    key_id: int
    seen: KeySeen | None = None


class KeyDelete(_Args, frozen=True):
    """Delete an auth key."""

    key_id: int
    seen: KeySeen | None = None


class UserCreate(_Args, frozen=True):
    """Create a user."""

    name: str
    display_name: str = ""
    email: str = ""
    profile_pic_url: str = ""


class UserRename(_Args, frozen=True):
    """Give a user another name."""

    user_id: int
    name: str
    seen: UserSeen | None = None


class UserRole(_Args, frozen=True):
    """Give a user another role, by which policies may name it."""

    user_id: int
    role: str
    seen: UserSeen | None = None


class UserDelete(_Args, frozen=True):
    """Delete a user without devices, and its auth keys."""

    user_id: int
    seen: UserSeen | None = None


class NetmapRebuild(_Args, frozen=True):
    """Read a scope again, make its netmaps from scratch and send them whole (app.scopes)."""

    scope: str


class RoutesApprove(_Args, frozen=True):
    """Let a device carry routes that it announces."""

    device_id: int
    routes: list[str]
    seen: RoutesSeen | None = None


class RoutesReject(_Args, frozen=True):
    """Take approvals of routes back."""

    device_id: int
    routes: list[str]
    seen: RoutesSeen | None = None


class LoginApprove(_Args, frozen=True):
    """Let a waiting device in, as a user's."""

    login_id: str
    user_id: int


class LoginDeny(_Args, frozen=True):
    """Send a waiting device away."""

    login_id: str


class PolicySet(_Args, frozen=True):
    """The next version of a tenant's policy, made from `expected_version`.

    `override`: although tests of its own fail, for a reason.
    """

    text: Annotated[str, msgspec.Meta(max_length=MAX_POLICY_CHARS)]
    expected_version: int
    note: str = ""
    override: bool = False


class LeaseRelease(_Args, frozen=True):
    """End a cluster's owner, for a reason, so that a standby has it. `epoch` of the lease as seen."""

    epoch: int


class TenantPin(_Args, frozen=True):
    """Keep a tenant in the cluster where it lives."""

    tenant_id: int
    cluster: str
    version: int


class TenantUnpin(_Args, frozen=True):
    """Let a tenant be moved again."""

    tenant_id: int
    version: int


class TenantSuspend(_Args, frozen=True):
    """Cut a tenant's devices off, without logging them out."""

    tenant_id: int
    version: int


class TenantResume(_Args, frozen=True):
    """Let a suspended tenant's devices in again."""

    tenant_id: int
    version: int


class QuotaOverride(_Args, frozen=True):
    """Another limit of devices until a time (epoch seconds); None is no limit."""

    tenant_id: int
    max_devices: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None
    until: Time
    seen: TenantSeen | None = None


class JobRun(_Args, frozen=True):
    """Run a job of the leading hs-acs now."""

    name: str


class TenantMove(_Args, frozen=True):
    """Move a tenant to another cluster, at once."""

    tenant_id: int
    to: str
    seen: TenantSeen | None = None


class ClusterDrain(_Args, frozen=True):
    """Give a cluster no more tenants, and move those it has elsewhere."""

    cluster: str
    seen: ClusterSeen | None = None


class ClusterUndrain(_Args, frozen=True):
    """Let a cluster take tenants again; nobody more is moved away."""

    cluster: str
    seen: ClusterSeen | None = None


class RebalancePropose(_Args, frozen=True):
    """Work out who should move; nobody does before it is approved."""


class RebalanceVerb(_Args, frozen=True):
    """Carry out, hold up, or undo a plan; `version` is that of the plan as it was seen."""

    plan: int
    verb: Literal["approve", "pause", "resume", "stop", "rollback"]
    version: int


class PlanStep(_Args, frozen=True):
    """Leave a step of a proposed plan out, or take it in again; `version` of the plan as it was seen."""

    plan: int
    step: int
    skip: bool
    version: int


class AlarmAcknowledge(_Args, frozen=True):
    """Say that somebody knows of an alarm."""

    alarm: int


RequestArgs = (
    DeviceExpire
    | DeviceRename
    | DeviceDelete
    | DeviceTag
    | DeviceMoveUser
    | DeviceLook
    | KeyCreate
    | KeyExpire
    | KeyDelete
    | UserCreate
    | UserRename
    | UserRole
    | UserDelete
    | NetmapRebuild
    | RoutesApprove
    | RoutesReject
    | LoginApprove
    | LoginDeny
    | PolicySet
    | TenantMove
    | LeaseRelease
    | TenantPin
    | TenantUnpin
    | TenantSuspend
    | TenantResume
    | QuotaOverride
    | JobRun
    | ClusterDrain
    | ClusterUndrain
    | RebalancePropose
    | RebalanceVerb
    | PlanStep
    | AlarmAcknowledge
)

#: What hs-acs carries out: kind as stored -> its arguments.
ACS_KINDS: dict[str, type[RequestArgs]] = {
    "tenant_move": TenantMove,
    "tenant_pin": TenantPin,
    "tenant_unpin": TenantUnpin,
    "tenant_suspend": TenantSuspend,
    "tenant_resume": TenantResume,
    "quota_override": QuotaOverride,
    "job_run": JobRun,
    "cluster_drain": ClusterDrain,
    "cluster_undrain": ClusterUndrain,
    "rebalance_propose": RebalancePropose,
    "rebalance_verb": RebalanceVerb,
    "plan_step": PlanStep,
    "alarm_acknowledge": AlarmAcknowledge,
}

#: Kind as stored -> its arguments.
KINDS: dict[str, type[RequestArgs]] = {
    "device_expire": DeviceExpire,
    "device_rename": DeviceRename,
    "device_delete": DeviceDelete,
    "device_tag": DeviceTag,
    "device_move_user": DeviceMoveUser,
    "device_look": DeviceLook,
    "key_create": KeyCreate,
    "key_expire": KeyExpire,
    "key_delete": KeyDelete,
    "user_create": UserCreate,
    "user_rename": UserRename,
    "user_role": UserRole,
    "user_delete": UserDelete,
    "netmap_rebuild": NetmapRebuild,
    "routes_approve": RoutesApprove,
    "routes_reject": RoutesReject,
    "login_approve": LoginApprove,
    "login_deny": LoginDeny,
    "policy_set": PolicySet,
    "lease_release": LeaseRelease,
    **ACS_KINDS,
}


def is_for_acs(kind: str) -> bool:
    """Whether hs-acs carries it out, and no cluster's owner."""
    return kind in ACS_KINDS


def parse_request(kind: str, args: dict[str, Any]) -> RequestArgs:
    """The arguments as a record. Raises BadRequest for an unknown kind or arguments that do not fit."""
    wanted = KINDS.get(kind)
    if wanted is None:
        raise BadRequest(f"there is no request of kind {kind!r}", code="bad_request_kind")
    try:
        return msgspec.convert(args, wanted)
    except msgspec.ValidationError as error:
        raise BadRequest(f"a {kind} request cannot have these arguments: {error}", code="bad_args") from error
