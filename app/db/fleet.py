"""Fleet: the console's reads over all clusters of a deployment, in role hs_console."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Self

import asyncpg
import msgspec
import orjson

from app.blast import Radius, Touched
from app.db.base import ACQUIRE_TIMEOUT_S
from app.db.blast import read_radius
from app.db.connect import create_pool, server_settings
from app.db.errors import NO_WRITES, translated
from app.db.health import read_facts
from app.db.holdings import read_devices, read_policies, read_users
from app.db.loads import read_loads
from app.errors import HsError, NotFound, Refused, Unavailable
from app.fleet import (
    CARD_SPAN_HOURS,
    CARD_SPANS,
    HISTORY_MINUTES,
    Anchor,
    AuditRow,
    ClusterRow,
    DeviceEvent,
    DeviceRow,
    LoadHistory,
    Named,
    OpenAlarm,
    Overview,
    Page,
    TenantCard,
    TenantRef,
    Term,
    View,
)
from app.fleet_lists import LISTS, AuditLine, TenantRow
from app.health import EXPIRING_S, Facts
from app.model import DeviceId, TenantId, UserId
from app.placement import RESERVE, Wish, place
from app.policy.snapshot import Snapshot
from app.sql import QUERIES, migrations

POOL_CONNECTIONS = 2
#: A screen waits no longer for its rows.
READ_TIMEOUT_S = 5.0
#: An instance that has not said anything for so long is not counted.
INSTANCE_GONE_S = 90.0
RECENT_LINES = 20
#: Open alarms of one picture; what is less urgent is on the screen of alarms.
ALARMS = 200
HISTORY_LINES = 200
#: Of one device; its changes and rebuilds are looked for among so many of its cluster.
EVENT_LINES, EVENTS_WITHIN = 200, 10_000
CARD_LINES = 20
#: Names of a kind that the palette offers, and how long it waits for them.
NAMES = 10
NAMES_TIMEOUT_S = 1.0
#: Lines of the audit log that match are counted no further.
COUNTED_LINES = 10_000
#: Tenants a form offers.
TENANT_CHOICES = 500
#: Fields of a device in the order of the statement's places for them.
LIKE_FIELDS = ("any", "name", "user", "tag", "os", "version", "ip", "state", "cluster", "tenant")
NUMBER_FIELDS = ("id", "key", "seen", "expires")
#: Stands for the list in the statement that makes a window of one.
_LISTED = "SELECT 0::bigint AS tenant_id, 0::bigint AS id WHERE $1::text IS NULL AND false -- LISTED"
#: Columns in front of a row's own: total, before, now, sort keys.
_FACTS = 5


class Fleet:
    """Reads only; every read is one statement, so one picture."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, dsn: str, *, instance: str = "", read_only: bool = False) -> Self:
        """A small pool. `read_only`: the database itself refuses writes. Raises Unavailable, ConfigError.

        Where no server takes writes, one that does not is read.
        """
        # Windows differ in what they ask for, so a plan for any of them would be the worst one.
        settings = {
            **server_settings("hs_console", instance=instance),
            "plan_cache_mode": "force_custom_plan",
        }
        try:
            return cls(await create_pool(dsn, POOL_CONNECTIONS, settings, read_only=read_only))
        except Unavailable as error:
            if error.code != NO_WRITES:
                raise
        return cls(await create_pool(dsn, POOL_CONNECTIONS, settings, any_server=True))

    def terminate(self) -> None:
        """Drops all connections without waiting for a server that may not answer."""
        self._pool.terminate()

    async def why_read_only(self) -> str:
        """Why nothing can be asked for on this database; empty when it can.

        Raises HsError for a schema of another version.
        """
        ((found, only_reads, role, lacking),) = await self._fetch(QUERIES["fleet_rights"])
        needed = len(migrations())
        if (version := found or 0) != needed:
            who = "hs-node migrates it" if version < needed else "install the newer console"
            raise HsError(
                f"the database has schema version {version}, this console needs {needed}: {who}",
                code="schema",
            )
        if only_reads:
            return "the database takes no writes from this login, or is a standby"
        return f"role {role} lacks {', '.join(lacking)}" if lacking else ""

    async def overview(self, cluster_id: str | None = None) -> Overview:
        """Clusters with owner and counts, and the newest lines of the audit log."""
        found = await self._fetch(QUERIES["fleet_overview"], cluster_id, INSTANCE_GONE_S, EXPIRING_S)
        recent = await self._fetch(QUERIES["fleet_recent"], cluster_id, RECENT_LINES)
        return Overview(
            tuple(ClusterRow(*tuple(row)[:-1]) for row in found),
            tuple(AuditRow(*row) for row in recent),
            found[0][-1] if found else 0.0,
        )

    async def alarms(self, cluster_id: str | None) -> list[OpenAlarm]:
        """Those that hs-acs keeps open, the worst first."""
        return [OpenAlarm(*row) for row in await self._fetch(QUERIES["fleet_alarms"], cluster_id, ALARMS)]

    async def facts(self) -> Facts:
        """What alarms are judged by."""
        return await read_facts(self._fetch)

    async def load(self, cluster_id: str | None) -> dict[str, LoadHistory]:
        """The last hour of each cluster that was measured."""
        series: dict[str, list[list[float | None]]] = {}
        for name, ago, *values in await self._fetch(QUERIES["fleet_load"], cluster_id, HISTORY_MINUTES):
            place = HISTORY_MINUTES - 1 - max(0, ago)
            if place >= 0:
                known = series.setdefault(name, [[None] * HISTORY_MINUTES for _ in values])
                for line, value in zip(known, values, strict=True):
                    line[place] = value
        return {name: LoadHistory(*map(tuple, lines)) for name, lines in series.items()}

    async def devices(self, view: View) -> Page[DeviceRow]:
        """A window of devices."""
        arguments = _device_arguments(view)
        return _page(await self._fetch(QUERIES["fleet_devices"], *arguments))

    async def listing(self, name: str, view: View) -> Page[Any]:
        """A window of one of `app.fleet_lists.LISTS`."""
        if name == "audit":
            return await self._audit(view)
        statements = {
            "users": QUERIES["fleet_list_users"],
            "keys": QUERIES["fleet_list_keys"],
            "tenants": QUERIES["fleet_list_tenants"],
            "rebalance": QUERIES["fleet_list_rebalance"],
            "moves": QUERIES["fleet_list_moves"],
            "routes": QUERIES["fleet_list_routes"],
            "policy": QUERIES["fleet_list_policy"],
            "netmap": QUERIES["fleet_list_netmap"],
            "processes": QUERIES["fleet_list_processes"],
            "jobs": QUERIES["fleet_list_jobs"],
            "alarms": QUERIES["fleet_list_alarms"],
            "logins": QUERIES["fleet_list_logins"],
        }
        statement = QUERIES["fleet_window"].replace(_LISTED, statements[name])
        found = await self._fetch(statement, *_arguments(view))
        total, before, now = found[0][:3]
        there = [row for row in found if row[6] is not None]
        return Page(
            rows=tuple(msgspec.json.decode(row[7], type=LISTS[name]) for row in there),
            anchors=tuple(Anchor(row[3], row[4], row[5], row[6]) for row in there),
            total=total,
            before=before,
            now=now,
        )

    async def _audit(self, view: View) -> Page[AuditLine]:
        """A window of the audit log, in the order of time whatever the view asks for."""
        found = await self._fetch(
            QUERIES["fleet_audit"],
            *(view.cluster_id, _terms(view.terms), view.descending),
            *(view.after.id if view.after else None, view.limit, COUNTED_LINES + 1),
        )
        total, now = found[0][:2]
        there = [row for row in found if row[2] is not None]
        return Page(
            rows=tuple(msgspec.json.decode(row[3], type=AuditLine) for row in there),
            anchors=tuple(Anchor("", 0.0, 0, row[2]) for row in there),
            total=view.skipped + len(there) if total is None else min(total, COUNTED_LINES),
            before=view.skipped,
            now=now,
            counted=total is None or total <= COUNTED_LINES,
        )

    async def history(self, cluster_id: str | None, what: str) -> list[AuditRow]:
        """The newest lines of the audit log about one object (`device:17`)."""
        found = await self._fetch(QUERIES["fleet_history"], cluster_id, what, HISTORY_LINES)
        return [AuditRow(*row) for row in found]

    async def events(self, cluster_id: str, tenant_id: TenantId, device_id: DeviceId) -> list[DeviceEvent]:
        """What became of one device lately, newest first."""
        found = await self._fetch(
            QUERIES["fleet_events"], cluster_id, tenant_id, device_id, EVENT_LINES, EVENTS_WITHIN
        )
        return [DeviceEvent(*row) for row in found]

    async def tenants(self, cluster_id: str | None = None) -> list[TenantRef]:
        """Tenants to choose from, home tenants first in each cluster."""
        return [
            TenantRef(*row) for row in await self._fetch(QUERIES["fleet_tenants"], cluster_id, TENANT_CHOICES)
        ]

    async def tenant_card(self, row: TenantRow) -> TenantCard:
        """One tenant closely, and where else it could live. Raises NotFound when it has moved or is gone."""
        found = await self._fetch(
            QUERIES["fleet_tenant_card"],
            *(row.cluster_id, row.id, CARD_SPANS, CARD_SPAN_HOURS, CARD_LINES, RESERVE),
        )
        if not found:
            raise NotFound(f"tenant {row.name} does not live in cluster {row.cluster_id} any more")
        card = msgspec.json.decode(found[0][0], type=TenantCard)
        wish = Wish(row.region, card.labels, row.pinned or None, row.dedicated, card.reserved)
        others = [load for load in await read_loads(self._fetch) if load.cluster_id != row.cluster_id]
        return replace(card, verdicts=place(wish, others).verdicts)

    async def find_user(self, cluster_id: str, tenant_id: TenantId, name: str) -> UserId | None:
        """The id of a user by name, None where there is none."""
        found = await self._fetch(QUERIES["fleet_find_user"], cluster_id, tenant_id, name)
        return UserId(found[0][0]) if found else None

    async def radius(self, touched: Touched) -> Radius:
        """How far a change of these would reach now."""
        return await read_radius(self._fetch, touched)

    async def names(self, word: str, cluster_id: str | None, tenant: str | None) -> list[Named]:
        """What begins with this word, as it is written or in small letters; at most NAMES of each kind.

        Raises Refused when that takes longer than a key press may.
        """
        words = [word, word.lower()]
        try:
            async with asyncio.timeout(NAMES_TIMEOUT_S):
                found = await self._fetch(QUERIES["fleet_names"], cluster_id, words, NAMES, tenant)
        except TimeoutError as error:
            raise Refused(f"names were not found within {NAMES_TIMEOUT_S:g} s", code="slow") from error
        return [Named(*row) for row in found]

    async def policy_text(self, cluster_id: str, tenant_id: TenantId, version: int) -> str:
        """One version of a policy as it was written. Raises NotFound."""
        found = await self._fetch(QUERIES["fleet_policy"], cluster_id, tenant_id, version)
        if not found:
            raise NotFound(f"tenant {tenant_id} has no version {version} of its policy")
        text: str = found[0][0]
        return text

    async def snapshot(self, cluster_id: str, tenant_id: TenantId) -> Snapshot:
        """What a policy of this tenant is applied to, and the stored one in force."""
        users = await read_users(self._fetch, cluster_id, tenant_id)
        devices = await read_devices(self._fetch, cluster_id, tenant_id)
        stored = await read_policies(self._fetch, cluster_id, tenant_id, 1)
        version, text = (stored[0].version, stored[0].text) if stored else (0, None)
        return Snapshot(users, devices, version, text)

    async def _fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as conn:
                return await conn.fetch(sql, *args, timeout=READ_TIMEOUT_S)


