"""A store in memory for states a database cannot be put into, and makers of rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from app.blast import Radius, Touched
from app.errors import HsError, NotFound
from app.fleet import (
    Anchor,
    AuditRow,
    ClusterRow,
    DeviceEvent,
    DeviceRow,
    KeyRow,
    LoadHistory,
    Named,
    OpenAlarm,
    Overview,
    Page,
    TenantCard,
    TenantRef,
    UserRow,
    View,
)
from app.fleet_lists import (
    AlarmRow,
    AuditLine,
    ChangeRow,
    JobRow,
    LoginRow,
    MoveRow,
    PlanRow,
    PolicyRow,
    ProcessRow,
    RouteRow,
    TenantRow,
)
from app.health import ProcessFacts
from app.model import DeviceId, OperatorRequest, RequestId, TenantId, UserId
from app.placement import Verdict
from app.policy.snapshot import Snapshot
from console.main import ConsoleApp
from console.screens.base import ListScreen
from console.store import READ_ONLY, Ask

NOW = 1_795_300_000.0
DEADLINE_S = 20.0


def device(number: int, name: str | None = None, **changes: Any) -> DeviceRow:
    fields: dict[str, Any] = {
        "cluster_id": "eu-1",
        "tenant_id": TenantId(1),
        "tenant": "eu-1",
        "id": DeviceId(number),
        "name": name if name is not None else f"device-{number:04}",
        "hostname": name if name is not None else f"Device {number}",
        "user_id": UserId(1),
        "user": "alice",
        "tags": (),
        "ipv4": f"100.64.{number // 250}.{number % 250 + 1}",
        "ipv6": f"fd7a:115c:a1e0::{number:x}",
        "os": "linux",
        "version": "1.98.1-t123",
        "online": number % 3 != 0,
        "last_seen": NOW - 60.0 * number,
        "expiry": None,
        "created": NOW - 86_400.0,
        "ephemeral": False,
        "auth_key_id": 1,
        "register_method": "auth_key",
        "capver": 131,
        "home_derp": 900,
        "endpoints": ("203.0.113.8:41641",),
        "node_key": f"{number:064x}",
        "machine_key": f"{number:064x}",
    }
    return DeviceRow(**(fields | changes))


def user(number: int, name: str | None = None, **changes: Any) -> UserRow:
    fields: dict[str, Any] = {
        "cluster_id": "eu-1",
        "tenant_id": TenantId(1),
        "tenant": "eu-1",
        "id": UserId(number),
        "name": name if name is not None else f"user-{number}",
        "display_name": name or "",
        "email": name or "",
        "created": NOW - 86_400.0,
        "devices": number,
        "online": number // 2,
        "keys": 1,
        "role": "member",
    }
    return UserRow(**(fields | changes))


def key(number: int, **changes: Any) -> KeyRow:
    fields: dict[str, Any] = {
        "cluster_id": "eu-1",
        "tenant_id": TenantId(1),
        "tenant": "eu-1",
        "id": number,
        "prefix": f"{number:012x}",
        "user_id": UserId(1),
        "user": "alice",
        "tags": (),
        "reusable": number % 2 == 0,
        "ephemeral": False,
        "used": number % 3 == 0,
        "uses": int(number % 3 == 0),
        "revoked": False,
        "expiration": None if number % 2 == 0 else NOW + 3_600.0 * number,
        "created": NOW - 86_400.0,
        "devices": 1,
    }
    return KeyRow(**(fields | changes))


def cluster(name: str, **changes: Any) -> ClusterRow:
    fields: dict[str, Any] = {
        "cluster_id": name,
        "home_id": TenantId(1),
        "state": "active",
        "owner": f"host-{name}",
        "epoch": 3,
        "lease_left_s": 4.0,
        "instances": 2,
        "tenants": 1,
        "users": 2,
        "keys": 3,
        "devices": 40,
        "online": 30,
        "expired": 1,
        "expiring": 0,
        "waiting": 0,
        "max_devices": None,
    }
    return ClusterRow(**(fields | changes))


def tenant(number: int, name: str | None = None, **changes: Any) -> TenantRow:
    fields: dict[str, Any] = {
        "tenant_id": number, "id": number, "cluster_id": "eu-1", "name": name or f"tenant-{number}",
        "state": "active", "plan": "team", "region": "eu", "dedicated": False, "pinned": "", "is_home": False,
        "devices": 10 * number, "max_devices": None if number % 2 else 60, "users": number, "max_users": 25,
        "keys": 1, "max_keys": None, "used": 4 * number if number % 2 else 1000 * number // 60,
        "online": 5 * number, "created": NOW - 86_400.0, "version": 1,
    }  # fmt: skip
    return TenantRow(**(fields | changes))


def card(**changes: Any) -> TenantCard:
    fields: dict[str, Any] = {
        "registered": (None,) * 8 + tuple(range(20)), "peaks": (None,) * 8 + tuple(range(20)),
        "device_hours": 1234.5, "map_bytes": 5_600_000, "registrations": 7, "routes": 9, "max_routes": 10,
        "max_requests": 2000, "override_ends": NOW + 7200.0, "override_by": "console:ana",
        "former": {"max_devices": 40}, "moved": NOW - 86_400.0, "moved_from": "us-1", "labels": {},
        "reserved": 60, "told": (),
        "verdicts": (Verdict("us-2", None, 330), Verdict("us-1", "it is draining", 660)),
    }  # fmt: skip
    return TenantCard(**(fields | changes))


def plan(number: int, **changes: Any) -> PlanRow:
    fields: dict[str, Any] = {
        "id": number, "purpose": "rebalance", "subject": "", "state": "proposed", "why": f"request {number}",
        "before": {"eu-1": 910, "us-2": 340}, "after": {"eu-1": 640, "us-2": 610}, "notes": (), "error": "",
        "created_by": "console:ops", "created": NOW - 600.0 * number, "approved_by": "", "ended": None,
        "version": 3, "steps": 8, "devices": 270, "done": number, "failed": 0, "left_out": 0,
        "first": NOW - 30.0, "last": NOW - 10.0, "connected_before": 200, "connected_after": None,
        "shifted": {"eu-1": -90, "us-2": 90}, "room": {"eu-1": 1000, "us-2": None}, "online": 180,
    }  # fmt: skip
    return PlanRow(**(fields | changes))


def move(number: int, tenant: str | None = None, **changes: Any) -> MoveRow:
    fields: dict[str, Any] = {
        "id": number, "plan": 4, "step": number, "tenant_id": number, "tenant": tenant or f"tenant-{number}",
        "source": "eu-1", "target": "us-2", "devices": 10 * number, "state": "waiting", "error": "",
        "connected_before": None, "connected_after": None, "ended": None, "plan_state": "proposed",
        "plan_version": 3, "plan_notes": 0,
    }  # fmt: skip
    return MoveRow(**(fields | changes))


def route(number: int, name: str | None = None, **changes: Any) -> RouteRow:
    fields: dict[str, Any] = {
        "tenant_id": 1, "id": number, "device_id": number, "cluster_id": "eu-1", "tenant": "acme",
        "route": name or f"10.{number}.0.0/16", "kind": "subnet", "router": name or "gateway",
        "state": ("waiting", "approved", "withdrawn")[number % 3], "online": True, "ready": number % 2,
    }  # fmt: skip
    return RouteRow(**(fields | changes))


def policy(number: int, **changes: Any) -> PolicyRow:
    fields: dict[str, Any] = {
        "tenant_id": 1, "id": number, "cluster_id": "eu-1", "tenant": "acme", "version": number, "newest": 9,
        "state": "former", "author": "ops", "note": f"note {number}", "size": 900, "created": NOW - 60.0,
    }  # fmt: skip
    return PolicyRow(**(fields | changes))


def change(number: int, **changes: Any) -> ChangeRow:
    is_rebuild = number % 2 == 0
    fields: dict[str, Any] = {
        "tenant_id": 1, "id": number, "cluster_id": "eu-1", "at": NOW - number,
        "event": "rebuild" if is_rebuild else "node", "scope": f"device:{number}", "origin": "console:ops",
        "state": "done" if is_rebuild else "change", "devices": 12 if is_rebuild else None,
        "bytes": 34_567 if is_rebuild else None, "ms": 8.5 if is_rebuild else None, "error": "",
        "maps": 12 if is_rebuild else None, "waiting": 0 if is_rebuild else None,
        "read_ms": 3.0 if is_rebuild else None, "send_ms": 5.0 if is_rebuild else None,
    }  # fmt: skip
    return ChangeRow(**(fields | changes))


def line(number: int, **changes: Any) -> AuditLine:
    fields: dict[str, Any] = {
        "tenant_id": 1, "id": number, "cluster_id": "eu-1", "at": NOW - number,
        "actor": "console:ops", "action": "device_delete", "object": f"device:{number}", "tenant": "acme",
        "before": "{}", "after": "",
    }  # fmt: skip
    return AuditLine(**(fields | changes))


def process(number: int, name: str | None = None, **changes: Any) -> ProcessRow:
    fields: dict[str, Any] = {
        "id": number, "name": name or f"host-{number}", "kind": "node", "cluster_id": "eu-1",
        "addr": "192.0.2.1:8080", "version": "0.1.0", "started": NOW - 7200.0, "heartbeat": NOW - 2.0,
        "state": ("owner", "standby", "lost")[number % 3], "epoch": 3, "lease_ends": NOW + 4.0,
        "skewed": number == 2, "connected": 3401, "rss": 612_000_000, "cpu_share": 0.12, "loop_lag_s": 0.004,
        "pool_used": 6, "pool_size": 20, "lags": (0.002, 0.001, 0.091, 0.004), "sizes": (600, 610, 612),
        "pools": (1, 1, 6, 2),
    }  # fmt: skip
    return ProcessRow(**(fields | changes))


def job(number: int, name: str | None = None, **changes: Any) -> JobRow:
    fields: dict[str, Any] = {
        "id": number, "name": name or f"job-{number}", "every_s": 2.0, "state": "done", "instance": "acs-1",
        "started": NOW - 1.0, "duration_s": 0.012, "result": "nothing is due", "error": "", "runs": 10,
        "failures": 0,
    }  # fmt: skip
    return JobRow(**(fields | changes))


def alarm(number: int, text: str | None = None, **changes: Any) -> AlarmRow:
    fields: dict[str, Any] = {
        "id": number, "cluster_id": "eu-1", "severity": ("critical", "warning", "notice")[number % 3],
        "rule": "no_owner", "object": "cluster:eu-1", "text": text or f"alarm number {number}",
        "state": ("over", "open", "known")[number % 3], "raised": NOW - 60.0 * number,
        "cleared": None if number % 3 else NOW - 1.0,
        "acknowledged_by": "console:ana" if number % 3 == 2 else "",
        "acknowledged": NOW - 30.0 if number % 3 == 2 else None,
    }  # fmt: skip
    return AlarmRow(**(fields | changes))


def login(number: int, name: str | None = None, **changes: Any) -> LoginRow:
    fields: dict[str, Any] = {
        "id": number, "login": f"{number:024x}", "hostname": name or f"laptop-{number}", "os": "linux",
        "version": "1.98.1", "address": "203.0.113.9", "cluster_id": "eu-1", "state": "pending",
        "created": NOW - 30.0, "expires": NOW + 800.0,
    }  # fmt: skip
    return LoginRow(**(fields | changes))


class FakeStore:
    """Rows in memory. `error` is raised by every read; `gate` holds them back until it is set."""

    def __init__(self, *, writable: bool = True) -> None:
        self.where = "pg test@db-a/hs"
        self.writable = writable
        self.clusters: list[ClusterRow] = [
            cluster("eu-1", max_devices=45),
            cluster("us-2", lease_left_s=-14.0, waiting=2),
        ]
        self.recent: list[AuditRow] = [AuditRow(1, "eu-1", NOW - 30, "shell:ops", "user_create", "user:1")]
        self.device_rows: list[DeviceRow] = []
        self.tenant_refs = [TenantRef("eu-1", TenantId(1), "eu-1", True)]
        self.device_events = [
            DeviceEvent(NOW - 5.0, "online", "eu-1", ""),
            DeviceEvent(NOW - 65.0, "offline", "eu-1", ""),
            DeviceEvent(NOW - 90.0, "change of node", "console:ops", ""),
        ]
        self.user_rows: list[UserRow] = []
        self.key_rows: list[KeyRow] = []
        self.lists: dict[str, list[Any]] = {}
        self.alarms: list[OpenAlarm] = []
        self.load: dict[str, LoadHistory] = {}
        #: What was asked to be counted, and what is answered.
        self.touched: list[Touched] = []
        self.radius_now = Radius(
            1, 12, 9, others=1_204, keys=3, leaving=2, leaving_devices=12, targets=("us-2",)
        )
        self.leader: str | None = "acs-1"
        self.processes = (
            ProcessFacts("eu-1", "eu-1a", "0.1.0", 0.612, 6, 20, 0.0),
            ProcessFacts("", "acs-1", "0.1.0", 0.001, 3, 10, 0.0),
        )
        #: What policies are applied to.
        self.held = Snapshot([], [], 0, None)
        self.error: HsError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.views: list[View] = []
        self.asked: list[Ask] = []
        self.requests: dict[RequestId, OperatorRequest] = {}
        self.changed = asyncio.Event()
        self.closed = False

    @property
    def why_read_only(self) -> str:
        return "" if self.writable else READ_ONLY

    async def _read(self) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    async def overview(self, cluster_id: str | None) -> Overview:
        await self._read()
        return Overview(
            tuple(self.clusters),
            tuple(self.recent),
            NOW,
            tuple(self.alarms),
            self.leader,
            self.processes,
            self.load,
        )

    async def _page(self, rows: Sequence[Any], view: View, name: Callable[[Any], str]) -> Page[Any]:
        """By name only; filters are the database's business."""
        await self._read()
        self.views.append(view)
        ordered = sorted(rows, key=lambda row: (name(row), row.id), reverse=view.descending)
        start = 0
        if view.after is not None:
            start = 1 + next(n for n, row in enumerate(ordered) if row.id == view.after.id)
        shown = tuple(ordered[start : start + view.limit])
        anchors = tuple(Anchor(name(row), 0.0, getattr(row, "tenant_id", 0), row.id) for row in shown)
        return Page(shown, anchors, len(ordered), start, NOW)

    async def devices(self, view: View) -> Page[DeviceRow]:
        return await self._page(self.device_rows, view, lambda row: row.name)

    async def listing(self, name: str, view: View) -> Page[Any]:
        rows = {"users": self.user_rows, "keys": self.key_rows, **self.lists}.get(name, [])
        return await self._page(rows, view, lambda row: row.name if name == "users" else f"{row.id:09}")

    async def tenant_card(self, row: TenantRow) -> TenantCard:
        await self._read()
        return card(told=tuple(line for line in self.recent if line.object == f"tenant:{row.id}"))

    async def policy_text(self, cluster_id: str, tenant_id: TenantId, version: int) -> str:
        await self._read()
        return f'{{"acls": []}} // version {version}\n'

    async def snapshot(self, cluster_id: str, tenant_id: TenantId) -> Snapshot:
        await self._read()
        return self.held

    async def history(self, cluster_id: str | None, what: str) -> list[AuditRow]:
        await self._read()
        return [row for row in self.recent if row.object == what and cluster_id in (None, row.cluster_id)]

    async def events(self, row: DeviceRow) -> list[DeviceEvent]:
        await self._read()
        return self.device_events

    async def tenants(self, cluster_id: str | None) -> list[TenantRef]:
        await self._read()
        return self.tenant_refs

    async def names(self, word: str, cluster_id: str | None, tenant: str | None) -> list[Named]:
        await self._read()
        rows = [("cluster", row, row.cluster_id) for row in self.clusters]
        rows += [("tenant", row, row.name) for row in self.lists.get("tenants", [])]
        rows += [("user", row, row.name) for row in self.user_rows]
        rows += [("device", row, row.name) for row in self.device_rows]
        return [
            Named(
                *(kind, row.cluster_id, getattr(row, "tenant_id", TenantId(0)), getattr(row, "id", 0)),
                *(name, getattr(row, "tenant", "")),
            )
            for kind, row, name in rows
            if name.startswith(word)
        ]

    async def find_user(self, cluster_id: str, tenant_id: TenantId, name: str) -> UserId | None:
        await self._read()
        return next((row.id for row in self.user_rows if row.name == name), None)

    async def radius(self, touched: Touched) -> Radius:
        self.touched.append(touched)
        await self._read()
        return self.radius_now

    async def submit(self, ask: Ask, actor: str) -> RequestId:
        await self._read()
        self.asked.append(ask)
        request_id = RequestId(len(self.asked))
        self.requests[request_id] = request(request_id, ask, "queued")
        return request_id

    async def request(self, request_id: RequestId) -> OperatorRequest:
        await self._read()
        if request_id not in self.requests:
            raise NotFound("gone")
        return self.requests[request_id]

    async def wakes(self) -> AsyncIterator[None]:
        while True:
            await self.changed.wait()
            self.changed.clear()
            yield

    def close(self) -> None:
        self.closed = True


