"""What a relay answers over HTTP before a connection becomes DERP. Pure: request in, bytes out.

Source: tailscale derp/derpserver/handler.go (Handler, ProbeHandler, ServeNoContent) and
net/captivedetection; net/dnsfallback for /bootstrap-dns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson

from app.wire.derp import PROTOCOL_VERSION
from node.derp.head import Request

#: Longest X-Tailscale-Challenge that is echoed.
MAX_CHALLENGE_CHARS = 64

_CHALLENGE = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_CHALLENGE_CHARS}}}", re.ASCII)
_PROBES = frozenset(("/derp/probe", "/derp/latency-check"))


def is_upgrade(request: Request) -> bool:
    """Whether this request turns its connection into DERP."""
    is_derp = request.fields.get("upgrade", "").lower() == "derp"
    return request.method == "GET" and request.path == "/derp" and is_derp


def is_fast_start(request: Request) -> bool:
    """Whether the client wants frames at once, without an HTTP answer."""
    return request.fields.get("derp-fast-start") == "1"


def switching_protocols(public_key: bytes) -> bytes:
    """The 101 answer; the key is hex without prefix."""
    return _answer(
        HTTPStatus.SWITCHING_PROTOCOLS,
        {
            "Upgrade": "DERP",
            "Connection": "Upgrade",
            "Derp-Version": str(PROTOCOL_VERSION),
            "Derp-Public-Key": public_key.hex(),
        },
    )


def refusal(status: HTTPStatus, sentence: str, fields: Mapping[str, str] | None = None) -> bytes:
    """A short text answer; the connection ends with it."""
    return _page(status, (sentence + "\n").encode(), "text/plain; charset=utf-8", fields or {})


def page(request: Request, bootstrap_dns: Mapping[str, Sequence[str]]) -> bytes:
    """Answer to a request that is no DERP upgrade. `bootstrap_dns`: host name to addresses."""
    if request.path == "/derp":
        return _derp_refusal(request)
    if request.method not in ("GET", "HEAD"):
        return refusal(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD here", {"Allow": "GET, HEAD"})
    if request.path in _PROBES:
        answer = _page(HTTPStatus.OK, b"", "text/plain", {"Access-Control-Allow-Origin": "*"})
    elif request.path == "/generate_204":
        answer = _no_content(request.fields.get("x-tailscale-challenge", ""))
    elif request.path == "/bootstrap-dns":
        names = {host: list(addresses) for host, addresses in bootstrap_dns.items()}
        answer = _page(HTTPStatus.OK, orjson.dumps(names), "application/json", {})
    elif request.path == "/":
        answer = _page(HTTPStatus.OK, b"This is a DERP relay.\n", "text/plain; charset=utf-8", {})
    else:
        answer = refusal(HTTPStatus.NOT_FOUND, "a relay has no such page")
    if request.method == "HEAD":
        return answer[: answer.index(b"\r\n\r\n") + 4]
    return answer


def _derp_refusal(request: Request) -> bytes:
    if request.method != "GET":
        return refusal(HTTPStatus.METHOD_NOT_ALLOWED, "DERP begins with GET", {"Allow": "GET"})
    if request.fields.get("upgrade", "").lower() == "websocket":
        sentence = "this relay speaks DERP over TLS, not over WebSocket"
    else:
        sentence = "DERP needs the header fields `Upgrade: DERP` and `Connection: Upgrade`"
    return refusal(HTTPStatus.UPGRADE_REQUIRED, sentence, {"Upgrade": "DERP"})


def _no_content(challenge: str) -> bytes:
    fields = {"Cache-Control": "no-cache, no-store, must-revalidate, no-transform, max-age=0"}
    if _CHALLENGE.fullmatch(challenge):
        fields["X-Tailscale-Response"] = f"response {challenge}"
    return _answer(HTTPStatus.NO_CONTENT, {**fields, "Connection": "close"})


def _page(status: HTTPStatus, body: bytes, content_type: str, fields: Mapping[str, str]) -> bytes:
    standard = {"Content-Type": content_type, "Content-Length": str(len(body)), "Connection": "close"}
    return _answer(status, {**fields, **standard}) + body


def _answer(status: HTTPStatus, fields: Mapping[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{name}: {text}" for name, text in fields.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
