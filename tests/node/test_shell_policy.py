"""`hs-node policy`, `routes` and `users role` on a real database, beside a running server."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest
import yaml

from app.policy.words import split_target
from tests.node.support import (
    Administration,
    ServeProcess,
    device,
    has_peers,
    join,
    own_id,
    run_sql,
)
from tests.node.test_shell_verbs import Shell
from tests.programs import run_shell

ALL = '{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}\n'
WEB = """{
  // the team reaches web servers
  "groups": {"group:team": ["alice@", "zoe@"]},
  "hosts": {"lan": "10.0.0.0/8"},
  "tagOwners": {"tag:web": ["group:team"]},
  "acls": [
    {"action": "accept", "src": ["group:team"], "dst": ["tag:web:80"]},
    {"action": "accept", "src": ["alice@"], "dst": ["lan:443"]},
  ],
  "autoApprovers": {"routes": {"10.1.0.0/16": ["tag:web"]}},
}
"""


def write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
async def shell(serve: ServeProcess, place: Administration) -> Shell:
    return Shell(serve, place.tenant.name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.hujson"
    path.write_text(WEB)
    return path


async def laptop_and_server(serve: ServeProcess, place: Administration) -> tuple[str, str]:
    """Names of alice's laptop and of a web server that announces two networks."""
    laptop = device(serve.url, await place.auth_key("alice"), hostname="laptop")
    server = device(serve.url, await place.auth_key(None, tags=("tag:web",)), hostname="server")
    server.hostinfo |= {"RoutableIPs": ["10.1.0.0/16", "10.2.0.0/16"]}
    async with laptop, server:
        await join(laptop)
        await join(server)
        await has_peers(laptop, server)
    for one in await place.devices():
        if one.hostname == "server":
            await place.scoped.set_device_routes(
                place.tenant.id, one.id, announced=("10.1.0.0/16", "10.2.0.0/16")
            )
    return "laptop", "server"


async def test_a_policy_from_first_to_rollback(
    serve: ServeProcess, shell: Shell, place: Administration, file: Path
) -> None:
    assert "has no policy: everybody reaches everybody" in await shell.refused("policy", "get")
    made = await shell.run("policy", "set", "-", "--yes", "-n", "all", "-o", "json", stdin=ALL)
    assert made.code == 0, made.err
    assert made.err == ""
    found = json.loads(made.out)
    assert (found["version"], found["changed"], found["warnings"]) == (1, True, [])
    assert (await shell.json("policy", "set", str(file), "--yes"))["version"] == 2
    assert (await shell.run("policy", "get")).out == WEB
    assert (await shell.run("policy", "get", "--version", "1")).out == ALL
    history = yaml.safe_load((await shell.run("policy", "history", "-o", "yaml")).out)
    author = f"shell:{getpass.getuser()}"
    assert [(row["version"], row["author"], row["note"]) for row in history] == [
        (2, author, ""),
        (1, author, "all"),
    ]
    diff = (await shell.run("policy", "diff", "1")).out.splitlines()
    assert diff[:2] == ["--- version 1", "+++ version 2"]
    assert ALL.strip() in [line[1:] for line in diff if line.startswith("-")]
    back = await shell.run("policy", "rollback", "1", stdin="y\n")
    assert back.code == 0, back.err
    assert "Put this policy into force" in back.err
    assert [
        (row["version"], row["note"]) for row in await shell.json("policy", "history", "--limit", "1")
    ] == [(3, "rollback to version 1")]
    assert (await shell.json("policy", "set", "-f", str(file), "-y"))["version"] == 4
    same = await shell.json("policy", "set", "-f", str(file), "-y")
    assert (same["version"], same["changed"]) == (4, False)
    audited = await run_sql(serve.dsn, "SELECT actor FROM audit_log WHERE action = 'policy_set'")
    assert {row[0] for row in audited} >= {author}


