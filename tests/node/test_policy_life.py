"""Tags, routes and policies between real processes and devices: what is asked for, allowed, and stored."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.client.device import SimulatedDevice
from app.model import Device
from tests.node.support import (
    QUICK,
    Administration,
    ServeProcess,
    admin,
    device,
    eventually,
    fresh_database,
    join,
    peer,
    run_sql,
)
from tests.node.test_login import approve

TEN, NET, EXIT = "10.0.0.0/8", "192.0.2.0/24", ["0.0.0.0/0", "::/0"]
POLICY = """{
    "groups": {"group:ops": ["alice@"]},
    "tagOwners": {"tag:mine": ["group:ops"], "tag:all": ["autogroup:member"], "tag:next": ["tag:mine"],
                  "tag:none": [], "tag:admins": ["autogroup:admin"]},
    "autoApprovers": {"routes": {"10.0.0.0/8": ["group:ops"], "192.0.2.0/24": ["tag:mine"]},
                      "exitNode": ["tag:mine"]},
}"""


async def set_policy(serve: ServeProcess, place: Administration, text: str = POLICY) -> None:
    """Set by somebody else, and in force."""
    stored = await place.scoped.set_policy(place.tenant.id, text, author="test")

    async def in_force() -> bool:
        lines = [line for line in serve.log().splitlines() if "policy_in_force" in line]
        return any(f"tenant={place.tenant.id} version={stored.version} " in line for line in lines)

    await eventually(in_force, "the policy is in force")


def tagged(url: str, key: str | None, *tags: str, routes: list[str] | None = None) -> SimulatedDevice:
    """A device of `tailscale up --advertise-tags --advertise-routes`."""
    simulated = device(url, key)
    simulated.hostinfo |= {"RequestTags": list(tags), "RoutableIPs": routes or []}
    return simulated


@pytest.mark.parametrize(
    ("user", "tags", "refused"),
    [
        ("alice", ("tag:mine",), ""),
        ("alice", ("tag:mine", "tag:all"), ""),
        ("bob", ("tag:all",), ""),
        ("bob", ("tag:mine",), "tag:mine"),
        ("bob", ("tag:all", "tag:mine", "tag:none"), "tag:mine tag:none"),
        ("bob", ("tag:admins",), "tag:admins"),
        ("alice", ("tag:next",), "tag:next"),
        ("alice", ("tag:unknown",), "tag:unknown"),
        ("alice", ("no tag",), "no tag"),
    ],
)
async def test_tags_asked_for(
    serve: ServeProcess, place: Administration, user: str, tags: tuple[str, ...], refused: str
) -> None:
    key = await place.auth_key(user, reusable=False)
    for name in ("alice", "bob"):
        await place.user(name)
    await set_policy(serve, place)
    async with tagged(serve.url, key, *tags) as simulated:
        answer = await simulated.register()
        if not refused:
            assert not answer["Error"]
            (found,) = await place.devices()
            assert (found.tags, found.user_id, found.expiry) == (tuple(sorted(tags)), None, None)
            assert answer["User"]["DisplayName"] == "Tagged Devices"
            return
        assert answer["Error"] == f"requested tags [{refused}] are invalid or not permitted"
        assert await place.devices() == []
        # Nothing was used up.
        simulated.hostinfo["RequestTags"] = []
        await join(simulated)


async def test_without_a_policy_nobody_owns_a_tag(serve: ServeProcess, place: Administration) -> None:
    async with tagged(serve.url, await place.auth_key(), "tag:mine") as simulated:
        answer = await simulated.register()
        assert answer["Error"] == "requested tags [tag:mine] are invalid or not permitted"


async def test_a_role_counts_as_soon_as_it_is_given(serve: ServeProcess, place: Administration) -> None:
    await set_policy(serve, place)
    key = await place.auth_key("bob")
    user = await place.user("bob")
    async with tagged(serve.url, key, "tag:admins") as simulated:
        assert (await simulated.register())["Error"]
        assert await place.scoped.set_user_role(place.tenant.id, user.id, "admin")

        async def let_in() -> bool:
            return not (await simulated.register())["Error"]

        await eventually(let_in, "an admin takes the tag")


async def test_tags_of_a_key_win(serve: ServeProcess, place: Administration) -> None:
    await set_policy(serve, place)
    key = await place.auth_key(None, tags=("tag:key",))
    async with tagged(serve.url, key, "tag:none") as simulated:
        await join(simulated)
        assert (await place.device(simulated.hostname)).tags == ("tag:key",)


@pytest.mark.parametrize(("user", "let_in"), [("alice", True), ("bob", False)])
async def test_tags_with_a_login_are_judged_by_who_approved_it_is_for(
    serve: ServeProcess, place: Administration, user: str, let_in: bool
) -> None:
    await place.user(user)
    await set_policy(serve, place)
    async with tagged(serve.url, None, "tag:mine") as simulated:
        url = (await simulated.register())["AuthURL"]
        assert url
        await approve(place, url, user)
        answer = await simulated.register(Followup=url)
        if let_in:
            assert not answer["Error"]
            assert (await place.device(simulated.hostname)).tags == ("tag:mine",)
        else:
            assert answer["Error"] == "requested tags [tag:mine] are invalid or not permitted"
            assert await place.devices() == []


async def test_one_device_from_user_to_tags_and_back(serve: ServeProcess, place: Administration) -> None:
    """Peers see the same device all the time; a restart changes nothing of it."""
    key = await place.auth_key("alice")
    await set_policy(serve, place)
    async with device(serve.url, key) as watcher, tagged(serve.url, key) as simulated:
        await join(watcher)
        await join(simulated)
        first = await place.device(simulated.hostname)
        for tags, then in (
            (["tag:mine"], ("tag:mine",)),
            (["tag:next"], ("tag:next",)),
            (["tag:none"], ("tag:next",)),
            ([], ()),
        ):
            simulated.hostinfo["RequestTags"] = tags
            answer = await simulated.rotate()
            assert bool(answer["Error"]) == (tags == ["tag:none"]), answer
            found = await place.device(simulated.hostname)
            assert (found.id, found.tags) == (first.id, then)

            def seen(_: Any, then: tuple[str, ...] = then) -> bool:
                row = peer(watcher, simulated)
                return row is not None and tuple(row.get("Tags") or ()) == then

            await watcher.wait_for(seen, 10)
            simulated.hostinfo["RequestTags"] = ["tag:mine"]
            await simulated.register()
            again = await place.device(simulated.hostname)
            assert (again.id, again.tags, again.user_id) == (found.id, found.tags, found.user_id)


# -- routes -----------------------------------------------------------------------------------------


async def routes_of(place: Administration, simulated: SimulatedDevice) -> tuple[list[str], list[str]]:
    found = await place.device(simulated.hostname)
    return list(found.announced_routes), list(found.approved_routes)


async def test_routes_announced_at_registration(serve: ServeProcess, place: Administration) -> None:
    await place.user("alice")
    await set_policy(serve, place)
    key = await place.auth_key("alice")
    async with tagged(serve.url, key, routes=["192.0.2.7/24", "10.1.0.0/16", *EXIT]) as simulated:
        await join(simulated)
        assert await routes_of(place, simulated) == (
            ["0.0.0.0/0", "10.1.0.0/16", NET, "::/0"],
            ["10.1.0.0/16"],
        )
    async with tagged(serve.url, key, "tag:mine", routes=[NET, TEN, *EXIT]) as simulated:
        await join(simulated)
        assert await routes_of(place, simulated) == (sorted([NET, TEN, *EXIT]), sorted([NET, *EXIT]))


async def test_routes_announced_later_and_no_more(serve: ServeProcess, place: Administration) -> None:
    await place.user("alice")
    await set_policy(serve, place)
    async with (
        device(serve.url, await place.auth_key("alice")) as simulated,
        device(serve.url, await place.auth_key("alice")) as watcher,
    ):
        await join(simulated)
        await join(watcher)
        for routes, approved in (([TEN], [TEN]), ([NET], [TEN]), ([], [TEN]), ([TEN, NET], [TEN])):
            await simulated.update(hostinfo={"RoutableIPs": routes})
            assert await routes_of(place, simulated) == (routes, approved)
        # Withdrawn, it stays so while the device goes on announcing it, also over a restart.
        found = await place.device(simulated.hostname)
        await place.scoped.unapprove_routes(place.tenant.id, found.id, [TEN])
        await simulated.update(hostinfo={"OSVersion": "2"})
        await simulated.register()
        assert await routes_of(place, simulated) == ([TEN, NET], [])
        await simulated.update(hostinfo={"RoutableIPs": []})
        await simulated.update(hostinfo={"RoutableIPs": [TEN]})
        assert await routes_of(place, simulated) == ([TEN], [TEN])
        await watcher.wait_for(lambda _: "OSVersion" in str(peer(watcher, simulated)), 10)
        assert (
            "RoutableIPs" not in orjson.dumps(watcher.netmap.peers, option=orjson.OPT_NON_STR_KEYS).decode()
        )


async def test_no_more_routes_of_a_policy_than_a_tenant_may_have(
    serve: ServeProcess, place: Administration
) -> None:
    """What the limit leaves out is not in the netmaps either, announced by a registration or later."""
    await place.user("alice")
    await set_policy(serve, place)
    await run_sql(serve.dsn, f"UPDATE tenants SET max_routes = 1 WHERE tenant_id = {place.tenant.id}")
    key = await place.auth_key("alice")
    async with (
        device(serve.url, key) as first,
        tagged(serve.url, key, routes=[TEN]) as second,
        device(serve.url, key) as watcher,
    ):
        await join(watcher)
        await join(first)
        await first.update(hostinfo={"RoutableIPs": [TEN]})
        assert await routes_of(place, first) == ([TEN], [TEN])
        await join(second)
        assert await routes_of(place, second) == ([TEN], [])
        await second.update(hostinfo={"RoutableIPs": []})
        await second.update(hostinfo={"RoutableIPs": [TEN]})
        assert await routes_of(place, second) == ([TEN], [])
        # The first goes away from the route: only the second could carry it, and may not.
        await watcher.wait_for(lambda _: TEN in str(peer(watcher, first)["AllowedIPs"]), 10)
        await first.update(hostinfo={"RoutableIPs": []})
        await watcher.wait_for(lambda _: TEN not in str(peer(watcher, first)["AllowedIPs"]), 10)
        assert TEN not in str(peer(watcher, second)["AllowedIPs"])


async def test_a_poll_says_nothing_about_routes(serve: ServeProcess, place: Administration) -> None:
    """Its Hostinfo may be older than that of a lite update (PROTOCOL.md 4.3)."""
    async with device(serve.url, await place.auth_key()) as simulated:
        await join(simulated)
        await simulated.update(hostinfo={"RoutableIPs": [TEN]})
        polls = simulated.polls
        simulated.hostinfo = {**simulated.hostinfo, "RoutableIPs": []}
        simulated.drop()
        await simulated.wait_for(lambda _: simulated.polls > polls, 10)
        await eventually(lambda: _is_announced(place, simulated, [TEN]), "its route is announced still")


async def _is_announced(place: Administration, simulated: SimulatedDevice, routes: list[str]) -> bool:
    return (await routes_of(place, simulated))[0] == routes


@pytest.mark.parametrize(
    ("routes", "sentence"),
    [
        (["nope"], "Hostinfo.RoutableIPs[0]: not an address prefix"),
        ([TEN, "10.0.0.0/33"], "Hostinfo.RoutableIPs[1]: not an address prefix"),
        (["10.0.0.0"], "Hostinfo.RoutableIPs[0]: not an address prefix"),
        ([TEN] * 257, "Hostinfo.RoutableIPs has 257 entries, more than 256"),
    ],
    ids=["text", "length", "address", "many"],
)
async def test_bad_routes_are_refused(
    serve: ServeProcess, place: Administration, routes: list[str], sentence: str
) -> None:
    async with device(serve.url, await place.auth_key()) as simulated:
        await join(simulated)
        for path, stream in (("/machine/map", False), ("/machine/register", None)):
            body = {"Version": 130, "NodeKey": f"nodekey:{simulated.node_key.hex()}", "Stream": stream,
                    "Hostinfo": {"Hostname": simulated.hostname, "RoutableIPs": routes}}  # fmt: skip
            status, answer = await (await simulated._connected()).request(path, orjson.dumps(body))
            assert status == 400
            assert sentence in answer.decode()
        assert await routes_of(place, simulated) == ([], [])


async def test_a_policy_that_changes_approves_what_is_announced(
    serve: ServeProcess, place: Administration
) -> None:
    key = await place.auth_key("alice")
    async with tagged(serve.url, key, routes=[TEN, NET]) as one, tagged(serve.url, key, routes=[TEN]) as two:
        await join(one)
        await join(two)
        assert await routes_of(place, one) == ([TEN, NET], [])
        await set_policy(serve, place)

        async def approved() -> bool:
            return [(await routes_of(place, each))[1] for each in (one, two)] == [[TEN], [TEN]]

        await eventually(approved, "both are approved")
        await set_policy(serve, place, "{}")
        assert await approved()


# -- the rest ---------------------------------------------------------------------------------------


async def test_check_mode_is_refused_with_a_sentence(serve: ServeProcess, place: Administration) -> None:
    async with device(serve.url, await place.auth_key()) as simulated:
        await join(simulated)
        connection = await simulated._connected()
        status, body = await connection.request("/machine/ssh/action/from/1/to/2", b"", method="GET")
    assert status == 200
    action = orjson.loads(body)
    assert action["reject"] is True
    assert action["message"].startswith("SSH check mode is not supported by this control server yet")
    assert action["message"].endswith("\n")
    assert action.keys() == {"message", "reject"}


BROKEN = '{\n  "acls": [}\n'
FAILING = '{"acls": [], "tests": [{"src": "alice@", "accept": ["100.64.0.1:22"]}]}'
OPEN = '{"tagOwners": {"tag:file": ["autogroup:member"]}}'


@pytest.fixture
async def filed(pg_server: str, tmp_path: Path) -> AsyncIterator[ServeProcess]:
    """A server whose home tenant has its policy in a file; not started yet."""
    path = tmp_path / "policy.hujson"
    async with fresh_database(pg_server) as dsn:
        process = ServeProcess(dsn, settings={**QUICK, "HS_POLICY__PATH": str(path)})
        try:
            yield process
        finally:
            if process.returncode is None and process.process is not None:
                await process.stop()
            await process.__aexit__(None, None, None)


def policy_path(process: ServeProcess) -> Path:
    return Path(process.env["HS_POLICY__PATH"])


async def test_a_bad_file_stops_the_start(filed: ServeProcess) -> None:
    path = policy_path(filed)
    for text, sentence in (
        (None, f"error: policy.path: cannot read {path}: No such file or directory"),
        (BROKEN, f"error: policy.path: {path}: line 2, column 12: expected a value, found '}}'"),
    ):
        if text is not None:
            path.write_text(text)
        await filed.start(wait=False)
        assert await filed.wait_ended() == 2
        assert sentence in filed.log()
    checked = await filed.shell("config", "check")
    assert checked.code == 2
    assert "line 2, column 12" in checked.out


async def test_a_file_is_read_again_on_sighup(filed: ServeProcess) -> None:
    path = policy_path(filed)
    path.write_text(OPEN)
    await filed.start()
    async with admin(filed.dsn) as place:
        assert await outcome(filed, place, "tag:file") == ""
        # The database has no say.
        await place.scoped.set_policy(place.tenant.id, "{}", author="test")
        for number, text in enumerate((BROKEN, FAILING), 1):
            path.write_text(text)
            filed.send(signal.SIGHUP)

            async def refused(number: int = number) -> bool:
                return filed.log().count("policy_file_refused") == number

            await eventually(refused, "it is refused")
        assert "line 2, column 12" in filed.log()
        assert "test(s) failed" in filed.log()
        assert await outcome(filed, place, "tag:file") == ""
        path.write_text(OPEN.replace("tag:file", "tag:new"))
        filed.send(signal.SIGHUP)

        async def taken() -> bool:
            return filed.log().count("policy_in_force") == 2

        await eventually(taken, "it is in force")
        refusal = "requested tags [tag:file] are invalid or not permitted"
        assert await outcome(filed, place, "tag:file") == refusal
        assert await outcome(filed, place, "tag:new") == ""
        assert "hs_policy_invalid{tenant=default}" not in await filed.metrics()
    # At a start a file that can be read is served, whatever its tests say.
    await filed.stop()
    path.write_text(FAILING)
    await filed.start()
    await eventually(lambda: _is_invalid(filed, "default"), "it is shouted about")
    assert "policy_invalid" in filed.log()


async def outcome(process: ServeProcess, place: Administration, tag: str) -> str:
    """The refusal that a new device of a user gets who asks for a tag; empty when it is let in."""
    async with tagged(process.url, await place.auth_key("alice"), tag) as simulated:
        error: str = (await simulated.register())["Error"]
        return error


async def _is_invalid(process: ServeProcess, tenant: str) -> bool:
    return (await process.metrics()).get(f"hs_policy_invalid{{tenant={tenant}}}") == 1


async def test_a_stored_policy_that_no_longer_passes_is_served_and_shouted_about(pg_server: str) -> None:
    async with (
        fresh_database(pg_server) as dsn,
        ServeProcess(dsn, settings=QUICK) as process,
        admin(dsn) as place,
    ):
        await place.user("alice")
        failing = OPEN[:-1] + ", " + FAILING[1:]
        await place.scoped.set_policy(place.tenant.id, failing, author="test")
        await process.stop()
        await process.start()
        await eventually(lambda: _is_invalid(process, "default"), "it is shouted about")
        line = next(line for line in process.log().splitlines() if "policy_invalid" in line)
        assert "error" in line.lower()
        assert await outcome(process, place, "tag:file") == ""
        await place.scoped.set_policy(place.tenant.id, OPEN, author="test")

        async def passes() -> bool:
            return "hs_policy_invalid{tenant=default}" not in await process.metrics()

        await eventually(passes, "it passes")


async def test_routes_that_somebody_stored_by_hand(serve: ServeProcess, place: Administration) -> None:
    """A client that cannot read one route of one peer would lose its whole map."""
    async with (
        device(serve.url, await place.auth_key()) as one,
        device(serve.url, await place.auth_key()) as two,
    ):
        await join(one)
        await join(two)
        found: Device = await place.device(one.hostname)
        routes = "{FD00::/8,10.0.0.0,192.0.2.0/24}"
        await run_sql(
            serve.dsn,
            f"UPDATE nodes SET announced_routes = '{routes}', approved_routes = '{routes}',"
            f" hostname = 'by-hand' WHERE id = {found.id}",
        )

        async def ignored() -> bool:
            return f"device={found.id}" in "".join(
                line for line in serve.log().splitlines() if "routes_ignored" in line
            )

        await eventually(ignored, "it is ignored")
        assert two.violations == []
