"""How every connection starts: role, scope and deadlines as start-up parameters.

The pool resets what a session sets by itself; start-up parameters survive that.
"""

from __future__ import annotations

from typing import Any

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from app import __version__
from app.db.errors import translated

SCHEMA = "hs"
CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 30.0
STATEMENT_TIMEOUT_S = 30
LOCK_TIMEOUT_S = 5
#: A transaction of a hung owner must not hold up a takeover.
IDLE_IN_TRANSACTION_S = 2
POOL_MIN = 1
POOL_MAX = 10
POOL_LIMIT = 64
#: Idle connections of a pool end after this; 0 = never.
POOL_IDLE_S = 3600.0


def server_settings(
    role: str, *, cluster_id: str = "", instance: str = "", epoch: int | None = None
) -> dict[str, str]:
    """Start-up parameters of a session. Only an owner names itself as origin of its changes."""
    settings = {
        "role": role,
        "search_path": f"{SCHEMA}, pg_temp",
        "application_name": f"headscale-cluster/{__version__} {role} {cluster_id} {instance}".strip()[:63],
        "default_transaction_isolation": "read committed",
        "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "jit": "off",
        "hs.cluster_id": cluster_id,
        "hs.epoch": "" if epoch is None else str(epoch),
        "hs.origin": "" if epoch is None else instance,
    }
    return settings


async def connect(
    dsn: str, role: str, *, cluster_id: str = "", instance: str = "", timeout_s: float = CONNECT_TIMEOUT_S
) -> asyncpg.Connection[asyncpg.Record]:
    """One direct connection in a role, outside any pool. Raises Unavailable, ConfigError."""
    with translated():
        conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            dsn,
            timeout=timeout_s,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings=server_settings(role, cluster_id=cluster_id, instance=instance),
            target_session_attrs=SessionAttribute.read_write,
        )
        return conn


async def reset_if_needed(conn: asyncpg.Connection[asyncpg.Record]) -> None:
    """What a pool does to a connection that comes back.

    Nothing here sets anything that outlives a transaction, so only a transaction left open needs the
    round trip that asyncpg would spend on each use.
    """
    if conn.is_in_transaction():
        await conn.reset(timeout=COMMAND_TIMEOUT_S)


async def create_pool(
    dsn: str,
    size: int,
    settings: dict[str, str],
    idle_s: float = POOL_IDLE_S,
    *,
    read_only: bool = False,
    any_server: bool = False,
) -> asyncpg.Pool[asyncpg.Record]:
    """A pool whose every connection has these start-up parameters. Raises Unavailable, ConfigError.

    `read_only`: the database refuses every write; a standby server will do. `any_server`: one that takes no
    writes, too.
    """
    if read_only:
        settings = {**settings, "default_transaction_read_only": "on"}
    options: dict[str, Any] = {
        "min_size": POOL_MIN,
        "max_size": size,
        "max_inactive_connection_lifetime": idle_s,
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": COMMAND_TIMEOUT_S,
        "server_settings": settings,
        "target_session_attrs": SessionAttribute.any
        if read_only or any_server
        else SessionAttribute.read_write,
        "reset": reset_if_needed,
    }
    with translated():
        return await asyncpg.create_pool(dsn, **options)
