"""Asking a connected device something, and its answer ("control to node").

The question rides on a keep-alive of the map poll as a PingRequest; the client posts a raw HTTP
response to a path of our choice inside its tunnel (PROTOCOL.md 9, tailscale feature/c2n
answerC2NPing). The Go client knows paths such as /debug/netmap and /echo.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from dataclasses import dataclass, field

import orjson

from app.errors import BadRequest, NotFound, Unavailable
from app.keys import MachineKey
from app.netmap.variant import Compress, encode
from node.session import MapSession

#: Questions that wait for an answer at one time.
MAX_WAITING = 64
ANSWER_DEADLINE_S = 10.0
PATH_PREFIX = "/c2n/"


@dataclass(slots=True)
class _Waiting:
    machine_key: MachineKey
    answer: asyncio.Future[bytes]


@dataclass(slots=True)
class ClientQueries:
    """Open questions by their random token."""

    compress: Compress
    _waiting: dict[str, _Waiting] = field(default_factory=dict)

    async def ask(self, session: MapSession, path: str) -> bytes:
        """The client's raw HTTP/1.1 response to `GET path`.

        Raises BadRequest for a path that cannot be asked, Unavailable when too many questions are
        open or no answer comes within ANSWER_DEADLINE_S.
        """
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise BadRequest("the path must start with / and have no spaces")
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("too many questions to clients are open")
        token = secrets.token_hex(16)
        question = f"GET {path} HTTP/1.1\r\nHost: client\r\nContent-Length: 0\r\n\r\n"
        message = {
            "KeepAlive": True,
            "PingRequest": {
                "URL": f"https://unused{PATH_PREFIX}{token}",
                "URLIsNoise": True,
                "Types": "c2n",
                "Payload": base64.b64encode(question.encode()).decode(),
            },
        }
        waiting = _Waiting(session.tunnel.machine_key, asyncio.get_running_loop().create_future())
        self._waiting[token] = waiting
        try:
            session.send_side_message(encode(orjson.dumps(message), session.variant, self.compress))
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                return await waiting.answer
        except TimeoutError as error:
            raise Unavailable(f"the device did not answer within {ANSWER_DEADLINE_S:g} s") from error
        finally:
            del self._waiting[token]

    def answered(self, machine_key: MachineKey, token: str, body: bytes) -> None:
        """A client posted an answer. Raises NotFound unless this machine was asked exactly that."""
        waiting = self._waiting.get(token)
        if waiting is None or waiting.machine_key != machine_key:
            raise NotFound("nothing was asked")
        if not waiting.answer.done():
            waiting.answer.set_result(body)
