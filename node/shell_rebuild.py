"""What `hs-node rebuild` does: a request to the cluster's owner, followed to its result."""

from __future__ import annotations

import click

from app.database import database_dsn
from app.db.requests import RequestDesk
from app.db.scoped import Scoped
from app.errors import BadRequest, Refused
from app.model import Tenant
from app.output import show
from app.scopes import KINDS, Scope
from app.settings import Settings
from node.shell import actor, administration, owner_of
from node.shell_devices import find_device

__all__ = ["KINDS", "rebuild"]


async def rebuild(
    settings: Settings, tenant_name: str | None, kind: str, name: str | None, deadline_s: float, output: str
) -> None:
    async with administration(settings) as scoped:
        tenant = await scoped.tenant(tenant_name)
        scope = await _scope(scoped, tenant, kind, name)
    async with database_dsn(settings) as dsn:
        desk = await RequestDesk.open(dsn)
        try:
            asked = await desk.submit(
                settings.cluster_id,
                tenant.id,
                "netmap_rebuild",
                {"scope": str(scope)},
                actor=actor(),
                what=str(scope),
                dedup=f"{tenant.id}:{scope}",
            )
            last = None
            async for request in desk.follow(asked, deadline_s=deadline_s):
                last = request
                if request.progress and output == "table":
                    done, tenants = request.progress["tenants_done"], request.progress["tenants"]
                    click.echo(f"{done} of {tenants} tenants", err=True)
        finally:
            await desk.close()
    if last is None or last.result is None:
        raise Refused(last.error if last is not None and last.error else "the request has no result")
    show(last.result, output, upright=True)


async def _scope(scoped: Scoped, tenant: Tenant, kind: str, name: str | None) -> Scope:
    if (name is None) != (kind in ("tenant", "cluster")):
        raise BadRequest(f"rebuild {kind} takes {'no' if name else 'a'} name")
    if name is None:
        return Scope(kind)
    if kind == "device":
        return Scope(kind, str((await find_device(scoped, tenant, name)).id))
    if kind == "user":
        return Scope(kind, str((await owner_of(scoped, tenant, name)).id))
    return Scope(kind, name.removeprefix("tag:"))
