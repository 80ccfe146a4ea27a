"""The bench itself: a namespace without a way out, processes with logs, requests from inside."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.clients.agent import BRIDGE, BRIDGE_ADDRESS
from tests.clients.namespace import Namespace

pytestmark = pytest.mark.clients

_ENV = {"PATH": os.environ["PATH"]}
_LIST_INTERFACES = (
    "import socket\n"
    "print('names', *[name for _, name in socket.if_nameindex()])\n"
    "print('routes', len(open('/proc/self/net/route').read().splitlines()) - 1)\n"
    "import sys; sys.stdin.readline()\n"
)


def test_only_loopback_and_an_empty_bridge(namespace: Namespace, tmp_path: Path) -> None:
    argv = [sys.executable, "-u", "-c", _LIST_INTERFACES]
    with namespace.running("looker", argv, log=tmp_path / "log", env=_ENV, cwd=tmp_path) as looker:
        names = looker.wait_for("^names", 10).text.split()[1:]
        assert {"lo", BRIDGE} <= set(names)
        outside = {name for _, name in socket.if_nameindex()} - {"lo", BRIDGE}
        assert not outside & {name for name in names if name.startswith(("eth", "en", "wl"))}
        assert looker.wait_for("^routes", 10).text == "routes 1"  # the bridge's own network
        assert looker.stop() != 0
    assert not looker.running


def test_requests_are_made_inside(namespace: Namespace, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("inside")
    port = namespace.free_port()
    argv = [sys.executable, "-u", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    url = f"http://127.0.0.1:{port}/page"
    with namespace.running("server", argv, log=tmp_path / "log", env=_ENV, cwd=tmp_path) as server:
        server.wait_for("Serving HTTP", 10)
        answer = namespace.fetch(url)
        assert (answer.status, answer.body) == (200, "inside")
        assert server.wait_for('"GET /page', 10).at >= server.started_at
        with socket.socket() as outside:
            assert outside.connect_ex(("127.0.0.1", port)) != 0
    refused = namespace.fetch(url)
    assert refused.status == 0
    assert "refused" in refused.error


@pytest.mark.parametrize("address", ["192.0.2.1", "10.80.0.1"])
def test_nothing_leaves(namespace: Namespace, address: str) -> None:
    assert "unreachable" in namespace.fetch(f"http://{address}/", timeout_s=2).error


def test_the_bridge_has_an_address(namespace: Namespace) -> None:
    assert "refused" in namespace.fetch(f"http://{BRIDGE_ADDRESS}:1/", timeout_s=2).error


def test_a_missing_line_is_an_error_with_its_reason(namespace: Namespace, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "print('only this')"]
    with (
        namespace.running("short", argv, log=tmp_path / "log", env=_ENV, cwd=tmp_path) as short,
        pytest.raises(AssertionError, match="short: log ended: no line with 'that'"),
    ):
        short.wait_for("that", 10)
    assert (tmp_path / "log").read_text() == "only this\n"
