"""What the administration commands do: the same database, one cluster, captured and audited."""

from __future__ import annotations

import getpass
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import click
import orjson
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app import log
from app.db import migrate
from app.db.scoped import Scoped
from app.db.setup import Database
from app.errors import NotFound
from app.model import AuthKey, Device, DeviceId, Tenant, User, UserId
from app.names import full_name
from app.settings import Settings
from app.wire import tailcfg
from node.serve import database_dsn

Row = dict[str, Any]
#: Tables that go into a file or pipe are not folded.
PIPE_COLUMNS = 1000


@asynccontextmanager
async def administration(settings: Settings) -> AsyncIterator[Scoped]:
    """The cluster's data as an administrator sees it. Raises NotFound for a cluster nobody created."""
    async with database_dsn(settings) as dsn:
        database = await Database.prepare(dsn)
        if not await database.cluster_exists(settings.cluster_id):
            raise NotFound(
                f"there is no cluster {settings.cluster_id!r} in this database: "
                "`hs-node serve` creates it at its first start (is CLUSTER_ID right?)"
            )
        scoped = await Scoped.open(dsn, cluster_id=settings.cluster_id, role="hs_admin", pool_size=1)
        try:
            yield scoped
        finally:
            await scoped.close()


def actor() -> str:
    return f"shell:{getpass.getuser()}"


async def create_user(
    settings: Settings, tenant: str | None, name: str, display_name: str, email: str, output: str
) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        user = await scoped.create_user(place.id, name, display_name=display_name, email=email, actor=actor())
    show(user_row(user), output)


async def list_users(settings: Settings, tenant: str | None, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        users = await scoped.list_users(place.id)
    show([user_row(user) for user in users], output)


async def owner_of(scoped: Scoped, tenant: Tenant, given: str) -> User:
    """A user by name or, as headscale's commands have it, by id. Raises NotFound."""
    users = await scoped.list_users(tenant.id)
    for user in users:
        if user.name == given:
            return user
    for user in users:
        if str(user.id) == given:
            return user
    raise NotFound(f"there is no user {given!r} in tenant {tenant.name!r}")


async def create_auth_key(
    settings: Settings,
    tenant: str | None,
    user: str | None,
    reusable: bool,
    ephemeral: bool,
    life_s: float,
    tags: Sequence[str],
    output: str,
) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        owner = None if user is None else await owner_of(scoped, place, user)
        key, text = await scoped.create_auth_key(
            place.id,
            None if owner is None else owner.id,
            reusable=reusable,
            ephemeral=ephemeral,
            tags=tags,
            expiration=time.time() + life_s if life_s else None,
            actor=actor(),
        )
    if output == "table":
        click.echo(text)
    else:
        show({**key_row(key), "key": text}, output)


async def list_auth_keys(settings: Settings, tenant: str | None, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        keys = await scoped.list_auth_keys(place.id)
    show([key_row(key) for key in keys], output)


async def expire_auth_key(settings: Settings, tenant: str | None, key_id: int, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        key = await scoped.revoke_auth_key(place.id, key_id, actor=actor())
    show(key_row(key), output)


async def list_devices(settings: Settings, tenant: str | None, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        devices = await scoped.list_devices(place.id)
        users = {user.id: user for user in await scoped.list_users(place.id)}
    show([device_row(device, place, users, settings) for device in devices], output)


async def expire_device(
    settings: Settings, tenant: str | None, device_id: int, disable: bool, output: str
) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        await _device(scoped, place, device_id)
        at = None if disable else time.time()
        await scoped.expire_device(place.id, DeviceId(device_id), at, actor=actor())
        device = await _device(scoped, place, device_id)
        users = {user.id: user for user in await scoped.list_users(place.id)}
    show(device_row(device, place, users, settings), output)


async def delete_device(settings: Settings, tenant: str | None, device_id: int, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        await scoped.delete_device(place.id, DeviceId(device_id), actor=actor())
    show({"id": device_id, "deleted": True}, output)


async def _device(scoped: Scoped, tenant: Tenant, device_id: int) -> Device:
    found = await scoped.load_devices([(tenant.id, DeviceId(device_id))])
    if not found:
        raise NotFound(f"there is no device {device_id} in tenant {tenant.name!r}")
    return found[0]


async def init_database(settings: Settings) -> None:
    async with database_dsn(settings) as dsn:
        await Database.prepare(dsn)
    click.echo("roles and schema are in place")


def setup_sql() -> str:
    return migrate.print_sql()


# -- rows ---------------------------------------------------------------------------------------


def when(epoch: float | None) -> str | None:
    return None if epoch is None else tailcfg.utc(epoch).isoformat(timespec="seconds")


def user_row(user: User) -> Row:
    return {
        "id": user.id,
        "name": user.name,
        "display_name": user.display_name,
        "email": user.email,
        "created": when(user.created),
    }


def key_row(key: AuthKey) -> Row:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "user_id": key.user_id,
        "reusable": key.reusable,
        "ephemeral": key.ephemeral,
        "tags": list(key.tags),
        "used": key.used,
        "revoked": key.revoked,
        "expiration": when(key.expiration),
        "created": when(key.created),
    }


def device_row(device: Device, tenant: Tenant, users: dict[UserId, User], settings: Settings) -> Row:
    owner = users.get(device.user_id) if device.user_id is not None else None
    return {
        "id": device.id,
        "name": device.given_name,
        "fqdn": full_name(device.given_name, tenant.dns_label, settings.dns.base_domain),
        "hostname": device.hostname,
        "user": owner.name if owner is not None else "tagged-devices",
        "tags": list(device.tags),
        "ip_addresses": [device.ipv4, device.ipv6],
        "online": device.online,
        "ephemeral": device.ephemeral,
        "last_seen": when(device.last_seen),
        "expiry": when(device.expiry),
        "created": when(device.created),
    }


# -- output -------------------------------------------------------------------------------------


def show(data: Row | list[Row], output: str) -> None:
    """Print one row or many. Text that tenants chose cannot send control codes to the terminal."""
    if output == "json":
        click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
    elif output == "yaml":
        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip())
    else:
        _show_table(data if isinstance(data, list) else [data])


def _show_table(rows: list[Row]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_COLUMNS)
    if not rows:
        console.print("none")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return log.escape(", ".join(map(str, value))) or "-"
    return log.escape(value) or "-"
