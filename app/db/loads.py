"""Clusters as placement sees them: read by hs-acs, which decides, and by the console, which shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import orjson

from app.placement import RESERVE, ClusterLoad
from app.sql import QUERIES


async def read_loads(fetch: Callable[..., Awaitable[list[asyncpg.Record]]]) -> list[ClusterLoad]:
    """All clusters, by id; `fetch` runs a statement in a role that sees all of them."""
    return [_load(row) for row in await fetch(QUERIES["cluster_loads"], RESERVE)]


def _load(row: Any) -> ClusterLoad:
    values = list(row)
    values[3] = orjson.loads(values[3])
    values[11] = tuple(values[11])
    return ClusterLoad(*values)
