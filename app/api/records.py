"""Records of the API of hs-acs: what is sent, checked strictly, and what is answered."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

T = TypeVar("T")

#: A page of a list: so many by default, and at most.
PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

#: Forms of names that stand in paths.
CLUSTER_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,47}$"
PLAN_NAME = r"^[a-z0-9][a-z0-9_-]{0,47}$"

Scope = Literal["admin", "tenant-admin", "billing", "read-only"]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
#: Ids of rows: what a bigint holds.
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]


#: RFC 3339: pydantic alone would take numbers for times, too.
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


def _moment(given: object) -> object:
    if isinstance(given, datetime):
        return given
    if isinstance(given, str) and _MOMENT.fullmatch(given):
        return datetime.fromisoformat(given.upper())
    raise ValueError("a time is written as 2026-11-26T12:00:00Z")


Moment = Annotated[datetime, BeforeValidator(_moment)]


class Asked(BaseModel):
    """What a caller sends: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", strict=False)


class Answered(BaseModel):
    """What hs-acs answers. Clients ignore members they do not know."""

    model_config = ConfigDict(extra="ignore", from_attributes=True)


class Problem(Answered):
    """Why a call failed (RFC 9457). `code` is stable."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str


class Page(Answered, Generic[T]):
    """One page of a list; `next` is the cursor of the one after it."""

    items: list[T]
    next: str | None = None


class PageAsked(Asked):
    """Which page of a list."""

    cursor: str = Field("", max_length=512, description="`next` of the page before.")
    limit: int = Field(PAGE_SIZE, ge=1, le=MAX_PAGE_SIZE)


class Nothing(Answered):
    """An answer without facts."""


# -- tokens -------------------------------------------------------------------------------------


class TokenAsked(Asked):
    """A token to be made."""

    name: Name
    scope: Scope
    tenant: Id | None = Field(None, description="Of a tenant-admin's token: its tenant.")
    expires_at: datetime | None = Field(None, description="RFC 3339; none = until it is revoked.")


class Token(Answered):
    """A token, without its secret."""

    id: int
    prefix: str
    name: str
    scope: str
    tenant: int | None
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewToken(Answered):
    """A token and its text, which is shown this once."""

    token: Token
    text: str


class Service(Answered):
    """Which hs-acs answers."""

    version: str
    instance: str
    leads: bool = Field(description="Whether this instance runs the jobs.")


# -- jobs ---------------------------------------------------------------------------------------


class JobRecord(Answered):
    """A job of the leading hs-acs, and what came of its last run."""

    name: str
    every_s: float
    state: Literal["waiting", "running", "done", "failed"] = Field(
        description="Of its last run; waiting: there was none."
    )
    instance: str = Field(description="Who ran it last.")
    started_at: datetime | None
    duration_s: float | None
    result: str
    error: str | None
    runs: int
    failures: int
    requested_at: datetime | None = Field(description="Since when somebody wants it run now.")


# -- clusters -----------------------------------------------------------------------------------

Labels = dict[Annotated[str, Field(max_length=63)], Annotated[str, Field(max_length=255)]]
ClusterId = Annotated[str, Field(pattern=CLUSTER_ID)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
#: So many a minute; -1 takes the limit away.
Rate = Literal[-1] | Annotated[int, Field(ge=1, le=2**31 - 1)]
#: A limit; -1 takes it away.
Limit = Annotated[int, Field(ge=-1, le=2**31 - 1)]


class Cluster(Answered):
    """A cluster: what it may hold, what is there, and whether somebody serves it."""

    id: str
    state: str
    region: str
    labels: dict[str, str]
    weight: float
    max_tenants: int | None
    max_devices: int | None
    tenants: int = Field(description="Without its home tenant.")
    devices: int
    reserved: int = Field(description="Devices that its tenants may have, or have.")
    served: bool
    login_url: str = Field(description="Of the instance that owns it; empty while nobody does.")
    version: int


class ClusterChange(Asked):
    """What shall be different; members left out stay."""

    region: Annotated[str, Field(max_length=63)] | None = None
    labels: Labels | None = None
    weight: Annotated[float, Field(gt=0, le=1000)] | None = None
    max_tenants: Count | None = None
    max_devices: Count | None = None


# -- tenants ------------------------------------------------------------------------------------


class TenantAsked(Asked):
    """A tenant to be placed."""

    name: Name
    plan: str | None = Field(None, max_length=48)
    region: str = Field("", max_length=63, description="The cluster's region must be this one.")
    labels: Labels = Field({}, description="The cluster must have these.")
    cluster: ClusterId | None = Field(None, description="This cluster and no other.")
    dedicated: bool = Field(False, description="A cluster for this tenant alone.")


class TenantChange(Asked):
    """What shall be different; members left out stay."""

    name: Name | None = None
    plan: str | None = Field(None, max_length=48, description="'' takes the plan away, its limits stay.")
    labels: Labels | None = None
    max_devices: Limit | None = None
    max_users: Limit | None = None
    max_keys: Limit | None = None
    max_routes: Limit | None = Field(None, description="Approved routes of all its devices.")
    max_requests: Rate | None = Field(None, description="Requests of its devices a minute; -1 = no limit.")


class TenantRecord(Answered):
    """A tenant, where it lives, what it may have and what it has."""

    id: int
    name: str
    cluster: str
    dns_label: str
    status: str
    home: bool
    plan: str | None
    region: str
    labels: dict[str, str]
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
    created_at: datetime
    deleted_at: datetime | None


class Placed(Answered):
    """A tenant, and why it lives where it does; the explanation is empty for one that was there."""

    tenant: TenantRecord
    created: bool
    explanation: list[str]


class Explanation(Answered):
    """Where a tenant would go now, and why not elsewhere."""

    cluster: str | None
    explanation: list[str]


class TenantsAsked(PageAsked):
    """Which tenants."""

    cluster: ClusterId | None = None
    name: str | None = Field(None, max_length=255)
    deleted: bool = Field(False, description="Those too that can still be restored.")


# -- plans --------------------------------------------------------------------------------------


class PlanAsked(Asked):
    """The limits of a plan; none = no limit."""

    max_devices: Count | None = None
    max_users: Count | None = None
    max_keys: Count | None = None
    max_routes: Count | None = Field(None, description="Approved routes of all its devices.")
    max_requests: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Map requests and registrations of its devices a minute."
    )


class PlanRecord(Answered):
    """A plan."""

    name: str
    max_devices: int | None
    max_users: int | None
    max_keys: int | None
    max_routes: int | None
    max_requests: int | None
    version: int


# -- joining ------------------------------------------------------------------------------------


class JoinTokenAsked(Asked):
    """A token with which a tenant's people let devices in; the tenant may not exist yet."""

    tenant: Name
    user: Name = Field("default", description="Whose the devices are.")
    uses: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(None, description="None = any number.")
    expires_at: datetime | None = None


