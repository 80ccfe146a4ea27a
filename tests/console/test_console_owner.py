"""From a key press to the device: the console asks, the owner carries it out, everybody sees it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from console import live
from console.dialogs import SecretDialog
from console.screens.record import RecordScreen
from console.store import PgStore
from tests.console.support import running, shown, text, toasts, until
from tests.node.kit import Recorder
from tests.node.support import (
    QUICK,
    ServeProcess,
    admin,
    clean_environment,
    device,
    eventually,
    fresh_database,
    has_peers,
    join,
    own_id,
    run_sql,
)
from tests.programs import ShellResult, run_shell

REBUILT = r"rebuild {}: done, {}, [\d,]+ bytes, [\d,]+ ms"


async def test_keys_and_devices_through_a_serving_owner(pg_server: str, tmp_path: Path) -> None:
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn) as serve, admin(dsn) as shell:
        await shell.user("alice")
        async with running(PgStore(dsn), "keys") as (app, pilot):
            await shown(app, pilot)
            await until(pilot, lambda: app.link.is_up)
            await pilot.press("a")
            await until(pilot, lambda: app.screen is not app.base)
            app.screen.query_one("#user").value = "alice"  # type: ignore[attr-defined]
            app.screen.query_one("#reusable").value = True  # type: ignore[attr-defined]
            await pilot.click("#submit")
            await until(pilot, lambda: isinstance(app.screen, SecretDialog))
            auth_key = app.screen._secret
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is app.base)
            await until(pilot, lambda: "active" in text(app))
            async with (
                device(serve.url, auth_key, hostname="one") as one,
                device(serve.url, auth_key, hostname="two") as two,
            ):
                await join(one)
                await join(two)
                await pilot.press("2")
                await until(pilot, lambda: text(app).count("● online") == 2)
                await pilot.press("r")
                await until(pilot, lambda: app.screen is not app.base)
                # How far that reaches is counted while it is read.
                await until(pilot, lambda: "1 device, 1 online now; up to 1 other may see" in text(app))
                # Another console is faster: who waited overwrites nothing, and is shown the difference.
                async with running(PgStore(dsn), "devices") as (other, its_pilot):
                    await shown(other, its_pilot)
                    await until(its_pilot, lambda: other.link.is_up and other.base is not None)
                    await its_pilot.press("r")
                    await until(its_pilot, lambda: other.screen is not other.base)
                    other.screen.query_one("#name").value = "renamed"  # type: ignore[attr-defined]
                    await its_pilot.click("#submit")
                    await until(its_pilot, lambda: "rename one: done" in toasts(other))
                app.screen.query_one("#name").value = "mine"  # type: ignore[attr-defined]
                await pilot.click("#submit")
                await until(pilot, lambda: "name: one -> renamed" in text(app), "the difference")
                assert "changed meanwhile" in toasts(app)[-1]
                await pilot.press("r")
                await until(pilot, lambda: app.screen is app.base)
                await until(pilot, lambda: "renamed" in text(app))
                await two.wait_for(
                    lambda netmap: any("renamed." in row["Name"] for row in netmap.peers.values()), 20
                )
                base = app.base
                assert base is not None
                # What the owner would tell the other device now, and what it told it last.
                base.table.move_to(next(key for key, row in base.rows.items() if row.name == "two"))
                await pilot.press("i")
                await until(pilot, lambda: re.search(r"1 peer now.*online.*renamed", text(app), re.S))
                await pilot.press("4")
                await until(pilot, lambda: "[4]map" in text(app))
                record = app.screen
                assert isinstance(record, RecordScreen)
                assert re.search(
                    r'none is recorded: it is live.*The last delta.*"Name": "renamed\.',
                    record.text.plain,
                    re.S,
                )
                await pilot.press("escape")
                await until(pilot, lambda: app.screen is base)
                words = ("do", "device.look", f"device_id={own_id(two)}", "-o", "json")
                told = await run_shell(clean_environment({"PG_DSN": dsn}), *words, program="console.cli")
                assert told.code == 0, told.err
                peers = json.loads(told.out)["result"]["would_get"]["Peers"]
                assert [row["Name"].partition(".")[0] for row in peers] == ["renamed"]
                # That somebody looked is in the log, and nothing that says a change.
                lines = await run_sql(dsn, "SELECT action FROM audit_log WHERE action LIKE '%look%'")
                assert [line[0] for line in lines] == ["request_device_look"] * 2
                base.table.move_to(next(key for key, row in base.rows.items() if row.name == "renamed"))
                await pilot.press("D", *"renamed", "enter")
                await until(pilot, lambda: "delete renamed: done" in toasts(app))
                await until(pilot, lambda: "1 device" in text(app))
                await has_peers(two)


async def test_a_cluster_and_a_user_are_rebuilt_by_key(pg_server: str) -> None:
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn) as serve, admin(dsn) as shell:
        alice, bob = await shell.auth_key("alice"), await shell.auth_key("bob")
        async with (
            Recorder(serve.url, alice, hostname="one") as one,
            Recorder(serve.url, bob, hostname="two") as two,
            running(PgStore(dsn), "overview") as (app, pilot),
        ):
            await join(one)
            await join(two)
            await has_peers(one, two)
            await has_peers(two, one)

            def maps() -> tuple[int, int]:
                first, second = (sum("Peers" in message for message in at.seen) for at in (one, two))
                return first, second

            before = maps()
            await shown(app, pilot)
            await until(pilot, lambda: app.link.is_up)
            await pilot.press("R")
            await until(pilot, lambda: app.screen is not app.base)
            await pilot.press("y")
            await until(pilot, lambda: app.said)
            assert re.fullmatch(REBUILT.format("cluster default", "2 devices, 2 frames"), toasts(app)[-1])
            await until(pilot, lambda: maps() == (before[0] + 1, before[1] + 1))
            await pilot.press("3")
            await until(pilot, lambda: "bob" in text(app))
            base = app.base
            assert base is not None
            base.table.move_to(next(key for key, row in base.rows.items() if row.name == "bob"))
            await pilot.press("R")
            await until(pilot, lambda: app.screen is not app.base)
            await pilot.press("y")
            await until(pilot, lambda: len(app.said) == 2)
            assert re.fullmatch(REBUILT.format("user bob", "1 device, 1 frame"), toasts(app)[-1])
            await until(pilot, lambda: maps() == (before[0] + 1, before[1] + 2))
            # What it made, and how long its stages took, is there to be read afterwards.
            await pilot.press("7")
            await until(pilot, lambda: app.base is not None and app.base.NAME == "netmap", "netmap")
            netmap = await shown(app, pilot)
            rebuilds = [row for row in netmap.rows.values() if row.event == "rebuild"]
            assert sorted((row.state, row.devices, row.maps) for row in rebuilds) == [
                ("done", 1, 1),
                ("done", 2, 2),
            ]
            netmap.table.move_to(netmap.key_of(rebuilds[0]))
            await until(pilot, lambda: re.search(r"read [\d,]+ ms \| make and send [\d,]+ ms", text(app)))


async def test_notifications_of_the_owner_are_enough(
    pg_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registration and presence reach the screen without the poll: the owner tells hs_fleet."""
    monkeypatch.setattr(live, "POLL_S", 3600.0)
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn, settings=QUICK) as serve:
        async with admin(dsn) as shell:
            auth_key = await shell.auth_key()
        async with running(PgStore(dsn), "devices") as (app, pilot):
            await shown(app, pilot)
            await until(pilot, lambda: app.link.is_up)
            async with device(serve.url, auth_key, hostname="one") as one:
                await join(one)
                await until(pilot, lambda: "● online" in text(app))
            await until(pilot, lambda: "○ offline" in text(app))


