"""Driver and SQLSTATE errors to app.errors, once, around everything that talks to PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from app.errors import (
    BadRequest,
    ConfigError,
    Conflict,
    HsError,
    LeaseLost,
    Refused,
    Unavailable,
    WrongCluster,
)

#: SQLSTATEs our own functions raise.
LEASE_LOST = "HS409"
WRONG_SESSION = "HS403"

#: Worth another attempt at once: serialization failure, deadlock, lock not available.
CONTENTION = frozenset({"40001", "40P01", "55P03"})

_UNAVAILABLE_CLASSES = ("08", "53", "57", "58")
#: A table, column or function that is not there.
_SCHEMA = frozenset({"42P01", "42703", "42883"})
#: Servers answer, and none of them takes writes.
NO_WRITES = "no_writes"
_LOGIN_REFUSED = frozenset({"28000", "28P01", "3D000"})


def from_postgres(error: asyncpg.PostgresError) -> HsError:
    """The member of our family for an error of the server."""
    state = error.sqlstate or ""
    text = str(error)
    constraint = getattr(error, "constraint_name", None) or ""
    if state == LEASE_LOST:
        return LeaseLost(text)
    if state == WRONG_SESSION:
        return WrongCluster(text)
    if state == "23505":
        return Conflict(f"this exists already ({constraint})", constraint=constraint)
    if state == "23503":
        return Conflict(f"something this refers to does not exist here ({constraint})", constraint=constraint)
    if state == "42501":
        return Refused(f"the database does not permit this: {text}", code="not_permitted")
    if state in _SCHEMA:
        return HsError(
            f"the database's schema is not this version's: {text} (hs-node migrates it)",
            code="schema",
            sqlstate=state,
        )
    if state in CONTENTION:
        return Unavailable("the database is busy with a conflicting change", code="busy", sqlstate=state)
    if state in _LOGIN_REFUSED:
        return ConfigError(f"the database refuses the login: {text}", code="database_login")
    if "unsupported startup parameter" in text:
        return ConfigError(
            "PG_DSN leads to a connection pooler that refuses start-up parameters:"
            " connect to PostgreSQL directly",
            code="database_pooler",
        )
    if state.startswith(("22", "23")):
        return BadRequest(f"the database cannot store this: {text}", code="bad_value", constraint=constraint)
    if state.startswith(_UNAVAILABLE_CLASSES):
        return Unavailable(f"the database does not answer now: {text}", sqlstate=state)
    return HsError(f"the database refused a statement: {text}", code="database", sqlstate=state)


@contextmanager
def translated() -> Iterator[None]:
    """Everything the driver can raise leaves as a member of our family."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise from_postgres(error) from error
    except asyncpg.DataError as error:
        raise BadRequest(f"the database cannot store this: {error}", code="bad_value") from error
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise Unavailable(
            "no server of PG_DSN takes writes now: it is a standby, or this login's sessions only read",
            code=NO_WRITES,
        ) from error
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise Unavailable(f"the database does not answer now: {error or type(error).__name__}") from error
