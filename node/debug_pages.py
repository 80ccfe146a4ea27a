"""Questions for operators about single devices, on the metrics address and from this machine only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import orjson
from aiohttp import web

from app.client.mapblob import decode_blob
from app.errors import BadRequest, NotFound, Refused, Unavailable
from app.model import DeviceId
from app.netmap.variant import Variant
from node.hub import Hub
from node.owner import Owner


def is_loopback(address: str | None) -> bool:
    try:
        return address is not None and ip_address(address).is_loopback
    except ValueError:
        return False


async def device_facts(hub: Hub, device_id: DeviceId) -> dict[str, Any]:
    """A device's poll and netmap as this process has them. Raises NotFound."""
    now = asyncio.get_running_loop().time()
    session = hub.session(device_id)
    facts: dict[str, Any] = {
        "would_get": orjson.loads(await hub.full_map(device_id, Variant.PLAIN)),
        "session": None,
    }
    if session is not None:
        told = (
            None
            if session.last_delta is None
            else decode_blob(session.last_delta, zstd=bool(session.variant))
        )
        facts["session"] = {
            "state": session.state.value,
            "form": session.variant.name.lower(),
            "open_s": round(now - session.opened_at, 1),
            "messages": session.messages,
            "bytes": session.bytes_sent,
            "unsent_bytes": session.unsent,
            "last_sent_s_ago": round(now - session.last_sent, 1),
            "last_map_s_ago": None if session.last_map is None else round(now - session.last_map[0], 1),
            "last_map_bytes": None if session.last_map is None else session.last_map[1],
            "last_delta": told,
            "missed": session.missed(),
        }
    return facts


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
