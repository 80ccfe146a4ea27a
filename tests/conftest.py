"""Fixtures for everybody: a throwaway PostgreSQL for the session, an empty database per test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import hypothesis
import pytest

from app.pg import EmbeddedPostgres

#: Runs the tests against an existing server instead; any login that may create databases.
SERVER_VARIABLE = "HS_TEST_PG_DSN"

# No time limits per example, and no example database: the checkout may not be writable.
hypothesis.settings.register_profile(
    "project", database=None, deadline=None, max_examples=100, print_blob=True
)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session")
def enterable_dir() -> Iterator[Path]:
    """A directory that the server's account can enter; pytest's own are closed to it under root."""
    path = Path(tempfile.mkdtemp(prefix="hs-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def pg_server(enterable_dir: Path) -> Iterator[str]:
    """DSN of a server for this session, with the rights to create databases."""
    given = os.environ.get(SERVER_VARIABLE)
    if given:
        yield given
        return
    server = EmbeddedPostgres(enterable_dir / "session", durable=False)
    yield server.acquire()
    server.release()


async def _execute_for(dsn: str, template: str, name: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        await connection.execute(await connection.fetchval("SELECT format($1, $2::text)", template, name))
    finally:
        await connection.close(timeout=10)


@pytest.fixture
async def database(pg_server: str) -> AsyncIterator[str]:
    """DSN of a fresh, empty database, dropped afterwards even when connections are left."""
    name = f"hs_test_{uuid4().hex[:12]}"
    await _execute_for(pg_server, "CREATE DATABASE %I", name)
    yield urlunsplit(urlsplit(pg_server)._replace(path=f"/{name}"))
    await _execute_for(pg_server, "DROP DATABASE %I WITH (FORCE)", name)
