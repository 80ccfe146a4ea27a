"""Who may call hs-acs: tokens, and the answers kept for callers that ask twice."""

from __future__ import annotations

import hmac

from app.db.base import PoolBase, write_audit
from app.errors import Conflict, NotFound
from app.model import ApiToken, TenantId
from app.sql import QUERIES
from app.tokens import StoredApiToken

#: An answer is kept so long.
ANSWER_KEPT_S = 24 * 3600.0
#: A call whose answer has not come by then died with its process.
ANSWER_ABANDONED_S = 60.0
#: Audit rows about the deployment as a whole carry no cluster.
NO_CLUSTER = ""


class Access(PoolBase):
    """The part of Admission about tokens."""

    async def create_token(
        self,
        stored: StoredApiToken,
        *,
        name: str,
        scope: str,
        tenant_id: TenantId | None,
        expires_at: float | None,
        actor: str,
    ) -> ApiToken:
        """Stores a token whose secret only the asker knows. Raises BadRequest, Conflict."""
        async with self._connection() as conn, conn.transaction():
            row = await conn.fetchrow(
                QUERIES["create_api_token"],
                *(stored.prefix, stored.hash, name, scope, tenant_id, actor, expires_at),
            )
            assert row is not None
            token = ApiToken(*row)
            after = {"name": name, "scope": scope, "tenant": tenant_id, "expires_at": expires_at}
            await write_audit(
                conn, NO_CLUSTER, tenant_id, actor, "create_token", f"token:{token.id}", None, after
            )
            return token

    async def list_tokens(self, after_id: int, limit: int) -> list[ApiToken]:
        """Tokens by id, without anything that could be used."""
        return [ApiToken(*row) for row in await self._fetch(QUERIES["list_api_tokens"], after_id, limit)]

    async def check_token(self, stored: StoredApiToken) -> ApiToken | None:
        """The token in force that has this secret, None for any other."""
        row = await self._fetchrow(QUERIES["find_api_token"], stored.prefix)
        if row is None or not hmac.compare_digest(row[0], stored.hash):
            return None
        token = ApiToken(*tuple(row)[1:])
        await self._execute(QUERIES["touch_api_token"], token.id)
        return token

    async def revoke_token(self, token_id: int, *, actor: str) -> ApiToken:
        """Ends a token at once. Raises NotFound."""
        async with self._connection() as conn, conn.transaction():
            row = await conn.fetchrow(QUERIES["revoke_api_token"], token_id)
            if row is None:
                raise NotFound(f"there is no token {token_id}")
            token = ApiToken(*row)
            await write_audit(
                conn, NO_CLUSTER, token.tenant_id, actor, "revoke_token", f"token:{token_id}", None, None
            )
            return token

    # -- callers that ask twice -----------------------------------------------------------------

    async def begin_once(self, token_id: int, key: str, fingerprint: bytes) -> tuple[int, bytes] | None:
        """Claims a key for a call: None to go on, or status and sealed answer of the call before.

        Raises Conflict when the key stands for another call, or for one that is under way.
        """
        begun = await self._fetchval(
            QUERIES["begin_idempotent"], token_id, key, fingerprint, ANSWER_ABANDONED_S
        )
        if begun:
            return None
        row = await self._fetchrow(QUERIES["idempotent_answer"], token_id, key)
        if row is not None and row[0] != fingerprint:
            raise Conflict("this idempotency key was used for another call", code="idempotency_key_reused")
        if row is None or row[2] is None:
            raise Conflict("a call with this idempotency key is under way", code="idempotency_key_busy")
        return row[1], row[2]

    async def keep_answer(self, token_id: int, key: str, status: int, sealed: bytes) -> None:
        await self._execute(QUERIES["keep_idempotent"], token_id, key, status, sealed)

    async def forget_call(self, token_id: int, key: str) -> None:
        """The call failed for a reason that may pass: who asks again is heard again."""
        await self._execute(QUERIES["forget_idempotent"], token_id, key)

    async def trim_answers(self, max_age_s: float = ANSWER_KEPT_S) -> int:
        """Forgets old answers; returns how many."""
        return await self._execute(QUERIES["trim_idempotent"], max_age_s)