async def test_what_changes_is_shown_before_it_is_asked(
    serve: ServeProcess, shell: Shell, place: Administration, file: Path
) -> None:
    await laptop_and_server(serve, place)
    no = await shell.run("policy", "set", str(file), stdin="n\n")
    assert no.code == 1
    lines = no.err.splitlines()
    assert "warning: user zoe@ in group:team does not exist" in lines
    assert "2 pairs of devices lose access:" in lines
    assert "1 route approved by it:" in lines
    assert "  server 10.1.0.0/16" in lines
    assert no.err.rstrip().endswith("aborted")
    assert await shell.json("policy", "history") == []
    checked = await shell.run("policy", "check", str(file))
    assert checked.code == 0
    assert "2 pairs of devices lose access:" in checked.out
    found = await shell.json("policy", "check", str(file))
    assert found["impact"]["lost"]["pairs"] == 2
    assert [one["text"] for one in found["warnings"]] == [
        "this rule matches nothing now: no device is a target of it",
        "user zoe@ in group:team does not exist",
        "host lan (10.0.0.0/8) is no device's address, and no approved route leads there",
    ]
    assert await shell.json("policy", "history") == []


REFUSED = [
    ('{\n  "acls": [\n    {"action": "deny"}]}', ':3:16: action="deny" is not supported, only "accept"'),
    ('{"acl": []}', ':1:2: unknown field "acl" in the policy'),
    ('{"tests": [{"src": "alice@", "accept": ["nobody@:22"]}], "acls": []}', ":1:12: test(s) failed"),
]


async def test_a_refused_policy_changes_nothing(shell: Shell, file: Path, tmp_path: Path) -> None:
    await shell.json("policy", "set", str(file), "--yes")
    for number, (text, words) in enumerate(REFUSED):
        bad = tmp_path / f"bad{number}"
        write(bad, text)
        verb = ("check",) if number == 0 else ("set", "--yes")
        told = await shell.refused("policy", *verb, str(bad))
        assert told.startswith(f"error: {bad}{words}")
        assert "\n" not in told
    (row,) = await shell.json("policy", "history")
    assert row["version"] == 1


async def test_files_that_are_none_are_refused(shell: Shell, tmp_path: Path) -> None:
    assert "No such file" in await shell.refused("policy", "set", str(tmp_path / "none"), "-y")
    (tmp_path / "latin").write_bytes(b"\xff{}")
    assert "is not UTF-8" in await shell.refused("policy", "check", str(tmp_path / "latin"))
    assert "add --yes" in await shell.refused("policy", "set", "-", code=2)


async def test_only_the_version_that_was_expected_is_replaced(shell: Shell, file: Path) -> None:
    assert "there is none yet" in await shell.refused(
        "policy", "set", str(file), "-y", "--expect-version", "1"
    )
    assert (await shell.json("policy", "set", str(file), "-y", "--expect-version", "0"))["version"] == 1
    told = await shell.refused("policy", "set", str(file), "-y", "--expect-version", "0")
    assert "version 1 is in force, not version 0" in told
    told = await shell.refused("policy", "rollback", "1", "-y", "--expect-version", "5")
    assert "version 1 is in force, not version 5" in told


async def test_explain_and_who_can_reach(
    serve: ServeProcess, shell: Shell, place: Administration, file: Path
) -> None:
    laptop, server = await laptop_and_server(serve, place)
    await shell.json("policy", "set", str(file), "--yes")
    lines = (await shell.run("policy", "explain", laptop, f"{server}:80")).out.splitlines()
    assert lines[0] == "laptop -> server: allowed"
    assert lines[1] == "  acl, line 7: group:team -> tag:web, ports 80"
    lines = (await shell.run("policy", "explain", "alice", "tag:web:22")).out.splitlines()
    assert lines[:2] == [
        "laptop -> server: not allowed",
        "  acl, line 7: group:team may reach tag:web on 80 only",
    ]
    found = await shell.json("policy", "why", server, laptop)
    assert (found["allowed"], found["left_out"]) == (False, 0)
    through = await shell.json("policy", "explain", "alice@", "10.2.0.1:443")
    assert not through["allowed"]
    told = [miss["reason"] for miss in through["answers"][0]["misses"]]
    assert "server announces 10.2.0.0/16, which is not approved" in told
    await shell.json("routes", "approve", server, "10.2.0.0/16")
    through = await shell.json("policy", "explain", "alice@", "10.2.0.1:443")
    assert through["answers"][0]["ways"][0]["through"] == "subnet route 10.2.0.0/16 of server"
    (row,) = await shell.json("policy", "who-can-reach", f"{server}:80")
    assert (row["rule"]["line"], row["sources"]) == (7, [{"source": "group:team", "devices": ["laptop"]}])
    assert "'nobody' is no device" in await shell.refused("policy", "explain", "nobody", server)


