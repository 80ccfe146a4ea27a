"""Where the console's data comes from: the Store protocol, and PgStore over app.db."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

from app.blast import Radius, Touched
from app.db.fleet import Fleet
from app.db.listen import CHANNEL_PREFIX, FLEET_CHANNEL, Listener
from app.db.requests import RequestDesk
from app.errors import HsError, Refused, Unavailable
from app.fleet import AuditRow, DeviceEvent, DeviceRow, Named, Overview, Page, TenantCard, TenantRef, View
from app.fleet_lists import TenantRow
from app.model import OperatorRequest, RequestId, TenantId, UserId
from app.policy.snapshot import Snapshot
from console.watch import Watch

#: A screen's read, all waiting included.
STORE_TIMEOUT_S = 6.0
RELISTEN_S = 1.0
#: Rights and schema are looked at again after this, and whenever the database has refused something.
RIGHTS_EVERY_S = 15.0
READ_ONLY = "this console is read-only"
#: What the database says when rights or schema are not what they were.
_CHANGED = frozenset({"not_permitted", "schema"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to a cluster's owner, or without a cluster to hs-acs, and how to name it to the operator.

    `secret` never leaves this process: it is shown when the request is done.
    """

    cluster_id: str
    tenant_id: TenantId | None
    kind: str
    args: dict[str, Any]
    what: str
    label: str
    dedup: str | None = None
    secret: str = field(default="", repr=False)


class Store(Protocol):
    """Reads and requests. Everything raises HsError only; Unavailable when the database is away."""

    where: str

    @property
    def why_read_only(self) -> str:
        """Why nothing can be asked for; empty when it can."""
        ...

    async def overview(self, cluster_id: str | None) -> Overview: ...
    async def devices(self, view: View) -> Page[DeviceRow]: ...
    async def listing(self, name: str, view: View) -> Page[Any]: ...
    async def tenant_card(self, row: TenantRow) -> TenantCard: ...
    async def policy_text(self, cluster_id: str, tenant_id: TenantId, version: int) -> str: ...
    async def snapshot(self, cluster_id: str, tenant_id: TenantId) -> Snapshot: ...
    async def history(self, cluster_id: str | None, what: str) -> list[AuditRow]: ...
    async def events(self, row: DeviceRow) -> list[DeviceEvent]: ...
    async def tenants(self, cluster_id: str | None) -> list[TenantRef]: ...
    async def names(self, word: str, cluster_id: str | None, tenant: str | None) -> list[Named]: ...
    async def find_user(self, cluster_id: str, tenant_id: TenantId, name: str) -> UserId | None: ...
    async def radius(self, touched: Touched) -> Radius: ...
    async def submit(self, ask: Ask, actor: str) -> RequestId: ...
    async def request(self, request_id: RequestId) -> OperatorRequest: ...
    def wakes(self) -> AsyncIterator[None]: ...
    def close(self) -> None: ...


