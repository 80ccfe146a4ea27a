"""Asks the parent whether a node key may use the relay.

Source: tailscale derp/derpserver/derpserver.go verifyClient, tailcfg/derpmap.go
DERPAdmitClientRequest and DERPAdmitClientResponse.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import orjson

from app import log
from app.errors import Unavailable
from app.keys import node_key_text, short

#: From the question to its answer.
VERIFY_DEADLINE_S = 5.0
#: A yes is asked again after this long; a no is asked every time.
POSITIVE_TTL_S = 30.0
#: Keys once admitted, kept for the time when the parent does not answer; the oldest is forgotten.
MAX_REMEMBERED_KEYS = 100_000
MAX_ANSWER_BYTES = 4 * 1024
MAX_CONCURRENT = 16

_log = log.get("relay")


@dataclass(slots=True)
class AdmissionStats:
    asked: int = 0
    cached: int = 0
    unreachable: int = 0


class Admission:
    """`await admission(node_key, source_ip)` is the relay's Verify.

    No answer from the parent (no connection, deadline, status 5xx, unreadable) refuses, unless the
    key was admitted before and no answer has said no since.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._admitted: OrderedDict[bytes, float] = OrderedDict()
        limits = httpx.Limits(max_connections=MAX_CONCURRENT)
        self._client = httpx.AsyncClient(timeout=VERIFY_DEADLINE_S, limits=limits, trust_env=False)
        self.stats = AdmissionStats()

    async def __call__(self, node_key: bytes, source_ip: str) -> bool:
        asked_at = self._admitted.get(node_key)
        if asked_at is not None and self._clock() - asked_at < POSITIVE_TTL_S:
            self.stats.cached += 1
            return True
        self.stats.asked += 1
        try:
            async with asyncio.timeout(VERIFY_DEADLINE_S):
                is_allowed = await self._ask(node_key, source_ip)
        except (httpx.HTTPError, TimeoutError, Unavailable) as error:
            self.stats.unreachable += 1
            _log.warning("relay_verify_unreachable", key=short(node_key), error=repr(error))
            return asked_at is not None
        if is_allowed:
            self._admitted[node_key] = self._clock()
            self._admitted.move_to_end(node_key)
            if len(self._admitted) > MAX_REMEMBERED_KEYS:
                self._admitted.popitem(last=False)
        else:
            self._admitted.pop(node_key, None)
        return is_allowed

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _ask(self, node_key: bytes, source_ip: str) -> bool:
        question = orjson.dumps({"NodePublic": node_key_text(node_key), "Source": source_ip})
        headers = {"Content-Type": "application/json"}
        async with self._client.stream("POST", self._url, content=question, headers=headers) as response:
            if response.status_code >= 500:
                raise Unavailable(f"the verify URL answered {response.status_code}")
            if response.status_code != 200:
                return False
            body = b""
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise Unavailable(f"the verify URL answered more than {MAX_ANSWER_BYTES} bytes")
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Unavailable("the verify URL answered no JSON") from error
        return isinstance(answer, dict) and answer.get("Allow") is True


async def admit_everybody(node_key: bytes, source_ip: str) -> bool:
    """The Verify of a relay without a verify URL."""
    return True
