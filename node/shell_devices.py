"""What the commands of `hs-node nodes` do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import orjson

from app.db.scoped import Scoped
from app.errors import NotFound
from app.keys import disco_key_text, machine_key_text, node_key_text
from app.model import Device, DeviceId, Tenant, User, UserId
from app.names import full_name
from app.output import Row, confirm, show, when
from app.settings import Settings
from node.shell import actor, administration, owner_of

#: What is done to one device: the data, its tenant, and the device.
Deed = Callable[[Scoped, Tenant, Device], Awaitable[object]]


async def list_devices(settings: Settings, tenant: str | None, user: str | None, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        owner = None if user is None else await owner_of(scoped, place, user)
        devices = await scoped.list_devices(place.id)
        users = await _users(scoped, place)
    show(
        [
            device_row(device, place, users, settings)
            for device in devices
            if owner is None or device.user_id == owner.id
        ],
        output,
    )


async def show_device(settings: Settings, tenant: str | None, which: str, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        device = await find_device(scoped, place, which)
        users = await _users(scoped, place)
    row = {**device_row(device, place, users, settings), **device_details(device, place)}
    show(row, output, upright=True)


async def rename_device(settings: Settings, tenant: str | None, which: str, name: str, output: str) -> None:
    async def deed(scoped: Scoped, place: Tenant, device: Device) -> None:
        await scoped.rename_device(place.id, device.id, name, actor=actor())

    await _change(settings, tenant, which, output, deed)


async def expire_device(
    settings: Settings, tenant: str | None, which: str, at: float | None, output: str
) -> None:
    async def deed(scoped: Scoped, place: Tenant, device: Device) -> None:
        await scoped.expire_device(place.id, device.id, at, actor=actor())

    await _change(settings, tenant, which, output, deed)


async def tag_device(
    settings: Settings, tenant: str | None, which: str, tags: Sequence[str], output: str
) -> None:
    async def deed(scoped: Scoped, place: Tenant, device: Device) -> None:
        await scoped.set_device_tags(place.id, device.id, tags, actor=actor())

    await _change(settings, tenant, which, output, deed)


async def move_device(settings: Settings, tenant: str | None, which: str, user: str, output: str) -> None:
    async def deed(scoped: Scoped, place: Tenant, device: Device) -> None:
        owner = await owner_of(scoped, place, user)
        await scoped.move_device_to_user(place.id, device.id, owner.id, actor=actor())

    await _change(settings, tenant, which, output, deed)


async def delete_device(settings: Settings, tenant: str | None, which: str, yes: bool, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        device = await find_device(scoped, place, which)
        confirm(
            f"Delete device {device.given_name!r} (id {device.id}) of tenant {place.name!r}?"
            f" It is logged out; {device.ipv4} and {device.ipv6} become free.",
            yes,
        )
        await scoped.delete_device(place.id, device.id, actor=actor())
    show({"id": device.id, "name": device.given_name, "deleted": True}, output)


async def _change(settings: Settings, tenant: str | None, which: str, output: str, deed: Deed) -> None:
    """Does something to a device and shows what became of it."""
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        device = await find_device(scoped, place, which)
        await deed(scoped, place, device)
        device = await find_device(scoped, place, str(device.id))
        users = await _users(scoped, place)
    show(device_row(device, place, users, settings), output)


async def find_device(scoped: Scoped, tenant: Tenant, given: str) -> Device:
    """A device by id, else by name. Raises NotFound."""
    if given.isascii() and given.isdigit():
        found = await scoped.load_devices([(tenant.id, DeviceId(int(given)))])
        if found:
            return found[0]
    for device in await scoped.list_devices(tenant.id):
        if device.given_name == given:
            return device
    shown = given if given.isdigit() else repr(given)
    raise NotFound(f"there is no device {shown} in tenant {tenant.name!r}")


async def _users(scoped: Scoped, tenant: Tenant) -> dict[UserId, User]:
    return {user.id: user for user in await scoped.list_users(tenant.id)}


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


def device_details(device: Device, tenant: Tenant) -> Row:
    """What `show` tells beyond the row of the list."""
    hostinfo = orjson.loads(device.hostinfo)
    return {
        "tenant": tenant.name,
        "os": hostinfo.get("OS"),
        "client": hostinfo.get("IPNVersion"),
        "capability_version": device.capver,
        "endpoints": list(device.endpoints),
        "home_derp": device.home_derp,
        "register_method": device.register_method,
        "auth_key_id": device.auth_key_id,
        "machine_key": machine_key_text(device.machine_key),
        "node_key": node_key_text(device.node_key),
        "disco_key": disco_key_text(device.disco_key),
    }