class PgStore:
    """The deployment's database. Connections are made anew after every failure, so no state outlives it."""

    def __init__(self, dsn: str, *, read_only: bool = False, instance: str = "") -> None:
        self.where = where_text(dsn)
        self._read_only = read_only
        self._lacking = ""
        #: When rights and schema were looked at, None for again.
        self._rights_at: float | None = None
        self._dsn = dsn
        self._instance = instance
        self._fleet: Fleet | None = None
        self._desk: RequestDesk | None = None
        self._clusters: frozenset[str] = frozenset()
        self._opening = asyncio.Lock()
        self._closed = False
        self._watch = Watch(now_s)

    @property
    def why_read_only(self) -> str:
        if self._read_only:
            return READ_ONLY
        return f"{READ_ONLY}: {self._lacking}" if self._lacking else ""

    async def overview(self, cluster_id: str | None) -> Overview:
        found = await self._read(lambda fleet: fleet.overview(cluster_id))
        self._clusters = frozenset(row.cluster_id for row in found.clusters)
        alarms, facts = await self._read(lambda fleet: self._watch.alarms(fleet, cluster_id))
        load = await self._read(lambda fleet: self._watch.load(fleet, cluster_id))
        processes = tuple(
            p for p in facts.processes if cluster_id is None or p.cluster_id in ("", cluster_id)
        )
        return replace(found, alarms=alarms, leader=facts.leader, processes=processes, load=load)

    async def devices(self, view: View) -> Page[DeviceRow]:
        return await self._read(lambda fleet: fleet.devices(view))

    async def listing(self, name: str, view: View) -> Page[Any]:
        return await self._read(lambda fleet: fleet.listing(name, view))

    async def tenant_card(self, row: TenantRow) -> TenantCard:
        return await self._read(lambda fleet: fleet.tenant_card(row))

    async def policy_text(self, cluster_id: str, tenant_id: TenantId, version: int) -> str:
        return await self._read(lambda fleet: fleet.policy_text(cluster_id, tenant_id, version))

    async def snapshot(self, cluster_id: str, tenant_id: TenantId) -> Snapshot:
        return await self._read(lambda fleet: fleet.snapshot(cluster_id, tenant_id))

    async def history(self, cluster_id: str | None, what: str) -> list[AuditRow]:
        return await self._read(lambda fleet: fleet.history(cluster_id, what))

    async def events(self, row: DeviceRow) -> list[DeviceEvent]:
        return await self._read(lambda fleet: fleet.events(row.cluster_id, row.tenant_id, row.id))

    async def tenants(self, cluster_id: str | None) -> list[TenantRef]:
        return await self._read(lambda fleet: fleet.tenants(cluster_id))

    async def names(self, word: str, cluster_id: str | None, tenant: str | None) -> list[Named]:
        return await self._read(lambda fleet: fleet.names(word, cluster_id, tenant))

    async def find_user(self, cluster_id: str, tenant_id: TenantId, name: str) -> UserId | None:
        return await self._read(lambda fleet: fleet.find_user(cluster_id, tenant_id, name))

    async def radius(self, touched: Touched) -> Radius:
        return await self._read(lambda fleet: fleet.radius(touched))

    async def submit(self, ask: Ask, actor: str) -> RequestId:
        return await self._ask(
            lambda desk: desk.submit(
                ask.cluster_id, ask.tenant_id, ask.kind, ask.args, actor=actor, what=ask.what, dedup=ask.dedup
            )
        )

    async def request(self, request_id: RequestId) -> OperatorRequest:
        return await self._ask(lambda desk: desk.get(request_id))

    async def wakes(self) -> AsyncIterator[None]:
        """One item whenever something may have changed; LISTENs to every cluster there is."""
        while True:
            try:
                found = await self._read(lambda fleet: fleet.overview(None))
            except HsError:
                await asyncio.sleep(RELISTEN_S)
                continue
            self._clusters = heard = frozenset(row.cluster_id for row in found.clusters)
            channels = (FLEET_CHANNEL, *(CHANNEL_PREFIX + name for name in sorted(heard)))
            listener = Listener(self._dsn, channels, role="hs_console", instance=self._instance)
            running = asyncio.create_task(listener.run(), name="console-listener")
            try:
                async for _ in listener:
                    yield
                    if self._clusters != heard:
                        break
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

    def close(self) -> None:
        """Drops all connections for good."""
        self._closed = True
        self._drop()

    def _keep(self, opened: Fleet | RequestDesk) -> None:
        """Whoever closed while connections were made has them dropped."""
        if self._closed:
            opened.terminate()
            raise Unavailable("the console is closing", code="closed")

    def _drop(self) -> None:
        if self._fleet is not None:
            self._fleet.terminate()
        if self._desk is not None:
            self._desk.terminate()
        self._fleet = self._desk = self._rights_at = None

    async def _read(self, work: Callable[[Fleet], Awaitable[T]]) -> T:
        async def attempt() -> T:
            async with self._opening:
                if self._fleet is None:
                    fleet = await Fleet.open(self._dsn, instance=self._instance, read_only=self._read_only)
                    self._keep(fleet)
                    self._fleet = fleet
                opened = self._fleet
                now = time.monotonic()
                if self._rights_at is None or now - self._rights_at >= RIGHTS_EVERY_S:
                    self._rights_at = None
                    self._lacking = await opened.why_read_only()
                    self._rights_at = now
            return await work(opened)

        return await self._guarded(attempt)

    async def _ask(self, work: Callable[[RequestDesk], Awaitable[T]]) -> T:
        if self.why_read_only:
            raise Refused(self.why_read_only, code="read_only")

        async def attempt() -> T:
            async with self._opening:
                if self._desk is None:
                    desk = await RequestDesk.open(self._dsn)
                    self._keep(desk)
                    self._desk = desk
                opened = self._desk
            return await work(opened)

        return await self._guarded(attempt)

    async def _guarded(self, attempt: Callable[[], Awaitable[T]]) -> T:
        if self._closed:
            raise Unavailable("the console is closing", code="closed")
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await attempt()
        except TimeoutError as error:
            self._drop()
            raise Unavailable(f"the database has not answered for {STORE_TIMEOUT_S:g} s") from error
        except Unavailable:
            self._drop()
            raise
        except HsError as error:
            if error.code in _CHANGED:
                self._rights_at = None
            raise


def where_text(dsn: str) -> str:
    """The database as the bar names it: never the password."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    host = parts.hostname or query.get("host", [""])[0]
    user = f"{parts.username}@" if parts.username else ""
    host = "local" if host.startswith("/") or not host else host
    return f"pg {user}{host}{parts.path}"


def now_s() -> float:
    """The clock of ages; tests give their own."""
    return time.time()
