"""Registration with an auth key or an approved login: one round trip, and the sentences for refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import orjson

from app.db import rows
from app.db.base import ScopedBase, again_when_busy, hostinfo_text
from app.errors import BadRequest, Conflict, WrongCluster
from app.model import Permit, Registration, RegistrationResult
from app.names import check_hostname, check_label
from app.routes import check_stored_routes
from app.sql import QUERIES
from app.tokens import AuthToken, parse_auth_token

MAX_REQUEST_TAGS = 64
MAX_SHOWN_TAGS = 400
_ASK = "ask your administrator for a new one"

_DEVICE_AT = 4
_USER_AT = _DEVICE_AT + rows.DEVICE_COLUMNS
_TENANT_AT = _USER_AT + rows.USER_COLUMNS


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


#: Refusal code -> sentence for the person at the device, from the one fact that comes with it.
SENTENCES: dict[str, Callable[[float], str]] = {
    "needs_login": lambda _: "this device must log in",
    "node_key_expired": lambda at: f"the login of this device ended on {_utc(at)}: log in again",
    "node_key_taken": lambda _: (
        "this node key belongs to another device: log out and in again to make a new one"
    ),
    "auth_key_malformed": lambda _: (
        f"this is not an auth key of this service: check that it is complete, or {_ASK}"
    ),
    "auth_key_unknown": lambda _: f"auth key not known: check that it is complete, or {_ASK}",
    "auth_key_revoked": lambda _: f"auth key was revoked: {_ASK}",
    "auth_key_expired": lambda at: f"auth key expired on {_utc(at)}: {_ASK}",
    "auth_key_used": lambda _: f"auth key already used, it is good for one device only: {_ASK}",
    "tenant_suspended": lambda _: "this tailnet is suspended: ask your administrator",
    "tenant_frozen": lambda _: "this tailnet accepts no new devices for the moment: try again later",
    "tenant_deleted": lambda _: "this tailnet does not exist any more: ask your administrator",
    "quota_devices": lambda limit: (
        f"this tailnet is full, its limit is {limit:.0f} devices: ask your administrator"
    ),
    "addresses_exhausted": lambda _: "this tailnet has no free address left: ask your administrator",
    "wrong_cluster": lambda _: "this tailnet lives in another cluster: connect again",
}


class Registering(ScopedBase):
    """The registering part of Scoped."""

    async def register(
        self, wish: Registration, *, default_expiry_s: float | None = None, now: float | None = None
    ) -> RegistrationResult:
        """Decides and writes one registration; refusals are results, not errors.

        `default_expiry_s` is how long a user's login lasts, None for ever; `now` replaces the database's
        clock. Raises BadRequest for what cannot be stored, LeaseLost, Unavailable.
        """
        _check(wish)
        token = parse_auth_token(wish.auth_key) if wish.auth_key else None
        auth = _auth_of(wish, token)
        try:
            return await again_when_busy(lambda: self._register(wish, auth, token, default_expiry_s, now))
        except Conflict as error:
            if error.facts.get("constraint") != "nodes_node_key":
                raise
            return RegistrationResult(
                "refused", code="node_key_taken", message=SENTENCES["node_key_taken"](0)
            )

    async def _register(
        self,
        wish: Registration,
        auth: str,
        token: AuthToken | None,
        default_expiry_s: float | None,
        now: float | None,
    ) -> RegistrationResult:
        row = await self._fetchrow(
            QUERIES["register"],
            self.cluster_id,
            auth,
            token.tenant_id if token else None,
            token.prefix if token else wish.login_id,
            token.hash if token else None,
            wish.machine_key,
            wish.node_key,
            wish.old_node_key,
            wish.hostname,
            wish.label,
            hostinfo_text(wish.hostinfo),
            wish.capver,
            wish.ephemeral,
            list(wish.request_tags),
            wish.expiry_wish,
            default_expiry_s,
            now,
            list(wish.announced_routes),
            _permits_text(wish.permits),
        )
        if row is None:
            raise WrongCluster("the device left this cluster while it registered")
        status, code, fact, refused = row[:_DEVICE_AT]
        message = _tags_refused(refused) if refused else SENTENCES[code](fact or 0) if code else ""
        if row[_DEVICE_AT] is None:
            return RegistrationResult(status, code=code, message=message)
        return RegistrationResult(
            status,
            device=rows.device(row[_DEVICE_AT:_USER_AT]),
            user=None if row[_USER_AT] is None else rows.user(row[_USER_AT:_TENANT_AT]),
            tenant=rows.tenant(row[_TENANT_AT:]),
            code=code or "",
            message=message,
        )


def _auth_of(wish: Registration, token: AuthToken | None) -> str:
    """What the SQL function register() goes by."""
    if wish.auth_key:
        return "malformed" if token is None else "key"
    return "none" if wish.login_id is None else "login"


def _tags_refused(tags: Sequence[str]) -> str:
    """headscale's words."""
    shown = " ".join(tags)
    shown = shown if len(shown) <= MAX_SHOWN_TAGS else shown[:MAX_SHOWN_TAGS] + "..."
    return f"requested tags [{shown}] are invalid or not permitted"


def _permits_text(permits: Mapping[str, Permit]) -> str | None:
    """What SQL permitted() reads."""
    if not permits:
        return None
    facts = {
        thing: {"users": sorted(permit.users), "anyone": permit.anyone, "tags": sorted(permit.tags)}
        for thing, permit in permits.items()
    }
    return orjson.dumps(facts).decode()


def _check(wish: Registration) -> None:
    check_label(wish.label)
    check_hostname(wish.hostname)
    if len(wish.request_tags) > MAX_REQUEST_TAGS:
        raise BadRequest(f"more than {MAX_REQUEST_TAGS} tags are asked for", code="too_many_tags")
    check_stored_routes(wish.announced_routes)
    if wish.expiry_wish is not None and not math.isfinite(wish.expiry_wish):
        raise BadRequest("the expiry asked for is not a time", code="bad_expiry")
