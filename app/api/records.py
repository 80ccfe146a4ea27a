"""Records of the API of hs-acs: what is sent, checked strictly, and what is answered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

#: A page of a list: so many by default, and at most.
PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

Scope = Literal["admin", "tenant-admin", "billing", "read-only"]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
#: Ids of rows: what a bigint holds.
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]


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