def _arguments(view: View) -> tuple[Any, ...]:
    after = view.after
    place = (after.text, after.number, after.tenant_id, after.id) if after else (None, None, None, None)
    return view.cluster_id, _terms(view.terms), view.sort, view.descending, *place, view.limit


def _device_arguments(view: View) -> tuple[Any, ...]:
    """The first term of a field, and all that may stand with it, in a place of its own; the rest as they are.

    In its place a term is a constant of the plan, and whatever no term asks about is planned away.
    """
    likes: dict[str, Term] = {}
    numbers: dict[str, Term] = {}
    rest: list[Term] = []
    for term in view.terms:
        known = likes.get(term.field)
        if term.op != "like" and not term.negated and term.field not in numbers:
            numbers[term.field] = term
        elif term.op == "like" and term.patterns and known is None:
            likes[term.field] = term
        elif term.op == "like" and known is not None and known.negated and term.negated:
            likes[term.field] = replace(known, patterns=known.patterns + term.patterns)
        else:
            rest.append(term)
    # Rows of an array are equally long: a pattern twice asks nothing more.
    width = max((len(term.patterns) for term in likes.values()), default=1)
    found = [likes.get(field) for field in LIKE_FIELDS]
    patterns = [
        [None] * width if t is None else list(t.patterns + t.patterns[:1] * width)[:width] for t in found
    ]
    negated = [term is not None and term.negated for term in found]
    compared = [numbers.get(field) for field in NUMBER_FIELDS]
    return (
        *_arguments(replace(view, terms=tuple(rest))),
        *(patterns, negated),
        [None if term is None else term.op for term in compared],
        [None if term is None else term.number for term in compared],
    )


def _terms(terms: tuple[Term, ...]) -> str:
    return orjson.dumps(terms).decode()


def _page(found: list[asyncpg.Record]) -> Page[DeviceRow]:
    total, before, now = found[0][:3]
    rows = [tuple(row) for row in found if row[_FACTS] is not None]
    return Page(
        rows=tuple(_device(row[_FACTS:]) for row in rows),
        anchors=tuple(Anchor(row[3], row[4], row[_FACTS + 1], row[_FACTS + 3]) for row in rows),
        total=total,
        before=before,
        now=now,
    )


def _device(row: tuple[Any, ...]) -> DeviceRow:
    cells = list(row)
    cells[8] = tuple(cells[8])  # tags
    cells[22] = tuple(cells[22])  # endpoints
    return DeviceRow(*cells)
