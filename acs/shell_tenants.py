"""What the commands about tenants, clusters, plans and joining do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ValidationError

from acs.shell import api, row
from app.api.client import AcsClient
from app.api.records import (
    ClusterChange,
    JoinAsked,
    PlanAsked,
    TenantAsked,
    TenantChange,
)
from app.errors import BadRequest
from app.output import show
from app.settings import Settings

R = TypeVar("R", bound=BaseModel)


def checked(record: type[R], given: Mapping[str, Any]) -> R:
    """Options as a record. Raises BadRequest that names each that is wrong."""
    try:
        return record.model_validate(dict(given))
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadRequest(said) from error


def wish(
    name: str,
    plan: str | None,
    region: str,
    cluster: str | None,
    dedicated: bool,
    labels: dict[str, str],
) -> TenantAsked:
    """Raises BadRequest."""
    given = {"name": name, "plan": plan, "region": region, "cluster": cluster}
    return checked(TenantAsked, {**given, "dedicated": dedicated, "labels": labels})


async def create(settings: Settings, asked: TenantAsked, output: str) -> None:
    async with api(settings) as client:
        placed = await client.place(asked)
    if output != "table":
        show(row(placed), output)
        return
    show(row(placed.tenant), output, upright=True)
    for sentence in placed.explanation:
        click.echo(sentence, err=True)


async def list_all(settings: Settings, cluster: str | None, deleted: bool, output: str) -> None:
    async with api(settings) as client:
        found = [tenant async for tenant in client.tenants(cluster=cluster, deleted=deleted)]
    if output != "table":
        show([row(tenant) for tenant in found], output)
        return
    columns = ("id", "name", "cluster", "status", "plan", "devices", "max_devices", "users", "keys")
    show([{name: getattr(tenant, name) for name in columns} for tenant in found], output)


async def show_one(settings: Settings, tenant: str, output: str) -> None:
    async with api(settings) as client:
        show(row(await client.tenant(tenant)), output, upright=True)


async def change(settings: Settings, tenant: str, given: Mapping[str, Any], output: str) -> None:
    wanted = checked(TenantChange, given)
    async with api(settings) as client:
        known = await client.tenant(tenant)
        show(row(await client.change_tenant(known.id, wanted, version=known.version)), output, upright=True)


async def do(settings: Settings, tenant: str, verb: str, output: str) -> None:
    """suspend, resume, delete or restore."""
    async with api(settings) as client:
        known = await _find(client, tenant, deleted=verb == "restore")
        changed = await (client.delete_tenant(known) if verb == "delete" else client.tenant_verb(known, verb))
        show(row(changed), output, upright=True)


async def _find(client: AcsClient, tenant: str, *, deleted: bool) -> int:
    """The id of a tenant; a deleted one is found by id or by its name in the list."""
    if deleted and not tenant.isdigit():
        async for found in client.tenants(deleted=True):
            if found.name == tenant:
                return found.id
    return (await client.tenant(tenant)).id


async def list_clusters(settings: Settings, output: str) -> None:
    async with api(settings) as client:
        found = await client.clusters()
    show([row(cluster) for cluster in found], output)


async def cluster_verb(settings: Settings, cluster: str, verb: str, output: str) -> None:
    async with api(settings) as client:
        show(row(await client.cluster_verb(cluster, verb)), output, upright=True)


async def describe(settings: Settings, cluster: str, given: Mapping[str, Any], output: str) -> None:
    wanted = checked(ClusterChange, given)
    async with api(settings) as client:
        known = await client.cluster(cluster)
        show(row(await client.change_cluster(cluster, wanted, version=known.version)), output, upright=True)


async def list_plans(settings: Settings, output: str) -> None:
    async with api(settings) as client:
        show([row(plan) for plan in await client.plans()], output)


async def put_plan(settings: Settings, name: str, limits: Mapping[str, Any], output: str) -> None:
    wanted = checked(PlanAsked, limits)
    async with api(settings) as client:
        show(row(await client.put_plan(name, wanted)), output, upright=True)


async def explain(settings: Settings, asked: TenantAsked, output: str) -> None:
    async with api(settings) as client:
        found = await client.explain(asked)
    if output == "table":
        for sentence in found.explanation:
            click.echo(sentence)
    else:
        show(row(found), output)


async def join(settings: Settings, given: Mapping[str, Any], output: str) -> None:
    """With a join token no API token is needed."""
    wanted = checked(JoinAsked, given)
    anonymous = wanted.token is not None and not settings.acs.token
    async with AcsClient(settings.acs.url) if anonymous else api(settings) as client:
        joining = await client.join(wanted)
    if output == "table":
        click.echo(joining.command)
    else:
        show(row(joining), output)
