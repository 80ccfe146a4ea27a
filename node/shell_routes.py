"""What the commands of `hs-node routes` do."""

from __future__ import annotations

from collections.abc import Sequence

import click

from app import log
from app.model import Device
from app.output import Row, show
from app.policy.people import Directory
from app.policy.routes import auto_approved
from app.settings import Settings
from node.shell import actor, administration
from node.shell_devices import find_device
from node.shell_policy import scene_of


async def list_routes(settings: Settings, tenant: str | None, which: str | None, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        if which is None:
            routers = await scoped.routers(place.id)
        else:
            routers = [await find_device(scoped, place, which)]
    show([row for device in routers for row in route_rows(device)], output)


async def approve(
    settings: Settings, tenant: str | None, which: str, routes: Sequence[str], output: str
) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        device = await find_device(scoped, place, which)
        await scoped.approve_routes(place.id, device.id, routes, actor=actor())
        device = await find_device(scoped, place, str(device.id))
    show(route_rows(device), output)


async def reject(
    settings: Settings, tenant: str | None, which: str, routes: Sequence[str], output: str
) -> None:
    async with administration(settings) as scoped:
        scene = await scene_of(scoped, settings, tenant)
        device = await find_device(scoped, scene.place, which)
        await scoped.unapprove_routes(scene.place.id, device.id, routes, actor=actor())
        device = await find_device(scoped, scene.place, str(device.id))
    waiting = [route for route in device.announced_routes if route not in device.approved_routes]
    directory = Directory(scene.users, scene.policy.groups)
    again = auto_approved(scene.policy, directory, device.user_id, device.tags, waiting)
    if again:
        click.echo(
            log.escape(
                f"warning: autoApprovers of the policy lets this device have {', '.join(again)}:"
                " it is approved again when the device announces it anew or the policy changes"
            ),
            err=True,
        )
    show(route_rows(device), output)


def route_rows(device: Device) -> list[Row]:
    """One row for each route that a device announces or may carry."""
    return [
        {
            "device_id": device.id,
            "device": device.given_name,
            "route": route,
            "announced": route in device.announced_routes,
            "approved": route in device.approved_routes,
            "serving": route in device.active_routes and device.online,
        }
        for route in sorted({*device.announced_routes, *device.approved_routes})
    ]
