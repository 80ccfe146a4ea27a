"""One operation of the API as a record: who may call it, what it takes and gives, and what carries it out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from app.api.records import Asked
from app.errors import BadRequest, NotFound, Refused, Unauthorized
from app.model import ApiToken, TenantId

#: Of an Idempotency-Key.
MAX_KEY_LENGTH = 255

B = TypeVar("B", bound=BaseModel)

ADMIN = "admin"
TENANT_ADMIN = "tenant-admin"
BILLING = "billing"
READ_ONLY = "read-only"

#: Whom each need lets in. A tenant-admin is let in where the path names its own tenant only.
MAY: Mapping[str, frozenset[str]] = {
    ADMIN: frozenset({ADMIN}),
    TENANT_ADMIN: frozenset({ADMIN, TENANT_ADMIN}),
    BILLING: frozenset({ADMIN, BILLING}),
    READ_ONLY: frozenset({ADMIN, READ_ONLY}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Without a token nobody but what an operation itself finds out."""

    token: ApiToken | None
    address: str

    @property
    def actor(self) -> str:
        """As the audit log names it."""
        return f"anonymous:{self.address}" if self.token is None else f"token:{self.token.name}"

    def may(self, needs: frozenset[str]) -> bool:
        return self.token is not None and self.token.scope in needs

    def check_tenant(self, tenant_id: int) -> None:
        """A tenant's token knows of no other tenant. Raises NotFound."""
        if self.token is not None and self.token.tenant_id not in (None, tenant_id):
            raise NotFound(f"there is no tenant {tenant_id}")


@dataclass(frozen=True, slots=True)
class Call:
    """One call, its parts read and checked."""

    caller: Caller
    path: Mapping[str, str]
    query: Any
    body: Any
    #: The version an If-Match names; None for any.
    if_match: int | None = None

    def id(self, name: str) -> int:
        """A number of the path. Raises NotFound: no other text names anything."""
        text = self.path[name]
        if not (text.isascii() and text.isdigit()) or len(text) > 19 or not 0 < int(text) < 2**63:
            raise NotFound(f"there is no {name} {text!r}")
        return int(text)

    def tenant(self, name: str = "tenant") -> TenantId:
        """The tenant of the path, if it is the caller's to know. Raises NotFound."""
        tenant_id = self.id(name)
        self.caller.check_tenant(tenant_id)
        return TenantId(tenant_id)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler gives back. `version` becomes the ETag."""

    body: BaseModel | None = None
    status: int = 200
    version: int | None = None
    #: Instead of `body`: another kind of content, such as CSV.
    raw: bytes | None = None
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Operation(Generic[B]):
    """`needs` names the scopes let in; the empty set: no token is asked for."""

    method: str
    path: str
    summary: str
    needs: frozenset[str]
    run: Callable[[Call], Awaitable[Reply]]
    answer: type[BaseModel]
    body: type[Asked] | None = None
    query: type[Asked] | None = None
    status: int = 200
    #: What it answers with as well, when there was nothing to do.
    or_status: int | None = None
    #: Whether the answer has an ETag, and a change takes If-Match.
    versioned: bool = False
    #: Kinds of content besides JSON.
    also: tuple[str, ...] = ()
    tags: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """As OpenAPI's operationId."""
        words = [part.strip("{}") for part in self.path.split("/") if part and part != "v1"]
        return "_".join([self.method.lower(), *words]).replace("-", "_")


def refuse_without(caller: Caller, needs: frozenset[str]) -> None:
    """Raises Unauthorized without a token, Refused with one of another scope."""
    if not needs or caller.may(needs):
        return
    wanted = f"this needs a token with scope {' or '.join(sorted(needs))}"
    if caller.token is None:
        raise Unauthorized(wanted)
    raise Refused(f"{wanted}, not a {caller.token.scope} token", code="scope")


def cursor_id(text: str) -> int:
    """The id after which a page begins. Raises BadRequest."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) >= 2**63:
        raise BadRequest(f"there is no page {text!r}", code="bad_cursor")
    return int(text)
