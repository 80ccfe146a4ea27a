"""The logs of running servers belong into the report of a failing test."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.node.support import LIVE, SHOWN_LOG_BYTES


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
