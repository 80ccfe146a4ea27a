"""What `hs-acs` commands share: a client of the API, and the database for those who hold it."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel

from app.api.client import AcsClient
from app.database import database_dsn
from app.db.admission import Admission
from app.db.setup import Database
from app.errors import ConfigError
from app.output import Row
from app.settings import Settings


def api(settings: Settings) -> AcsClient:
    """A client with the token of the settings. Raises ConfigError without one."""
    if not settings.acs.token:
        raise ConfigError(
            "acs.token (HS_ACS__TOKEN): these commands need a token:"
            " make one with `hs-acs tokens create --scope admin NAME` where the database is reached"
        )
    return AcsClient(settings.acs.url, settings.acs.token)


@asynccontextmanager
async def direct(settings: Settings) -> AsyncIterator[Admission]:
    """The database itself: for the first token. Raises ConfigError, Unavailable."""
    async with database_dsn(settings) as dsn:
        await Database.prepare(dsn)
        admission = await Admission.open(dsn, pool_size=1)
        try:
            yield admission
        finally:
            await admission.close()


def actor() -> str:
    return f"shell:{getpass.getuser()}"


def row(record: BaseModel) -> Row:
    """A record as a line of output."""
    shown: dict[str, Any] = record.model_dump(mode="json")
    return shown
