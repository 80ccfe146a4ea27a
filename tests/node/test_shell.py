"""The administration commands as people and scripts use them: output, exit codes, one-line errors, audit."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

from app.tokens import parse_auth_token
from tests.node.support import (
    DEADLINE_S,
    Administration,
    ServeProcess,
    clean_environment,
    device,
    eventually,
    has_peers,
    join,
    own_id,
    run_sql,
)
from tests.programs import ShellResult, run_shell

#: A client's pause between attempts grows while the server is away.
RETURN_DEADLINE_S = 60.0


class Shell:
    """`hs-node` on one tenant of a running server."""

    def __init__(self, serve: ServeProcess, place: Administration) -> None:
        self._serve = serve
        self._tenant = place.tenant.name

    async def __call__(self, *words: str, stdin: str = "") -> ShellResult:
        return await self._serve.shell(*words, "--tenant", self._tenant, stdin=stdin)

    async def json(self, *words: str) -> Any:
        result = await self(*words, "-o", "json")
        assert result.code == 0, result
        assert result.err == ""
        return json.loads(result.out)


@pytest.fixture
def shell(serve: ServeProcess, place: Administration) -> Shell:
    return Shell(serve, place)


# -- output -------------------------------------------------------------------------------------

USER_KEYS = ["id", "name", "display_name", "email", "role", "created"]
KEY_KEYS = [
    *("id", "prefix", "user_id", "reusable", "ephemeral", "tags", "used", "revoked", "expiration"),
    "created",
]
DEVICE_KEYS = [
    *("id", "name", "fqdn", "hostname", "user", "tags", "ip_addresses", "online", "ephemeral"),
    *("last_seen", "expiry", "created"),
]


async def test_users_in_every_format(shell: Shell) -> None:
    made = await shell.json("users", "create", "alice", "-d", "Alice L.", "-e", "a@example.com")
    assert list(made) == USER_KEYS
    assert (made["name"], made["display_name"], made["email"]) == ("alice", "Alice L.", "a@example.com")
    assert await shell.json("users", "list") == [made]
    text = await shell("users", "list", "-o", "yaml")
    assert yaml.safe_load(text.out) == [made]
    head, row = (await shell("users", "list")).out.splitlines()
    assert head.split() == USER_KEYS
    assert row.split()[:2] == [str(made["id"]), "alice"]


async def test_empty_lists(shell: Shell) -> None:
    for noun in ("users", "preauthkeys", "nodes"):
        assert (await shell(noun, "list")).out.strip() == "none"
        assert await shell.json(noun, "list") == []
        assert yaml.safe_load((await shell(noun, "list", "-o", "yaml")).out) == []


async def test_auth_keys_show_their_secret_once(serve: ServeProcess, shell: Shell) -> None:
    user = await shell.json("users", "create", "alice")
    plain = (await shell("preauthkeys", "create", "--user", "alice")).out.strip()
    made = await shell.json("preauthkeys", "create", "--user", str(user["id"]), "--reusable", "--ephemeral")
    tagged = await shell.json("preauthkeys", "create", "--tags", "tag:web, tag:db", "-e", "0")
    texts = [plain, made["key"], tagged["key"]]
    assert all(parse_auth_token(text) for text in texts)
    assert [made["reusable"], made["ephemeral"], made["user_id"]] == [True, True, user["id"]]
    assert [tagged["tags"], tagged["user_id"], tagged["expiration"]] == [["tag:db", "tag:web"], None, None]
    secrets = [text.rsplit("-", 1)[1] for text in texts]
    listed = [await shell("preauthkeys", "list", "-o", form) for form in ("table", "json", "yaml")]
    stored = await run_sql(serve.dsn, "SELECT k::text FROM pre_auth_keys k")
    audited = await run_sql(serve.dsn, "SELECT a::text FROM audit_log a")
    everything = "".join([result.out for result in listed] + [row[0] for row in (*stored, *audited)])
    assert not [secret for secret in secrets if secret in everything]
    rows = json.loads(listed[1].out)
    assert [list(row) for row in rows] == [KEY_KEYS] * 3
    assert yaml.safe_load(listed[2].out) == rows


LIVES = {"30m": 1800, "24h": 86400, "7d": 7 * 86400, "90s": 90}


@pytest.mark.parametrize(("text", "seconds"), LIVES.items())
async def test_the_life_of_an_auth_key(
    shell: Shell, place: Administration, text: str, seconds: float
) -> None:
    started = time.time()
    result = await shell("preauthkeys", "create", "--tags", "tag:a", "--expiration", text)
    assert result.code == 0, result
    (key,) = await place.scoped.list_auth_keys(place.tenant.id)
    assert key.expiration is not None
    assert started + seconds - 1 <= key.expiration <= time.time() + seconds + 1


async def _is_online(place: Administration, hostname: str) -> bool:
    return (await place.device(hostname)).online


async def test_devices_in_every_format(serve: ServeProcess, place: Administration, shell: Shell) -> None:
    tagged_key = await place.auth_key(None, tags=("tag:web",))
    async with (
        device(serve.url, await place.auth_key("alice"), hostname="Laptop") as one,
        device(serve.url, tagged_key, hostname="server") as tagged,
    ):
        await join(one)
        await join(tagged, poll=False)
        # Presence is stored in batches: by then it stands still.
        await eventually(lambda: _is_online(place, "Laptop"), "the device is stored as online")
        rows = await shell.json("nodes", "list")
        table = (await shell("nodes", "list")).out
        assert yaml.safe_load((await shell("nodes", "list", "-o", "yaml")).out) == rows
        addresses = [a.partition("/")[0] for a in (one.netmap.self_node or {})["Addresses"]]
    assert [list(row) for row in rows] == [DEVICE_KEYS] * 2
    assert [row["name"] for row in rows] == ["laptop", "server"]
    assert rows[0]["fqdn"] == f"laptop.{place.tenant.dns_label}.hs.internal"
    assert rows[0]["ip_addresses"] == addresses
    assert [row["user"] for row in rows] == ["alice", "tagged-devices"]
    assert "tag:web" in table
    assert len(table.splitlines()) == 3


async def test_texts_of_tenants_are_no_control_codes_and_no_markup(
    serve: ServeProcess, place: Administration, shell: Shell
) -> None:
    hostile = "[red]\x1b[2J\u202eevil\x07[/red]"
    await run_sql(
        serve.dsn,
        "INSERT INTO users (tenant_id, cluster_id, name, display_name)"
        f" VALUES ({place.tenant.id}, 'default', 'eve', E'[red]\\x1b[2J\u202eevil\\x07[/red]')",
    )
    (row,) = await shell.json("users", "list")
    assert row["display_name"] == hostile
    for form in ("table", "json", "yaml"):
        out = (await shell("users", "list", "-o", form)).out
        assert "\x1b" not in out, form
        assert "\x07" not in out, form
    table = (await shell("users", "list")).out
    assert "\u202e" not in table
    assert "[red]" in table


# -- what commands do ---------------------------------------------------------------------------


async def test_an_expired_auth_key_lets_nobody_in_and_nobody_out(
    serve: ServeProcess, place: Administration, shell: Shell
) -> None:
    row, text = await place.auth_key_row()
    async with device(serve.url, text) as one, device(serve.url, text) as late:
        await join(one)
        assert (await shell.json("preauthkeys", "expire", "-i", str(row.id)))["revoked"] is True
        assert "revoked" in (await late.register())["Error"]
        assert not (await one.register())["Error"]


async def test_expire_and_disable_reach_the_device(
    serve: ServeProcess, place: Administration, shell: Shell
) -> None:
    async with device(serve.url, await place.auth_key()) as one:
        await join(one)
        number = str(own_id(one))
        assert (await shell.json("nodes", "expire", "-i", number))["expiry"] is not None
        await one.wait_for(lambda n: bool(n.self_node and n.self_node.get("Expired")), DEADLINE_S)
        assert (await shell.json("nodes", "expire", "-i", number, "--disable"))["expiry"] is None
        await one.wait_for(lambda n: bool(n.self_node and not n.self_node.get("Expired")), DEADLINE_S)


ANSWERS = {"yes": ("y\n", True), "no": ("n\n", False), "nothing typed": ("\n", False), "nobody": ("", False)}


@pytest.mark.parametrize(("typed", "deleted"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_delete_asks(
    serve: ServeProcess, place: Administration, shell: Shell, typed: str, deleted: bool
) -> None:
    async with device(serve.url, await place.auth_key()) as one:
        await join(one, poll=False)
        (row,) = await place.devices()
        result = await shell("nodes", "delete", "-i", str(row.id), stdin=typed)
    assert f"Delete device {row.given_name!r} (id {row.id}) of tenant {place.tenant.name!r}?" in result.err
    assert result.code == (0 if deleted else 1)
    assert ("aborted" in result.err) is not deleted
    assert await place.devices() == ([] if deleted else [row])


async def test_delete_with_yes_does_not_ask_and_peers_are_told(
    serve: ServeProcess, place: Administration, shell: Shell
) -> None:
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key) as one:
        await join(viewer)
        await join(one)
        await has_peers(viewer, one)
        result = await shell("nodes", "delete", "-i", str(own_id(one)), "--yes", "-o", "json")
        assert json.loads(result.out) == {"id": own_id(one), "name": one.hostname, "deleted": True}
        assert result.err == ""
        await has_peers(viewer)


async def test_every_change_is_in_the_audit_log(
    serve: ServeProcess, place: Administration, shell: Shell
) -> None:
    await shell("users", "create", "alice")
    text = (await shell("preauthkeys", "create", "--user", "alice")).out.strip()
    async with device(serve.url, text) as one:
        await join(one)
        number = str(own_id(one))
        for words in (
            ("preauthkeys", "expire", "-i", str((await place.scoped.list_auth_keys(place.tenant.id))[0].id)),
            ("nodes", "expire", "-i", number),
            ("nodes", "expire", "-i", number, "--disable"),
            ("nodes", "delete", "-i", number, "--yes"),
            ("nodes", "delete", "-i", number, "--yes"),
        ):
            await shell(*words)
    rows = await run_sql(
        serve.dsn,
        "SELECT actor, cluster_id, action, split_part(object, ':', 1) AS noun FROM audit_log"
        f" WHERE tenant_id = {place.tenant.id} ORDER BY id",
    )
    assert {(row["actor"], row["cluster_id"]) for row in rows} == {(f"shell:{getpass.getuser()}", "default")}
    assert [(row["action"], row["noun"]) for row in rows] == [
        ("user_create", "user"),
        ("auth_key_create", "auth_key"),
        ("auth_key_revoke", "auth_key"),
        ("device_expire", "device"),
        ("device_expire", "device"),
        ("device_delete", "device"),
    ]


# -- errors -------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "unknown user": (("preauthkeys", "create", "-u", "nobody"), 1, "there is no user 'nobody' in tenant"),
    "neither user nor tags": (("preauthkeys", "create"), 1, "an auth key needs a user or tags"),
    "a bad tag": (("preauthkeys", "create", "--tags", "web"), 1, "tags look like tag:web"),
    "a taken user name": (("users", "create", "taken"), 1, "there is already a user 'taken' in this tenant"),
    "an empty user name": (("users", "create", ""), 1, "a user name has 1 to 255 printable characters"),
    "a user name of control codes": (("users", "create", "a\x1bb"), 1, "a user name has 1 to 255 printable"),
    "an unknown key": (("preauthkeys", "expire", "-i", "999999"), 1, "there is no auth key 999999 here"),
    "an unknown device": (("nodes", "expire", "-i", "999999"), 1, "there is no device 999999 in tenant"),
    "deleting an unknown device": (
        ("nodes", "delete", "-i", "999999", "--yes"),
        1,
        "there is no device 999999 in tenant",
    ),
    "a number too large": (("nodes", "delete", "-i", "9" * 30, "--yes"), 1, ""),
}


@pytest.mark.parametrize(("words", "code", "sentence"), ERRORS.values(), ids=ERRORS.keys())
async def test_errors_are_one_line(
    place: Administration, shell: Shell, words: tuple[str, ...], code: int, sentence: str
) -> None:
    await place.user("taken")
    result = await shell(*words)
    assert result.out == ""
    assert result.err.startswith(f"error: {sentence}")
    assert len(result.err.splitlines()) == 1
    assert result.code == code


USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "a bad duration": (("preauthkeys", "create", "--expiration", "soon"), "--expiration"),
    "a negative duration": (("preauthkeys", "create", "--expiration", "-5m"), "--expiration"),
    "no number": (("preauthkeys", "expire", "-i", "x"), "-i"),
    "no id": (("nodes", "delete"), "-i"),
    "an unknown format": (("nodes", "list", "-o", "xml"), "-o"),
    "an unknown command": (("nodes", "frobnicate"), "frobnicate"),
}


@pytest.mark.parametrize(("words", "named"), USAGE.values(), ids=USAGE.keys())
async def test_wrong_usage_is_exit_code_2(serve: ServeProcess, words: tuple[str, ...], named: str) -> None:
    result = await serve.shell(*words)
    assert result.code == 2
    assert result.out == ""
    assert named in result.err
    assert "Traceback" not in result.err


async def test_an_unknown_cluster_is_refused_and_not_created(serve: ServeProcess) -> None:
    for words in (("users", "list"), ("users", "create", "x"), ("nodes", "list")):
        result = await serve.shell(*words, cluster="nowhere")
        assert result.code == 1
        assert result.out == ""
        assert result.err == (
            "error: there is no cluster 'nowhere' in this database: "
            "`hs-node serve` creates it at its first start (is CLUSTER_ID right?)\n"
        )
    assert await run_sql(serve.dsn, "SELECT 1 FROM clusters WHERE cluster_id = 'nowhere'") == []


async def test_an_unknown_tenant(serve: ServeProcess) -> None:
    result = await serve.shell("nodes", "list", "--tenant", "nobody")
    assert (result.code, result.out) == (1, "")
    assert result.err == "error: there is no tenant nobody in cluster default\n"


BROKEN_SETTINGS: dict[str, tuple[dict[str, str], int, str]] = {
    "a cluster id that is none": ({"CLUSTER_ID": "a b"}, 2, "cluster_id"),
    "no database there": (
        {"PG_DSN": "postgres://u:hunter2@127.0.0.1:1/x"},
        3,
        "the database does not answer",
    ),
    "a DSN that is none": ({"PG_DSN": "mysql://x"}, 2, "pg_dsn"),
}


@pytest.mark.parametrize(
    ("settings", "code", "sentence"), BROKEN_SETTINGS.values(), ids=BROKEN_SETTINGS.keys()
)
async def test_broken_settings(settings: dict[str, str], code: int, sentence: str) -> None:
    result = await run_shell(clean_environment(settings), "users", "list")
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")
    assert sentence in result.err
    assert "hunter2" not in result.err
    assert "Traceback" not in result.err


# -- without a server ---------------------------------------------------------------------------


@pytest.fixture
async def stopped(database: str) -> AsyncIterator[ServeProcess]:
    """A cluster that has served once and does not now."""
    async with ServeProcess(database) as process:
        await process.stop()
        yield process


async def test_everything_works_without_a_running_server(stopped: ServeProcess) -> None:
    made = await stopped.shell("users", "create", "alice", "-o", "json")
    assert made.code == 0, made
    key = (await stopped.shell("preauthkeys", "create", "--user", "alice", "--reusable")).out.strip()
    await stopped.start()
    async with device(stopped.url, key) as one:
        await join(one)
        number = str(own_id(one))
        await stopped.stop()
        for verb in (("expire", "-i", number), ("list",), ("delete", "-y", "-i", number)):
            result = await stopped.shell("nodes", *verb)
            assert result.code == 0, result
        # The server finds out at its start, and tells the device at its next poll.
        await stopped.start()
        await one.wait_for(lambda n: one.polls > 1 and "Expired" in (n.self_node or {}), RETURN_DEADLINE_S)