async def test_a_route_is_approved_and_a_policy_rolled_back_by_key(pg_server: str) -> None:
    """What waits is approved, and the other device hears of it; an old policy is put into force again."""
    net, failing = "10.7.0.0/16", '{"tests": [{"src": "alice@", "accept": ["alice@:1"]}], "acls": []}'
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn) as serve, admin(dsn) as shell:
        auth_key = await shell.auth_key("alice")
        await shell.scoped.set_policy(
            shell.tenant.id,
            '{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}',
            author="t",
        )
        await shell.scoped.set_policy(shell.tenant.id, '{"acls": []}', author="t")
        async with (
            Recorder(serve.url, auth_key, hostname="router") as router,
            Recorder(serve.url, auth_key, hostname="peer") as peer,
            running(PgStore(dsn), "policy") as (app, pilot),
        ):
            router.hostinfo |= {"RoutableIPs": [net]}
            await join(router)
            await join(peer)
            base = await shown(app, pilot)
            await until(pilot, lambda: app.link.is_up and len(base.rows) == 2)
            base.table.move_to(next(key for key, row in base.rows.items() if row.version == 1))

            async def reach() -> None:
                await base.action_command("policy.reach")
                await until(pilot, lambda: "Destination" in text(app), "the form")
                app.screen.query_one("#source").value = "peer"  # type: ignore[attr-defined]
                app.screen.query_one("#target").value = "router:22"  # type: ignore[attr-defined]
                await pilot.press("enter")

            await reach()
            await until(pilot, lambda: "peer -> router: not allowed" in text(app), "no way yet")
            assert "by version 2 of the policy" in text(app)
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is base)
            # What it would change is there to be read before it is sent.
            await base.action_command("policy.rollback")
            await until(pilot, lambda: "Cancel" in text(app), "the dialog")
            assert "2 pairs of devices gain access" in text(app)
            assert re.search(r"  (router, peer|peer, router) -> ", text(app)), text(app)
            assert "worked out from 2 devices and 1 user" in text(app)
            await pilot.press(*"default", "enter")
            await until(pilot, lambda: "policy of default, version 3: done" in toasts(app), "the policy")
            await has_peers(peer, router)
            await until(pilot, lambda: sorted(r.version for r in base.rows.values()) == [1, 2, 3])
            await reach()
            await until(pilot, lambda: "peer -> router: allowed" in text(app), "the way")
            assert "acl, line 1: * -> *, ports *" in text(app)
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is base)

            await pilot.press("5")
            await until(pilot, lambda: app.base is not None and app.base.NAME == "routes")
            routes = await shown(app, pilot)
            await until(pilot, lambda: [row.state for row in routes.rows.values()] == ["waiting"])
            await routes.action_command("route.approve")
            await until(pilot, lambda: "Cancel" in text(app), "the dialog")
            await pilot.press("y")
            await until(pilot, lambda: [row.state for row in routes.rows.values()] == ["approved"])
            await peer.wait_for(
                lambda netmap: any(net in row["AllowedIPs"] for row in netmap.peers.values()), 20
            )
            # What is no policy is not sent; why is told, with the line. One that fails its own tests takes a
            # reason, which stays in the audit log.
            await pilot.press("6")
            await until(pilot, lambda: app.base is base)

            async def edit(draft: str) -> None:
                await base.action_command("policy.edit")
                await until(pilot, lambda: "Go on" in text(app), "the editor")
                app.screen.query_one("#text").text = draft  # type: ignore[attr-defined]
                await pilot.press("tab", "tab", "enter")

            await edit("{")
            await until(pilot, lambda: "line 1" in toasts(app)[-1], "the reason")
            await until(pilot, lambda: app.screen is base, "the list")
            assert sorted(row.version for row in base.rows.values()) == [1, 2, 3]
            await edit(failing)
            await until(pilot, lambda: "test(s) failed" in text(app), "the dialog")
            await pilot.press(*"default", "enter", *"rollout of today", "enter")
            await until(pilot, lambda: "policy of default, version 4: done" in toasts(app), "it is in force")
            (asked,) = await run_sql(
                dsn,
                "SELECT after -> 'args' ->> 'reason', after -> 'args' ->> 'override' FROM audit_log"
                " WHERE action = 'request_policy_set' ORDER BY id DESC LIMIT 1",
            )
            assert tuple(asked) == ("rollout of today", "true")
            words = ("do", "policy.edit", f"text={failing}", "expected_version=4", "--yes")
            plain = await run_shell(clean_environment({"PG_DSN": dsn}), *words, program="console.cli")
            assert (plain.code, "test(s) failed" in plain.out) == (1, True)


