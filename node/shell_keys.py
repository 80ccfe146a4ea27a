"""What the commands of `hs-node preauthkeys` do."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from app.errors import NotFound
from app.model import AuthKey
from app.output import Row, confirm, show, when
from app.settings import Settings
from node.shell import actor, administration, owner_of


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
        key, text = await scoped.create_auth_key(
            place.id,
            None if user is None else (await owner_of(scoped, place, user)).id,
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


async def delete_auth_key(
    settings: Settings, tenant: str | None, key_id: int, yes: bool, output: str
) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        key = next((key for key in await scoped.list_auth_keys(place.id) if key.id == key_id), None)
        if key is None:
            raise NotFound(f"there is no auth key {key_id} here")
        confirm(
            f"Delete auth key {key_id} ({key.prefix}...) of tenant {place.name!r}?"
            " Devices that joined with it stay.",
            yes,
        )
        await scoped.delete_auth_key(place.id, key_id, actor=actor())
    show({"id": key_id, "prefix": key.prefix, "deleted": True}, output)


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