async def test_routes_are_approved_and_rejected(
    serve: ServeProcess, shell: Shell, place: Administration, file: Path
) -> None:
    _, server = await laptop_and_server(serve, place)
    rows = await shell.json("routes", "list")
    assert [(row["device"], row["route"], row["announced"], row["approved"]) for row in rows] == [
        (server, "10.1.0.0/16", True, False),
        (server, "10.2.0.0/16", True, False),
    ]
    rows = await shell.json("routes", "approve", server, "10.1.0.0/16", "10.2.0.0/16")
    assert [row["approved"] for row in rows] == [True, True]
    rows = await shell.json("routes", "reject", server, "10.2.0.0/16")
    assert [row["approved"] for row in rows] == [True, False]
    assert "does not announce 10.9.0.0/16" in await shell.refused("routes", "approve", server, "10.9.0.0/16")
    await shell.json("policy", "set", str(file), "--yes")
    again = await shell.run("routes", "reject", server, "10.1.0.0/16")
    assert "warning: autoApprovers of the policy lets this device have 10.1.0.0/16" in again.err


async def test_roles(shell: Shell) -> None:
    made = await shell.json("users", "create", "alice")
    assert made["role"] == "member"
    assert (await shell.json("users", "role", str(made["id"]), "owner"))["role"] == "owner"
    assert "is not one of" in await shell.refused("users", "role", "alice", "king", code=2)


async def test_a_change_reaches_connected_devices(
    serve: ServeProcess, shell: Shell, place: Administration, file: Path
) -> None:
    key = await place.auth_key("alice", reusable=True)
    async with device(serve.url, key) as one, device(serve.url, key) as other:
        await join(one)
        await join(other)
        await has_peers(one, other)
        assert own_id(one) != own_id(other)
        await shell.json("policy", "set", str(file), "--yes")
        await has_peers(one)
        rolled = await shell.run("policy", "set", "-", "--yes", stdin=ALL)
        assert rolled.code == 0, rolled.err
        await has_peers(one, other)


async def test_in_file_mode_the_file_is_named(serve: ServeProcess, file: Path) -> None:
    env = {**serve.env, "HS_POLICY__MODE": "file", "HS_POLICY__PATH": str(file)}
    assert (await run_shell(env, "policy", "get")).out == WEB
    for words in (("set", str(file)), ("rollback", "1")):
        told = await run_shell(env, "policy", *words, "--yes")
        assert told.code == 1
        assert f"is the file {file} (policy.mode): change it there" in told.err
    assert (await run_shell(env, "policy", "check", str(file))).code == 0


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("web", "web", None),
        ("web:22", "web", 22),
        ("web:*", "web", None),
        ("tag:web", "tag:web", None),
        ("tag:web:443", "tag:web", 443),
        ("tag:80", "tag:80", None),
        ("autogroup:member:1", "autogroup:member", 1),
        ("a@example.com:22", "a@example.com", 22),
        ("10.0.0.1:22", "10.0.0.1", 22),
        ("10.0.0.0/8", "10.0.0.0/8", None),
        ("fd7a::1", "fd7a::1", None),
        ("fd7a::1:22", "fd7a::1:22", None),
        ("[fd7a::1]:22", "fd7a::1", 22),
        ("[fd7a::1]", "fd7a::1", None),
        ("5:22", "5", 22),
    ],
)
def test_targets_with_ports(text: str, name: str, port: int | None) -> None:
    assert split_target(text) == (name, port)
