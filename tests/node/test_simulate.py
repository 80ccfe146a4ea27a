"""`hs-node simulate` against real servers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
from typing import Any

from app.simulation.fleet import Fleet
from app.simulation.scenario import KINDS, Churn, fleet
from tests.node.support import (
    DEADLINE_S,
    Administration,
    ServeProcess,
    clean_environment,
    eventually,
    fresh_database,
    new_tenant,
    run_sql,
)
from tests.node.support import admin as administration
from tests.programs import run_shell
from tests.terminal import Terminal

SUMMARY = {"count", "p50_ms", "p95_ms", "p99_ms", "max_ms"}


def command(serve: ServeProcess, *keys: str, devices: int, duration: str = "1s") -> list[str]:
    given = [word for key in keys for word in ("--auth-key", key)]
    return ["simulate", "--server", serve.url, *given, "--devices", str(devices), "--duration", duration]


async def test_sixty_devices_of_two_tenants_with_every_churn(
    serve: ServeProcess, place: Administration
) -> None:
    async with new_tenant(serve) as other:
        keys = [await place.auth_key(), await other.auth_key()]
        churn = [word for kind in KINDS for word in ("--churn", kind)]
        done = await run_shell(
            clean_environment({}),
            *command(serve, *keys, devices=60, duration="4s"),
            *churn,
            *("--churn-rate", "5", "--storm-every", "1500ms", "-o", "json"),
        )
        assert done.code == 0, done.err + done.out
        report: dict[str, Any] = json.loads(done.out)
        # Devices that were replaced are known as well.
        assert len(await place.devices()) + len(await other.devices()) == 60 + report["actions"]["replace"]
    assert report["violations"] == {"count": 0, "texts": []}
    assert report["errors"] == {"count": 0, "texts": []}
    facts = report["devices"]
    assert (facts["asked"], facts["full"], facts["thin"], facts["tenants"]) == (60, 20, 40, 2)
    assert (facts["joined"], facts["failed"]) == (60, 0)
    assert report["actions"]["storm"] == 2
    for action in ("endpoints", "away", "replace"):
        assert report["actions"][action] > 0, report["actions"]
    for name in ("join", "propagation", "update", "reconnect"):
        assert set(report[name]) >= SUMMARY
        assert 0 < report[name]["p50_ms"] <= report[name]["p95_ms"] <= report[name]["max_ms"]
    assert set(report["propagation"]) == {*SUMMARY, "sent", "expected", "received", "superseded"}
    assert report["propagation"]["received"] == report["propagation"]["count"]
    assert report["reconnect"]["lost"] > 60
    assert set(report["frames"]) == {"first", "full", "delta", "keepalive"}
    assert report["frames"]["first"]["count"] >= 60 + report["reconnect"]["count"]
    assert report["frames"]["delta"]["bytes"] > 0
    assert {"cpu_s", "peak_rss_bytes", "lag"} == set(report["own"])
    assert "60 of 60 joined" in done.err


async def test_every_change_is_heard_by_everybody_and_the_end_comes(
    serve: ServeProcess, place: Administration
) -> None:
    key = await place.auth_key()
    async with Fleet(fleet(serve.url, [key], 12, full=3)) as devices:
        await devices.join(rate=200)
        await asyncio.wait_for(
            devices.live(Churn(12, ("endpoints",), 20, 9, random.Random(3).random), 1.0), 5
        )

        async def all_heard() -> bool:
            told = devices.report()["propagation"]
            return bool(told["received"] + told["superseded"] == told["expected"])

        await eventually(all_heard, "everybody hears of every change")
        await devices.settle()
        report = devices.report()
    assert report["violations"]["count"] == 0
    told = report["propagation"]
    assert told["sent"] == report["update"]["count"] > 5
    assert told["expected"] == 11 * told["sent"]
    assert told["count"] == told["received"] > told["superseded"]


async def test_a_server_that_dies_costs_reconnects_and_no_violation(pg_server: str) -> None:
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn) as serve:
        async with administration(dsn) as place:
            key = await place.auth_key()
        async with Fleet(fleet(serve.url, [key], 30)) as devices:
            await devices.join()
            assert devices.here == 30
            await serve.kill()
            await serve.start()

            async def all_back() -> bool:
                return devices.here == 30

            await eventually(all_back, "all are back")
            await devices.settle()
            report = devices.report()
    assert report["violations"] == {"count": 0, "texts": []}
    assert report["devices"]["failed"] == 0
    assert report["reconnect"]["lost"] == report["reconnect"]["count"] == 30
    assert any("connection lost" in row["what"] for row in report["errors"]["texts"])


async def test_endpoints_that_did_not_get_through_are_said_again(pg_server: str) -> None:
    """A server takes no endpoints of a poll once it has some; a device that is back has to tell them."""
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn) as serve:
        async with administration(dsn) as place:
            key = await place.auth_key()
        async with Fleet(fleet(serve.url, [key], 4, full=1)) as devices:
            await devices.join()

            async def stored() -> bool:
                rows = await run_sql(dsn, "SELECT count(*) FROM node_state WHERE cardinality(endpoints) > 0")
                return bool(rows[0][0] == 4)

            await eventually(stored, "the database has all endpoints")
            await serve.kill()
            (sender, *_) = [device for device in devices.devices if not device.spec.full]
            told_before = sender.reported
            await sender.report()
            assert sender.reported == told_before != sender.marker
            await serve.start()

            async def taken() -> bool:
                return devices.here == 4 and sender.reported == sender.marker

            await eventually(taken, "the server has the newest endpoints")
            await devices.settle()
            assert devices.report()["violations"] == {"count": 0, "texts": []}


async def test_a_wrong_key_is_one_sentence(serve: ServeProcess, place: Administration) -> None:
    done = await run_shell(clean_environment({}), *command(serve, "hskey-auth-1-no-such", devices=5))
    assert (done.code, done.out) == (1, "")
    (sentence,) = [text for text in done.err.splitlines() if text.startswith("error:")]
    assert f"{serve.url} does not let sim-0 (auth key 1) in: " in sentence
    assert "auth key" in sentence.partition(" in: ")[2]


async def test_other_mistakes_are_one_sentence_each(serve: ServeProcess) -> None:
    async def said(*arguments: str) -> tuple[int, str]:
        done = await run_shell(clean_environment({}), "simulate", "--devices", "3", *arguments)
        return done.code, done.err.splitlines()[-1]

    code, text = await said("--server", serve.url)
    assert (code, "at least one --auth-key" in text) == (2, True)
    code, text = await said("--server", "http://127.0.0.1:9", "--auth-key", "a")
    assert (code, "does not answer" in text) == (3, True)
    code, text = await said("--server", serve.url, "--auth-key", "a", "--devices", "100000000")
    assert (code, "open files" in text) == (2, True)


async def test_ctrl_c_prints_what_was_measured(serve: ServeProcess, place: Administration) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "node.cli", *command(serve, await place.auth_key(), devices=5, duration="0"), "-o", "json"),
        env=clean_environment({}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while b"watching" not in await process.stderr.readline():
                pass
            os.kill(process.pid, signal.SIGINT)
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 130
    assert json.loads(out)["devices"]["joined"] == 5


async def test_a_terminal_sees_a_bar_and_then_the_figures(serve: ServeProcess, place: Administration) -> None:
    words = command(serve, await place.auth_key(), devices=30, duration="3s")
    terminal = Terminal(
        [sys.executable, "-m", "node.cli", *words, "--churn", "endpoints"], clean_environment({})
    )
    try:
        await terminal.shows("endpoints ━", DEADLINE_S)
        await terminal.shows("30 here", DEADLINE_S)
        code = await asyncio.to_thread(terminal.process.wait, DEADLINE_S)
    finally:
        terminal.close()
    assert code == 0
    assert "30 of 30 joined in" in terminal.text
    for what in (
        "joining",
        "join",
        "change to others",
        "change acknowledged",
        "connections lost",
        "back again",
        "first frames",
        "delta frames",
        "errors",
        "violations",
        "this process",
    ):
        assert re.search(rf"^{what}  +\S", terminal.text.replace("\r", ""), re.MULTILINE), what
