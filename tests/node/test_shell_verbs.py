"""The shell as operators and headscale users type it, beside a running server and without one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.node.support import (
    DEADLINE_S,
    Administration,
    ServeProcess,
    clean_environment,
    device,
    eventually,
    free_port,
    join,
    own_id,
)
from tests.programs import ShellResult, run_shell


class Shell:
    """Commands in one tenant of the module's server."""

    def __init__(self, serve: ServeProcess, tenant: str) -> None:
        self._serve = serve
        self._tenant = tenant

    async def run(self, *arguments: str, stdin: str = "") -> ShellResult:
        return await self._serve.shell(*arguments, "--tenant", self._tenant, stdin=stdin)

    async def json(self, *arguments: str) -> Any:
        result = await self.run(*arguments, "-o", "json")
        assert result.code == 0, result.err
        return json.loads(result.out)

    async def refused(self, *arguments: str, code: int = 1, stdin: str = "") -> str:
        """The one line on stderr."""
        result = await self.run(*arguments, stdin=stdin)
        assert result.code == code, (result.out, result.err)
        assert "Traceback" not in result.err
        return result.err.strip()


@pytest.fixture
async def shell(serve: ServeProcess, place: Administration) -> Shell:
    return Shell(serve, place.tenant.name)


# -- users ----------------------------------------------------------------------------------------


async def test_users_from_birth_to_end(shell: Shell) -> None:
    made = await shell.json("users", "create", "alice", "-d", "Alice A.", "-e", "a@example.org")
    assert (made["name"], made["display_name"], made["email"]) == ("alice", "Alice A.", "a@example.org")
    await shell.json("user", "new", "bob")
    assert [user["name"] for user in await shell.json("users", "ls")] == ["alice", "bob"]
    assert [user["name"] for user in await shell.json("users", "list", "-n", "bob")] == ["bob"]
    assert [user["name"] for user in await shell.json("users", "list", "-e", "a@example.org")] == ["alice"]
    assert (await shell.json("users", "rename", "alice", "-r", "anna"))["name"] == "anna"
    assert (await shell.json("users", "rename", "-i", str(made["id"]), "-r", "alice"))["id"] == made["id"]
    await shell.json("preauthkeys", "create", "-u", "alice")
    gone = await shell.json("users", "delete", "-n", "alice", "--yes")
    assert gone == {"id": made["id"], "name": "alice", "auth_keys": 1, "deleted": True}
    assert [user["name"] for user in await shell.json("users", "list")] == ["bob"]
    assert await shell.json("preauthkeys", "list") == []


async def test_destroying_asks_and_names_what_goes(shell: Shell) -> None:
    await shell.json("users", "create", "alice")
    await shell.json("preauthkeys", "create", "-u", "alice")
    said = await shell.refused("users", "destroy", "alice", stdin="n\n")
    assert "'alice'" in said
    assert "1 auth key" in said
    assert said.endswith("aborted")
    assert await shell.refused("users", "destroy", "alice", stdin="")
    assert (await shell.run("users", "destroy", "alice", stdin="y\n")).code == 0
    assert await shell.json("users", "list") == []


async def test_a_user_with_devices_stays(serve: ServeProcess, shell: Shell, place: Administration) -> None:
    async with device(serve.url, await place.auth_key("alice")) as laptop:
        await join(laptop)
        assert "devices" in await shell.refused("users", "destroy", "alice", "--force")


# -- auth keys ------------------------------------------------------------------------------------


async def test_auth_keys_from_birth_to_end(serve: ServeProcess, shell: Shell) -> None:
    alice = await shell.json("users", "create", "alice")
    key = await shell.json("authkey", "create", "-u", str(alice["id"]), "--reusable", "-e", "7d")
    assert key["reusable"]
    assert not key["ephemeral"]
    tagged = await shell.json("pre", "create", "--tags", "tag:web,tag:db", "--ephemeral", "-e", "0")
    assert tagged["tags"] == ["tag:db", "tag:web"]
    assert tagged["expiration"] is None
    async with device(serve.url, key["key"]) as laptop, device(serve.url, key["key"]) as late:
        await join(laptop)
        assert (await shell.json("preauthkeys", "expire", "-i", str(key["id"])))["revoked"]
        assert (await late.register()).get("Error")
        said = await shell.refused("preauthkeys", "delete", str(key["id"]), stdin="n\n")
        assert key["prefix"] in said
        assert (await shell.json("preauthkeys", "delete", "-i", str(key["id"]), "-y"))["deleted"]
        assert [row["id"] for row in await shell.json("preauthkeys", "list")] == [tagged["id"]]
        assert len(await shell.json("nodes", "list")) == 1
        assert (await shell.json("nodes", "show", str(own_id(laptop))))["auth_key_id"] is None
    assert "no auth key" in await shell.refused("preauthkeys", "delete", str(key["id"]), "-y")


