"""What the commands of `hs-node users` do."""

from __future__ import annotations

from app.counting import counted
from app.model import User
from app.output import Row, confirm, show, when
from app.settings import Settings
from node.shell import actor, administration, owner_of


async def create_user(
    settings: Settings,
    tenant: str | None,
    name: str,
    display_name: str,
    email: str,
    picture_url: str,
    output: str,
) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        user = await scoped.create_user(
            place.id,
            name,
            display_name=display_name,
            email=email,
            profile_pic_url=picture_url,
            actor=actor(),
        )
    show(user_row(user), output)


async def list_users(
    settings: Settings,
    tenant: str | None,
    identifier: str | None,
    name: str | None,
    email: str | None,
    output: str,
) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        users = await scoped.list_users(place.id, name)
    found = [
        user
        for user in users
        if identifier in (None, str(user.id)) and (email is None or user.email == email)
    ]
    show([user_row(user) for user in found], output)


async def rename_user(settings: Settings, tenant: str | None, who: str, new_name: str, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        user = await owner_of(scoped, place, who)
        await scoped.rename_user(place.id, user.id, new_name, actor=actor())
        user = await scoped.user(place.id, new_name)
    show(user_row(user), output)


async def set_role(settings: Settings, tenant: str | None, who: str, role: str, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        user = await owner_of(scoped, place, who)
        await scoped.set_user_role(place.id, user.id, role, actor=actor())
        user = await scoped.user(place.id, user.name)
    show(user_row(user), output)


async def destroy_user(settings: Settings, tenant: str | None, who: str, yes: bool, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        user = await owner_of(scoped, place, who)
        keys = [key for key in await scoped.list_auth_keys(place.id) if key.user_id == user.id]
        confirm(
            f"Delete user {user.name!r} (id {user.id}) of tenant {place.name!r}"
            f" and {counted(len(keys), 'auth key')} of this user?",
            yes,
        )
        await scoped.delete_user(place.id, user.id, actor=actor())
    show({"id": user.id, "name": user.name, "auth_keys": len(keys), "deleted": True}, output)


def user_row(user: User) -> Row:
    return {
        "id": user.id,
        "name": user.name,
        "display_name": user.display_name,
        "email": user.email,
        "role": user.role,
        "created": when(user.created),
    }
