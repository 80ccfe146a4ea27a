"""The edge of the API: who calls, how often, with what; errors as problem+json; repeated calls once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from aiohttp import web
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from pydantic import ValidationError

from acs.api.limits import RateLimits
from acs.api.operation import MAX_KEY_LENGTH, Call, Caller, Operation, Reply, refuse_without
from app import log
from app.db.access import Access
from app.errors import (
    BadRequest,
    Conflict,
    HsError,
    NotFound,
    RateLimited,
    Refused,
    Unauthorized,
    WrongCluster,
)
from app.model import ApiToken
from app.tokens import parse_api_token

_log = log.get("api")

MAX_BODY_BYTES = 256 * 1024
#: From a request's head to the last byte of its body.
BODY_DEADLINE_S = 10.0
#: A whole call, database included.
CALL_DEADLINE_S = 60.0

_STATUS: dict[type[HsError], int] = {
    Unauthorized: 401,
    Refused: 403,
    NotFound: 404,
    Conflict: 409,
    WrongCluster: 409,
    RateLimited: 429,
}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
JSON = "application/json"
PROBLEM = "application/problem+json"


class Edge:
    """Puts operations behind aiohttp."""

    def __init__(self, access: Access, limits: RateLimits, address_of: Callable[[web.Request], str]) -> None:
        """`address_of` a request is what limits and the audit log go by."""
        self._access = access
        self._limits = limits
        self._address_of = address_of

    def add(self, app: web.Application, operations: Sequence[Operation[Any]]) -> None:
        """Routes of operations, and a problem for every other call below /v1."""
        at: dict[str, list[Operation[Any]]] = {}
        for operation in operations:
            at.setdefault(operation.path, []).append(operation)
        for path, here in at.items():
            resource = app.router.add_resource(path)
            for operation in here:
                resource.add_route(operation.method, self._handler(operation))
            resource.add_route("*", _only(sorted(operation.method for operation in here)))
        app.router.add_route("*", "/v1/{rest:.*}", _nothing_here)

    def _handler(self, operation: Operation[Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            try:
                async with asyncio.timeout(CALL_DEADLINE_S):
                    response = await self._call(operation, request)
            except HsError as error:
                response = problem(error)
            except TimeoutError:
                response = problem_of(503, "unavailable", f"no answer within {CALL_DEADLINE_S:g} s")
            response.headers.update(_HEADERS)
            return response

        return handle

    async def _call(self, operation: Operation[Any], request: web.Request) -> web.Response:
        caller, token_text = await self._caller(request)
        refuse_without(caller, operation.needs)
        body = await read_body(request, MAX_BODY_BYTES)
        call = Call(
            caller=caller,
            path=request.match_info,
            query=_checked_query(operation, request),
            body=_checked_body(operation, body),
            if_match=_if_match(request) if operation.versioned else None,
        )
        key = request.headers.get("Idempotency-Key")
        if operation.method != "POST" or key is None or caller.token is None:
            return _response(await operation.run(call))
        if not 0 < len(key) <= MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
            raise BadRequest(
                f"an Idempotency-Key has 1 to {MAX_KEY_LENGTH} characters of ASCII",
                code="bad_idempotency_key",
            )
        return await self._once(operation, call, caller.token, token_text, key, request.path_qs, body)

    async def _caller(self, request: web.Request) -> tuple[Caller, str]:
        """Who calls. Raises Unauthorized for a token that is not in force, RateLimited."""
        address = self._address_of(request)
        header = request.headers.get("Authorization", "")
        if not header:
            self._limits.check_address(address)
            return Caller(None, address), ""
        scheme, _, text = header.partition(" ")
        stored = parse_api_token(text) if scheme.lower() == "bearer" else None
        self._limits.check_guesses(address)
        token = None if stored is None else await self._access.check_token(stored)
        if token is None:
            self._limits.guessed(address)
            raise Unauthorized("this token is unknown, expired or revoked")
        self._limits.check_token(token.id)
        return Caller(token, address), text.strip()

    async def _once(
        self,
        operation: Operation[Any],
        call: Call,
        token: ApiToken,
        token_text: str,
        key: str,
        where: str,
        body: bytes,
    ) -> web.Response:
        """The call itself, or its answer again if it was made before under this key."""
        fingerprint = hashlib.sha256(f"{operation.method} {where}\n".encode() + body).digest()
        box = SecretBox(hashlib.sha256(b"idempotent answers\n" + token_text.encode()).digest())
        known = await self._access.begin_once(token.id, key, fingerprint)
        if known is not None:
            status, sealed = known
            try:
                text = box.decrypt(sealed)
            except CryptoError as error:
                raise Conflict("the answer kept for this key is not yours", code="idempotency_key") from error
            return web.Response(
                body=text, status=status, content_type=JSON, headers={"Idempotent-Replayed": "true"}
            )
        try:
            response = _response(await operation.run(call))
        except BaseException:
            await self._access.forget_call(token.id, key)
            raise
        assert isinstance(response.body, bytes)
        await self._access.keep_answer(token.id, key, response.status, bytes(box.encrypt(response.body)))
        return response


def _only(methods: list[str]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        allowed = ", ".join(methods)
        response = problem_of(405, "method_not_allowed", f"{request.path} takes {allowed} only")
        response.headers["Allow"] = allowed
        return response

    return handle


async def _nothing_here(request: web.Request) -> web.Response:
    return problem_of(404, "not_found", f"there is no {request.method} {request.path}")


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """The whole body. Raises BadRequest for one that is longer, or takes longer."""
    body = b""
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > max_bytes:
                    raise BadRequest(f"a body has at most {max_bytes} bytes", code="body_too_large")
    except TimeoutError as error:
        raise BadRequest(f"the body did not come within {BODY_DEADLINE_S:g} s") from error
    return body


def _query(request: web.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name in found:
            raise BadRequest(f"query: {name} is given twice", code="bad_query")
        found[name] = value
    return found


def _checked_query(operation: Operation[Any], request: web.Request) -> Any:
    """The query as its record. Raises BadRequest."""
    given = _query(request)
    if operation.query is None:
        if given:
            raise BadRequest("this call takes no query", code="bad_query")
        return None
    with _told("query"):
        return operation.query.model_validate(given)


def _checked_body(operation: Operation[Any], body: bytes) -> Any:
    """The body as its record; what is no JSON of these very types is refused. Raises BadRequest."""
    if operation.body is None:
        return None
    try:
        orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}", code="bad_json") from error
    with _told("body"):
        return operation.body.model_validate_json(body or b"{}", strict=True)


@contextmanager
def _told(part: str) -> Iterator[None]:
    """Says which members of a part are wrong, and why."""
    try:
        yield
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(step) for step in found['loc']) or part}: {found['msg']}"
            for found in error.errors()[:10]
        )
        raise BadRequest(wrong, code=f"bad_{part}") from error


def _if_match(request: web.Request) -> int | None:
    text = request.headers.get("If-Match", "").strip()
    if text in ("", "*"):
        return None
    number = text.removeprefix("W/").strip('"')
    if not (number.isascii() and number.isdigit()) or len(number) > 18:
        raise Conflict("If-Match names no version of this", code="version")
    return int(number)


def _response(reply: Reply) -> web.Response:
    headers = {} if reply.version is None else {"ETag": f'"{reply.version}"'}
    if reply.raw is not None:
        return web.Response(
            body=reply.raw, status=reply.status, content_type=reply.content_type, headers=headers
        )
    text = b"{}" if reply.body is None else reply.body.model_dump_json().encode()
    return web.Response(body=text, status=reply.status, content_type=JSON, headers=headers)


def status_of(error: HsError) -> int:
    """The HTTP status that stands for an error."""
    found = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 0)
    return found or (503 if error.retryable else 400)


def retry_after(error: RateLimited) -> str:
    """Seconds, for the header of that name."""
    return str(max(1, round(error.facts.get("retry_after_s", 1))))


def problem(error: HsError) -> web.Response:
    """An error as its caller sees it."""
    response = problem_of(status_of(error), error.code, error.message, **_public(error.facts))
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RateLimited):
        response.headers["Retry-After"] = retry_after(error)
    return response


def _public(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("explanation",) if name in facts}


def problem_of(status: int, code: str, detail: str, **more: Any) -> web.Response:
    """problem+json (RFC 9457)."""
    facts = {
        "type": "about:blank",
        "title": code.replace("_", " "),
        "status": status,
        "detail": detail,
        "code": code,
        **more,
    }
    return web.Response(body=orjson.dumps(facts), status=status, content_type=PROBLEM)
