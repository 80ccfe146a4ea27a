"""Every screen in every state, as text: loading, empty, refused, stale, disconnected, read-only, crowded."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from app.errors import Refused, Unavailable
from app.fleet import WINDOW_ROWS, AuditRow, OpenAlarm
from app.model import RequestId
from console import live
from console.actions import SCREENS as ALL_SCREENS
from console.actions import actions_of
from console.dialogs import SecretDialog
from console.main import ConsoleApp
from tests.console.hostile import NAMES
from tests.console.pictures import check, settled, utc  # noqa: F401
from tests.console.support import (
    NOW,
    FakeStore,
    alarm,
    change,
    cluster,
    device,
    filled,
    job,
    key,
    line,
    login,
    move,
    plan,
    policy,
    process,
    request,
    route,
    running,
    shown,
    tenant,
    text,
    toasts,
    until,
    user,
)
from tests.console.test_console_cells import is_harmless

FLEET_SCREENS = [screen for screen in ALL_SCREENS if screen != "overview"]
SCREENS = ["overview", *FLEET_SCREENS]


async def test_a_tenants_card_follows_the_cursor() -> None:
    store = filled()
    told = AuditRow(2, "eu-1", NOW - 60, "quota", "quota_reached", "tenant:3", "", '{"used": 9}')
    store.recent.append(told)
    async with running(store, "tenants", (120, 40)) as (app, pilot):
        await shown(app, pilot)
        assert "quota_reached" not in text(app)
        await pilot.press("down")
        await until(pilot, lambda: "quota_reached by quota" in text(app), "what was decided last")
        await pilot.press("v")
        await until(pilot, lambda: "us-1: refused, it is draining" in text(app), "each cluster")
        assert "us-2: would hold 330 devices" in text(app)


async def test_however_slow_a_read_was_the_next_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"READ_SHARE": 1e9, "WAKE_SHARE": 1e9, "POLL_S": 0.01, "PAUSE_MAX_S": 0.01}.items():
        monkeypatch.setattr(live, name, value)
    store = filled(5)
    async with running(store, "devices") as (app, pilot):
        await shown(app, pilot)
        read = len(store.views)
        await until(pilot, lambda: len(store.views) > read + 1, "further reads")


async def test_ascii_and_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with running(filled(), "devices", (80, 24), ascii_only=True) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("space")
        picture = text(app)
        assert "> " in picture
        assert "+device" in picture.replace(" ", "")
        body = "\n".join(picture.splitlines()[:20])
        assert body.replace("▆", "").replace("▁", "").replace("▃", "").isascii(), body
        chrome = {"#ff5f57", "#febc2e", "#28c840"}
        colours = set(re.findall(r"#[0-9a-f]{6}", app.export_screenshot().lower().split("<g", 1)[1])) - chrome
        assert all(c[1:3] == c[3:5] == c[5:7] for c in colours if c), colours
        assert base.has_class("-short") or app.size.height == 24


@pytest.mark.parametrize("screen", SCREENS)
async def test_loading_then_empty(screen: str) -> None:
    store = FakeStore()
    store.clusters, store.recent = [], []
    store.gate.clear()
    now = [NOW]
    async with running(store, screen, clock=lambda: now[0]) as (app, pilot):
        await until(pilot, lambda: app.base and app.base.is_ready)
        assert "loading" not in text(app)
        now[0] += 1
        await until(pilot, lambda: "loading" in text(app))
        store.gate.set()
        await shown(app, pilot)
        await until(pilot, lambda: "yet" in text(app))


async def test_empty_because_of_the_filter() -> None:
    async with running(FakeStore()) as (app, pilot):
        base = await shown(app, pilot)
        await pilot.press("slash")
        await pilot.press(*"os=plan9", "enter")
        await until(pilot, lambda: "no device matches os=plan9; esc clears" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "there is no device yet" in text(app))
        assert base.filter_text == ""


async def test_a_wrong_filter_says_why_and_is_not_sent() -> None:
    store = filled()
    async with running(store) as (app, pilot):
        await shown(app, pilot)
        await pilot.press("slash", *"sene<1d")
        await until(pilot, lambda: "did you mean seen?" in text(app))
        await pilot.press("enter")
        await pilot.pause()
        assert all(not view.terms for view in store.views)


@pytest.mark.parametrize("screen", SCREENS)
async def test_refused(screen: str) -> None:
    store = FakeStore()
    store.error = Refused("the database does not permit this: permission denied for table nodes")
    async with running(store, screen) as (app, pilot):
        await until(pilot, lambda: "permission denied for table nodes" in text(app))
        assert "✖ refused" in text(app)


@pytest.mark.parametrize("screen", SCREENS)
async def test_a_lost_database_leaves_the_picture_its_age_and_no_writes(screen: str) -> None:
    store = filled()
    now = [NOW]
    async with running(store, screen, clock=lambda: now[0]) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        key_under, rows = base.table.cursor_key, base.table.row_count
        store.error = Unavailable("connection refused")
        await until(pilot, lambda: app.link.kind == "down")
        now[0] += 33
        app.tick()
        await pilot.pause()
        picture = text(app)
        assert "○ no database, retry in" in picture
        assert "RW→RO" in picture
        assert "(33 s ago)" in picture
        assert (base.table.cursor_key, base.table.row_count) == (key_under, rows)
        await base.action_command("list.filter")
        for action in ("device.expire", "user.delete", "key.expire"):
            await base.action_command(action)
            assert "not connected" in toasts(app)[-1]
        store.error = None
        app.feed_kick()
        await until(pilot, lambda: app.link.is_up)
        await until(pilot, lambda: any("back after 33 s" in toast for toast in toasts(app)))
        assert base.table.cursor_key == key_under


async def test_without_a_database_at_the_start_the_console_waits_for_it() -> None:
    store = filled()
    store.error = Unavailable("connection refused")
    async with running(store) as (app, pilot):
        await until(pilot, lambda: "no database yet" in text(app))
        assert "connection refused" in text(app)
        store.error = None
        app.feed_kick()
        base = await shown(app, pilot)
        assert base.table.row_count == 40


async def test_stale_when_reads_take_too_long() -> None:
    store = filled()
    now = [NOW]
    async with running(store, clock=lambda: now[0]) as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        store.gate.clear()
        now[0] += 12
        await until(pilot, lambda: "◌ stale" in text(app) and app.tick() is None)


@pytest.mark.parametrize("screen", SCREENS)
async def test_hostile_names(screen: str) -> None:
    store = FakeStore()
    store.where = "pg \x1b[31m[/]"
    store.device_rows = [
        device(n, name, user=name, os=name, version=name, tags=(), endpoints=(name,), tenant=name)
        for n, name in enumerate(NAMES, 1)
    ]
    store.user_rows = [user(n, name, tenant=name, cluster_id=name) for n, name in enumerate(NAMES, 1)]
    store.key_rows = [key(n, user=name, prefix=name, tags=(name,)) for n, name in enumerate(NAMES, 1)]
    store.clusters = [cluster(name, state=name, owner=name, lease_left_s=1.0) for name in set(NAMES)]
    store.lists = hostile_lists()
    store.leader = "[/]acs\x1b[31m"
    store.alarms = [
        OpenAlarm(n, name, "warning", name, name, name, NOW, name, NOW) for n, name in enumerate(NAMES)
    ]
    async with running(store, screen, (110, 36)) as (app, pilot):
        base = await shown(app, pilot)
        assert base.table.row_count == len(base.rows) >= len(set(NAMES))
        svg = app.export_screenshot()
        for row_key in base.rows:
            for column, size in base.table.shown:
                cell = base.table.get_cell(row_key, column.name)
                assert is_harmless(cell.plain), row_key
                assert cell.cell_len <= size
                assert not cell.spans
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", svg
        )
        for action in ("row.json", "row.copy", "app.help"):
            await base.action_command(action)
            await pilot.pause()
            await pilot.press("escape")
        app.say(NAMES[0])
        await pilot.pause()
        assert app.screen is base


def hostile_store() -> FakeStore:
    store = FakeStore()
    store.clusters = [cluster("eu-1"), *(cluster(name, owner=name) for name in NAMES)]
    store.where = "pg \x1b[31m[/]"
    store.device_rows = [device(n, name, user=name, tenant=name) for n, name in enumerate(NAMES, 1)]
    store.user_rows = [user(n, name, tenant=name, cluster_id=name) for n, name in enumerate(NAMES, 1)]
    store.key_rows = [key(n, user=name, prefix=name, tags=(name,)) for n, name in enumerate(NAMES, 1)]
    store.lists = hostile_lists()
    return store


def hostile_lists() -> dict[str, list[Any]]:
    numbered = list(enumerate(NAMES, 1))
    return {
        "tenants": [tenant(n, name, cluster_id=name, region=name, plan=name) for n, name in numbered],
        "rebalance": [
            plan(n, subject=name, why=name, error=name, created_by=name, notes=(name,), before={name: 1})
            for n, name in numbered
        ],
        "moves": [move(n, name, source=name, target=name, error=name, state=name) for n, name in numbered],
        "routes": [route(n, name, tenant=name) for n, name in numbered],
        "policy": [policy(n, tenant=name, author=name, note=name) for n, name in numbered],
        "netmap": [change(n, scope=name, origin=name, error=name) for n, name in numbered],
        "audit": [line(n, actor=name, object=name, tenant=name, after=name) for n, name in numbered],
        "processes": [process(n, name, cluster_id=name, version=name, addr=name) for n, name in numbered],
        "jobs": [job(n, name, result=name) for n, name in numbered],
        "alarms": [
            alarm(n, name, cluster_id=name, rule=name, object=name, acknowledged_by=name)
            for n, name in numbered
        ],
        "logins": [login(n, name, os=name, version=name, address=name) for n, name in numbered],
    }


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("screen", FLEET_SCREENS)
async def test_dialogs_with_hostile_names(screen: str, every: int) -> None:
    """Every dialog, a quarter of the names (or each) in one of them, and all names marked together."""
    store = hostile_store()
    hides = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
    actions = [
        a.id for a in actions_of(screen) if a.needs_row and (a.kind or a.id in ("row.json", "row.copy"))
    ]
    async with running(store, screen) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        for number in range(FLEET_SCREENS.index(screen), len(NAMES), every * len(FLEET_SCREENS)):
            base.table.move_cursor(row=number)
            action = actions[number % len(actions)]
            await base.action_command(action)
            await until(pilot, lambda: app.screen is not base, action)
            assert not hides.search(app.export_screenshot()), (action, base.table.cursor_key)
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is base)
        await base.action_command("mark.all")
        for action in (a.id for a in actions_of(screen) if a.many):
            await base.action_command(action)
            await until(pilot, lambda: app.screen is not base, action)
            assert not hides.search(app.export_screenshot()), action
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is base)


async def test_the_window_slides_and_keeps_the_cursor() -> None:
    store = filled(WINDOW_ROWS * 3)
    async with running(store) as (app, pilot):
        base = await shown(app, pilot)
        assert "rows 1-500 of 1,500" in text(app)
        base.table.move_cursor(row=470)
        held = base.table.cursor_key
        await until(pilot, lambda: "rows 251-750 of 1,500" in text(app))
        assert base.table.cursor_key == held
        assert base.table.row_count == WINDOW_ROWS
        base.table.move_cursor(row=10)
        held = base.table.cursor_key
        await until(pilot, lambda: "rows 1-500 of 1,500" in text(app))
        assert base.table.cursor_key == held
        await pilot.press("G")
        await until(pilot, lambda: "rows 1,001-1,500 of 1,500" in text(app))
        assert list(base.rows)[-1] == "1/1500"
        await pilot.press("g")
        await until(pilot, lambda: "rows 1-500 of 1,500" in text(app))


async def test_what_is_asked_was_fixed_when_the_key_was_pressed() -> None:
    store = filled(5)
    async with running(store) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("x")
        await until(pilot, lambda: app.screen is not base)
        store.device_rows = [device(n) for n in range(3, 9)]
        store.changed.set()
        await until(pilot, lambda: base.table.row_count == 6)
        await pilot.press("y")
        await until(pilot, lambda: store.asked)
        assert store.asked[0].args["device_id"] == 1


async def test_marks_make_one_request_each_after_typing_the_number() -> None:
    store = filled(5)
    async with running(store) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("space", "down", "V", "x")
        await until(pilot, lambda: app.screen is not base)
        await pilot.press("y")
        await pilot.pause()
        assert store.asked == []
        await pilot.press("backspace", "3", "enter")
        await until(pilot, lambda: len(store.asked) == 3)
        assert [ask.args["device_id"] for ask in store.asked] == [1, 2, 3]


async def outcome(
    app: ConsoleApp,
    pilot: Any,
    store: FakeStore,
    state: str,
    error: str | None = None,
    result: dict[str, Any] | None = None,
) -> None:
    await until(pilot, lambda: store.asked)
    store.requests[RequestId(1)] = request(RequestId(1), store.asked[0], state, error, result)
    app.feed_kick()
    await until(pilot, lambda: not app.feed_pending)


async def test_a_request_is_followed_to_its_refusal() -> None:
    store = filled(5)
    async with running(store) as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("x")
        await pilot.pause()
        await pilot.press("y")
        await until(pilot, lambda: "1 request" in text(app))
        await outcome(app, pilot, store, "failed", "there is no device 1 here")
        assert toasts(app)[-1] == "expire device-0001: there is no device 1 here"


@pytest.mark.parametrize(
    ("screen", "scope", "label"),
    [("overview", "cluster", "rebuild cluster eu-1"), ("users", "user:9", "rebuild user alice")],
)
async def test_a_rebuild_is_confirmed_and_followed_to_what_it_cost(
    screen: str, scope: str, label: str
) -> None:
    store = filled(5)
    async with running(store, screen) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("R")
        await until(pilot, lambda: app.screen is not base)
        assert store.asked == []
        await until(pilot, lambda: "get their whole map anew" in text(app), "how far it reaches")
        await pilot.press("y")
        await until(pilot, lambda: store.asked)
        (ask,) = store.asked
        assert (ask.kind, ask.args, ask.dedup) == ("netmap_rebuild", {"scope": scope}, f"1:{scope}")
        result = {"scope": scope, "devices": 40, "maps": 1, "bytes": 12_345, "waiting": 0, "ms": 1_234}
        await outcome(app, pilot, store, "done", result=result)
        assert toasts(app)[-1] == f"{label}: done, 40 devices, 1 frame, 12,345 bytes, 1,234 ms"


async def test_a_rebuild_says_who_did_not_take_the_map() -> None:
    store = filled(5)
    async with running(store, "overview") as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("R")
        await pilot.pause()
        await pilot.press("y")
        result = {"scope": "cluster", "devices": 3, "maps": 2, "bytes": 9, "waiting": 1, "ms": 60_000}
        await outcome(app, pilot, store, "done", result=result)
        assert toasts(app)[-1].endswith("60,000 ms, 1 device did not take it in time")


async def test_a_cluster_without_a_tenant_has_nothing_to_rebuild() -> None:
    store = filled(0)
    store.clusters = [cluster("eu-1", home_id=None)]
    async with running(store, "overview") as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("R")
        await until(pilot, lambda: toasts(app))
        assert toasts(app)[-1] == "cluster eu-1 has no tenant yet: start hs-node serve"
        assert app.screen is base


async def test_a_request_nobody_takes_up_is_told_once() -> None:
    store = filled(5)
    now = [NOW]
    async with running(store, clock=lambda: now[0]) as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("x")
        await pilot.pause()
        await pilot.press("y")
        await until(pilot, lambda: app.feed_pending)
        now[0] += 4
        app.tick()
        app.tick()
        assert len([toast for toast in toasts(app) if "waiting for the owner of cluster eu-1" in toast]) == 1
        del store.requests[RequestId(1)]
        await until(pilot, lambda: not app.feed_pending)
        assert "outcome is not known" in toasts(app)[-1]


async def test_a_new_key_is_shown_once_and_only_when_it_is_stored() -> None:
    store = filled()
    async with running(store, "keys") as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("a")
        await until(pilot, lambda: app.screen is not base)
        await pilot.click("#submit")
        await until(pilot, lambda: any("needs an owner or tags" in toast for toast in toasts(app)))
        await until(pilot, lambda: app.screen is not base)
        app.screen.query_one("#user").value = "alice"  # type: ignore[attr-defined]
        await pilot.click("#submit")
        await until(pilot, lambda: store.asked)
        ask = store.asked[0]
        assert "hskey-auth-" not in repr(ask)
        assert "hskey-auth-" not in text(app)
        assert ask.args["user_id"] == 9
        assert ask.args["expiration"] == pytest.approx(NOW + 3600)
        await outcome(app, pilot, store, "done")
        await until(pilot, lambda: isinstance(app.screen, SecretDialog))
        secret = ask.secret
        await until(pilot, lambda: secret in re.sub(r"[\s│]", "", text(app)))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is base)
        assert secret[:40] not in text(app)
        assert secret not in repr(vars(app))


async def test_pause_holds_the_picture_and_counts() -> None:
    store = filled(3)
    async with running(store) as (app, pilot):
        base = await shown(app, pilot)
        await pilot.press("p")
        store.device_rows.append(device(4))
        store.changed.set()
        await until(pilot, lambda: app.held > 0)
        assert base.table.row_count == 3
        await pilot.press("p")
        await until(pilot, lambda: base.table.row_count == 4)


async def test_the_newest_is_followed_until_the_cursor_is_moved() -> None:
    store = filled()
    store.lists["audit"] = [line(n) for n in range(1, 6)]
    async with running(store, "audit") as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("down", "down", "f")
        await until(pilot, lambda: "following |" in text(app))
        for number in (6, 7):
            store.lists["audit"].append(line(number))
            store.changed.set()
            await until(pilot, lambda number=number: base.current and base.current.id == number)
        # Held still, what is new is counted, each row once.
        await pilot.press("p")
        store.lists["audit"] += [line(8), line(9)]
        store.changed.set()
        await until(pilot, lambda: "paused, 2 held" in text(app))
        store.changed.set()
        await until(pilot, lambda: not store.changed.is_set())
        assert app.held == 2
        await pilot.press("p")
        await until(pilot, lambda: base.current and base.current.id == 9)
        await pilot.press("down")
        await until(pilot, lambda: any("not following any more" in toast for toast in toasts(app)))
        assert "following |" not in text(app)


async def test_size_changes_choose_other_columns_and_keep_the_cursor() -> None:
    async with running(filled(), size=(160, 50)) as (app, pilot):
        base = await shown(app, pilot)
        await pilot.press("down", "down")
        held = base.table.cursor_key
        wide = [column.name for column, _ in base.table.shown]
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: len(base.table.shown) < len(wide))
        assert base.table.cursor_key == held
        assert base.has_class("-short")
        await pilot.resize_terminal(60, 15)
        await until(pilot, lambda: "device-0003" in text(app))


async def test_sort_and_back_restore() -> None:
    store = filled()
    async with running(store) as (app, pilot):
        base = await shown(app, pilot)
        await pilot.press("o")
        await until(pilot, lambda: store.views[-1].sort == "cluster")
        await pilot.press("O")
        await until(pilot, lambda: store.views[-1].descending)
        await pilot.press("down", "3")
        await until(pilot, lambda: app.base and app.base.NAME == "users")
        await pilot.press("2")
        await until(pilot, lambda: app.base is base)
        assert (base.sort_by, base.descending) == ("cluster", True)
        await pilot.press("1", "enter")
        await until(pilot, lambda: store.views[-1].terms and store.views[-1].terms[0].field == "cluster")


async def test_the_mouse_moves_opens_sorts_and_follows_crumbs_and_tabs() -> None:
    """Nothing needs it: each of these has a key."""
    store = filled()
    async with running(store) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.click("#table", offset=(5, 3))
        await until(pilot, lambda: base.current and base.current.name == "device-0003")
        assert app.screen is base
        await pilot.click("#table", offset=(5, 3))
        await until(pilot, lambda: app.screen is not base)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is base)
        await pilot.click("#table", offset=(5, 0))
        await until(pilot, lambda: store.views[-1].descending)
        column = text(app).splitlines()[2].index("STATE")
        await pilot.click("#table", offset=(column, 0))
        await until(pilot, lambda: store.views[-1].sort == "state" and not store.views[-1].descending)
        base.set_filter("@us-2 os:linux")
        await until(pilot, lambda: " Overview › us-2 › Devices " in text(app))
        await pilot.click("#crumbs", offset=(13, 0))
        await until(pilot, lambda: app.base and app.base.NAME == "overview" and app.base.is_ready)
        await until(pilot, lambda: app.base and app.base.current and app.base.current.cluster_id == "us-2")
        await pilot.click("#tabs", offset=(text(app).splitlines()[-2].index("Routes"), 0))
        await until(pilot, lambda: app.base and app.base.NAME == "routes" and app.base.is_ready)
        await pilot.click("#crumbs", offset=(3, 0))
        await until(pilot, lambda: app.base and app.base.NAME == "overview")


async def test_alarms_are_reached_by_tab_opened_and_acknowledged_from_the_overview() -> None:
    store = filled()
    async with running(store, "overview") as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("tab", "down")
        await until(pilot, lambda: "► 22:21:40 ○ warning" in text(app))
        # The cursor stays with its alarm while others come.
        store.alarms.insert(
            0, OpenAlarm(4, "eu-1", "critical", "no_owner", "cluster:eu-1", "worse", NOW - 90_000)
        )
        store.changed.set()
        await until(pilot, lambda: "worse" in text(app))
        assert "► 22:21:40 ○ warning" in text(app)
        assert "20 Nov" in text(app)
        await pilot.press("a")
        await until(pilot, lambda: "acknowledge: console:ana knows of it already" in toasts(app))
        await pilot.press("up", "a")
        await until(pilot, lambda: "Acknowledge alarm 3" in text(app) and "us-2 has no owner" in text(app))
        await pilot.press("y")
        await until(pilot, lambda: store.asked)
        assert (store.asked[0].kind, store.asked[0].args) == ("alarm_acknowledge", {"alarm": 3})
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.base and app.base.filter_text == "name=eu-1a")
        assert app.base is not None
        assert app.base.NAME == "processes"
        # Judged by this console alone, it is kept nowhere.
        store.alarms, store.leader = [replace(store.alarms[0], id=0)], ""
        await pilot.press("1", "a")
        await until(
            pilot, lambda: app.base is base and "no hs-acs leads that would keep it" in toasts(app)[-1]
        )
        store.alarms = []
        store.changed.set()
        await until(
            pilot, lambda: "● no alarm is open" in text(app) and "judged by this console" in text(app)
        )
        assert base.check_action("command", ("alarm.acknowledge",)) is None
