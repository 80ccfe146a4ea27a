"""A server behind each proxy; the logs of both in the report of a failing test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import pytest
import pytest_asyncio

from tests.deploy.behind import Behind, behind
from tests.node.support import LIVE, SHOWN_LOG_BYTES

_BEHIND: list[Behind] = []


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["nginx", "haproxy"])
async def place(
    request: pytest.FixtureRequest, pg_server: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Behind]:
    """One server behind one proxy for all tests of a module."""
    async with behind(request.param, pg_server, tmp_path_factory.mktemp(request.param)) as made:
        _BEHIND.append(made)
        yield made
        _BEHIND.remove(made)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for process in LIVE:
            report.sections.append((f"serve {process.cluster}", process.log()[-SHOWN_LOG_BYTES:]))
        for one in _BEHIND:
            report.sections.append((f"proxy {one.name}", one.log()[-SHOWN_LOG_BYTES:]))
    return report
