"""Which account runs the server: ourselves, or an existing unprivileged one when we are root."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from app.errors import ConfigError
from app.pg.layout import blocked_parent

#: Tried in this order; PostgreSQL refuses to run as root.
ROOT_STAND_INS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server's programs. `switch` is true when that is not the present user."""

    uid: int
    gid: int
    name: str
    switch: bool

    @property
    def owner(self) -> tuple[int, int]:
        return self.uid, self.gid


def choose_account(data_dir: Path) -> Account:
    """The account for this data directory: its owner's if it exists. Raises ConfigError."""
    uid = os.geteuid()
    if uid != 0:
        return Account(uid, os.getegid(), f"user id {uid}", switch=False)
    if data_dir.exists():
        found = data_dir.stat()
        if found.st_uid == 0:
            raise ConfigError(f"state_dir: {data_dir} belongs to root, and PostgreSQL refuses to run as root")
        return Account(found.st_uid, found.st_gid, f"user id {found.st_uid}", switch=True)
    for name in ROOT_STAND_INS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid, name, switch=True)
    raise ConfigError(
        "PostgreSQL refuses to run as root and none of the accounts "
        f"{', '.join(ROOT_STAND_INS)} exists; start as a normal user, or set PG_DSN"
    )


def check_reach(account: Account, pg_dir: Path) -> None:
    """Refuse a place the account cannot enter; opening it is the operator's choice. Raises ConfigError."""
    blocked = blocked_parent(pg_dir, account.uid, account.gid) if account.switch else None
    if blocked is not None:
        raise ConfigError(
            f"state_dir: the account {account.name}, which has to run PostgreSQL for root, "
            f"may not enter {blocked}; choose another HS_STATE_DIR, or set PG_DSN"
        )
