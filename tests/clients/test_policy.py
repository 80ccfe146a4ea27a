"""Policies as unmodified clients live them: what is closed, what is open, and how soon a change holds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.deployment import USER, Deployment, Devices
from tests.clients.namespace import Namespace
from tests.clients.stage import (
    CASES,
    EVERYTHING,
    NOBODY,
    ONE_PORT,
    PORTS,
    Case,
    Flow,
    Stage,
    describe,
)
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

SWITCHES = 20
MANY_SWITCHES = 300
#: The promise: from the commit until all clients and their traffic follow, seconds.
CONVERGED_S = 1.0
#: Until an SSH policy has reached a client.
TOLD_DEADLINE_S = 5.0

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def stage(
    namespace: Namespace, deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    server = deployment.server("policy")
    administration = deployment.administration(server)
    administration.create_user("bob")
    devices = Devices(namespace, tmp_path_factory.mktemp("stage"), deployment)
    keys = (
        ("ada", administration.auth_key(USER)),
        ("bob", administration.auth_key("bob")),
        ("web", administration.auth_key(USER, "tag:web")),
    )
    nodes = [devices.start(server, name, auth_key=key, ports=PORTS) for name, key in keys]
    for node in nodes:
        node.wait_running()
        node.wait_reachable()
    devices.meet(server, *nodes)
    made = Stage(server, administration, nodes)
    yield made
    made.close()
    devices.close()


def test_without_rules_nobody_sees_or_reaches_anybody(stage: Stage, tmp_path: Path) -> None:
    """The policy is an operator's, from a file."""
    stage.switch(EVERYTHING)
    file = tmp_path / "policy.hujson"
    file.write_text(f"// Deny by default.\n{json.dumps(NOBODY.policy)}\n")
    stage.server.run("policy", "set", str(file), "--yes")
    stage.wait_agreed(NOBODY)
    stage.check_traffic(NOBODY)
    netmaps = stage.netmaps()
    assert [netmap.peers for netmap in netmaps.values()] == [{}, {}, {}]
    assert not any(netmap.raw["PacketFilterRules"] for netmap in netmaps.values())


def test_one_allowed_port_opens_for_one_source_in_one_direction(stage: Stage) -> None:
    stage.switch(NOBODY)
    converged = stage.switch(ONE_PORT)
    assert converged.pages < CONVERGED_S or converged.crossed
    # `switch` has tried all; these are the ones worth a name.
    closed = {
        *(Flow("ada", "web", 8080), Flow("ada", "bob", 80)),
        *(Flow("web", "ada", 80), Flow("bob", "web", 80)),
    }
    assert stage.reaching({*closed, Flow("ada", "web", 80)}) == ONE_PORT.open
    netmaps = stage.netmaps()
    assert (set(netmaps["ada"].peers), set(netmaps["bob"].peers)) == ({"web"}, set())


def _walk(count: int) -> list[Case]:
    """Cases in an order that does not change from run to run, never one twice in a row."""
    chance = random.Random(4)
    found: list[Case] = [NOBODY]
    while len(found) <= count:
        # Every third time all is closed, or all is open: the longest ways there are.
        choice = CASES if len(found) % 3 else (NOBODY, EVERYTHING)
        found.append(chance.choice([case for case in choice if case is not found[-1]]))
    return found


@pytest.mark.parametrize(
    "switches",
    [SWITCHES, pytest.param(MANY_SWITCHES, marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
)
def test_switching_policies_converges_within_a_second_without_a_leak(
    stage: Stage, record_property: Record, switches: int
) -> None:
    first, *others = _walk(switches)
    stage.switch(first)
    results = []
    for case in others:
        result = stage.switch(case)
        print(f"{case.name}: netmaps {result.netmaps * 1000:.0f} ms, pages {result.pages * 1000:.0f} ms")
        results.append(result)
    for what, seconds in (
        ("netmaps", [result.netmaps for result in results]),
        ("pages", [result.pages for result in results]),
    ):
        record_property(f"{len(results)} switches, commit to {what}", describe(seconds))
        print(f"{len(results)} switches, commit to {what}: {describe(seconds)}")
    assert max(result.netmaps for result in results) < CONVERGED_S
    late = [result for result in results if result.pages >= CONVERGED_S]
    print(f"pages later than {CONVERGED_S} s: {late}")
    assert all(result.crossed for result in late)
    assert len(late) <= 2 + switches // 50


def test_ssh_policy_reaches_the_device_and_is_revoked(stage: Stage) -> None:
    users = ["root", "autogroup:nonroot"]
    rule = {"action": "accept", "src": ["ada@"], "dst": ["tag:web"], "users": users}
    stage.administration.set_policy({**EVERYTHING.policy, "ssh": [rule]})
    (told,) = eventually(
        lambda: stage.netmaps()["web"].ssh_rules, TOLD_DEADLINE_S, "web is told who may log in"
    )
    assert {principal["nodeIP"] for principal in told["principals"]} == set(stage.addresses["ada"])
    assert told["action"]["accept"] is True
    assert told["sshUsers"] == {"root": "root", "*": "="}
    netmaps = stage.netmaps()
    assert netmaps["ada"].ssh_rules == netmaps["bob"].ssh_rules == []

    stage.put(EVERYTHING)
    eventually(lambda: not stage.netmaps()["web"].ssh_rules, TOLD_DEADLINE_S, "nobody may log in any more")
    assert stage.netmaps()["web"].raw["SSHPolicy"] == {"rules": []}
