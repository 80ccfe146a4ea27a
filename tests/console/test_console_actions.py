"""The registry: what it promises, and that key, palette, help, footer and dialogs keep it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from textual.command import CommandList, CommandPalette, DiscoveryHit

from app.errors import Unavailable
from app.request_kinds import KINDS, parse_request
from console.actions import ACTIONS, BY_ID, SCREENS, Action, actions_of, asked_of, footer_of, why_not
from console.blast import TOUCHES, UNCOUNTED, touched_by
from console.cells import Pen
from console.dialogs import ConfirmDialog
from console.forms import FormDialog
from console.help import HelpPanel, help_text
from console.keymap import REGISTRY_KEYS
from console.main import ConsoleApp
from console.palette import RegistryCommands, title_of
from console.screens.base import ListScreen
from console.screens.record import RecordScreen
from console.store import READ_ONLY
from tests.console.support import cluster, filled, running, shown, text, toasts, until

WRITES = [(screen, action.id) for screen in SCREENS for action in actions_of(screen) if action.tier]
#: Requests that change nothing, so nobody is asked first.
LOOKS = {"device_look"}
#: By these arguments a request says what its asker saw; what differs is a conflict.
SEEN = {"seen", "version", "epoch", "expected_version"}
#: Kinds that have nothing to overwrite, and why.
NO_CONFLICT = {
    "user_create": "names are unique: a taken one is refused",
    "key_create": "it is new, under a prefix of its own",
    "login_approve": "a login is decided once: who comes second is told how (state)",
    "login_deny": "a login is decided once: who comes second is told how (state)",
    "netmap_rebuild": "it reads what is stored and writes nothing of it",
    "job_run": "wanted twice is run once",
    "rebalance_propose": "it makes a plan and moves nobody",
    "alarm_acknowledge": "who said so first stays",
}
#: What a form needs typed before it goes.
TYPED = {
    "device.rename": {"name": "other"},
    "device.tag": {"tags": "tag:web"},
    "device.rebuild": {"scope": "tenant"},
    "device.move_user": {"user": "alice"},
    "user.role": {"role": "admin"},
    "user.create": {"name": "bob"},
    "user.rename": {"name": "bob"},
    "tenant.move": {},
    "tenant.quota": {"devices": "7", "life": "1d"},
    "login.approve": {"user": "alice"},
    "key.create": {"user": "alice", "life": "1h"},
}


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_an_entry_is_complete(action: Action) -> None:
    assert action.label
    assert len(action.help) > 5
    assert action.screens <= set(SCREENS)
    assert (action.tier > 0) == (action.needs_write and action.kind not in LOOKS)
    assert not action.kind or action.kind in KINDS
    assert BY_ID[action.id] is action


def test_every_kind_of_request_has_an_action() -> None:
    assert {action.kind for action in ACTIONS if action.kind} == set(KINDS)


def test_every_write_has_a_conflict_path_and_a_blast_radius_or_a_reason() -> None:
    kinds = {action.kind for action in ACTIONS if action.tier}
    seeing = {kind for kind in kinds if SEEN.intersection(KINDS[kind].__struct_fields__)}
    assert kinds - seeing == NO_CONFLICT.keys()
    assert not TOUCHES.keys() & UNCOUNTED.keys()
    assert kinds == TOUCHES.keys() | UNCOUNTED.keys()
    # Whoever wants a reason says so in the registry; help and palette tell it from there.
    wanting = {action.id for action in ACTIONS if action.tier > 2 or action.reason_when}
    assert wanting == {"lease.release", "plan.approve", "policy.edit", "policy.rollback", "policy.write"}
    for action in ACTIONS:
        assert bool(asked_of(action)) == bool(action.tier)
        assert ("reason" in asked_of(action)) == (action.id in wanting)
        # What is deleted, drained or handed over is typed.
        heavy = action.id.endswith((".delete", ".drain", ".suspend", ".release", ".rollback"))
        assert not heavy or action.tier > 1, action.id


@pytest.mark.parametrize("screen", SCREENS)
def test_keys_are_unique_on_a_screen(screen: str) -> None:
    counts = Counter(action.key for action in actions_of(screen))
    assert [key for key, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("screen", SCREENS)
def test_help_names_every_action(screen: str) -> None:
    def obstacle(action: Action) -> str:
        return "no row is selected" if action.needs_row else ""

    purpose = ConsoleApp.MODES[screen].HELP
    plain = help_text(screen, purpose, REGISTRY_KEYS, Pen(), 40, obstacle).plain
    assert all(len(line) <= 40 for line in plain.splitlines())
    words = " ".join(plain.split())
    assert words.startswith(purpose)
    for action in actions_of(screen):
        why = f" not now: {obstacle(action)}" if action.needs_row else ""
        words_of = f"{REGISTRY_KEYS.shown(action)} {action.label} {asked_of(action)} {action.help}{why}"
        assert " ".join(words_of.split()) in words, action.id


@pytest.mark.parametrize("screen", SCREENS)
def test_the_footer_is_ranked(screen: str) -> None:
    ranks = [action.rank for action in footer_of(screen)]
    assert ranks == sorted(set(ranks))


def test_only_capitals_delete() -> None:
    assert {action.key for action in ACTIONS if "delete" in action.id} == {"D"}


def test_why_not() -> None:
    fine: dict[str, Any] = {"read_only": "", "linked": True, "has_row": True}
    expire, look = BY_ID["device.expire"], BY_ID["list.filter"]
    assert why_not(expire, **fine) == ""
    assert "read-only" in why_not(expire, **fine | {"read_only": READ_ONLY})
    assert "not connected" in why_not(expire, **fine | {"linked": False})
    assert "no row" in why_not(expire, **fine | {"has_row": False})
    assert why_not(look, read_only=READ_ONLY, linked=False, has_row=False) == ""


@pytest.mark.parametrize("screen", SCREENS)
async def test_the_palette_offers_every_action_with_its_key(screen: str) -> None:
    async with running(filled(), screen) as (app, pilot):
        await shown(app, pilot)
        provider = RegistryCommands(app.screen)
        hits = [hit async for hit in provider.discover()]
        assert all(isinstance(hit, DiscoveryHit) for hit in hits)
        by_title = {str(hit.display): hit.help or "" for hit in hits}
        for action in actions_of(screen):
            assert by_title[title_of(action)].startswith(REGISTRY_KEYS.shown(action))
            assert asked_of(action) in by_title[title_of(action)]


@pytest.mark.parametrize("screen", SCREENS)
def test_every_action_is_implemented(screen: str) -> None:
    for action in actions_of(screen):
        noun, _, verb = action.id.partition(".")
        name = f"do_{noun}_{verb}"
        is_place = noun == "screen" and verb in ConsoleApp.MODES
        assert is_place or hasattr(ConsoleApp.MODES[screen], name) or hasattr(ConsoleApp, name), action.id


@pytest.mark.parametrize(("screen", "action_id"), WRITES)
async def test_a_write_asks_first_and_leaves_one_request(screen: str, action_id: str) -> None:
    """By key: what it touches is counted, whether it can be undone is told, and it says what it saw."""
    action = BY_ID[action_id]
    store = filled()
    async with running(store, screen) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        await pilot.press(action.key)
        if action_id == "policy.write":
            await until(pilot, lambda: "Write a policy" in text(app), "the tenant")
            await pilot.pause()
            await pilot.click("#submit")
        if action_id in ("policy.edit", "policy.write"):
            await until(pilot, lambda: "Go on" in text(app), "the editor")
            await pilot.pause()
            app.screen.query_one("#text").text = "{}"  # type: ignore[attr-defined]
            await pilot.click("#submit")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog | FormDialog), "a dialog")
        dialog = app.screen
        assert isinstance(dialog, ConfirmDialog | FormDialog)
        assert re.search("undone", dialog.effect, re.IGNORECASE), dialog.effect
        if isinstance(dialog, ConfirmDialog):
            assert app.focused is not None
            assert app.focused.id == "cancel"
            assert bool(dialog.typed) == (action.tier > 1)
            assert bool(dialog.why) == (action.tier > 2)
            await pilot.press("y")
            if action.tier > 1:
                await pilot.pause()
                assert app.screen is dialog
                dialog.query_one("#typed").value = dialog.typed  # type: ignore[attr-defined]
                await pilot.press("enter")
            if action.tier > 2:
                dialog.query_one("#reason").value = "because of this"  # type: ignore[attr-defined]
                await pilot.press("enter")
        else:
            for name, value in TYPED[action_id].items():
                dialog.query_one(f"#{name}").value = value  # type: ignore[attr-defined]
            await pilot.click("#submit")
        await until(pilot, lambda: store.asked, "a request")
        assert [ask.kind for ask in store.asked] == [action.kind]
        args = store.asked[0].args
        parse_request(action.kind, args)
        assert action.kind in NO_CONFLICT or any(args.get(name) is not None for name in SEEN)
        counted = [touched_by([store.asked[0]])] if action.kind in TOUCHES else []
        # A form counts again when another answer touches something else.
        assert store.touched[-1:] == [touched for touched in counted if touched is not None]
        assert base.console.feed_pending == 1


@pytest.mark.parametrize("screen", SCREENS)
async def test_nothing_is_asked_when_a_dialog_is_left(screen: str) -> None:
    store = filled()
    async with running(store, screen) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        for action in actions_of(screen):
            if action.tier:
                await pilot.press(action.key)
                await until(pilot, lambda: app.screen is not base, "a dialog")
                await pilot.press("escape")
                await until(pilot, lambda: app.screen is base, "the list")
        assert store.asked == []


@pytest.mark.parametrize("screen", SCREENS)
async def test_read_only_refuses_every_write_with_the_reason(screen: str) -> None:
    store = filled()
    store.writable = False
    async with running(store, screen) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up, "link")
        assert "| RO |" in text(app)
        for action in actions_of(screen):
            if action.needs_write:
                assert base.check_action("command", (action.id,)) is None
                await base.action_command(action.id)
                assert app.screen is base
                assert toasts(app)[-1] == f"{action.label}: this console is read-only"


async def test_help_and_palette_open_by_key() -> None:
    async with running(filled()) as (app, pilot):
        base = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        # Beside the list, which keeps the arrows: what cannot be done now says why.
        await pilot.press("question_mark", "down")
        assert base.query_one(HelpPanel).display
        await until(pilot, lambda: "► device-0002" in text(app) and "End a device's login now" in text(app))
        app.store.writable = False
        app.tick()
        await until(pilot, lambda: "not now: this console is" in text(app))
        await pilot.press("3")
        await until(pilot, lambda: "Who owns devices" in text(app), "the help of the next screen")
        await pilot.press("question_mark")
        assert not app.base.query_one(HelpPanel).display  # type: ignore[union-attr]
        await pilot.press("2")
        # Over the list where there is no room, until esc or another screen.
        await pilot.resize_terminal(80, 24)
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.focused, HelpPanel), "the help over the list")
        await pilot.press("escape")
        assert base.table.has_focus
        await pilot.press("question_mark", "1")
        await until(pilot, lambda: app.base and app.base.NAME == "overview" and "CLUSTER" in text(app))
        await pilot.press("2")
        await until(pilot, lambda: app.base is base)
        await pilot.press("ctrl+p")
        assert isinstance(app.screen, CommandPalette)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is base, "the list")
        await pilot.press("colon")
        assert isinstance(app.screen, CommandPalette)


async def test_go_to_leads_to_a_screen_and_a_filter() -> None:
    store = filled()
    async with running(store, "overview") as (app, pilot):
        await shown(app, pilot)
        await pilot.press("colon")
        app.screen.query_one("Input").value = "dev @eu-1 os:linux"  # type: ignore[attr-defined]
        await until(pilot, lambda: "go to devices" in text(app), "the hit")
        await pilot.press("enter")
        await until(pilot, lambda: app.base and app.base.NAME == "devices", "devices")
        await until(pilot, lambda: store.views and len(store.views[-1].terms) == 2, "the filter")
        assert [term.field for term in store.views[-1].terms] == ["cluster", "os"]


#: What is typed after `:` -> what must be offered, and where enter on it leads: screen, filter, row.
OFFERED = [
    ("devices @us", "go to devices @us-2", ("devices", "@us-2", None)),
    ("us", "cluster us-2", ("overview", "", "us-2")),
    ("tenants tenant-3", "tenant tenant-3  (eu-1)", ("tenants", "id=3", "3")),
    ("alice", "user alice  (eu-1)  of eu-1", ("users", "id=9", "1/9")),
    ("device-0007", "device device-0007  (eu-1)  of eu-1", ("devices", "id=7", "1/7")),
]


async def test_names_are_completed_in_the_palette_and_lead_to_what_they_name() -> None:
    store = filled()
    store.clusters.append(cluster("eu-[red]1", devices=0))
    async with running(store, "jobs") as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        for typed, offered, (screen, filter_text, key) in OFFERED:
            await pilot.press("ctrl+p" if typed == "us" else "colon")
            await until(pilot, lambda: isinstance(app.screen, CommandPalette))
            app.screen.query_one("Input").value = typed  # type: ignore[attr-defined]
            offers = app.screen.query_one(CommandList)
            await until(pilot, lambda offered=offered: offered in text(app), offered)
            offers.highlighted = next(
                n
                for n, option in enumerate(offers.options)
                if offered in str(option.hit.match_display)  # type: ignore[attr-defined]
            )
            await pilot.press("enter")
            if screen == "devices" and key:
                await until(pilot, lambda: isinstance(app.screen, RecordScreen), "the record")
                await pilot.press("escape")
            await until(
                pilot,
                lambda screen=screen, filter_text=filter_text: (
                    app.base and (app.base.NAME, app.base.filter_text) == (screen, filter_text)
                ),
                typed,
            )
            if key is not None:
                await until(
                    pilot,
                    lambda key=key: app.base and app.base.is_ready and app.base.table.cursor_key == key,
                    typed,
                )
        # A name is no markup, and a database that is away is told of, nothing more.
        await pilot.press("colon")
        app.screen.query_one("Input").value = "devices @eu-["  # type: ignore[attr-defined]
        await until(pilot, lambda: "go to devices @eu-[red]1" in text(app))
        store.error = Unavailable("[bold]gone")
        app.screen.query_one("Input").value = "devices webs"  # type: ignore[attr-defined]
        await until(pilot, lambda: "names are not known now: [bold]gone" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ListScreen))


async def test_the_palette_lists_what_cannot_be_done_with_the_reason() -> None:
    store = filled()
    store.alarms = [replace(store.alarms[1], acknowledged_by="console:[red]")]
    async with running(store, "overview") as (app, pilot):
        await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up)
        await pilot.press("ctrl+p", *"acknow")
        await until(pilot, lambda: "not now: console:[red] knows of it already)" in text(app))