# -- devices --------------------------------------------------------------------------------------


async def test_what_is_done_to_a_device_its_peer_sees_at_once(
    serve: ServeProcess, shell: Shell, place: Administration
) -> None:
    key = await place.auth_key("alice")
    bob = await place.user("bob")
    async with device(serve.url, key) as a, device(serve.url, key, hostname="laptop") as b:
        await join(a)
        await join(b)
        number = str(own_id(b))

        def peer(netmap: Any) -> dict[str, Any]:
            return next(iter(netmap.peers.values()), {})

        await a.wait_for(lambda netmap: peer(netmap).get("Name", "").startswith("laptop."), DEADLINE_S)
        assert (await shell.json("nodes", "rename", "desk", "-i", number))["name"] == "desk"
        await a.wait_for(lambda netmap: peer(netmap)["Name"].startswith("desk."), DEADLINE_S)
        moved = await shell.json("nodes", "move-user", "desk", "--user", "bob")
        assert moved["user"] == "bob"
        await a.wait_for(lambda netmap: peer(netmap)["User"] == bob.id, DEADLINE_S)
        assert [row["id"] for row in await shell.json("nodes", "list", "-u", "bob")] == [own_id(b)]
        until = await shell.json("nodes", "expire", "desk", "-e", "2099-01-31T12:00:00Z")
        assert until["expiry"] == "2099-01-31T12:00:00+00:00"
        assert (await shell.json("node", "expire", "-i", number, "--disable"))["expiry"] is None
        tagged = await shell.json("nodes", "tag", "-i", number, "-t", "tag:web", "-t", "tag:db")
        assert (tagged["user"], tagged["tags"]) == ("tagged-devices", ["tag:db", "tag:web"])
        await a.wait_for(lambda netmap: peer(netmap).get("Tags") == ["tag:db", "tag:web"], DEADLINE_S)
        assert (await shell.json("nodes", "logout", "desk"))["expiry"] is not None
        await a.wait_for(lambda netmap: peer(netmap).get("KeyExpiry", "").startswith("20"), DEADLINE_S)
        said = await shell.refused("nodes", "delete", "desk", stdin="n\n")
        assert "'desk'" in said
        assert tagged["ip_addresses"][0] in said
        assert (await shell.json("nodes", "delete", "-i", number, "--yes"))["name"] == "desk"
        await a.wait_for(lambda netmap: not netmap.peers, DEADLINE_S)


async def test_show_tells_everything_about_a_device(
    serve: ServeProcess, shell: Shell, place: Administration
) -> None:
    async with device(serve.url, await place.auth_key(), hostname="laptop", os="macOS") as laptop:
        await join(laptop)
        await laptop.update(endpoints=["192.0.2.7:41641"])

        async def stored() -> bool:
            return bool((await shell.json("nodes", "show", "laptop"))["endpoints"])

        await eventually(stored, "the endpoint is stored")
        shown = await shell.json("nodes", "show", "-i", "laptop")
        assert shown["os"] == "macOS"
        assert shown["endpoints"] == ["192.0.2.7:41641"]
        assert shown["online"]
        assert shown["node_key"].startswith("nodekey:")
        table = (await shell.run("nodes", "show", "laptop")).out
        assert re.search(r"^machine_key +mkey:[0-9a-f]{64}", table, re.M)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nodes", "show", "nobody"), 1, "there is no device 'nobody'"),
        (("nodes", "show", "99999999999999999999"), 1, "error: "),
        (("nodes", "rename", "Not A Label", "-i", "1"), 1, "error: "),
        (("nodes", "list", "-u", "nobody"), 1, "there is no user 'nobody'"),
        (("nodes", "expire", "1", "-e", "tomorrow"), 2, "--expiry"),
        (("nodes", "expire", "1", "-e", "1999-01-01"), 2, "2000"),
        (("nodes", "expire", "1", "-e", "1h", "-d"), 2, "exclude each other"),
        (("nodes", "delete"), 2, "name one device"),
        (("nodes", "delete", "1", "-i", "2"), 2, "name one device"),
        (("nodes", "tag", "1"), 2, "--tags"),
        (("users", "rename", "alice"), 2, "--new-name"),
        (("users", "destroy"), 2, "name one user"),
        (("users", "crate"), 2, "Did you mean"),
        (("preauthkeys", "create", "-e", "1h"), 1, "needs a user or tags"),
        (("preauthkeys", "create", "-u", "alice", "-e", "soon"), 2, "--expiration"),
        (("preauthkeys", "expire", "-i", "x"), 2, "valid integer"),
    ],
)
async def test_refusals_are_one_line(shell: Shell, arguments: tuple[str, ...], code: int, words: str) -> None:
    said = await shell.refused(*arguments, code=code)
    assert words in said
    assert said.startswith("error: ")
    assert "\n" not in said