def request(
    request_id: RequestId,
    ask: Ask,
    state: str,
    error: str | None = None,
    result: dict[str, Any] | None = None,
) -> OperatorRequest:
    return OperatorRequest(
        id=request_id, cluster_id=ask.cluster_id, tenant_id=ask.tenant_id, kind=ask.kind, args=ask.args,
        dedup=None, state=state, requested_by="t", requested_at=NOW, attempts=0, claimed_by=None,
        claimed_epoch=None, progress=None, result=(result or {}) if state == "done" else None, error=error,
        finished_at=None,
    )  # fmt: skip


def filled(devices: int = 40) -> FakeStore:
    store = FakeStore()
    store.device_rows = [device(n) for n in range(1, devices + 1)]
    store.user_rows = [user(n) for n in range(1, 8)] + [user(9, "alice")]
    store.key_rows = [key(n) for n in range(1, 7)]
    gap: tuple[float | None, ...] = (None,) * 20
    store.load = {
        "eu-1": LoadHistory(
            (*gap, *map(float, range(40))),
            *((*gap, *(times * (n % 9) for n in range(40))) for times in (0.25, 3.0, 1200.0)),
        )
    }
    store.alarms = [
        OpenAlarm(3, "us-2", "critical", "no_owner", "cluster:us-2", "cluster us-2 has no owner", NOW - 14),
        OpenAlarm(
            *(2, "eu-1", "warning", "loop_lag", "process:eu-1a", "the event loop of eu-1a was 612 ms late"),
            *(NOW - 300, "console:ana", NOW - 200),
        ),
    ]
    store.lists = {
        "tenants": [tenant(n) for n in range(2, 8)],
        "rebalance": [plan(n) for n in range(1, 5)],
        "moves": [move(n) for n in range(1, 7)],
        "routes": [route(n) for n in range(1, 5)],
        "policy": [policy(n) for n in range(1, 4)],
        "netmap": [change(n) for n in range(1, 6)],
        "audit": [line(n) for n in range(1, 6)],
        "processes": [process(n) for n in range(1, 4)],
        "jobs": [job(n) for n in range(1, 4)],
        "logins": [login(n) for n in range(1, 4)],
        "alarms": [alarm(n) for n in range(1, 4)],
    }
    return store


