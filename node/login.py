"""Use case: a device without an auth key. It gets a URL, and its next request waits until somebody decides.

All state is in the database: a waiting request may come back to another process, or after a restart
(PROTOCOL.md 3.4). Here is only who waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Protocol
from urllib.parse import urlsplit

from app import log
from app.db.listen import Resync, Wake
from app.db.logins import LOGIN_ID_BYTES, is_login_id
from app.entry.pages import LOGIN_PATH
from app.errors import Unavailable
from app.keys import MachineKey, short
from app.model import Login, LoginAsk
from app.wire import tailcfg
from app.wire.hostinfo import clean_text

_log = log.get("login")

#: Where decisions are told, with the login's id.
LOGIN_CHANNEL = "hs_logins"
#: What is waited for is looked at this often, should every notification be lost, and for what runs out.
POLL_EVERY_S = 2.0
#: Requests that wait for one login, and in all; the surplus gets the URL once more and comes back.
MAX_WAITERS_PER_LOGIN = 4
MAX_WAITERS = 2048
#: One customer's share of IPv6: whoever has one address has all of these.
IPV6_NETWORK_BITS = 64


class LoginDesk(Protocol):
    """What is needed of the database (app.db.Scoped)."""

    async def open_login(self, ask: LoginAsk, fresh_id: str) -> str: ...

    async def logins(self, ids: Sequence[str] | None = None) -> list[Login]: ...


class Waiters:
    """Requests held open until the login they wait for is worth another look."""

    def __init__(self, look: Callable[[Sequence[str]], Awaitable[list[Login]]]) -> None:
        self._look = look
        self._waiting: dict[str, list[asyncio.Future[bool]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def place(self, login_id: str) -> Iterator[asyncio.Future[bool] | None]:
        """A future: True when something happened to the login, False to make room. None: no room."""
        if self._count >= MAX_WAITERS:
            yield None
            return
        line = self._waiting.setdefault(login_id, [])
        woken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        line.append(woken)
        self._count += 1
        if len(line) > MAX_WAITERS_PER_LOGIN:
            _wake(line[0], False)
            # Its request is still about to leave; the next one too many is not to find it again.
            line.append(line.pop(0))
        try:
            yield woken
        finally:
            line.remove(woken)
            self._count -= 1
            if not line and self._waiting.get(login_id) is line:
                del self._waiting[login_id]

    def heard(self, event: Wake | Resync) -> bool:
        """Wakes who may be meant. True for an event that is about logins only."""
        if isinstance(event, Resync):
            self._wake_all()
            return False
        if event.channel != LOGIN_CHANNEL:
            return False
        if event.payload:
            self._wake(event.payload)
        else:
            self._wake_all()
        return True

    async def run(self) -> None:
        """Looks at what is waited for until cancelled; then nobody waits here any more."""
        try:
            while True:
                await asyncio.sleep(POLL_EVERY_S)
                await self._look_once(list(self._waiting))
        finally:
            for line in self._waiting.values():
                for woken in line:
                    _wake(woken, False)

    async def _look_once(self, ids: list[str]) -> None:
        if not ids:
            return
        try:
            still = {login.id for login in await self._look(ids) if login.state == "pending"}
        except Unavailable as error:
            _log.warning("logins_not_read", waiting=len(ids), reason=error.message)
            return
        for login_id in ids:
            if login_id not in still:
                self._wake(login_id)

    def _wake(self, login_id: str) -> None:
        for woken in self._waiting.get(login_id, ()):
            _wake(woken, True)

    def _wake_all(self) -> None:
        for login_id in self._waiting:
            self._wake(login_id)


def _wake(woken: asyncio.Future[bool], answer: bool) -> None:
    if not woken.done():
        woken.set_result(answer)


@dataclass(frozen=True, slots=True)
class LoginFlow:
    """Where a device stands that wants in without an auth key."""

    desk: LoginDesk
    waiters: Waiters
    server_url: str
    random: Callable[[int], bytes]

    def url(self, login_id: str) -> str:
        return self.server_url.rstrip("/") + LOGIN_PATH + login_id

    async def stand(
        self, machine_key: MachineKey, request: tailcfg.RegisterRequest, address: str
    ) -> Login | str:
        """A login that was approved or denied, or the URL to show.

        A request that names its login waits as long as nobody decided; one whose login is over, lost or
        another device's gets a new URL.
        """
        login_id = login_id_of(request.followup)
        while login_id is not None:
            with self.waiters.place(login_id) as woken:
                login = await self._find(login_id, machine_key, request)
                if login is None:
                    break
                if login.state != "pending":
                    return login
                if woken is None or not await woken:
                    return self.url(login_id)
        return await self.ask(machine_key, request, address)

    async def ask(
        self, machine_key: MachineKey, request: tailcfg.RegisterRequest, address: str
    ) -> Login | str:
        """As `stand`, for a request without a login of use."""
        asked = _ask(machine_key, request, address)
        login_id = await self.desk.open_login(asked, self.random(LOGIN_ID_BYTES).hex())
        login = await self._find(login_id, machine_key, request)
        if login is not None and login.state != "pending":
            return login
        _log.info("login_asked", login=login_id, machine=short(machine_key), address=address)
        return self.url(login_id)

    async def _find(
        self, login_id: str, machine_key: MachineKey, request: tailcfg.RegisterRequest
    ) -> Login | None:
        """The login of these keys, unless it is over. Its approval may be used up by another request."""
        for login in await self.desk.logins([login_id]):
            is_theirs = login.machine_key == machine_key and login.node_key == request.node_key
            if is_theirs and login.state != "expired":
                return login
        return None


def login_id_of(followup: str) -> str | None:
    """The id in a URL that a client was given, None when there is none that could be ours."""
    try:
        path = urlsplit(followup).path
    except ValueError:
        return None
    _, found, login_id = path.rpartition(LOGIN_PATH)
    return login_id if found and is_login_id(login_id) else None


def network_of(address: str) -> str:
    """What counts as one stranger: an IPv4 address, or a /64."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ip_network((int(ip), IPV6_NETWORK_BITS), strict=False))
        return str(ip.ipv4_mapped)
    return str(ip)


def _ask(machine_key: MachineKey, request: tailcfg.RegisterRequest, address: str) -> LoginAsk:
    info = request.hostinfo
    return LoginAsk(
        machine_key=machine_key,
        node_key=request.node_key,
        hostname=info.hostname,
        os=clean_text(f"{info.os} {info.os_version}".strip()),
        version=clean_text(info.ipn_version),
        capver=request.version,
        ephemeral=request.ephemeral,
        address=address,
        network=network_of(address),
    )
