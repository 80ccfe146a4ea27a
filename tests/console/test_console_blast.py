"""How far a dialog's requests would reach: in words, and while it is counted."""

from __future__ import annotations

import re
from typing import Any

import pytest

from app.blast import Radius, Touched
from app.errors import Unavailable
from app.model import TenantId
from console.blast import COUNTING, radius_lines, touched_by
from console.dialogs import ConfirmDialog
from console.forms import FormDialog
from console.radius import RadiusLine
from console.store import Ask
from tests.console.hostile import NAMES
from tests.console.support import filled, running, shown, text, until
from tests.console.test_console_cells import is_harmless

CUT = {"device_id": 7}
ROUTES = {"device_id": 7, "routes": ["10.7.0.0/16"]}
LOST = ("10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16", "10.5.0.0/16")
OTHERS = "3 devices, 2 online now; up to 9 others may lose contact."
FOUND = Radius(3, 3, 2, others=9)


@pytest.mark.parametrize(
    ("kind", "args", "radius", "told"),
    [
        ("device_delete", CUT, FOUND, [OTHERS, "It carries no route."]),
        ("device_delete", CUT, Radius(3, 3, 2, 9, 4), [OTHERS, "4 routes: others online carry them too."]),
        (
            *("device_delete", CUT, Radius(3, 3, 2, 9, 7, LOST)),
            [OTHERS, f"!Of 7 routes 5 lose the only router online: {', '.join(LOST[:4])} and 1 more"],
        ),
        ("device_expire", CUT | {"at": None}, FOUND, ["3 devices, 2 online now; nobody loses access."]),
        ("device_delete", CUT, Radius(0, 0, 0), ["!Nothing of it is there now."]),
        (
            *("user_delete", {"user_id": 1}, Radius(1, 2, 1, keys=3)),
            [
                "!It owns 2 devices, 1 online now: refused as long as it does.",
                "3 auth keys deleted too; devices that joined with them stay.",
            ],
        ),
        (
            *("key_expire", {"key_id": 1}, Radius(2, 5, 4, unused=1, reusable=1)),
            [
                "5 devices, 4 online now, joined with it and keep working.",
                "It ends 1 unused one-off key and 1 reusable key in force.",
            ],
        ),
        (
            *("routes_reject", ROUTES, Radius(1, 40, 30, lost=("10.7.0.0/16",))),
            [
                "At most 40 devices, 30 online now, lose a way by it.",
                "!No other router online carries 10.7.0.0/16",
            ],
        ),
        (
            *("routes_approve", ROUTES, Radius(1, 40, 30)),
            [
                "At most 40 devices, 30 online now, get a way by it.",
                "Another router online carries each of these prefixes.",
            ],
        ),
        (
            *("cluster_drain", {"cluster": "eu-1"}),
            Radius(1, 50, 40, leaving=2, leaving_devices=30, leaving_online=20, pinned=1),
            [
                "2 tenants with 30 devices move; the 20 online now reconnect.",
                "!1 tenant pinned here: unpin first, or they stay.",
                "!No other cluster takes tenants now.",
            ],
        ),
        (
            *("netmap_rebuild", {"scope": "tag:web"}, FOUND),
            ["3 devices read again; the 2 online now get their whole map anew."],
        ),
        (
            *("rebalance_verb", {"plan": 4, "verb": "approve"}, FOUND),
            ["3 tenants: 3 devices, 2 online now, these reconnect."],
        ),
    ],
)
def test_figures_in_words(kind: str, args: dict[str, Any], radius: Radius, told: list[str]) -> None:
    lines = radius_lines([Ask("eu-1", TenantId(1), kind, args, "", "")], radius)
    assert [("!" if role == "attention" else "") + words for role, words in lines] == told


@pytest.mark.parametrize(
    ("kind", "args", "touched"),
    [
        ("device_rename", CUT, Touched("devices", (1, 2), (7, 7))),
        ("routes_reject", ROUTES, Touched("routes", (1, 2), (7, 7), ("10.7.0.0/16",) * 2)),
        ("tenant_suspend", {"tenant_id": 3}, Touched("tenants", (3, 3))),
        ("netmap_rebuild", {"scope": "user:5"}, Touched("users", (1, 2), (5, 5))),
        ("netmap_rebuild", {"scope": "tag:web"}, Touched("tag", (1, 2), names=("tag:web",))),
        ("netmap_rebuild", {"scope": "cluster"}, Touched("clusters", names=("eu-1",))),
        ("netmap_rebuild", {"scope": "nonsense"}, None),
        ("lease_release", {"epoch": 1}, Touched("clusters", names=("eu-1",))),
        ("rebalance_verb", {"plan": 4, "verb": "rollback"}, Touched("done", ids=(4,))),
        ("rebalance_verb", {"plan": 4, "verb": "pause"}, None),
        ("job_run", {"name": "x"}, None),
    ],
)
def test_what_requests_touch(kind: str, args: dict[str, Any], touched: Touched | None) -> None:
    assert touched_by([Ask("eu-1", TenantId(n), kind, args, "", "") for n in (1, 2)]) == touched


async def test_the_dialog_is_there_before_it_is_counted() -> None:
    store = filled()
    async with running(store, size=(80, 24)) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        store.gate.clear()
        await pilot.press("D")
        await until(pilot, lambda: COUNTING in text(app), "the dialog")
        assert isinstance(app.screen, ConfirmDialog)
        assert app.focused is not None
        assert app.focused.id == "cancel"
        cancel = app.focused.region
        store.gate.set()
        await until(pilot, lambda: "12 devices, 9 online now; up to 1,204 others" in text(app), "figures")
        # Nothing moved under the pointer.
        assert app.focused.region == cancel
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is base)
        # A count that fails says so, and holds up nobody.
        store.error = Unavailable("the database has not answered for 6 s")
        await pilot.press("D")
        await until(pilot, lambda: "could not be counted: the database has not" in text(app), "the failure")
        store.error = None
        await pilot.press(*"device-0001", "enter")
        await until(pilot, lambda: store.asked, "the request")


async def test_figures_fit_and_their_names_are_harmless() -> None:
    store = filled()
    store.radius_now = Radius(40, 40, 30, 1_204, 9, LOST)
    async with running(store, size=(80, 24)) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        await pilot.press("*", "D")
        await until(pilot, lambda: "lose the only router online" in text(app), "the figures")
        # All of it is on the smallest screen.
        assert re.search(r"and 32 more.*and 1 more.*type 40:.*Cancel  esc", text(app), re.DOTALL)
        await pilot.press("escape", "u")
        await until(pilot, lambda: app.screen is base)
        store.radius_now = Radius(1, 1, 1, carried=9, lost=tuple(NAMES[:4]))
        await pilot.press("D")
        await until(pilot, lambda: "lose the only router online" in text(app), "the figures")
        line = app.screen.query_one("#radius", RadiusLine)
        assert all(is_harmless(told.plain) for told in line.shown)


async def test_a_form_counts_what_its_answers_touch() -> None:
    store = filled()
    async with running(store, size=(80, 24)) as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        await pilot.press("R")
        await until(pilot, lambda: isinstance(app.screen, FormDialog) and store.touched, "the device")
        app.screen.query_one("#scope").value = "cluster"  # type: ignore[attr-defined]
        await until(pilot, lambda: len(store.touched) == 2, "the cluster")
        assert [touched.what for touched in store.touched] == ["devices", "clusters"]