@asynccontextmanager
async def running(
    store: Any, start: str = "devices", size: tuple[int, int] = (120, 36), **options: Any
) -> AsyncIterator[tuple[ConsoleApp, Pilot[None]]]:
    options.setdefault("clock", lambda: NOW)
    app = ConsoleApp(store, actor="console:ops", start=start, **options)
    async with app.run_test(size=size, notifications=True) as pilot:
        yield app, pilot


async def until(pilot: Pilot[Any], condition: Callable[[], object], what: str = "") -> None:
    """Lets the app work until a condition holds. The console's own poll bounds how long that takes."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await pilot.pause(0.01)
    except TimeoutError:
        app = pilot.app
        assert isinstance(app, ConsoleApp)
        raise AssertionError(f"waited in vain {what}; said {toasts(app)}\n{text(app)}") from None


async def shown(app: ConsoleApp, pilot: Pilot[Any]) -> ListScreen[Any]:
    """The screen, when its rows are there."""
    async with asyncio.timeout(DEADLINE_S):
        await pilot.pause()
        await app.rows_shown()
        await pilot.pause()
    assert app.base is not None
    return app.base


def text(app: ConsoleApp) -> str:
    """What is on the screen, from where Textual takes its own pictures; a picture costs ten times as much."""
    update: Any = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    return "\n".join("".join(strip.text for strip in line).rstrip() for line in update.strips).rstrip("\n")


def toasts(app: ConsoleApp) -> list[str]:
    return list(app.said)
