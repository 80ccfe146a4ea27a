"""What the commands of `hs-node auth` do."""

from __future__ import annotations

from app.db.scoped import Scoped
from app.keys import fingerprint
from app.model import Login
from app.output import Row, show, when
from app.settings import Settings
from node.shell import actor, administration, owner_of


async def list_logins(settings: Settings, output: str) -> None:
    async with administration(settings) as scoped:
        logins = await scoped.logins()
    show([login_row(login) for login in logins], output)


async def approve_login(
    settings: Settings, tenant: str | None, login_id: str, user: str, output: str
) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        owner = await owner_of(scoped, place, user)
        await scoped.approve_login(login_id, place.id, owner.id, actor=actor())
        row = await _decided(scoped, login_id)
    show(row, output)


async def deny_login(settings: Settings, login_id: str, output: str) -> None:
    async with administration(settings) as scoped:
        await scoped.deny_login(login_id, actor=actor())
        row = await _decided(scoped, login_id)
    show(row, output)


async def _decided(scoped: Scoped, login_id: str) -> Row:
    (login,) = await scoped.logins([login_id])
    return login_row(login)


def login_row(login: Login) -> Row:
    return {
        "id": login.id,
        "state": login.state,
        "hostname": login.hostname,
        "os": login.os,
        "version": login.version,
        "fingerprint": fingerprint(login.machine_key),
        "ephemeral": login.ephemeral,
        "address": login.address,
        "cluster": login.seen_in,
        "user_id": login.user_id,
        "device_id": login.device_id,
        "created": when(login.created),
        "expires": when(login.expires),
    }