async def test_actions_from_the_shell(pg_server: str) -> None:
    """`hs-console do`: the same requests, with the outcome and its exit code; audited alike."""
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn):

        async def do(*words: str) -> ShellResult:
            environment = clean_environment({"PG_DSN": dsn})
            return await run_shell(environment, "do", *words, "--yes", "-o", "json", program="console.cli")

        made = await do("user.create", "name=carol")
        assert made.code == 0, made.err
        user_id = json.loads(made.out)["result"]["user_id"]
        key = json.loads((await do("key.create", f"user_id={user_id}", "reusable=true")).out)
        assert key["secret"].startswith("hskey-auth-")
        assert key["state"] == "done"
        again = await do("user.create", "name=carol")
        assert again.code == 1
        assert "carol" in json.loads(again.out)["error"]
        wrong = await do("user.create", "nmae=carol")
        assert (wrong.code, "takes name=" in wrong.err) == (1, True)
        # What was seen goes with it; without the reason it wants nothing is sent; figures are only read.
        late = await do("user.rename", f"user_id={user_id}", "name=dora", 'seen={"name": "caro"}')
        assert (late.code, late.err) == (5, "name: caro -> carol\n")
        unexplained = await do("lease.release", "epoch=1")
        assert (unexplained.code, "--reason of 8 characters is wanted" in unexplained.err) == (1, True)
        counted = await do("key.delete", f"key_id={key['result']['key_id']}", "--dry-run")
        assert json.loads(counted.out)["touches"] == [
            "0 devices, 0 online now, joined with it and keep working.",
            "It ends 1 reusable key in force.",
        ]
        lines = await run_sql(
            dsn, "SELECT action, actor FROM audit_log WHERE action LIKE 'request%' ORDER BY id"
        )
        assert [line[0] for line in lines] == [
            "request_user_create",
            "request_key_create",
            "request_user_create",
            "request_user_rename",
        ]
        assert {line[1].partition(":")[0] for line in lines} == {"console"}


