"""Questions for operators about single devices, on the metrics address and from this machine only."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import orjson
from aiohttp import web

from app.errors import BadRequest, NotFound, Refused, Unavailable
from app.model import DeviceId
from node.device_look import device_facts
from node.owner import Owner


def is_loopback(address: str | None) -> bool:
    try:
        return address is not None and ip_address(address).is_loopback
    except ValueError:
        return False


def debug_routes(app: web.Application, owner: Callable[[], Owner | None]) -> None:
    """Questions for operators, on the metrics address only."""

    async def ask(request: web.Request) -> web.Response:
        """`POST /debug/c2n/<device id>?path=/debug/netmap`: what the client itself answers."""
        if not is_loopback(request.remote):
            raise Refused("clients are asked from this machine only")
        serving = owner()
        if serving is None:
            raise Unavailable("this instance does not own its cluster")
        text = request.match_info["device_id"]
        session = serving.hub.session(DeviceId(int(text))) if text.isdigit() else None
        if session is None:
            raise NotFound(f"device {text} is not connected")
        answer = await serving.queries.ask(session, request.query.get("path", "/echo"))
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if not status or not status[0].isdigit():
            raise Unavailable("the client's answer is no HTTP response")
        return web.Response(body=body, status=int(status[0]))

    async def device(request: web.Request) -> web.Response:
        """`GET /debug/device/<device id>`: its poll, what it was told last, and what it would get now."""
        if not is_loopback(request.remote):
            raise Refused("devices are looked at from this machine only")
        serving = owner()
        if serving is None:
            raise Unavailable("this instance does not own its cluster")
        text = request.match_info["device_id"]
        if not text.isdigit() or len(text) > 18:
            raise BadRequest("a device is named by its id")
        return web.Response(body=orjson.dumps(await device_facts(serving.hub, DeviceId(int(text)))))

    app.router.add_get("/debug/device/{device_id}", device)
    app.router.add_post("/debug/c2n/{device_id}", ask)
