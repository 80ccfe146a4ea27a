"""One hs-acs for all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from app.api.client import AcsClient
from tests.acs.support import AcsProcess
from tests.node.support import fresh_database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def acs(pg_server: str) -> AsyncIterator[AcsProcess]:
    """A server with a database of its own."""
    async with fresh_database(pg_server) as dsn, AcsProcess(dsn) as process:
        yield process


@pytest.fixture
async def admin(acs: AcsProcess) -> AsyncIterator[AcsClient]:
    """The API with an administrator's token."""
    async with acs.client() as client:
        yield client