# -- output ---------------------------------------------------------------------------------------

HOSTILE = "\u202eevil\u009b31m[red]x"


async def test_every_form_of_output(shell: Shell, place: Administration) -> None:
    await place.user("alice", display_name=HOSTILE)
    await place.user("bob")
    table, lines, text = [
        (await shell.run("users", "list", "-o", form)).out for form in ("table", "json-line", "yaml")
    ]
    assert "\\u202eevil\\x9b31m[red]x" in table
    assert [json.loads(line)["name"] for line in lines.splitlines()] == ["alice", "bob"]
    assert json.loads(lines.splitlines()[0])["display_name"] == HOSTILE
    assert yaml.safe_load(text)[0]["display_name"] == HOSTILE
    for shown in (table, lines, text):
        assert "\u202e" not in shown
        assert "\u009b" not in shown


async def test_common_options_may_stand_in_front(serve: ServeProcess) -> None:
    result = await serve.shell("-o", "json", "users", "list")
    assert json.loads(result.out) == []
    result = await serve.shell("-c", "/nowhere.yaml", "users", "list")
    assert result.code == 2
    assert "/nowhere.yaml" in result.err


async def test_help_names_the_aliases() -> None:
    env = clean_environment({})
    assert "preauthkeys (preauthkey, authkeys, authkey, pre)" in (await run_shell(env, "--help")).out
    result = await run_shell(env, "users", "--help")
    assert "destroy (delete, rm)" in result.out
    assert (await run_shell(env, "version")).out.startswith("hs-node, version ")
    assert set(json.loads((await run_shell(env, "version", "-o", "json")).out)) == {"version"}


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("apikeys list", "not built yet"),
        ("nodes list-routes", "hs-node routes list"),
        ("nodes register --user a --key b", "hs-node auth approve"),
        ("dumpConfig", "hs-node config check"),
    ],
)
async def test_headscales_other_commands_say_what_to_do_instead(command: str, instead: str) -> None:
    result = await run_shell(clean_environment({}), *command.split())
    assert (result.code, result.out) == (2, "")
    assert instead in result.err
    assert len(result.err.splitlines()) == 1


async def test_health_asks_the_running_server(serve: ServeProcess) -> None:
    well = await serve.shell("health", "-o", "json")
    assert (well.code, json.loads(well.out)) == (
        0,
        [{"cluster": serve.cluster, "state": "owner", "database": "pass"}],
    )
    elsewhere = {**serve.env, "HS_METRICS_LISTEN_ADDR": f"127.0.0.1:{free_port()}"}
    nobody = await run_shell(elsewhere, "health")
    assert (nobody.code, nobody.out) == (1, "")
    assert nobody.err.startswith("error: metrics_listen_addr: no server answers at http://127.0.0.1:")
    other = await run_shell({**serve.env, "HS_METRICS_LISTEN_ADDR": f"127.0.0.1:{serve.port}"}, "health")
    assert other.code == 0  # the clients' address tells it as well


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
async def test_completion(kind: str) -> None:
    script = await run_shell(clean_environment({}), "completion", kind)
    assert script.code == 0
    assert f"_HS_NODE_COMPLETE={kind}_complete" in script.out
    words = {"_HS_NODE_COMPLETE": "bash_complete", "COMP_WORDS": "hs-node users d", "COMP_CWORD": "2"}
    offered = await run_shell(clean_environment(words))
    assert offered.out.split() == ["plain,destroy"]