class JoinToken(Answered):
    """A token's text, which is shown this once."""

    id: int
    text: str


class JoinTokenRecord(Answered):
    """A token to join with, without its secret."""

    id: int
    prefix: str
    tenant: str
    user: str
    uses_left: int | None = Field(description="None = any number.")
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class JoinAsked(Asked):
    """A device shall join: with a join token, or as a caller who may do so for a tenant."""

    token: str | None = Field(None, max_length=128)
    tenant: Name | None = None
    user: Name | None = None
    reusable: bool = False
    ephemeral: bool = False
    life_s: int = Field(3600, ge=60, le=30 * 86400, description="How long the auth key can be used.")


class Joining(Answered):
    """All that a device needs to join its tailnet."""

    tenant: str
    tenant_id: int
    cluster_id: str
    login_server: str
    auth_key: str
    expires_at: datetime
    command: str


class MoveAsked(Asked):
    """One tenant to another cluster, at once."""

    tenant: Name = Field(description="Name or id.")
    to: str = Field(min_length=1, max_length=48, description="Cluster.")
    why: str = Field("", max_length=500)


class RebalanceAsked(Asked):
    """A plan for moving tenants."""

    purpose: Literal["rebalance", "drain", "evacuate"] = "rebalance"
    cluster: str | None = Field(None, max_length=48, description="The one that is emptied.")
    why: str = Field("", max_length=500)
    approve: bool = Field(False, description="Carry it out at once.")


class DryRun(Answered):
    """Devices each cluster counts for, and sentences on what cannot be."""

    before: dict[str, int]
    after: dict[str, int]
    notes: list[str]


class RebalanceRecord(Answered):
    """A plan: what it would do, and how far it is."""

    id: int
    purpose: str
    cluster: str
    state: str
    why: str
    dry_run: DryRun
    error: str | None
    created_by: str
    created_at: datetime
    approved_by: str | None
    ended_at: datetime | None
    version: int
    steps: int
    devices: int
    done: int
    failed: int


class StepRecord(Answered):
    """One tenant of a plan."""

    step: int
    tenant_id: int
    tenant: str
    source: str
    target: str
    devices: int
    state: str
    error: str | None
    connected_before: int | None
    connected_after: int | None
