"""Pages for people: they join with a token, over the same use case as the API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qs

from aiohttp import web

from acs import join_page
from acs.api.edge import CALL_DEADLINE_S, read_body, retry_after, status_of
from acs.api.limits import RateLimits
from acs.api.operation import Caller
from acs.joining import Joiner
from app.api.records import JoinAsked
from app.errors import BadRequest, HsError, RateLimited

#: A form with a token and nothing else.
MAX_FORM_BYTES = 4096
MAX_TOKEN = 128


class Pages:
    """Puts the pages behind aiohttp."""

    def __init__(self, joiner: Joiner, limits: RateLimits, address_of: Callable[[web.Request], str]) -> None:
        self._joiner = joiner
        self._limits = limits
        self._address_of = address_of

    def add(self, app: web.Application) -> None:
        app.router.add_get(join_page.PATH, self._form)
        app.router.add_post(join_page.PATH, self._join)

    async def _form(self, request: web.Request) -> web.Response:
        return _page(join_page.form_page())

    async def _join(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(CALL_DEADLINE_S):
                return await self._joined(request)
        except RateLimited as error:
            response = _page(join_page.form_page(error.message), 429)
            response.headers["Retry-After"] = retry_after(error)
            return response
        except HsError as error:
            return _page(join_page.form_page(error.message), status_of(error))
        except TimeoutError:
            return _page(join_page.form_page("no answer in time: try again"), 503)

    async def _joined(self, request: web.Request) -> web.Response:
        address = self._address_of(request)
        self._limits.check_address(address)
        token = _token(await read_body(request, MAX_FORM_BYTES))
        joining = await self._joiner.join(Caller(None, address), JoinAsked(token=token))
        return _page(join_page.joining_page(joining), 201)


def _token(form: bytes) -> str:
    """The token of a form. Raises BadRequest."""
    try:
        fields = parse_qs(form.decode(), strict_parsing=True, max_num_fields=1, errors="strict")
    except ValueError as error:
        raise BadRequest("give a join token") from error
    token = fields.get("token", [""])[0].strip()
    if not token or len(token) > MAX_TOKEN:
        raise BadRequest("give a join token")
    return token


def _page(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html", headers=join_page.HEADERS)
