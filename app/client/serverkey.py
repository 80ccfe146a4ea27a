"""The server's Noise key, as a device asks for it before its first tunnel."""

from __future__ import annotations

import ssl as tls
from typing import Final

import aiohttp
import orjson

from app.errors import BadRequest, RemoteProtocolError, Unavailable
from app.keys import MachineKey, parse_machine_key

KEY_DEADLINE_S: Final = 10.0
#: What a client reads of the answer (controlclient/direct.go loadServerPubKeys).
MAX_KEY_ANSWER_BYTES: Final = 64 * 1024


async def fetch_server_key(
    url: str,
    capver: int,
    *,
    ssl: tls.SSLContext | None = None,
    host_header: str | None = None,
    deadline_s: float = KEY_DEADLINE_S,
) -> MachineKey:
    """The server's Noise key from `GET /key`. Raises Unavailable or RemoteProtocolError."""
    headers = {"Host": host_header} if host_header else {}
    body = b""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=deadline_s)) as session,
            session.get(
                f"{url.rstrip('/')}/key?v={capver}", headers=headers, ssl=True if ssl is None else ssl
            ) as answer,
        ):
            status = answer.status
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > MAX_KEY_ANSWER_BYTES:
                    raise RemoteProtocolError(f"/key answers more than {MAX_KEY_ANSWER_BYTES} bytes")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"{url}/key does not answer: {error!r}") from error
    if status != 200:
        raise Unavailable(f"{url}/key answers {status}")
    try:
        return parse_machine_key(orjson.loads(body)["publicKey"])
    except (ValueError, TypeError, KeyError, AttributeError, BadRequest) as error:
        raise RemoteProtocolError(f"{url}/key does not hold a public key") from error
