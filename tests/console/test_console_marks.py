"""What an operator keeps hold of: marked rows, a marked filter, a pinned row, the list alone."""

from __future__ import annotations

from dataclasses import replace

from app.errors import Unavailable
from app.fleet import Term
from app.model import RequestId
from console.actions import BY_ID
from console.marks import MARKED_ROWS_MAX, Marks
from tests.console.support import device, filled, request, running, shown, text, toasts, until

LINUX, WEB = Term("os", patterns=("linux",)), Term("any", patterns=("%web%",))


def test_a_marked_filter_covers_what_is_narrower_and_nothing_else() -> None:
    marks: Marks[int] = Marks()
    marks.matching((LINUX,), "os:linux", 900, ["a", "b"])
    assert len(marks) == 900
    assert marks.toggle("a", 1)
    assert (len(marks), "a" in marks, "b" in marks) == (899, False, True)
    marks.seen((LINUX, WEB), 2, {"b": 1, "c": 1})
    assert (len(marks), "c" in marks) == (899, True)
    marks.seen((), 5, {"c": 1, "d": 1})
    assert ("c" in marks, "d" in marks, marks.toggle("d", 1)) == (True, False, False)
    marks.seen((LINUX,), 950, {"a": 1, "e": 1})
    assert (len(marks), "a" in marks, "e" in marks) == (949, False, True)
    marks.clear()
    assert (len(marks), "e" in marks) == (0, False)


def test_rows_marked_one_by_one_are_bounded_and_forgotten_when_gone() -> None:
    marks: Marks[int] = Marks()
    assert marks.add({str(number): number for number in range(MARKED_ROWS_MAX)})
    assert not marks.toggle("one more", 1)
    assert marks.toggle("7", 7)
    assert len(marks) == MARKED_ROWS_MAX - 1
    marks.seen((WEB,), 1, {"8": 80})
    assert (len(marks), marks.rows["8"]) == (MARKED_ROWS_MAX - 1, 80)
    marks.seen((), 2, {"8": 81, "x": 1})
    assert marks.rows == {"8": 81}


async def test_all_that_matches_is_captured_by_the_key_and_asked_for_in_one_word() -> None:
    store = filled(700)
    async with running(store) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("asterisk", "space")
        await until(pilot, lambda: "699 marked" in text(app))
        await pilot.press("D")
        await until(pilot, lambda: "Delete 699 devices" in text(app))
        store.device_rows = [replace(row, name="x" + row.name) for row in store.device_rows[:3]]
        await pilot.press(*"699", "enter")
        await until(pilot, lambda: len(store.asked) == 699)
        assert [ask.args["device_id"] for ask in store.asked] == list(range(2, 701))
        for number, ask in enumerate(store.asked, 1):
            error = "is in use" if number == 5 else None
            store.requests[RequestId(number)] = request(
                RequestId(number), ask, "failed" if error else "done", error
            )
        app.feed_kick()
        await until(pilot, lambda: not app.feed_pending)
        assert [toast for toast in toasts(app) if "delete" in toast] == [
            "delete device-0002 and 698 more: 698 of 699 done, 1 failed: is in use"
        ]
        await pilot.press("u")
        await until(pilot, lambda: "marked" not in text(app))
        assert base.chosen(BY_ID["device.delete"]) == [base.current]


async def test_too_many_are_refused_and_a_lost_link_stops_a_batch() -> None:
    store = filled(MARKED_ROWS_MAX + 200)
    async with running(store) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("asterisk", "D")
        await until(pilot, lambda: toasts(app))
        assert toasts(app)[-1] == "1,200 are marked, at most 1,000 at once: filter more"
        assert app.screen is base
        store.device_rows = [device(number) for number in range(1, 31)]
        app.feed_kick()
        await until(pilot, lambda: "30 marked" in text(app))
        await pilot.press("D")
        await until(pilot, lambda: "Delete 30 devices" in text(app))
        await pilot.press(*"30")
        store.error = Unavailable("connection refused")
        await pilot.press("enter")
        await until(pilot, lambda: any("of 30 done" in toast for toast in toasts(app)))
        assert (
            "delete device-0001 and 29 more: 0 of 30 done, 1 failed: connection refused, 29 not asked for"
            in (toasts(app))
        )


async def test_marks_outlive_sort_filter_and_refresh() -> None:
    store = filled(40)
    async with running(store) as (app, pilot):
        base = await shown(app, pilot)
        await pilot.press("down", "space", "down", "down", "V")
        marked = list(base.marks.rows)
        assert marked == ["1/2", "1/3", "1/4", "1/5"]
        await pilot.press("o", "O")
        await until(pilot, lambda: base.wanted_since is None)
        store.device_rows.append(device(99, "aaa"))
        store.changed.set()
        await until(pilot, lambda: "41 devices" in text(app))
        await pilot.press("slash", *"web", "enter")
        await until(pilot, lambda: base.wanted_since is None)
        assert list(base.marks.rows) == marked
        assert text(app).count("✓") == len(marked)


async def test_pin_zoom_and_a_terminal_that_is_too_small() -> None:
    async with running(filled(40)) as (app, pilot):
        await shown(app, pilot)
        await pilot.press("d", "down", "down")
        await until(pilot, lambda: "device-0001  alice  (pinned" in text(app))
        await pilot.press("d")
        await until(pilot, lambda: "device-0003  alice " in text(app) and "pinned" not in text(app))
        rows = text(app).count("device-0")
        await pilot.press("z")
        await until(pilot, lambda: text(app).count("device-0") > rows and "hostname" not in text(app))
        await pilot.press("z")
        await until(pilot, lambda: "hostname" in text(app))
        await pilot.resize_terminal(59, 20)
        await until(pilot, lambda: text(app).split("\n")[0].startswith("need 60x15  ● live"))
        assert "device-0001" not in text(app)
        await pilot.resize_terminal(60, 15)
        await until(pilot, lambda: "device-0001" in text(app) and "need" not in text(app))
