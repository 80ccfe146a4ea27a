"""Logins without an auth key: opened by devices, decided by people, of no cluster until then."""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.db import rows
from app.db.base import PoolBase, PoolConnection, ScopedBase, again_when_busy
from app.errors import Conflict, NotFound
from app.model import Login, LoginAsk, TenantId, UserId
from app.names import check_hostname
from app.sql import QUERIES

#: How long a person has to approve, and the device to fetch what was decided.
LOGIN_LIFE_S = 15 * 60.0
#: Undecided logins of one address (IPv6: one /64), and in all. Strangers can open them: the oldest gives way.
MAX_LOGINS_PER_NETWORK = 64
MAX_LOGINS = 4096
#: Random bytes of an id; whoever knows it can look at the page of the login.
LOGIN_ID_BYTES = 12
#: Characters kept of what a device says about its system.
MAX_FACT = 64

_ID = re.compile(r"[0-9a-f]{24}", re.ASCII)


def is_login_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


class LoginFacts(PoolBase):
    """What every process may ask about logins, which belong to no cluster."""

    async def logins(self, ids: Sequence[str] | None = None, *, now: float | None = None) -> list[Login]:
        """Logins of the whole deployment by age: the named ones as far as they exist, or all."""
        found = await self._fetch(QUERIES["read_logins"], None if ids is None else list(ids), now)
        return [rows.login(row) for row in found]


class Logins(ScopedBase, LoginFacts):
    """The login part of Scoped. `now` replaces the database's clock."""

    async def open_login(self, ask: LoginAsk, fresh_id: str, *, now: float | None = None) -> str:
        """The id of the live login of these keys; `fresh_id` when there was none.

        Raises BadRequest for a hostname that cannot be stored.
        """
        check_hostname(ask.hostname)
        login_id: str = await again_when_busy(
            lambda: self._fetchval(
                QUERIES["open_login"],
                fresh_id,
                self.cluster_id,
                ask.machine_key,
                ask.node_key,
                ask.hostname,
                _fact(ask.os),
                _fact(ask.version),
                ask.capver,
                ask.ephemeral,
                ask.address,
                ask.network,
                LOGIN_LIFE_S,
                MAX_LOGINS_PER_NETWORK,
                MAX_LOGINS,
                now,
            )
        )
        return login_id

    async def approve_login(
        self,
        login_id: str,
        tenant_id: TenantId,
        user_id: UserId,
        *,
        actor: str = "",
        now: float | None = None,
    ) -> None:
        """Lets the waiting device in as a user's. Raises NotFound, Conflict when it was decided already."""
        async with self._tenant_tx(tenant_id) as conn:
            await self._decide(conn, login_id, "approved", tenant_id, user_id, now)
            facts = {"user_id": user_id}
            await self._audit(conn, tenant_id, actor, "login_approve", f"login:{login_id}", None, facts)

    async def deny_login(self, login_id: str, *, actor: str = "", now: float | None = None) -> None:
        """Sends the waiting device away. Raises NotFound, Conflict when it was decided already."""
        async with self._connection() as conn, conn.transaction():
            await self._decide(conn, login_id, "denied", None, None, now)
            await self._audit(conn, None, actor, "login_deny", f"login:{login_id}", None, None)

    async def _decide(
        self,
        conn: PoolConnection,
        login_id: str,
        decision: str,
        tenant_id: TenantId | None,
        user_id: UserId | None,
        now: float | None,
    ) -> None:
        statement = QUERIES["decide_login"]
        place = (self.cluster_id, login_id, decision, tenant_id, user_id)
        outcome = await conn.fetchval(statement, *place, LOGIN_LIFE_S, now)
        if outcome == "no_user":
            raise NotFound("there is no such user in this tenant")
        if outcome in ("approved", "denied"):
            changed = {"state": ["pending", outcome]}
            raise Conflict(f"login {login_id} was {outcome} already", code="login_decided", changed=changed)
        if outcome != "decided":
            raise NotFound(
                f"no login {login_id} is waiting: it never was, or is over "
                f"({LOGIN_LIFE_S / 60:.0f} minutes after the device asked; it shows a new address then)",
                code="login_unknown",
            )

    async def trim_logins(self, *, now: float | None = None) -> int:
        """Forgets logins whose time is over."""
        gone: int = await self._fetchval(QUERIES["trim_logins"], now)
        return gone


def _fact(text: str) -> str:
    return text.replace("\0", " ")[:MAX_FACT]
