"""Tenants, the clusters they are placed on, plans, and tokens to join with: what hs-acs keeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from app.db.admin import Admin
from app.db.base import PoolBase, PoolConnection, check_seen, write_audit
from app.db.loads import read_loads
from app.errors import BadRequest, Conflict, NotFound, Refused
from app.model import JoinTokenFacts, Plan, TenantFacts, TenantId
from app.names import check_cluster_id, label_of
from app.placement import ClusterLoad, Placement, Wish, place
from app.sql import QUERIES
from app.tokens import StoredJoinToken

_STATES = ("joining", "active", "draining", "drained", "standby")


def _text(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(dict(value), option=orjson.OPT_SORT_KEYS).decode()


def _facts(row: Any) -> TenantFacts:
    values = list(row)
    values[8] = orjson.loads(values[8])
    return TenantFacts(*values)


#: What a plan consists of, in the order of its statements.
_PLAN = ("name", "max_devices", "max_users", "max_keys", "max_routes", "max_requests")


class Tenants(PoolBase):
    """The part of Admission about tenants and clusters."""

    def cluster(self, cluster_id: str) -> Admin:
        """What an administrator does inside one cluster: users, auth keys, devices."""
        return Admin(self._pool, check_cluster_id(cluster_id))

    # -- clusters -------------------------------------------------------------------------------

    async def cluster_loads(self) -> list[ClusterLoad]:
        """All clusters as placement sees them, by id."""
        async with self._connection() as conn:
            return await read_loads(conn.fetch)

    async def cluster_load(self, cluster_id: str) -> ClusterLoad:
        """One of them. Raises NotFound."""
        for load in await self.cluster_loads():
            if load.cluster_id == cluster_id:
                return load
        raise NotFound(f"there is no cluster {cluster_id!r}")

    async def update_cluster(
        self,
        cluster_id: str,
        *,
        actor: str,
        state: str | None = None,
        region: str | None = None,
        labels: Mapping[str, str] | None = None,
        weight: float | None = None,
        max_tenants: int | None = None,
        max_devices: int | None = None,
        version: int | None = None,
        seen: Mapping[str, Any] | None = None,
    ) -> ClusterLoad:
        """Changes what is given. Raises NotFound, Conflict when `version` or `seen` is not that of now."""
        if state is not None and state not in _STATES:
            raise BadRequest(f"a cluster is {', '.join(_STATES)}, not {state!r}", code="bad_state")
        before = await self.cluster_load(cluster_id)
        check_seen(f"cluster {cluster_id}", seen, {"state": before.state})
        version = before.version if seen else version
        async with self._connection() as conn, conn.transaction():
            changed = await conn.fetchval(
                QUERIES["update_cluster"],
                *(cluster_id, state, region, _text(labels), weight, max_tenants, max_devices, version),
            )
            if changed is None:
                now = await self.cluster_load(cluster_id)
                changed = {"version": [version, now.version], "state": [before.state, now.state]}
                sentence = f"cluster {cluster_id} has another version now: read it again"
                raise Conflict(sentence, code="version", changed=changed)
            given = {
                "state": state,
                "region": region,
                "labels": labels,
                "weight": weight,
                "max_tenants": max_tenants,
                "max_devices": max_devices,
            }
            after = {name: value for name, value in given.items() if value is not None}
            old = {name: getattr(before, name) for name in after}
            await write_audit(
                conn, cluster_id, None, actor, "cluster_update", f"cluster:{cluster_id}", old, after
            )
        return await self.cluster_load(cluster_id)

    async def admit_joining_clusters(self, *, actor: str) -> list[str]:
        """Admits all clusters that wait for it and are served; their ids."""
        async with self._connection() as conn, conn.transaction():
            admitted = [row[0] for row in await conn.fetch(QUERIES["admit_joining_clusters"])]
            for cluster_id in admitted:
                await write_audit(
                    *(conn, cluster_id, None, actor, "cluster_update", f"cluster:{cluster_id}"),
                    {"state": "joining"},
                    {"state": "active"},
                )
            return admitted

    # -- tenants --------------------------------------------------------------------------------

    async def place_tenant(
        self, name: str, wish: Wish, *, plan: str | None, actor: str
    ) -> tuple[TenantFacts, Placement | None]:
        """The tenant of this name: as it is when there is one, else new, in the best cluster.

        Of many callers, in several replicas too, one places it and all get the same answer. The
        placement is None for one that was there. Raises NotFound for a plan nobody made, Refused when
        no cluster fits (`explanation` among its facts says why).
        """
        known = await self._named(name)
        if known is not None:
            return known, None
        async with self._connection() as conn, conn.transaction():
            await conn.execute(QUERIES["lock_placement"])
            there = await _tenants(conn, name=name)
            if there:
                return _alive(there[0]), None
            limits = await self._limits(conn, plan)
            if limits.max_devices is not None:
                wish = Wish(wish.region, wish.labels, wish.pinned, wish.dedicated, limits.max_devices)
            placement = place(wish, await read_loads(conn.fetch))
            if placement.chosen is None:
                raise Refused(
                    f"no cluster fits tenant {name!r}: {'; '.join(placement.explanation[1:])}",
                    code="no_cluster_fits",
                    explanation=placement.explanation,
                )
            tenant_id: int = await conn.fetchval(
                QUERIES["place_tenant"],
                *(placement.chosen, name, label_of(name)),
                *(limits.max_devices, limits.max_users, limits.max_keys),
            )
            await conn.execute(
                QUERIES["describe_tenant"],
                *(tenant_id, plan, wish.region, _text(wish.labels), wish.dedicated, wish.pinned),
                *(limits.max_routes, limits.max_requests),
            )
            after = {"name": name, "plan": plan, "why": placement.explanation[0]}
            await write_audit(
                conn,
                placement.chosen,
                TenantId(tenant_id),
                actor,
                "tenant_create",
                f"tenant:{tenant_id}",
                None,
                after,
            )
        return await self.tenant(TenantId(tenant_id)), placement

    async def explain(self, wish: Wish) -> Placement:
        """Where a tenant would go now."""
        return place(wish, await self.cluster_loads())

    async def _named(self, name: str) -> TenantFacts | None:
        async with self._connection() as conn:
            found = await _tenants(conn, name=name)
        return _alive(found[0]) if found else None

    async def _limits(self, conn: PoolConnection, plan: str | None) -> Plan:
        if plan is None:
            return Plan("", None, None, None, None, None, 0)
        found = await _plans(conn, plan)
        if not found:
            raise NotFound(f"there is no plan {plan!r}")
        return found[0]

    async def tenant(self, tenant_id: TenantId) -> TenantFacts:
        """One tenant, deleted ones too. Raises NotFound."""
        async with self._connection() as conn:
            found = await _tenants(conn, tenant_id=tenant_id)
        if not found:
            raise NotFound(f"there is no tenant {tenant_id}")
        return found[0]

    async def tenant_named(self, name: str) -> TenantFacts:
        """Raises NotFound."""
        found = await self._named(name)
        if found is None:
            raise NotFound(f"there is no tenant {name!r}")
        return found

    async def list_tenants(
        self, after_id: int, limit: int, *, cluster_id: str | None = None, with_deleted: bool = False
    ) -> list[TenantFacts]:
        """Tenants by id."""
        async with self._connection() as conn:
            return await _tenants(
                conn, cluster_id=cluster_id, with_deleted=with_deleted, after_id=after_id, limit=limit
            )

    async def update_tenant(
        self,
        tenant_id: TenantId,
        *,
        actor: str,
        action: str = "tenant_update",
        name: str | None = None,
        status: str | None = None,
        plan: str | None = None,
        labels: Mapping[str, str] | None = None,
        max_devices: int | None = None,
        max_users: int | None = None,
        max_keys: int | None = None,
        max_routes: int | None = None,
        max_requests: int | None = None,
        pinned: str | None = None,
        version: int | None = None,
        along: Callable[[PoolConnection], Awaitable[object]] | None = None,
    ) -> TenantFacts:
        """Changes what is given; -1 takes a limit away, '' plan or pin. Home tenants stay as they are.

        `along`: what is written in the same transaction, or not at all.
        Raises NotFound, Conflict for another version or a name that is taken, Refused.
        """
        before = await self.tenant(tenant_id)
        if before.is_home:
            raise Refused("a home tenant lives and ends with its cluster", code="home_tenant")
        async with self._connection() as conn, conn.transaction():
            if plan:
                limits = await self._limits(conn, plan)
                max_devices, max_users, max_keys, max_routes, max_requests = (
                    (-1 if limit is None else limit) if given is None else given
                    for given, limit in (
                        (max_devices, limits.max_devices),
                        (max_users, limits.max_users),
                        (max_keys, limits.max_keys),
                        (max_routes, limits.max_routes),
                        (max_requests, limits.max_requests),
                    )
                )
            changed = await conn.fetchval(
                QUERIES["update_tenant"],
                *(tenant_id, name, status, plan, _text(labels), max_devices, max_users, max_keys, version),
                *(max_routes, max_requests, pinned),
            )
            if changed is None:
                raise await self._tenant_changed(tenant_id, version)
            if name is not None:
                await conn.execute(QUERIES["rename_in_join_tokens"], before.name, name)
            given_now = {
                "name": name,
                "status": status,
                "plan": plan,
                "labels": labels,
                "max_devices": max_devices,
                "max_users": max_users,
                "max_keys": max_keys,
                "max_routes": max_routes,
                "max_requests": max_requests,
                "pinned": pinned,
            }
            after = {key: value for key, value in given_now.items() if value is not None}
            old = {key: getattr(before, key) for key in after}
            await write_audit(
                conn, before.cluster_id, tenant_id, actor, action, f"tenant:{tenant_id}", old, after
            )
            if along is not None:
                await along(conn)
        return await self.tenant(tenant_id)

    async def _tenant_changed(self, tenant_id: TenantId, seen: int | None) -> Conflict:
        now = await self.tenant(tenant_id)
        changed = {
            "version": [seen, now.version],
            **{name: [None, getattr(now, name)] for name in ("name", "status", "cluster_id", "pinned")},
        }
        sentence = f"tenant {tenant_id} has another version now: read it again"
        return Conflict(sentence, code="version", changed=changed)

    async def purge_tenants(self, grace_s: float, *, actor: str) -> list[str]:
        """Takes tenants deleted longer ago than the grace away for good, one by one; their names.

        What they used, and what the audit log says of them, stays.
        """
        purged = []
        for (tenant_id,) in await self._fetch(QUERIES["tenants_to_purge"], grace_s):
            async with self._connection() as conn, conn.transaction():
                row = await conn.fetchrow(QUERIES["purge_tenant"], tenant_id, grace_s)
                if row is None:  # restored just now, or purged by the leader before this one
                    continue
                cluster_id, name, *counts = row
                before = {"name": name, **dict(zip(("devices", "users", "keys"), counts, strict=True))}
                await write_audit(
                    *(conn, cluster_id, TenantId(tenant_id), actor, "tenant_purge"),
                    *(f"tenant:{tenant_id}", before, None),
                )
                purged.append(name)
        return purged

    # -- plans ----------------------------------------------------------------------------------

    async def put_plan(self, plan: Plan, *, actor: str) -> Plan:
        """A plan as it is from now on; tenants that have it get its limits."""
        async with self._connection() as conn, conn.transaction():
            limits = tuple(getattr(plan, name) for name in _PLAN)
            row = await conn.fetchrow(QUERIES["put_plan"], *limits)
            assert row is not None
            await conn.execute(QUERIES["apply_plan"], *limits)
            after = dict(zip(_PLAN, limits, strict=True))
            await write_audit(conn, "", None, actor, "plan_put", f"plan:{plan.name}", None, after)
            return Plan(*row)

    async def list_plans(self) -> list[Plan]:
        async with self._connection() as conn:
            return await _plans(conn, None)

    # -- joining --------------------------------------------------------------------------------

    async def create_join_token(
        self,
        stored: StoredJoinToken,
        *,
        tenant: str,
        user_name: str,
        uses: int | None,
        expires_at: float | None,
        actor: str,
    ) -> int:
        """The id of a token whose secret only the asker knows."""
        async with self._connection() as conn, conn.transaction():
            token_id: int = await conn.fetchval(
                QUERIES["create_join_token"],
                *(stored.prefix, stored.hash, tenant, user_name, uses, actor, expires_at),
            )
            after = {"tenant": tenant, "user": user_name, "uses": uses, "expires_at": expires_at}
            await write_audit(
                conn, "", None, actor, "join_token_create", f"join_token:{token_id}", None, after
            )
            return token_id

    async def list_join_tokens(
        self, after_id: int, limit: int, *, tenant: str | None = None
    ) -> list[JoinTokenFacts]:
        """Join tokens by id, of all tenants or of one."""
        found = await self._fetch(QUERIES["list_join_tokens"], tenant, after_id, limit)
        return [JoinTokenFacts(*row) for row in found]

    async def revoke_join_token(self, token_id: int, *, tenant: str | None, actor: str) -> JoinTokenFacts:
        """Ends a join token at once. Raises NotFound, also for one of another `tenant` than this."""
        async with self._connection() as conn, conn.transaction():
            row = await conn.fetchrow(QUERIES["revoke_join_token"], token_id, tenant)
            if row is None:
                raise NotFound(f"there is no join token {token_id}")
            token = JoinTokenFacts(*row)
            after = {"tenant": token.tenant, "user": token.user_name}
            await write_audit(
                conn, "", None, actor, "join_token_revoke", f"join_token:{token_id}", None, after
            )
            return token

    async def use_join_token(self, stored: StoredJoinToken) -> tuple[str, str] | None:
        """(tenant's name, user's name) of a token in force, one use of which is counted; else None."""
        row = await self._fetchrow(QUERIES["use_join_token"], stored.prefix, stored.hash)
        return None if row is None else (row[0], row[1])


async def _tenants(
    conn: PoolConnection,
    *,
    tenant_id: TenantId | None = None,
    name: str | None = None,
    cluster_id: str | None = None,
    with_deleted: bool = True,
    after_id: int = 0,
    limit: int = 1,
) -> list[TenantFacts]:
    found = await conn.fetch(
        QUERIES["acs_tenants"], tenant_id, name, cluster_id, with_deleted, after_id, limit
    )
    return [_facts(row) for row in found]


async def _plans(conn: PoolConnection, name: str | None) -> list[Plan]:
    return [Plan(*row) for row in await conn.fetch(QUERIES["list_plans"], name)]


def _alive(tenant: TenantFacts) -> TenantFacts:
    if tenant.status == "deleted":
        raise Conflict(f"tenant {tenant.name!r} was deleted and can still be restored", code="tenant_deleted")
    return tenant
