"""Pages that every entry answers itself: the deployment's Noise key, and logins without an auth key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from app.db.logins import is_login_id
from app.entry import login_page
from app.errors import BadRequest, Unavailable
from app.keys import machine_key_text
from app.model import Login

#: Digits of the largest capability version, 65535.
MAX_CAPVER_DIGITS = 5
#: Capability version from which clients speak Noise (headscale hscontrol/handlers.go KeyHandler).
MIN_NOISE_CAPVER = 39

#: Where a person looks at a login; its id follows.
LOGIN_PATH = "/register/"

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def add_key_pages(app: web.Application, *, noise_public: bytes, legacy_public: bytes) -> None:
    """`/key` and `/robots.txt`."""
    keys = orjson.dumps(
        {"legacyPublicKey": machine_key_text(legacy_public), "publicKey": machine_key_text(noise_public)}
    )

    async def key(request: web.Request) -> web.Response:
        """tailcfg.OverTLSPublicKeyResponse; the legacy key is real, so clients do not ask twice."""
        text = request.query.get("v", "")
        if not text.isascii() or not text.isdigit() or len(text) > MAX_CAPVER_DIGITS:
            raise BadRequest("/key needs the client's capability version: /key?v=<number>")
        if int(text) < MIN_NOISE_CAPVER:
            raise BadRequest("this Tailscale client is too old: please update it to 1.80 or newer")
        return web.Response(body=keys, content_type="application/json")

    async def robots(request: web.Request) -> web.Response:
        return web.Response(text="User-agent: *\nDisallow: /\n")

    app.router.add_get("/key", key)
    app.router.add_get("/robots.txt", robots)


def add_login_page(app: web.Application, find: Callable[[str], Awaitable[Login | None]]) -> None:
    """The page of a login; its id is the right to look at it."""

    async def login(request: web.Request) -> web.Response:
        login_id = request.match_info["login_id"]
        try:
            found = await find(login_id) if is_login_id(login_id) else None
        except Unavailable:
            text, status = login_page.unavailable_page(), 503
        else:
            text, status = login_page.login_page(found), 404 if found is None else 200
        return web.Response(text=text, status=status, content_type="text/html", headers=login_page.HEADERS)

    app.router.add_get(LOGIN_PATH + "{login_id}", login)
