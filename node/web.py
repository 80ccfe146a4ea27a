"""The HTTP pages of a control server, and its metrics listener."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import orjson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from app import __version__
from app.entry.pages import SECURITY_HEADERS, add_key_pages, add_login_page
from app.errors import BadRequest, HsError, NotFound, Refused
from app.keys import parse_node_key
from app.model import Login

#: tailcfg.DERPAdmitClientRequest is about 120 bytes (tailscale derp/derpserver verifyClient).
MAX_VERIFY_BYTES = 4096
MAX_BODY_BYTES = 64 * 1024
#: From a request's head to the last byte of its body.
BODY_DEADLINE_S = 10.0


class _Admit(msgspec.Struct, rename="pascal"):
    node_public: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the pages ask the running server."""

    cluster_id: str
    state: Callable[[], str]
    database_answers: Callable[[], Awaitable[bool]]
    node_key_known: Callable[[bytes], Awaitable[bool]]
    login: Callable[[str], Awaitable[Login | None]]
    metrics_text: Callable[[], bytes]


_STATUS = {NotFound: 404, Refused: 403}


@web.middleware
async def _edge(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Maps our errors to problem+json and sets the security headers."""
    try:
        response = await handler(request)
    except HsError as error:
        status = _STATUS.get(type(error), 503 if error.retryable else 400)
        problem = {"title": error.code, "status": status, "detail": error.message}
        response = web.Response(
            body=orjson.dumps(problem), status=status, content_type="application/problem+json"
        )
    response.headers.update(SECURITY_HEADERS)
    return response


def client_app(facts: Facts, *, noise_public: bytes, legacy_public: bytes) -> web.Application:
    """What is answered on the clients' address, besides /ts2021."""

    async def index(request: web.Request) -> web.Response:
        return web.Response(
            text=f"hs-node {__version__}, a Tailscale control server. cluster {facts.cluster_id}\n"
        )

    app = web.Application(middlewares=[_edge], client_max_size=MAX_BODY_BYTES)
    app.router.add_get("/", index)
    add_key_pages(app, noise_public=noise_public, legacy_public=legacy_public)
    add_login_page(app, facts.login)
    _add_verify(app, facts)
    _add_state(app, facts)
    return app


def verify_app(facts: Facts) -> web.Application:
    """What the own relay process asks, on an address of this machine only."""
    app = web.Application(middlewares=[_edge], client_max_size=MAX_BODY_BYTES)
    _add_verify(app, facts)
    return app


def metrics_app(facts: Facts) -> web.Application:
    """What is answered on `metrics_listen_addr`."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=facts.metrics_text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(middlewares=[_edge])
    app.router.add_get("/metrics", metrics)
    _add_state(app, facts)
    return app


def _add_verify(app: web.Application, facts: Facts) -> None:
    async def verify(request: web.Request) -> web.Response:
        """Whether a relay may serve a node key (tailcfg.DERPAdmitClientRequest)."""
        body = b""
        try:
            async with asyncio.timeout(BODY_DEADLINE_S):
                async for piece in request.content.iter_any():
                    body += piece
                    if len(body) > MAX_VERIFY_BYTES:
                        raise BadRequest(f"a verify request has at most {MAX_VERIFY_BYTES} bytes")
        except TimeoutError as error:
            raise BadRequest(f"the body did not come within {BODY_DEADLINE_S:g} s") from error
        try:
            asked = msgspec.json.decode(body, type=_Admit)
        except msgspec.DecodeError as error:
            raise BadRequest(f"not a DERPAdmitClientRequest: {error}") from error
        allow = await facts.node_key_known(parse_node_key(asked.node_public))
        return web.json_response({"Allow": allow})

    app.router.add_post("/verify", verify)


def _add_state(app: web.Application, facts: Facts) -> None:
    async def health(request: web.Request) -> web.Response:
        passes = await facts.database_answers()
        body = {
            "status": "pass" if passes else "fail",
            "cluster_id": facts.cluster_id,
            "state": facts.state(),
        }
        return web.Response(
            body=orjson.dumps(body), status=200 if passes else 500, content_type="application/health+json"
        )

    async def version(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "version": f"v{__version__}",
                "python": platform.python_version(),
                "cluster_id": facts.cluster_id,
            }
        )

    app.router.add_get("/health", health)
    app.router.add_get("/version", version)
