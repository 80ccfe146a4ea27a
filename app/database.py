"""Which database the settings mean: the configured one, or the embedded one while it is in use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.pg import EmbeddedPostgres
from app.settings_model import Settings


@asynccontextmanager
async def database_dsn(settings: Settings) -> AsyncIterator[str]:
    """Its DSN; an embedded server runs at least until the end. Raises ConfigError, Unavailable."""
    if settings.pg_dsn is not None:
        yield settings.pg_dsn
        return
    embedded = EmbeddedPostgres(settings.state_dir)
    dsn = await embedded.start()
    try:
        yield dsn
    finally:
        await embedded.stop()
