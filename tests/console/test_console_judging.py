"""A policy judged before it is sent, and who can reach what, from a snapshot of the tenant."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from app.errors import Unavailable
from app.fleet import TenantRef
from app.model import TenantId
from app.policy.hujson import PolicyError
from app.policy.snapshot import Snapshot
from console import judging
from console.cells import Pen
from console.dialogs import ConfirmDialog
from console.forms import FormDialog
from console.judging import DIFF_LINES, difference_lines, judge, judgement_lines
from console.screens import policies
from console.screens.reach import answer_lines, basis
from tests.console.hostile import NAMES
from tests.console.pictures import check, utc  # noqa: F401
from tests.console.support import filled, running, shown, text, toasts, until
from tests.console.test_console_cells import is_harmless
from tests.policy import worlds as w

DEVICES = [w.device(1, 1, (), ()), w.device(2, 1, (), ()), w.device(3, 2, (), ())]
FIRST, SECOND, THIRD = (device.given_name for device in DEVICES)
NOBODY = '{"acls": []}'
HELD = Snapshot(w.USERS, DEVICES, 7, NOBODY)


def policy(*ways: tuple[str, str], **parts: Any) -> str:
    acls = [{"action": "accept", "src": [src], "dst": [dst]} for src, dst in ways]
    return json.dumps({"acls": acls, **parts}, indent=1)


TEST = [{"src": "ada@example.com", "accept": ["100.64.0.3:21"]}]
FTP = policy(("ada@example.com", "bob@example.com:21"))


def test_what_may_not_be_used_is_told_with_its_line() -> None:
    with pytest.raises(PolicyError) as caught:
        judge('{\n"acls": [\n', HELD)
    assert caught.value.line == 3


def told(written: str, held: Snapshot = HELD) -> list[str]:
    return [line.plain for line in judgement_lines(Pen(), judge(written, held))]


JUDGEMENTS: list[tuple[str, Snapshot, list[str]]] = [
    (
        FTP,
        HELD,
        ["○ it has no tests of its own", "2 pairs of devices gain access:",
         f"  {FIRST}, {SECOND} -> {THIRD}: *:21 (2 pairs)"],
    ),
    (policy(("ada@example.com", "bob@example.com:21"), tests=TEST), HELD, ["● 1 test of it passed"]),
    (policy(tests=TEST), HELD, ["✖ line 4, column 3: test(s) failed: tests[0]"]),
    (NOBODY, Snapshot(w.USERS, DEVICES, 7, FTP), ["2 pairs of devices lose access:"]),
    (NOBODY, Snapshot(w.USERS, DEVICES, 0, None), ["6 pairs of devices lose access:"]),
    (NOBODY + "\n", HELD, ["nothing changes for the devices there are"]),
    (policy(("zed@example.com", "*:22")), HELD, ["▲ warning: "]),
]  # fmt: skip


@pytest.mark.parametrize(("written", "held", "lines"), JUDGEMENTS)
def test_tests_impact_and_warnings(written: str, held: Snapshot, lines: list[str]) -> None:
    found = told(written, held)
    assert [line for line in lines if not any(one.startswith(line) for one in found)] == [], found
    assert found[-1] == "worked out from 3 devices and 3 users as stored now"


def test_the_difference_is_bounded() -> None:
    lines = [line.plain for line in difference_lines(Pen(), "a\nb\n", "a\nc\n")]
    assert lines == ["-b", "+c"]
    many = difference_lines(Pen(), "", "x\n" * (DIFF_LINES + 5))
    assert (len(many), many[-1].plain) == (DIFF_LINES + 1, "and 5 more lines")
    for name in NAMES:
        assert all(is_harmless(line.plain) for line in difference_lines(Pen(), "", name))


REACH: list[tuple[str, dict[str, str], list[str]]] = [
    (FTP, {"source": FIRST, "target": f"{THIRD}:21"}, [f"{FIRST} -> {THIRD}: allowed", "  acl, line 3: "]),
    (FTP, {"source": FIRST, "target": f"{THIRD}:22"}, [f"{FIRST} -> {THIRD}: not allowed"]),
    (FTP, {"target": f"{THIRD}:21"}, [f"acl, line 3: to {THIRD}, ports 21", f"  ada@example.com: {FIRST}"]),
    (NOBODY, {"target": f"{THIRD}:21"}, ["nobody may reach it"]),
]


@pytest.mark.parametrize(("written", "asked", "lines"), REACH)
def test_who_can_reach(written: str, asked: dict[str, str], lines: list[str]) -> None:
    answers = {"source": "", "proto": "", **asked}
    found = answer_lines(Snapshot(w.USERS, DEVICES, 7, written), answers)
    assert [line for line in lines if not any(one.startswith(line) for one in found)] == [], found


def test_what_an_answer_rests_on() -> None:
    assert basis(HELD) == "by version 7 of the policy, the newest stored"
    assert "no policy is stored" in basis(Snapshot([], [], 0, None))


async def test_the_dialog_shows_what_a_policy_changes() -> None:
    store = filled()
    store.held = HELD
    async with running(store, "policy", (80, 24)) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await base.action_command("policy.edit")
        await until(pilot, lambda: "Go on" in text(app), "the editor")
        app.screen.query_one("#text").text = FTP  # type: ignore[attr-defined]
        await pilot.click("#submit")
        await until(pilot, lambda: "Cancel" in text(app), "the dialog")
        assert "2 pairs of devices gain access" in text(app)
        for size in ((80, 24), (120, 36)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda size=size: app.screen.size == size)
            await pilot.pause()
            check(f"policy-edit-{size[0]}x{size[1]}", text(app))
        await pilot.press("escape")
        assert store.asked == []


def texts_in(directory: Path) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in directory.iterdir()]


async def test_a_policy_that_cannot_be_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A lost database: nothing is sent and the draft is kept. Too much to work out: that is told."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = filled()
    store.held = HELD
    async with running(store, "policy") as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await base.action_command("policy.edit")
        await until(pilot, lambda: "Go on" in text(app), "the editor")
        app.screen.query_one("#text").text = FTP  # type: ignore[attr-defined]
        store.error = Unavailable("no route")
        await pilot.press("tab", "tab", "enter")
        await until(pilot, lambda: "not sent: no route; the draft is" in "".join(toasts(app)))
        assert texts_in(tmp_path) == [FTP]
        store.error = None
        monkeypatch.setattr(policies, "JUDGE_DEADLINE_S", 0.05)
        monkeypatch.setattr(judging, "judge", lambda *_: time.sleep(0.3))
        await until(pilot, lambda: app.screen is base and app.link.is_up)
        await base.action_command("policy.edit")
        await until(pilot, lambda: "Go on" in text(app), "the editor")
        app.screen.query_one("#text").text = FTP  # type: ignore[attr-defined]
        await pilot.press("tab", "tab", "enter")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "the dialog")
        await until(pilot, lambda: "was not worked out in 0.05 s" in text(app))


async def test_the_first_policy_of_a_tenant_is_written_from_what_holds_without_one() -> None:
    store = filled()
    store.held = Snapshot(w.USERS, DEVICES, 0, None)
    # What a form shows of a tenant is no part of its name.
    name = "odd  (cluster us-2)"
    store.tenant_refs = [TenantRef("eu-1", TenantId(1), name, False)]
    async with running(store, "policy") as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("N")
        await until(pilot, lambda: "Write a policy" in text(app), "the tenant")
        await pilot.pause()
        await pilot.click("#submit")
        await until(pilot, lambda: f"Policy of {name}, the first" in text(app), "the editor")
        await pilot.click("#submit")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "the dialog")
        assert f"as version 1 for {name}" in text(app)
        assert "nothing changes for the devices there are" in text(app)
        await pilot.press("y")
        app.screen.query_one("#typed").value = name  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: store.asked, "the request")
        assert (store.asked[0].args["text"], store.asked[0].args["expected_version"]) == (policies.FIRST, 0)
        await until(pilot, lambda: app.screen is base)


async def test_a_name_that_stands_for_nothing_brings_the_form_back() -> None:
    store = filled()
    store.held = HELD
    store.writable = False
    async with running(store, "devices") as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("w")
        await until(pilot, lambda: "Destination" in text(app), "the form")
        assert "device-0001" in text(app)
        app.screen.query_one("#target").value = f"{THIRD}:21"  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: toasts(app) and "device-0001" in toasts(app)[-1], "the complaint")
        await until(pilot, lambda: isinstance(app.screen, FormDialog) and f"{THIRD}:21" in text(app))
        app.screen.query_one("#source").value = FIRST  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: f"{FIRST} -> {THIRD}: not allowed" in text(app), "the answer")
        assert store.asked == []
