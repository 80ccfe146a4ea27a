"""The shell on clusters, settings and database, with and without a running server."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from node.shell_check import is_here
from tests.node.support import (
    QUICK,
    ServeProcess,
    admin,
    clean_environment,
    device,
    eventually,
    free_port,
    fresh_database,
    join,
)
from tests.programs import ShellResult, run_shell


def checks(result: ShellResult) -> dict[str, dict[str, Any]]:
    """Checks by name."""
    found = json.loads(result.out)
    return {row["check"]: row for row in (found["checks"] if isinstance(found, dict) else found)}


async def test_clusters_say_who_owns_them_and_the_shell_works_without(database: str, tmp_path: Path) -> None:
    async with (
        ServeProcess(database, "east", settings=QUICK) as east,
        ServeProcess(database, "west", secret_key_file=east.secret_key_file) as west,
    ):
        async with admin(database, "east") as home, device(east.url, await home.auth_key()) as laptop:
            await join(laptop)

            async def connected() -> bool:
                rows = json.loads((await east.shell("clusters", "list", "-o", "json")).out)
                return [row["connected"] for row in rows] == [1, 0]

            await eventually(connected, "one device is connected in east, none in west")
        rows = json.loads((await west.shell("cluster", "ls", "-o", "json")).out)
        assert [row["cluster"] for row in rows] == ["east", "west"]
        for row in rows:
            assert row["state"] == "active"
            assert is_here(row["owner"])
            assert row["epoch"] == 1
            assert row["lease_age_s"] < 5
        assert [row["devices"] for row in rows] == [1, 0]
        shown = json.loads((await east.shell("clusters", "show", "-o", "json")).out)
        assert shown["cluster"] == "east"
        assert len(shown["processes"]) == 1
        assert shown["processes"][0].startswith(rows[0]["owner"])
        missing = await east.shell("clusters", "show", "north")
        assert (missing.code, missing.err) == (1, "error: there is no cluster 'north' in this database\n")
        assert await east.stop() == 0
        alone = json.loads((await west.shell("clusters", "show", "east", "-o", "json")).out)
        assert alone["owner"] is None
        assert alone["lease_age_s"] is None
        assert (await east.shell("users", "rename", "alice", "-r", "anna")).code == 0
        assert "anna" in (await east.shell("users", "list")).out


async def test_config_check_beside_a_server_and_without(serve: ServeProcess) -> None:
    result = await serve.shell("config", "check", "-o", "json")
    assert result.code == 0, result.err
    found = checks(result)
    assert all(row["ok"] for row in found.values())
    assert found["schema"]["found"].endswith("up to date")
    assert "in use, as it should be" in found["listen_addr"]["found"]
    assert "opens the deployment's key" in found["secret_key_file"]["found"]
    settings = {row["key"]: row for row in json.loads(result.out)["settings"]}
    assert settings["cluster_id"]["origin"] == "CLUSTER_ID"
    assert settings["pg_dsn"]["origin"] == "PG_DSN"
    assert settings["listen_addr"]["origin"] == "HS_LISTEN_ADDR"
    assert settings["timing.lease_ttl"]["origin"] == "default"
    table = await serve.shell("configtest")
    assert table.code == 0
    assert "derp.server.listen_addr" in table.out


async def test_config_check_names_what_a_server_would_stumble_over(
    serve: ServeProcess, tmp_path: Path
) -> None:
    (tmp_path / "secret.key").write_text("00" * 32)
    (tmp_path / "config.yaml").write_text("log: {level: debug}\ndns: {base_domain: check.example}\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        env = serve.env | {
            "CLUSTER_ID": "elsewhere",
            "HS_LISTEN_ADDR": address,
            "HS_METRICS_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
            "HS_SECRET_KEY_FILE": str(tmp_path / "secret.key"),
        }
        result = await run_shell(env, "config", "check", "-c", str(tmp_path / "config.yaml"), "-o", "json")
    assert result.code == 2
    assert result.err == "error: secret_key_file, listen_addr: see above\n"
    found = checks(result)
    assert found["listen_addr"] == {
        "check": "listen_addr",
        "ok": False,
        "found": f"{address}: Address already in use",
    }
    assert "copy the file from the first host" in found["secret_key_file"]["found"]
    assert found["metrics_listen_addr"]["ok"]
    assert found["cluster"]["found"] == "elsewhere: made at the first start"
    settings = {row["key"]: row for row in json.loads(result.out)["settings"]}
    assert settings["dns.base_domain"]["origin"] == str(tmp_path / "config.yaml")


async def test_config_check_hides_passwords_and_says_when_the_database_is_away(tmp_path: Path) -> None:
    env = clean_environment(
        {
            "PG_DSN": f"postgres://hs:sesame@127.0.0.1:{free_port()}/hs",
            "HS_CONFIG": "/dev/null",
            "HS_STATE_DIR": str(tmp_path),
            "HS_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
            "HS_METRICS_LISTEN_ADDR": "",
            "HS_DERP__SERVER__ENABLED": "false",
        }
    )
    for form in ("table", "json", "yaml"):
        result = await run_shell(env, "config", "check", "-o", form)
        assert result.code == 3, result.out
        assert result.err == "error: database: see above\n"
        assert "sesame" not in result.out
        assert "127.0.0.1" in result.out
        assert "Traceback" not in result.err


async def test_config_check_on_a_fresh_machine_makes_nothing(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    settings = {
        "HS_CONFIG": "/dev/null",
        "HS_STATE_DIR": str(state_dir),
        "HS_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
        "HS_METRICS_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
        "HS_DERP__SERVER__LISTEN_ADDR": "127.0.0.1:0",
        "HS_DERP__SERVER__STUN_LISTEN_ADDR": "127.0.0.1:0",
    }
    result = await run_shell(clean_environment(settings), "config", "check", "-o", "json")
    assert result.code == 0, result.err
    assert "made at the first start" in checks(result)["database"]["found"]
    assert not state_dir.exists()


async def test_db_check_changes_nothing_and_init_makes_it(pg_server: str) -> None:
    async with fresh_database(pg_server) as dsn:
        env = clean_environment({"PG_DSN": dsn, "HS_CONFIG": "/dev/null"})
        before = checks(await run_shell(env, "db", "check", "-o", "json"))
        assert before["schema"]["found"].startswith("the first start makes ")
        assert checks(await run_shell(env, "db", "check", "-o", "json")) == before
        assert (await run_shell(env, "db", "init")).code == 0
        after = await run_shell(env, "db", "check", "-o", "json")
        assert after.code == 0
        assert checks(after)["schema"]["found"].endswith("up to date")
        assert checks(after)["cluster"]["found"] == "default: made at the first start"


@pytest.mark.parametrize(
    "instance", [None, "", "strange", "elsewhere.example-1-abcdef", f"{socket.gethostname()}-4194305-abcdef"]
)
def test_an_instance_elsewhere_or_gone_is_not_here(instance: str | None) -> None:
    assert not is_here(instance)
