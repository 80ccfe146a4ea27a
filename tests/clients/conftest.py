"""Fixtures for tests with unmodified Tailscale clients."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from tests.clients.deployment import Deployment, Devices
from tests.clients.namespace import Namespace, NamespaceUnavailable

_NAMESPACE = pytest.StashKey[Namespace]()


@pytest.fixture(scope="session")
def namespace(pytestconfig: pytest.Config) -> Iterator[Namespace]:
    """The network namespace of this session; skips where none is allowed."""
    try:
        made = Namespace()
    except NamespaceUnavailable as error:
        pytest.skip(str(error))
    pytestconfig.stash[_NAMESPACE] = made
    yield made
    del pytestconfig.stash[_NAMESPACE]
    made.close()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        await connection.execute(statement, timeout=30)
    finally:
        await connection.close(timeout=10)


@pytest.fixture(scope="module")
def deployment(
    namespace: Namespace, pg_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Servers on a fresh database that the tests of a module share."""
    if not parse_qs(urlsplit(pg_server).query).get("host", [""])[0].startswith("/"):
        pytest.skip(
            "a network namespace reaches PostgreSQL only by a unix socket: name one in the DSN's host="
        )
    name = f"hs_clients_{uuid4().hex[:12]}"
    asyncio.run(_execute(pg_server, f"CREATE DATABASE {name}"))
    dsn = urlunsplit(urlsplit(pg_server)._replace(path=f"/{name}"))
    made = Deployment(namespace, tmp_path_factory.mktemp("deployment"), dsn)
    yield made
    made.close()
    asyncio.run(_execute(pg_server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def devices(namespace: Namespace, tmp_path: Path, deployment: Deployment) -> Iterator[Devices]:
    """Brings up devices, and ends them with the test."""
    made = Devices(namespace, tmp_path, deployment)
    yield made
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the ends of the logs of all processes then running."""
    report = yield
    namespace = item.config.stash.get(_NAMESPACE, None)
    if report.failed and namespace is not None:
        for process in namespace.processes:
            report.sections.append((f"log of {process!r} ({process.log})", process.tail()))
    return report