async def test_a_cluster_is_handed_over_and_keys_and_roles_change_by_key(pg_server: str) -> None:
    async with (
        fresh_database(pg_server) as dsn,
        ServeProcess(dsn) as serve,
        admin(dsn) as shell,
        running(PgStore(dsn), "keys") as (app, pilot),
    ):
        await shell.auth_key("alice")
        keys = await shown(app, pilot)
        await until(pilot, lambda: app.link.is_up and len(keys.rows) == 1)
        await pilot.press("D")
        await until(pilot, lambda: "Cancel" in text(app), "the dialog")
        await pilot.press("1", "enter")
        await until(pilot, lambda: "delete key 1: done" in toasts(app))
        await until(pilot, lambda: not keys.rows, "it is gone")
        await pilot.press("3")
        await until(pilot, lambda: app.base is not None and app.base.NAME == "users")
        await shown(app, pilot)
        await pilot.press("t")
        await until(pilot, lambda: "Cancel" in text(app), "the form")
        app.screen.query_one("#role").value = "admin"  # type: ignore[attr-defined]
        await pilot.click("#submit")
        await until(pilot, lambda: "role of alice: done" in toasts(app))
        assert [user.role for user in await shell.scoped.list_users(shell.tenant.id, "alice")] == ["admin"]
        # Alone it takes a reason; the process ends in order, and the lease is free.
        await pilot.press("0")
        await until(pilot, lambda: app.base is not None and app.base.NAME == "processes")
        await shown(app, pilot)
        await pilot.press("R")
        await until(pilot, lambda: "Nobody stands by" in text(app), "the dialog")
        await pilot.press(*"default", "enter", *"new host", "enter")
        await until(pilot, lambda: "hand default over: done" in toasts(app))

        async def free() -> bool:
            return [
                tuple(r) for r in await run_sql(dsn, "SELECT holder FROM leases WHERE name LIKE 'cl%'")
            ] == [("",)]

        await eventually(free, "the lease is given back")
        assert await serve.wait_ended() == 4
