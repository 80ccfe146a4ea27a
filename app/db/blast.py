"""Counts how far a change would reach, over all clusters, in a role that sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from app.blast import Radius, Touched
from app.sql import QUERIES

Fetch = Callable[..., Awaitable[list[asyncpg.Record]]]


async def read_radius(fetch: Fetch, touched: Touched) -> Radius:
    """One statement, so one moment; at 100,000 devices each takes well below a second."""
    tenants, ids = list(touched.tenant_ids), list(touched.ids)
    match touched.what:
        case "devices":
            things, devices, online, others, carried, lost = await _row(
                fetch, QUERIES["fleet_blast_devices"], tenants, ids
            )
            return Radius(things, devices, online, others, carried, tuple(lost))
        case "routes":
            things, devices, online, lost = await _row(
                fetch, QUERIES["fleet_blast_routes"], tenants, ids, list(touched.routes)
            )
            return Radius(things, devices, online, lost=tuple(lost))
        case "users":
            things, devices, online, keys = await _row(fetch, QUERIES["fleet_blast_users"], tenants, ids)
            return Radius(things, devices, online, keys=keys)
        case "keys":
            things, devices, online, unused, reusable = await _row(
                fetch, QUERIES["fleet_blast_keys"], tenants, ids
            )
            return Radius(things, devices, online, unused=unused, reusable=reusable)
        case "tenants":
            return Radius(*await _row(fetch, QUERIES["fleet_blast_tenants"], tenants))
        case "tag":
            devices, online = await _row(fetch, QUERIES["fleet_blast_tag"], tenants, touched.names[0])
            return Radius(devices, devices, online)
        case "clusters":
            row = await _row(fetch, QUERIES["fleet_blast_clusters"], list(touched.names))
            *facts, targets = row
            names = ("things", "devices", "online", "leaving", "leaving_devices", "leaving_online", "pinned")
            return Radius(**dict(zip(names, facts, strict=True)), targets=tuple(targets))
        case "waiting" | "done":
            return Radius(*await _row(fetch, QUERIES["fleet_blast_plan"], ids[0], touched.what))
        case _:
            raise AssertionError(touched.what)


async def _row(fetch: Fetch, sql: str, *args: Any) -> tuple[Any, ...]:
    (row,) = await fetch(sql, *args)
    return tuple(row)
