"""Many unmodified Rust clients that join at once, and lose their server at once."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.clients.deployment import Deployment, Devices
from tests.clients.namespace import Namespace
from tests.clients.process import Process
from tests.clients.waiting import eventually

pytestmark = pytest.mark.clients

JOIN_DEADLINE_S = 120.0
#: They try again a second after a connection ended (CLIENTS.md 9).
BACK_DEADLINE_S = 60.0
KNOWN_DEADLINE_S = 30.0
SEEN_DEADLINE_S = 60.0
#: A node keeps a listener for each peer that it was asked about.
FILES_BESIDE = 2000


def unknown(mesh: Process, names: list[str]) -> dict[str, list[str]]:
    """Which of these names each node does not know; nodes that know all are left out."""
    since = mesh.mark()
    mesh.write_line(json.dumps(names))
    answer: dict[str, list[str]] = json.loads(mesh.wait_for(r'^\{"unknown"', SEEN_DEADLINE_S, since).text)[
        "unknown"
    ]
    return {number: missing for number, missing in answer.items() if missing}


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(20, id="20 nodes"),
        pytest.param(100, id="100 nodes", marks=[pytest.mark.soak, pytest.mark.timeout(400)]),
    ],
)
def test_all_join_at_once_and_come_back_to_a_killed_server(
    namespace: Namespace, deployment: Deployment, devices: Devices, tmp_path: Path, count: int
) -> None:
    """Each sees all the others afterwards, and what happened meanwhile: one more device, one less.

    A client that cannot make sense of a map drops its poll and asks again, so polls are counted.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < count * count + FILES_BESIDE:
        pytest.skip(f"{count} nodes need {count * count + FILES_BESIDE} open files, {most} are allowed")
    server = deployment.server(f"storm-{count}")
    devices.join(server, "leaves")
    script = Path(__file__).with_name("arkitekt.py")
    argv = [sys.executable, str(script), server.url, deployment.reusable_key(server), str(tmp_path / "mesh")]
    argv += [str(count), "leaves", "0", str(count)]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    names = [f"ark-{number}" for number in range(count)]
    with namespace.running("arkitekt", argv, log=tmp_path / "mesh.log", env=env, cwd=tmp_path) as mesh:
        figures: dict[str, Any] = json.loads(mesh.wait_for(r'^\{"joined_s"', JOIN_DEADLINE_S).text)
        assert server.metric("hs_sessions") == count + 1
        before = server.devices()

        server.kill()
        server.delete(before["leaves"]["id"])
        server.start()
        up_at = time.monotonic()
        eventually(lambda: server.metric("hs_sessions") == count, BACK_DEADLINE_S, "all polls are back")
        back_s = time.monotonic() - up_at
        devices.join(server, "comes")

        eventually(lambda: not unknown(mesh, names), KNOWN_DEADLINE_S, "each knows all the others")
        eventually(lambda: not unknown(mesh, ["comes"]), KNOWN_DEADLINE_S, "all know the one that came")
        assert unknown(mesh, ["leaves"]) == {str(number): ["leaves"] for number in range(count)}
        after = server.devices()
        assert {name: after[name]["id"] for name in names} == {name: before[name]["id"] for name in names}
        own = after["comes"]["id"]
        expected = {after[name]["fqdn"] for name in names}
        eventually(
            lambda: set(server.known_peers(own)) == expected, KNOWN_DEADLINE_S, "the one that came knows all"
        )
        # One poll each; the Go client may poll a second time when its state changes.
        polls = server.metric(f'hs_map_requests_total{{cluster_id="{server.cluster_id}",kind="poll"}}')
        print(
            f"{count} nodes joined at once in {figures['joined_s']:.2f} s; all back {back_s:.2f} s after the "
            f"killed server was healthy again, with {polls:.0f} polls"
        )
        assert count < polls <= count + 2
        assert server.metric("hs_resyncs_total") == 0
        errors = [line for line in mesh.log.read_text().splitlines() if not line.startswith("{")]
        assert errors == []
