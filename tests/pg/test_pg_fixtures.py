"""The fixtures other tests stand on."""

from __future__ import annotations

import asyncpg


async def _table_count(dsn: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        count = await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname = 'mark'")
        await connection.execute("CREATE TABLE mark ()")
    finally:
        await connection.close(timeout=10)
    return count


async def test_each_test_has_an_empty_database(database: str) -> None:
    assert await _table_count(database) == 0


async def test_each_test_has_another_empty_database(database: str) -> None:
    assert await _table_count(database) == 0


async def test_forgotten_connection_does_not_keep_the_database(database: str) -> None:
    connection = await asyncpg.connect(database, timeout=30)
    assert await connection.fetchval("SELECT 1") == 1
    connection.terminate()
