"""A server for each module, a tenant for each test; logs of servers in the report of a failing test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import pytest
import pytest_asyncio

from tests.node.support import (
    LIVE,
    QUICK,
    SHOWN_LOG_BYTES,
    Administration,
    ServeProcess,
    fresh_database,
    new_tenant,
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for process in LIVE:
            title = f"serve {process.cluster} (pid {process.pid}, exit {process.returncode})"
            report.sections.append((title, process.log()[-SHOWN_LOG_BYTES:]))
    return report


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve(pg_server: str) -> AsyncIterator[ServeProcess]:
    """One server for all tests of a module, with a database of its own."""
    async with fresh_database(pg_server) as dsn, ServeProcess(dsn, settings=QUICK) as process:
        yield process


@pytest.fixture
async def place(serve: ServeProcess) -> AsyncIterator[Administration]:
    """A tenant of its own on the module's server: devices of other tests are not its peers."""
    async with new_tenant(serve) as administration:
        yield administration
